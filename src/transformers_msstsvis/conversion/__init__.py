"""Published checkpoints to models of this package."""

from .convert import SYSTEMS, ConversionReport, convert_checkpoint, convert_state_dict, read_checkpoint

__all__ = ["SYSTEMS", "ConversionReport", "convert_checkpoint", "convert_state_dict", "read_checkpoint"]

"""Published checkpoints to models of this package."""

from importlib import import_module
from typing import Any

# System -> the module here with its KEY_MAP. One with a dot is a module of another package.
SYSTEMS = {"seqformer": "seqformer", "msstsvis": "msstsvis", "vistr": "vistr", "devis": "devis", "tevit": "tevit"}

# Imported on first use: the command lists the systems before PyTorch is loaded.
_MODULE_OF = {
    "ConversionReport": "key_map",
    "convert_checkpoint": "convert",
    "convert_state_dict": "convert",
    "read_checkpoint": "convert",
}
__all__ = ["SYSTEMS", *_MODULE_OF]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)

"""Start of training from the weights of an image detector of transformers."""

from importlib import import_module

from transformers import AutoConfig, PreTrainedModel

from ..checkpoint_files import check_checkpoint
from .key_map import ConversionReport

# Type of the detector and of the model -> the module here whose `initialize` knows how.
STARTS = {
    ("detr", "vistr"): "detr",
    ("deformable_detr", "devis"): "deformable_detr",
    ("deformable_detr", "seqformer"): "deformable_detr",
    ("deformable_detr", "msstsvis"): "deformable_detr",
}


def init_from_pretrained(model: PreTrainedModel, checkpoint: str) -> ConversionReport:
    """
    Give a model those weights of an image detector that fit.

    Args:
        model: to be trained; changed in place.
        checkpoint: Hub name or folder of the detector, such as `facebook/detr-resnet-50` for a VisTR or
            `SenseTime/deformable-detr-with-box-refine` for a DeVIS, SeqFormer or MS-STS VIS.

    Returns:
        What was used, what dropped and why, and which weights of the model stay as they are.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: for a detector from which this kind of model can't start, or of which nothing fits.
    """
    check_checkpoint(checkpoint)
    pair = AutoConfig.from_pretrained(checkpoint).model_type, model.config.model_type
    if pair not in STARTS:
        known = " or ".join(f"a {ours} from a {theirs}" for theirs, ours in STARTS)
        raise ValueError(f"{checkpoint} is a {pair[0]} and the model a {pair[1]}; expected to start {known}")
    return import_module(f"{__package__}.{STARTS[pair]}").initialize(model, checkpoint)


__all__ = ["init_from_pretrained"]

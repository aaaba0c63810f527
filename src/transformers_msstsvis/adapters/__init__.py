"""
Models of transformers as models for video instance segmentation, with the weights that are on the Hub.

All follow one protocol: frames go in, logits of classes and masks come out for each query, and the index of a query is
the identity of an object. A class of this package is a subclass of the one of transformers, with its weights under the
same names, so that checkpoints load as they are, and what is saved here loads there.
"""

from transformers import AutoVideoProcessor

from ..models.auto import AutoModelForVideoInstanceSegmentation
from .mask2former import Mask2FormerForVideoInstanceSegmentation
from .videomt import VideomtForVideoInstanceSegmentation

ADAPTERS = (VideomtForVideoInstanceSegmentation, Mask2FormerForVideoInstanceSegmentation)


def register_adapters() -> None:
    """
    Make them known to the Auto class of the task; all other Auto classes keep giving the classes of transformers. Of
    Mask2Former there is no video processor in transformers, so `AutoVideoProcessor` gives that of this package.
    """
    for model in ADAPTERS:
        AutoModelForVideoInstanceSegmentation.register(model.config_class, model, exist_ok=True)
    of_mask2former = Mask2FormerForVideoInstanceSegmentation
    AutoVideoProcessor.register(of_mask2former.config_class, of_mask2former.video_processor_class, exist_ok=True)


__all__ = ["ADAPTERS", "register_adapters"]

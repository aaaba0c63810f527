"""SeqFormer: the MS-STS VIS trunk under its own name. The forward pass is in `modeling_msstsvis.py`."""

from transformers.loss.loss_utils import LOSS_MAPPING

from ...losses.set_criterion import video_instance_segmentation_loss
from ..msstsvis.modeling_msstsvis import MsstsVisForVideoInstanceSegmentation, MsstsVisModel
from .configuration_seqformer import SeqFormerConfig


class SeqFormerModel(MsstsVisModel):
    """SeqFormer without its class and mask heads."""

    config: SeqFormerConfig


class SeqFormerForVideoInstanceSegmentation(MsstsVisForVideoInstanceSegmentation):
    """SeqFormer with class, box and mask heads."""

    config: SeqFormerConfig
    base_model_class = SeqFormerModel


LOSS_MAPPING["SeqFormerForVideoInstanceSegmentation"] = video_instance_segmentation_loss

__all__ = ["SeqFormerForVideoInstanceSegmentation", "SeqFormerModel"]

"""Image processors of SeqFormer: a still is a video of one frame."""

from ..vis.image_processing_vis import VisImageProcessor, VisImageProcessorPil
from .video_processing_seqformer import SeqFormerPostProcessing


class SeqFormerImageProcessor(SeqFormerPostProcessing, VisImageProcessor):
    """See [`VisImageProcessor`]."""


class SeqFormerImageProcessorPil(SeqFormerPostProcessing, VisImageProcessorPil):
    """See [`VisImageProcessorPil`]."""


__all__ = ["SeqFormerImageProcessor", "SeqFormerImageProcessorPil"]

"""Image processors of TeViT: a still is a video of one frame."""

from ..vis.image_processing_vis import VisImageProcessor, VisImageProcessorPil
from .resizing_tevit import TevitInput
from .video_processing_tevit import TevitPostProcessing


class TevitImageProcessor(TevitPostProcessing, TevitInput, VisImageProcessor):
    """See [`VisImageProcessor`]."""


class TevitImageProcessorPil(TevitPostProcessing, TevitInput, VisImageProcessorPil):
    """See [`VisImageProcessorPil`]; bytes are resized as OpenCV does, not Pillow."""


__all__ = ["TevitImageProcessor", "TevitImageProcessorPil"]

"""Image processors of VisTR: a still is a video of one frame."""

from ..vis.image_processing_vis import VisImageProcessor, VisImageProcessorPil
from .video_processing_vistr import VistrPostProcessing, VistrVideoProcessor


class VistrImageProcessor(VistrPostProcessing, VisImageProcessor):
    """See [`VisImageProcessor`]."""

    size = VistrVideoProcessor.size


class VistrImageProcessorPil(VistrPostProcessing, VisImageProcessorPil):
    """See [`VisImageProcessorPil`]."""

    size = VistrVideoProcessor.size


__all__ = ["VistrImageProcessor", "VistrImageProcessorPil"]

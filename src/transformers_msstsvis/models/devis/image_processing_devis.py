"""Image processors of DeVIS: a still is a video of one frame."""

from ..vis.image_processing_vis import VisImageProcessor, VisImageProcessorPil
from .video_processing_devis import DevisPostProcessing


class DevisImageProcessor(DevisPostProcessing, VisImageProcessor):
    """See [`VisImageProcessor`]."""


class DevisImageProcessorPil(DevisPostProcessing, VisImageProcessorPil):
    """See [`VisImageProcessorPil`]."""


__all__ = ["DevisImageProcessor", "DevisImageProcessorPil"]

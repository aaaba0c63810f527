"""Image processors of MS-STS VIS: a still is a video of one frame."""

from ..seqformer.image_processing_seqformer import SeqFormerImageProcessor, SeqFormerImageProcessorPil


class MsstsVisImageProcessor(SeqFormerImageProcessor):
    """See [`VisImageProcessor`]."""


class MsstsVisImageProcessorPil(SeqFormerImageProcessorPil):
    """See [`VisImageProcessorPil`]."""


__all__ = ["MsstsVisImageProcessor", "MsstsVisImageProcessorPil"]

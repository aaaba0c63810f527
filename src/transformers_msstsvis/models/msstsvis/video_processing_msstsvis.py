"""Video processor of MS-STS VIS."""

from ..seqformer.video_processing_seqformer import SeqFormerVideoProcessor


class MsstsVisVideoProcessor(SeqFormerVideoProcessor):
    """Video processor of MS-STS VIS: that of [`SeqFormerVideoProcessor`], whose input and outputs it shares."""


__all__ = ["MsstsVisVideoProcessor"]

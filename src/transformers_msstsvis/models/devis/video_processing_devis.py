"""Video processor of DeVIS."""

from transformers.utils import ModelOutput

from ..vis.post_processing_vis import Candidates, with_frame_scores
from ..vis.video_processing_vis import VisVideoProcessor


class DevisPostProcessing:
    """What its outputs mean: the best pairs of a query and a class, which every frame scores by itself."""

    min_frame_score = 0.001

    def candidates(self, outputs: ModelOutput, video: int, threshold: float, top_k: int) -> Candidates:
        """The `top_k` best pairs of one video of the batch that score at least `threshold`, with frame scores."""
        found = super().candidates(outputs, video, threshold, top_k)
        return with_frame_scores(found, outputs, video)


class DevisVideoProcessor(DevisPostProcessing, VisVideoProcessor):
    r"""
    Video processor of DeVIS. Its arguments and its size, 360 pixels for the shorter side and at most 640 for the
    longer one, are those of [`VisVideoProcessor`]. Clips of a long video start 4 frames after each
    other and are joined by several cues (`tracker="devis"`), as published.

    Example:

    ```python
    >>> import numpy as np
    >>> from transformers_msstsvis import DevisVideoProcessor

    >>> processor = DevisVideoProcessor()
    >>> inputs = processor(np.zeros((6, 720, 1280, 3), dtype=np.uint8), return_tensors="pt")
    >>> inputs["pixel_values_videos"].shape
    torch.Size([1, 6, 3, 360, 640])
    ```
    """

    clip_stride = 4
    tracker = "devis"


__all__ = ["DevisVideoProcessor"]

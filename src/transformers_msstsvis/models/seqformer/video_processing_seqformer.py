"""Video processor of SeqFormer."""

import math

from ..vis.video_processing_vis import VisVideoProcessor


class SeqFormerPostProcessing:
    """What its masks are: maps of stride 8, doubled."""

    def mask_size(self, side: int) -> int:
        """Rows or columns of the mask logits of a frame with `side` pixels."""
        return 2 * math.ceil(side / 8)


class SeqFormerVideoProcessor(SeqFormerPostProcessing, VisVideoProcessor):
    r"""
    Video processor of SeqFormer. Its arguments are those of [`VisVideoProcessor`], its defaults the published size at
    which the model is tested: 360 pixels for the shorter side, 640 at most for the longer one.

    Example:

    ```python
    >>> import numpy as np
    >>> from transformers_msstsvis import SeqFormerVideoProcessor

    >>> processor = SeqFormerVideoProcessor()
    >>> inputs = processor(np.zeros((5, 720, 1280, 3), dtype=np.uint8), return_tensors="pt")
    >>> inputs["pixel_values_videos"].shape
    torch.Size([1, 5, 3, 360, 640])
    ```
    """


__all__ = ["SeqFormerVideoProcessor"]

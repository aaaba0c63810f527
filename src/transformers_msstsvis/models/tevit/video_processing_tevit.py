"""Video processor of TeViT."""

import torch
from transformers.image_transforms import center_to_corners_format
from transformers.utils import ModelOutput

from ...results.mask_pasting import paste, pasted_mask
from ...results.rle import RLE
from ..vis.post_processing_vis import Candidates, with_frame_scores
from ..vis.video_processing_vis import VisVideoProcessor
from .resizing_tevit import TevitInput

SMALLEST_PROBABILITY = 1e-6  # of a pixel outside of the box of its instance


class TevitPostProcessing:
    """What its outputs mean: masks of pairs of a query and a class, each in the box of its query in that frame."""

    def candidates(self, outputs: ModelOutput, video: int, threshold: float, top_k: int) -> Candidates:
        """The `top_k` best pairs of one video of the batch that score at least `threshold`, with frame scores."""
        found = super().candidates(outputs, video, threshold, top_k)
        return with_frame_scores(found, outputs, video)

    def masks_of(
        self, outputs: ModelOutput, video: int, found: Candidates, size: tuple[int, int], mask_threshold: float
    ) -> list[list[RLE | None]]:
        """The mask of every candidate in every real frame, pasted into its box; None where it has no pixel."""
        real = outputs.frame_sizes[video, :, 0].cpu() > 0
        logits = outputs.pred_masks[video].detach().float().cpu()[found.rows][:, real]
        boxes = boxes_of(outputs, video)[found.queries][:, real] * torch.tensor([size[1], size[0]] * 2)
        tracks = zip(logits.sigmoid(), boxes, strict=True)
        return [[pasted_mask(*part, size, mask_threshold) for part in zip(*track, strict=True)] for track in tracks]

    def unpadded(self, outputs: ModelOutput, video: int) -> ModelOutput:
        """As of every model: its masks pasted into maps of stride 4 of the whole frame."""
        one = super().unpadded(outputs, video)
        rows, columns = (self.mask_size(side) for side in outputs.frame_sizes[video].amax(0).tolist())
        boxes = boxes_of(one, 0)[one.mask_query_indices[0].cpu()] * torch.tensor([columns, rows] * 2)
        probability = paste(one.pred_masks[0].detach().float().cpu().sigmoid(), boxes, (rows, columns))
        one.pred_masks = probability.logit(eps=SMALLEST_PROBABILITY)[None]
        return one


def boxes_of(outputs: ModelOutput, video: int) -> torch.Tensor:
    """Corners `(Q, T, 4)` of the boxes of one video, in `[0, 1]` of the frame, which they may leave."""
    return center_to_corners_format(outputs.pred_boxes[video].detach().float().cpu())


class TevitVideoProcessor(TevitPostProcessing, TevitInput, VisVideoProcessor):
    r"""
    Video processor of TeViT. Its arguments and its size, 360 pixels for the shorter side and at most 640 for the
    longer one, are those of [`VisVideoProcessor`]. Frames are resized as OpenCV does, as published, and padded to
    multiples of 32.

    Example:

    ```python
    >>> import numpy as np
    >>> from transformers_msstsvis import TevitVideoProcessor

    >>> processor = TevitVideoProcessor()
    >>> inputs = processor(np.zeros((5, 720, 1280, 3), dtype=np.uint8), return_tensors="pt")
    >>> inputs["pixel_values_videos"].shape
    torch.Size([1, 5, 3, 384, 640])
    ```
    """


__all__ = ["TevitVideoProcessor"]

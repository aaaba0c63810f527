"""Video processor of VisTR."""

import torch
from torch.nn import functional as F
from transformers.utils import ModelOutput

from ...results.candidates import Candidates, best_pairs
from ..vis.video_processing_vis import VisVideoProcessor


class VistrPostProcessing:
    """
    What its outputs mean: a query is an instance of one class, which every frame votes for. A query scores the mean
    over the frames of its best class there, which may be another one in every frame.
    """

    min_frame_score = 0.001

    def candidates(self, outputs: ModelOutput, video: int, threshold: float, top_k: int) -> Candidates:
        """The `top_k` best queries of one video of the batch that score at least `threshold`."""
        real = outputs.frame_sizes[video, :, 0].cpu() > 0
        probability = outputs.frame_logits[video].detach().float().cpu().softmax(-1)[..., :-1]  # (T, Q, K)
        frame_scores, frame_labels = probability.max(-1)  # (T, Q)
        votes = F.one_hot(frame_labels[real], probability.shape[-1]).sum(0)  # (Q, K)
        scores = frame_scores[real].sum(0) / real.sum().clamp(min=1)  # (Q,)
        with_masks = None
        if outputs.mask_query_indices is not None:
            # Chosen by the classes of the video: enough of them will do, even if another one scores a little more.
            with_masks = outputs.mask_query_indices[video].cpu()
            chosen = torch.zeros(len(scores), dtype=torch.bool).index_fill(0, with_masks, True)
            scores = torch.where(chosen, scores, scores.clamp(max=scores[with_masks].amin()))
        found = best_pairs(scores[:, None], with_masks, threshold, top_k, video)
        labels = votes.argmax(-1)[found.queries]  # the first of several
        return found._replace(labels=labels, frame_scores=frame_scores.T[found.queries])


class VistrVideoProcessor(VistrPostProcessing, VisVideoProcessor):
    r"""
    Video processor of VisTR. Its arguments are those of [`VisVideoProcessor`], its default the published size at
    which the model is tested: 300 pixels for the shorter side.

    Example:

    ```python
    >>> import numpy as np
    >>> from transformers_msstsvis import VistrVideoProcessor

    >>> processor = VistrVideoProcessor()
    >>> inputs = processor(np.zeros((5, 720, 1280, 3), dtype=np.uint8), return_tensors="pt")
    >>> inputs["pixel_values_videos"].shape
    torch.Size([1, 5, 3, 300, 533])
    ```
    """

    size = {"shortest_edge": 300}


__all__ = ["VistrVideoProcessor"]

"""What one clip shows, with all that clips are joined by: classes, scores, places and soft masks, frame by frame.

Letters: T frames of the clip, Q queries, K labels, n pairs of a query and a class, p queries with masks, h and w rows
and columns of the mask logits, H and W height and width of the video.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.image_transforms import center_to_corners_format

from ..results.candidates import Candidates, best_pairs
from ..results.mask_resizing import resized_mask
from ..results.rle import RLE


@dataclass
class ClipTracks:
    """
    The best pairs of a query and a class in one clip; a query can be there with several classes.

    Args:
        scores: `(n, T)` float32, 0..1, of the class in every frame.
        labels: `(n,)` int64.
        centres: `(n, T, 2)` float32, x y of the predicted boxes in `[0, 1]` of the frame.
        masks: for every pair `T` masks, None where there is no pixel.
        boxes: `(n, T, 4)` float32 corners in pixels as the model predicts them; None for those around the masks.
        rows: `(n,)` int64, where in `logits` the mask of each pair is.
        logits: `(p, T, h, w)` float32 mask logits of the whole frame, before they are resized to it.
        size: `(H, W)` in pixels.
        scores_frames: whether the model scores every frame; otherwise all frames have the score of the video.
        fps: frames per second, if known.
        id2label: class names by label, if known.
    """

    scores: np.ndarray
    labels: np.ndarray
    centres: np.ndarray
    masks: list[list[RLE | None]]
    boxes: np.ndarray | None
    rows: np.ndarray
    logits: torch.Tensor
    size: tuple[int, int]
    scores_frames: bool = True
    fps: float | None = None
    id2label: Mapping[int, str] | None = None

    @property
    def num_frames(self) -> int:
        return self.scores.shape[1]

    def __len__(self) -> int:
        return len(self.labels)


def clip_tracks(
    outputs: Any, size: tuple[int, int], num_out: int, mask_threshold: float = 0.5, boxes: str = "model"
) -> ClipTracks:
    """
    The `num_out` best pairs of a query and a class in one clip.

    Args:
        outputs: of a model for one clip, without padding: `frame_logits (1, T, Q, K)`, or with a last logit more of
            "no object", or else `logits (1, Q, K)`, which then hold for every frame; `pred_boxes (1, Q, T, 4)`
            cx cy w h in `[0, 1]`; `pred_masks (1, Q, T, h, w)` logits, or those of the queries `mask_query_indices`
            (and of their classes `mask_label_indices`).
        size: `(H, W)` of the video in pixels.
        num_out: how many pairs; fewer if the model has fewer.
        mask_threshold: probability above which a pixel belongs to a mask.
        boxes: `"model"`, or `"mask"` for those around the masks.

    Raises:
        TypeError: if `outputs` are not what a model returns.
        ValueError: for outputs of several clips, or a `size` that is none; if the best pairs contain a query without
            masks.
    """
    try:
        height, width = (int(side) for side in size)
    except (TypeError, ValueError):
        height = width = 0
    if min(height, width) < 1:
        raise ValueError(f"size is {size!r}; expected (height, width) of the video in pixels")
    size = (height, width)
    probability = _frame_probability(outputs)  # (T, Q, K)
    found = _best_pairs(outputs, probability.mean(0), num_out)
    labels, queries = found.labels, found.queries
    distinct, rows = found.rows.unique(return_inverse=True)
    logits = outputs.pred_masks[0].detach()[distinct.to(outputs.pred_masks.device)].float().cpu().nan_to_num(nan=-1e4)
    masks = [[resized_mask(frame, size, mask_threshold) for frame in of_query] for of_query in logits]
    places = outputs.pred_boxes[0].detach().float().cpu()[queries].nan_to_num(nan=0.0)  # (n, T, 4)
    corners = center_to_corners_format(places).clamp(0, 1) * torch.tensor([size[1], size[0]] * 2)
    return ClipTracks(
        scores=probability[:, queries, labels].T.numpy(),
        labels=labels.numpy(),
        centres=places[..., :2].numpy(),
        masks=[masks[row] for row in rows],
        boxes=corners.numpy() if boxes == "model" else None,
        rows=rows.numpy(),
        logits=logits,
        size=size,
        scores_frames=getattr(outputs, "frame_logits", None) is not None,
    )


def _frame_probability(outputs: Any) -> torch.Tensor:
    """`(T, Q, K)` probability of every class in every frame."""
    missing = [name for name in ("pred_boxes", "pred_masks") if getattr(outputs, name, None) is None]
    logits, frame_logits = (getattr(outputs, name, None) for name in ("logits", "frame_logits"))
    if missing or (logits is None and frame_logits is None):
        raise TypeError(
            f"outputs are of type {type(outputs).__name__} without {' and '.join(missing) or 'class logits'}; "
            "expected what a model returns for one clip, in eval mode"
        )
    if len(outputs.pred_boxes) != 1:
        raise ValueError(f"outputs are of {len(outputs.pred_boxes)} clips; expected one: add them one after the other")
    if frame_logits is None:
        return logits[0].detach().float().cpu().sigmoid().expand(outputs.pred_boxes.shape[2], -1, -1)
    frame_logits = frame_logits[0].detach().float().cpu()
    if logits is not None and frame_logits.shape[-1] == logits.shape[-1] + 1:
        return frame_logits.softmax(-1)[..., :-1]
    return frame_logits.sigmoid()


def _best_pairs(outputs: Any, scores: torch.Tensor, num_out: int) -> Candidates:
    """The best of `scores (Q, K)` among those that have masks."""
    queries, labels = (getattr(outputs, f"mask_{name}_indices", None) for name in ("query", "label"))
    queries = None if queries is None else queries[0].cpu()
    if labels is not None:
        labels = labels[0].cpu()
        found = best_pairs(scores[queries, labels][:, None], None, 0.0, num_out, 0)
        return found._replace(labels=labels[found.rows], queries=queries[found.rows])
    if queries is None or len(queries) < min(num_out, len(scores)):
        return best_pairs(scores, queries, 0.0, num_out, 0)
    # Chosen by the classes of the video: enough of them will do, even if another one scores a little more.
    found = best_pairs(scores[queries], None, 0.0, num_out, 0)
    return found._replace(queries=queries[found.rows])

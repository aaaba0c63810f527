"""What may be in a video: the best pairs of a query and a class.

Letters: T frames, Q queries, K labels, n candidates, k queries with masks.
"""

from numbers import Integral
from typing import Any, NamedTuple

import torch
from transformers.utils import logging

logger = logging.get_logger(__name__)

BOXES = ("mask", "model")  # around the masks, or as the model predicts them


class Candidates(NamedTuple):
    """
    What may be in a video, best first.

    Attributes:
        scores: `(n,)` float32.
        labels: `(n,)` int64.
        queries: `(n,)` int64, the query of each.
        rows: `(n,)` int64, where in `pred_masks` its mask is.
        frame_scores: `(n, T)` float32 over all frames of the batch, of models that score every frame.
    """

    scores: torch.Tensor
    labels: torch.Tensor
    queries: torch.Tensor
    rows: torch.Tensor
    frame_scores: torch.Tensor | None = None


def check_count(name: str, count: Any, least: int = 1) -> None:
    """
    Raises:
        ValueError: if `count` is no whole number from `least` on.
    """
    if not isinstance(count, Integral) or isinstance(count, bool) or count < least:
        raise ValueError(f"{name} is {count!r}; expected at least {least}, and a whole number")


def check_boxes(boxes: Any, predicted: bool) -> None:
    """
    Raises:
        ValueError: if there are no such boxes, of a model that predicts some or does not.
    """
    if boxes not in BOXES:
        raise ValueError(f"boxes is {boxes!r}; expected one of {', '.join(map(repr, BOXES))}")
    if boxes == "model" and not predicted:
        raise ValueError("boxes is 'model', and the model predicts masks only; expected 'mask'")


def best_pairs(
    scores: torch.Tensor,
    with_masks: torch.Tensor | None,
    threshold: float,
    top_k: int,
    video: int,
    of_labels: torch.Tensor | None = None,
) -> Candidates:
    """
    The best pairs of a query and a class.

    Args:
        scores: `(Q, K)`.
        with_masks: `(k,)` the queries that have masks; None for all.
        threshold, top_k: the smallest score, and how many to keep at most.
        video: its number, for messages.
        of_labels: `(k,)` the label of every mask, where masks are of pairs; None where they are of any label.

    Raises:
        ValueError: if the best pairs contain one without a mask.
    """
    if not scores.isfinite().all():
        logger.warning(f"Video {video}: some class logits are not numbers; their queries are left out.")
        scores = scores.nan_to_num(nan=-1.0)
        threshold = max(threshold, 0.0)
    num_queries, num_labels = scores.shape
    if with_masks is None:
        with_masks = torch.arange(num_queries)
    of_mask = torch.arange(num_labels) if of_labels is None else of_labels[:, None]
    pairs = num_labels * with_masks[:, None] + of_mask  # (k, K or 1), numbers of pairs
    per_mask, pairs, scores = pairs.shape[1], pairs.flatten(), scores.flatten()
    best, places = scores[pairs].topk(min(top_k, len(pairs)))

    others = torch.ones(len(scores), dtype=torch.bool)
    others[pairs] = False
    # Equal scores may go either way, so only a better pair is missing: by more than the rounding of equal logits.
    missing = scores[others] > best[-1] * (1 + 1e-6) if len(best) == min(top_k, len(scores)) else scores[others] > -1
    if (missing & (scores[others] >= threshold)).any():
        what, or_all = ("queries", ", or without mask_top_k") if of_labels is None else ("pairs", "")
        raise ValueError(
            f"video {video}: masks were computed for {len(with_masks)} {what}, but others are among the {top_k} best "
            f"pairs; call the model with mask_top_k of at least top_k = {top_k}{or_all}"
        )
    keep = best >= threshold
    best, places = best[keep], places[keep]
    found = pairs[places]
    return Candidates(best, found % num_labels, found // num_labels, places // per_mask)

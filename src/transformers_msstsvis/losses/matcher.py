"""Hungarian matching of queries to labelled instances (SeqFormer).

Letters: B videos, T frames, Q queries, K labels, n instances of a video.
"""

import torch
from transformers.image_transforms import center_to_corners_format


def focal_class_cost(logits: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
    """Focal gain of calling a query by a class: logits `(Q, K)`, class_labels `(n,)` to `(Q, n)`."""
    alpha, gamma = 0.25, 2.0
    probability = logits.sigmoid()
    negative = (1 - alpha) * probability**gamma * -(1 - probability + 1e-8).log()
    positive = alpha * (1 - probability) ** gamma * -(probability + 1e-8).log()
    return (positive - negative)[:, class_labels]


def generalized_iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Generalised IoU of boxes cx cy w h, broadcasting: `(..., 4), (..., 4) -> (...)` in `[-1, 1]`."""
    a, b = center_to_corners_format(a), center_to_corners_format(b)
    area_a = (a[..., 2:] - a[..., :2]).prod(-1)
    area_b = (b[..., 2:] - b[..., :2]).prod(-1)
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    union = area_a + area_b - overlap
    return overlap / union - (hull - union) / hull


def label_boxes(boxes: torch.Tensor) -> torch.Tensor:
    """Boxes of labels, absent ones (zeros) kept above 1e-6 so that their IoU is defined, as published."""
    return boxes.float().clamp(min=1e-6)


@torch.no_grad()
def match_instances(
    logits: torch.Tensor, boxes: torch.Tensor, labels: list[dict], frame_mask: torch.Tensor, config
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """
    Cheapest one-to-one assignment of queries to instances, video by video.

    The cost is `class_cost` focal + `bbox_cost` distance + `giou_cost` (negative generalised IoU, mean over frames).
    The box distance is the Euclidean norm over all frames and coordinates, as in the published code.

    Args:
        logits: `(B, Q, K)`.
        boxes: `(B, Q, T, 4)` cx cy w h in `[0, 1]`.
        labels: one dict per video with `class_labels (n,)` and `boxes (n, T, 4)`.
        frame_mask: `(B, T)` bool, True = real frame; others cost nothing.
        config: with `class_cost`, `bbox_cost`, `giou_cost`.

    Returns:
        Per video the matched query and instance indices, two int64 tensors of length `min(Q, n)`.
    """
    from scipy.optimize import linear_sum_assignment

    matches = []
    for video_logits, video_boxes, target, real in zip(logits.float(), boxes.float(), labels, frame_mask, strict=True):
        predicted, wanted = video_boxes[:, real], label_boxes(target["boxes"])[:, real]
        distance = torch.cdist(predicted.flatten(1), wanted.flatten(1))  # (Q, n)
        overlap = generalized_iou(predicted[:, None], wanted[None]).mean(-1)  # (Q, n)
        cost = (
            config.class_cost * focal_class_cost(video_logits, target["class_labels"])
            + config.bbox_cost * distance
            - config.giou_cost * overlap
        )
        query, instance = linear_sum_assignment(torch.nan_to_num(cost, 1e6, 1e6, -1e6).cpu())
        device = logits.device
        matches.append((torch.as_tensor(query, device=device), torch.as_tensor(instance, device=device)))
    return matches


def check_labels(labels: list[dict], video_shape: torch.Size, num_labels: int) -> None:
    """
    Check that labels fit their batch `(B, T, 3, H, W)`.

    Raises:
        ValueError: naming the video, what was given, what was expected and the way out.
        TypeError: for anything but tensors, or class labels that are no integers.
    """
    B, T, _, H, W = video_shape
    if len(labels) != B:
        raise ValueError(f"labels holds {len(labels)} dicts and the batch {B} videos; expected one dict per video")
    for index, target in enumerate(labels):
        missing = [key for key in ("class_labels", "boxes", "masks") if key not in target]
        if missing:
            raise ValueError(f"labels[{index}] lacks {missing}; expected class_labels, boxes and masks")
        for key in ("class_labels", "boxes", "masks"):
            if not isinstance(target[key], torch.Tensor):
                raise TypeError(f"labels[{index}][{key!r}] is a {type(target[key]).__name__}; expected a tensor")
        classes = target["class_labels"]
        if classes.ndim != 1:
            raise ValueError(f"labels[{index}]['class_labels'] has shape {tuple(classes.shape)}; expected one axis")
        if classes.dtype.is_floating_point or classes.dtype == torch.bool:
            raise TypeError(f"labels[{index}]['class_labels'] is {classes.dtype}; expected integers, such as int64")
        n = len(classes)
        for key, shape in (("boxes", (n, T, 4)), ("masks", (n, T, H, W))):
            if tuple(target[key].shape) != shape:
                raise ValueError(
                    f"labels[{index}][{key!r}] has shape {tuple(target[key].shape)}; expected {shape} for {n} "
                    f"instances in {T} frames of {H}x{W} pixels: pad labels together with their video"
                )
        if n and not (0 <= int(classes.min()) and int(classes.max()) < num_labels):
            raise ValueError(
                f"labels[{index}]['class_labels'] reach from {int(classes.min())} to {int(classes.max())}; "
                f"expected 0 to {num_labels - 1}: map category ids to positions, or name all classes in id2label"
            )
        # A little slack, for boxes that rounding has moved over the edge.
        _check_range(target["boxes"], 1e-3, f"labels[{index}]['boxes']", "divide pixels by the size of the frame")
        if target["masks"].dtype != torch.bool:
            _check_range(target["masks"], 0.0, f"labels[{index}]['masks']", "compare them with a threshold")


def _check_range(values: torch.Tensor, slack: float, name: str, way_out: str) -> None:
    if values.numel() == 0:
        return
    lowest, highest = (value.item() for value in values.aminmax())
    if not (lowest >= -slack and highest <= 1 + slack):  # NaN is in no range
        raise ValueError(f"{name} reach from {lowest:g} to {highest:g}; expected 0 to 1: {way_out}")


__all__ = ["check_labels", "focal_class_cost", "generalized_iou", "label_boxes", "match_instances"]

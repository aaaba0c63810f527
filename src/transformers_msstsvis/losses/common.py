"""What the losses of two models or more are made of, and the check of their labels.

Letters: B videos, T frames, Q queries, N matched instances of the batch, n instances of a video, H W pixels.
"""

import torch
from torch.nn import functional as F
from transformers.image_transforms import center_to_corners_format

from ..recomputation import recomputed

Matches = list[tuple[torch.Tensor, torch.Tensor]]  # per video: query and instance indices


def sigmoid_focal_loss(logits: torch.Tensor, targets: torch.Tensor, alpha: float, gamma: float = 2.0) -> torch.Tensor:
    """Element-wise focal loss of `logits` against `targets` in `[0, 1]` of the same shape (RetinaNet)."""
    probability = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    miss = probability * (1 - targets) + (1 - probability) * targets
    return (alpha * targets + (1 - alpha) * (1 - targets)) * miss**gamma * cross_entropy


def focal_class_cost(logits: torch.Tensor, class_labels: torch.Tensor, eps: float = 1e-8) -> torch.Tensor:
    """Focal gain of calling a query by a class: `logits (..., K)`, `class_labels (n,)` to `(..., n)`."""
    alpha, gamma = 0.25, 2.0
    probability = logits.sigmoid()
    negative = (1 - alpha) * probability**gamma * -(1 - probability + eps).log()
    positive = alpha * (1 - probability) ** gamma * -(probability + eps).log()
    return (positive - negative)[..., class_labels]


def dice_loss(probability: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """1 - dice coefficient of every row, smoothed by one: `(N, P)` in `[0, 1]`, `(N, P)` in {0, 1} to `(N,)`."""
    return 1 - (2 * (probability * targets).sum(1) + 1) / (probability.sum(1) + targets.sum(1) + 1)


def resized_mask_losses(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Focal loss, mean over pixels, and dice loss, summed over rows: mask logits `(R, h, w)`, resized to targets
    `(R, H, W)` in {0, 1}.
    """
    return recomputed(_resized_mask_losses, logits, targets)


def _resized_mask_losses(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    logits = F.interpolate(logits[:, None], size=targets.shape[-2:], mode="bilinear", align_corners=False).flatten(1)
    targets, probability = targets.flatten(1), logits.sigmoid()
    focal = sigmoid_focal_loss(logits, targets, alpha=0.25).mean(1)
    return focal.sum(), dice_loss(probability, targets).sum()


def frame_masks(target: dict[str, torch.Tensor], instance: torch.Tensor) -> torch.Tensor:
    """Masks `(N, T, H, W)` float32 of instances `(N,)` of a video's labels, empty where an instance is absent."""
    absent = ~target["valid"][instance].bool()
    return target["masks"][instance].float().masked_fill(absent[..., None, None], 0.0)


def generalized_iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Generalised IoU of boxes cx cy w h, broadcasting: `(..., 4), (..., 4) -> (...)` in `[-1, 1]`."""
    overlap, union, hull = box_areas(a, b)
    return overlap / union - (hull - union) / hull


def smoothed_ious(a: torch.Tensor, b: torch.Tensor, eps: float = 1e-6) -> tuple[torch.Tensor, torch.Tensor]:
    """
    IoU and generalised IoU of boxes cx cy w h, broadcasting: `(..., 4), (..., 4)` to two `(...)`. `eps` is added above
    and below every fraction, so that boxes without extent have them, too (DETR).
    """
    overlap, union, hull = box_areas(a, b)
    iou = (overlap + eps) / (union + eps)
    return iou, iou - (hull - union + eps) / (hull + eps)


def box_areas(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Areas of the overlap, the union and the hull of boxes cx cy w h, broadcasting: `(..., 4), (..., 4) -> (...)`."""
    a, b = center_to_corners_format(a), center_to_corners_format(b)
    area_a = (a[..., 2:] - a[..., :2]).prod(-1)
    area_b = (b[..., 2:] - b[..., :2]).prod(-1)
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    return overlap, area_a + area_b - overlap, hull


def flatten_matches(matches: Matches) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Video, query and instance index of every match of a batch, video by video: three int64 `(N,)`."""
    video = torch.cat([torch.full_like(query, index) for index, (query, _) in enumerate(matches)])
    return video, torch.cat([query for query, _ in matches]), torch.cat([instance for _, instance in matches])


def assign(cost: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Cheapest one-to-one assignment (Hungarian): `(Q, n)` to row and column indices, int64 `(min(Q, n),)`, ascending
    rows. Costs that are no numbers count as very high, infinite ones as very high or low.
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(torch.nan_to_num(cost, 1e6, 1e6, -1e6).cpu())
    return torch.as_tensor(rows, device=cost.device), torch.as_tensor(columns, device=cost.device)


def sum_over_processes(count: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The sum of a number over all processes, in place, and how many they are; alone, the number and 1."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return count, 1
    torch.distributed.all_reduce(count)
    return count, torch.distributed.get_world_size()


def average_count(count: float, device: torch.device) -> torch.Tensor:
    """
    What losses are divided by: a count, at least 1, averaged over processes. One is the least of all processes
    together, so that many processes have the gradients of one.
    """
    total, num_processes = sum_over_processes(torch.tensor(float(count), device=device))
    return total.clamp(min=1) / num_processes


def loss_coefficients(config) -> dict[str, float]:
    """What every term weighs in the sum, by its name."""
    return {
        "loss_ce": config.class_loss_coefficient,
        "loss_bbox": config.bbox_loss_coefficient,
        "loss_giou": config.giou_loss_coefficient,
        "loss_mask": config.mask_loss_coefficient,
        "loss_dice": config.dice_loss_coefficient,
    }


LABEL_KEYS = ("class_labels", "boxes", "masks", "valid")


@torch.compiler.disable  # it looks at values
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
        missing = [key for key in LABEL_KEYS if key not in target]
        if missing:
            raise ValueError(f"labels[{index}] lacks {missing}; expected class_labels, boxes, masks and valid")
        for key in LABEL_KEYS:
            if not isinstance(target[key], torch.Tensor):
                raise TypeError(f"labels[{index}][{key!r}] is a {type(target[key]).__name__}; expected a tensor")
        classes = target["class_labels"]
        if classes.ndim != 1:
            raise ValueError(f"labels[{index}]['class_labels'] has shape {tuple(classes.shape)}; expected one axis")
        if classes.dtype.is_floating_point or classes.dtype == torch.bool:
            raise TypeError(f"labels[{index}]['class_labels'] is {classes.dtype}; expected integers, such as int64")
        n = len(classes)
        for key, shape in (("boxes", (n, T, 4)), ("masks", (n, T, H, W)), ("valid", (n, T))):
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
        for key in ("masks", "valid"):
            if target[key].dtype != torch.bool:
                _check_range(target[key], 0.0, f"labels[{index}][{key!r}]", "compare them with a threshold")


def _check_range(values: torch.Tensor, slack: float, name: str, way_out: str) -> None:
    if values.numel() == 0:
        return
    lowest, highest = (value.item() for value in values.aminmax())
    if not (lowest >= -slack and highest <= 1 + slack):  # NaN is in no range
        raise ValueError(f"{name} reach from {lowest:g} to {highest:g}; expected 0 to 1: {way_out}")

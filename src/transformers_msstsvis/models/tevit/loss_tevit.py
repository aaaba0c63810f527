"""Matching and losses of TeViT: an instance is matched by the frames that show it; in the others its query is none.

Letters: B videos, T frames, Q queries, K labels, n instances of a video, N matched ones of the batch, R of them in a
frame that shows them (positives).
"""

import torch
from torchvision.ops import roi_align
from transformers.image_transforms import center_to_corners_format
from transformers.loss.loss_utils import LOSS_MAPPING

from ...losses.common import (
    Matches,
    assign,
    average_count,
    box_areas,
    flatten_matches,
    focal_class_cost,
    sigmoid_focal_loss,
)

UNSEEN = 1e6  # the cost of an instance that no frame shows
SMALLEST_AREA = 1e-6  # square pixels
DICE_EPS = 1e-5


def present_instances(labels: list[dict], matches: Matches, frame_sizes: torch.Tensor) -> torch.Tensor:
    """`(N, T)` bool: the matched instances in the real frames that show them; `frame_sizes (B, T, 2)`."""
    rows = zip(labels, matches, frame_sizes, strict=True)
    return torch.cat([target["valid"][instance].bool() & (size[:, 0] > 0) for target, (_, instance), size in rows])


def pixel_sizes(frame_sizes: torch.Tensor) -> torch.Tensor:
    """`(..., 2)` height and width to `(..., 4)` w h w h, float32."""
    return frame_sizes.flip(-1).repeat(*[1] * (frame_sizes.ndim - 1), 2).float()


def box_distances(a: torch.Tensor, b: torch.Tensor, sizes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    L1 distance of the corners, in `[0, 1]` of the frame, and generalised IoU in pixels: boxes cx cy w h in `[0, 1]`
    and w h w h of their frames, broadcasting, `(..., 4)` to two `(...)`.
    """
    distance = (center_to_corners_format(a) - center_to_corners_format(b)).abs().sum(-1)
    overlap, union, hull = box_areas(a * sizes, b * sizes)
    union, hull = union.clamp(min=SMALLEST_AREA), hull.clamp(min=SMALLEST_AREA)
    return distance, overlap / union - (hull - union) / hull


@torch.no_grad()
def matching_cost(
    frame_logits: torch.Tensor, boxes: torch.Tensor, labels: list[dict], frame_sizes: torch.Tensor, config
) -> list[torch.Tensor]:
    """
    What it costs to match a query, in all frames, to an instance: `class_cost` times the focal cost of its class,
    `bbox_cost` times the L1 distance of the corners, `giou_cost` times minus the generalised IoU; each is the mean
    over the real frames that show the instance.

    Args:
        frame_logits: `(B, T, Q, K)`.
        boxes: `(B, Q, T, 4)` cx cy w h in `[0, 1]` of the real pixels, which they may leave.
        labels: one dict per video, see [`TevitForVideoInstanceSegmentation`].
        frame_sizes: `(B, T, 2)`, zero for padding frames.
        config: with `class_cost`, `bbox_cost`, `giou_cost`.

    Returns:
        Per video `(Q, n)` float32, very high for instances that no frame shows.
    """
    costs = []
    for logits, predicted, target, size in zip(frame_logits, boxes, labels, frame_sizes, strict=True):
        shown = target["valid"].bool() & (size[:, 0] > 0)  # (n, T)
        miss = focal_class_cost(logits.float(), target["class_labels"], eps=1e-12).transpose(0, 1)  # (Q, T, n)
        wanted = target["boxes"].float().transpose(0, 1)  # (T, n, 4)
        distance, giou = box_distances(predicted.float()[:, :, None], wanted, pixel_sizes(size)[:, None])  # (Q, T, n)
        cost = config.class_cost * miss + config.bbox_cost * distance - config.giou_cost * giou
        cost = cost.masked_fill(~shown.T, 0.0).sum(1) / shown.sum(1).clamp(min=1)
        costs.append(cost.masked_fill(~shown.any(1), UNSEEN))
    return costs


def match_instances(
    frame_logits: torch.Tensor, boxes: torch.Tensor, labels: list[dict], frame_sizes: torch.Tensor, config
) -> Matches:
    """
    One query for each instance, as cheap together as can be by [`matching_cost`].

    Returns:
        Per video query and instance indices, both int64 `(min(Q, n),)`, queries ascending.
    """
    return [assign(cost) for cost in matching_cost(frame_logits, boxes, labels, frame_sizes, config)]


def video_instance_segmentation_loss(
    frame_logits: list[torch.Tensor],
    boxes: list[torch.Tensor],
    masks: list[torch.Tensor | None],
    matches: list[Matches],
    labels: list[dict],
    frame_sizes: torch.Tensor,
    config,
    **kwargs,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """
    Losses of the stages, first to last. All are sums over the real frames, divided by the number of positives:
    matched queries in the frames that show their instance.

    Args:
        frame_logits: per stage `(B, T, Q, K)`.
        boxes: per stage `(B, Q, T, 4)` cx cy w h in `[0, 1]` of the real pixels, which they may leave.
        masks: per stage `(N, T, 28, 28)` mask logits of the matched queries in their own boxes, in the order of
            `matches`, or None. What they are in frames without the instance is ignored.
        matches: per stage and video matched query and instance indices.
        labels: one dict per video, see [`TevitForVideoInstanceSegmentation`].
        frame_sizes: `(B, T, 2)`, zero for padding frames, which count nothing.
        config: with the loss coefficients and `focal_alpha`.

    Returns:
        The weighted sum, and every term by name, not weighted: `loss_ce`, `loss_bbox`, `loss_giou`, where there are
        masks `loss_dice`; suffix `_i` for stage i but the last.
    """
    coefficients = {
        "loss_ce": config.class_loss_coefficient,
        "loss_bbox": config.bbox_loss_coefficient,
        "loss_giou": config.giou_loss_coefficient,
        "loss_dice": config.dice_loss_coefficient,
    }
    total, terms = 0.0, {}
    for layer, (logits, match) in enumerate(zip(frame_logits, matches, strict=True)):
        present = present_instances(labels, match, frame_sizes)
        positives = average_count(float(present.sum()), present.device)
        losses = layer_losses(logits.float(), boxes[layer], masks[layer], match, present, labels, frame_sizes, config)
        suffix = "" if layer == len(matches) - 1 else f"_{layer}"
        for name, value in losses.items():
            value = value / positives
            total = total + coefficients[name] * value
            terms[name + suffix] = value.detach()
    return total, terms


def layer_losses(
    logits: torch.Tensor,
    boxes: torch.Tensor,
    masks: torch.Tensor | None,
    match: Matches,
    present: torch.Tensor,
    labels: list[dict],
    frame_sizes: torch.Tensor,
    config,
) -> dict[str, torch.Tensor]:
    """
    Losses of one stage, sums over positives, see [`video_instance_segmentation_loss`]; `logits (B, T, Q, K)` float32,
    `present (N, T)` bool.
    """
    video, query, _ = flatten_matches(match)
    found = [
        [target[name][instance] for name in ("class_labels", "boxes", "masks")]
        for target, (_, instance) in zip(labels, match, strict=True)
    ]
    classes, wanted, shapes = (torch.cat(of_videos) for of_videos in zip(*found, strict=True))
    every_class = torch.zeros_like(logits)
    every_class[video, :, query, classes] = present.to(logits.dtype)
    real = frame_sizes[..., 0] > 0
    sizes = pixel_sizes(frame_sizes)[video][present]  # (R, 4)
    predicted, wanted = boxes[video, query][present].float(), wanted[present].float()
    distance, giou = box_distances(predicted, wanted, sizes)
    losses = {
        "loss_ce": sigmoid_focal_loss(logits, every_class, config.focal_alpha)[real].sum(),
        "loss_bbox": distance.sum(),
        "loss_giou": (1 - giou).sum(),
    }
    if masks is not None:
        targets = mask_targets(shapes[present], predicted.detach() * sizes, masks.shape[-1])
        losses["loss_dice"] = dice_loss(masks[present].float().sigmoid().flatten(1), targets.flatten(1)).sum()
    return losses


def mask_targets(masks: torch.Tensor, boxes: torch.Tensor, side: int) -> torch.Tensor:
    """
    What stands in boxes, clipped to the padded frame: masks `(R, H, W)` and boxes `(R, 4)` cx cy w h in pixels to
    `(R, side, side)` in {0, 1}, cells of which at least half belongs to the instance.
    """
    limits = torch.tensor([masks.shape[2], masks.shape[1]] * 2, device=masks.device)
    corners = center_to_corners_format(boxes).clamp(min=0).minimum(limits.to(boxes.dtype))
    first, last = corners.chunk(2, dim=-1)
    corners = torch.cat((first, last.maximum(first)), dim=-1)  # a box of negative sides has no pixel
    rows = torch.cat((torch.arange(len(boxes), device=boxes.device)[:, None], corners), dim=1)
    parts = roi_align(masks[:, None].float(), rows, side, sampling_ratio=0, aligned=True)
    return (parts[:, 0] >= 0.5).float()


def dice_loss(probability: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """1 - dice coefficient with squares below the line, of every row: `(R, P)` in `[0, 1]`, `(R, P)` to `(R,)`."""
    below = (probability**2).sum(1) + DICE_EPS + (targets**2).sum(1) + DICE_EPS
    return 1 - 2 * (probability * targets).sum(1) / below


LOSS_MAPPING["TevitForVideoInstanceSegmentation"] = video_instance_segmentation_loss

__all__ = ["match_instances", "matching_cost", "video_instance_segmentation_loss"]

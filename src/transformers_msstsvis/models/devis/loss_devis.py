"""Matching and losses of DeVIS: an instance is matched by all frames together, and each of them scores it.

Letters: B videos, T frames, Q queries of a frame, K labels, n instances of a video, N matched ones of the batch.
"""

import torch
from transformers.loss.loss_utils import LOSS_MAPPING

from ...losses.common import (
    Matches,
    assign,
    average_count,
    flatten_matches,
    focal_class_cost,
    frame_masks,
    loss_coefficients,
    resized_mask_losses,
    sigmoid_focal_loss,
    smoothed_ious,
)

ABSENT_SIDE = 1e-6
WEIGHTED_BY_LAYER = ("loss_ce", "loss_bbox", "loss_giou")


def frame_boxes(target: dict[str, torch.Tensor], real: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Boxes `(n, T, 4)` of a video's labels, and `(n, T)` bool where an instance is present; `real (T,)`. Where it is
    absent, the box is a speck at the centre of the nearest frame with it, the earlier of two.
    """
    present = target["valid"].bool() & real
    frames = torch.arange(len(real), device=real.device)
    distance = (frames[:, None] - frames).abs() + len(real) * ~present[:, None]  # (n, T, T)
    nearest = distance.argmin(-1)[..., None].expand(-1, -1, 4)
    boxes = target["boxes"].float()
    boxes = boxes.masked_fill(~target["valid"].bool()[..., None], 0.5).gather(1, nearest)
    specks = torch.cat((boxes[..., :2], torch.full_like(boxes[..., 2:], ABSENT_SIDE)), dim=-1)
    return torch.where(present[..., None], boxes, specks), present


@torch.no_grad()
def matching_cost(
    frame_logits: torch.Tensor, boxes: torch.Tensor, labels: list[dict], frame_sizes: torch.Tensor, config
) -> list[torch.Tensor]:
    """
    What it costs to match a query, in all frames, to an instance: `class_cost` times the focal cost of its class,
    `bbox_cost` times the L1 distance, `giou_cost` times minus the generalised IoU; each is the mean over the real
    frames. Frames in which the instance is absent count, with the boxes of [`frame_boxes`].

    Args:
        frame_logits: `(B, T, Q, K)`.
        boxes: `(B, Q, T, 4)` cx cy w h in `[0, 1]`.
        labels: one dict per video, see [`DevisForVideoInstanceSegmentation`].
        frame_sizes: `(B, T, 2)`, zero for padding frames.
        config: with `class_cost`, `bbox_cost`, `giou_cost`.

    Returns:
        Per video `(Q, n)` float32.
    """
    costs = []
    for logits, predicted, target, size in zip(frame_logits, boxes, labels, frame_sizes, strict=True):
        real = size[:, 0] > 0
        wanted = frame_boxes(target, real)[0][:, real]  # (n, L, 4), L real frames
        miss = focal_class_cost(logits[real].float(), target["class_labels"]).mean(0)  # (Q, n)
        predicted = predicted[:, None, real].float()  # (Q, 1, L, 4)
        distance = (predicted - wanted).abs().mean((2, 3))
        giou = smoothed_ious(predicted, wanted)[1].mean(2)
        costs.append(config.class_cost * miss + config.bbox_cost * distance - config.giou_cost * giou)
    return costs


def match_instances(
    frame_logits: torch.Tensor, boxes: torch.Tensor, labels: list[dict], frame_sizes: torch.Tensor, config
) -> Matches:
    """
    Cheapest one-to-one assignment of queries to instances, video by video, of the costs of [`matching_cost`].

    Returns:
        Per video the matched query and instance indices, int64 `(min(Q, n),)`, queries ascending.
    """
    return [assign(cost) for cost in matching_cost(frame_logits, boxes, labels, frame_sizes, config)]


def layer_weight(layer: int, num_layers: int, config) -> float:
    """What class and box losses of a layer weigh in the sum, as published for six layers."""
    if not (config.auxiliary_loss and config.auxiliary_loss_weighting):
        return 1.0
    return 1 / 2 if layer == num_layers - 1 else (layer + 1) / 30


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
    Losses of decoder layers, first to last. All are sums over the real frames, divided by the number of instances
    times frames.

    Args:
        frame_logits: per layer `(B, T, Q, K)`.
        boxes: per layer `(B, Q, T, 4)` cx cy w h in `[0, 1]`.
        masks: per layer `(N, T, h, w)` mask logits of the matched queries, in the order of `matches`, or None.
        matches: per layer and video matched query and instance indices.
        labels: one dict per video, see [`DevisForVideoInstanceSegmentation`].
        frame_sizes: `(B, T, 2)`, zero for padding frames, which count nothing.
        config: with the loss coefficients, `focal_alpha`, `auxiliary_loss` and `auxiliary_loss_weighting`.

    Returns:
        The weighted sum, and every term by name, not weighted: `loss_ce`, `loss_bbox`, `loss_giou`, where there are
        masks `loss_mask` (focal) and `loss_dice`; suffix `_i` for layer i but the last. For the logs, of the last
        layer `class_error`, percent of the queries of present instances whose best class is wrong, 100 without any.
    """
    real, coefficients = frame_sizes[..., 0] > 0, loss_coefficients(config)  # (B, T)
    rows = sum(len(target["class_labels"]) * frames.sum() for target, frames in zip(labels, real, strict=True))
    num_rows = average_count(float(rows), real.device)
    total, terms, error = 0.0, {}, None
    for layer, (logits, match) in enumerate(zip(frame_logits, matches, strict=True)):
        losses, error = layer_losses(logits.float(), boxes[layer], masks[layer], match, labels, real, config)
        suffix = "" if layer == len(matches) - 1 else f"_{layer}"
        weight = layer_weight(layer, len(matches), config)
        for name, value in losses.items():
            value = value / num_rows
            total = total + coefficients[name] * (weight if name in WEIGHTED_BY_LAYER else 1.0) * value
            terms[name + suffix] = value.detach()
    return total, {**terms, "class_error": error}


def layer_losses(
    logits: torch.Tensor,
    boxes: torch.Tensor,
    masks: torch.Tensor | None,
    match: Matches,
    labels: list[dict],
    real: torch.Tensor,
    config,
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """
    Losses of one decoder layer, sums over rows, and its class error, see [`video_instance_segmentation_loss`];
    `logits (B, T, Q, K)` float32, `real (B, T)` bool.

    Boxes and masks of absent instances are learned, too: a speck, and nothing. Only an instance that is in no frame
    teaches neither.
    """
    video, query, _ = flatten_matches(match)
    found = [
        [of_target[instance] for of_target in (target["class_labels"], *frame_boxes(target, frames))]
        for target, (_, instance), frames in zip(labels, match, real, strict=True)
    ]
    classes, wanted, present = (torch.cat(of_videos) for of_videos in zip(*found, strict=True))
    every_class = torch.zeros_like(logits)
    every_class[video, :, query, classes] = present.to(logits.dtype)  # (N, T)
    taught = present.any(1, keepdim=True) & real[video]  # (N, T)
    predicted, wanted = boxes[video, query][taught].float(), wanted[taught]  # (R, 4)
    losses = {
        "loss_ce": sigmoid_focal_loss(logits, every_class, config.focal_alpha)[real].sum(),
        "loss_bbox": (predicted - wanted).abs().sum(),
        "loss_giou": (1 - smoothed_ious(predicted, wanted)[1]).sum(),
    }
    if masks is not None:
        instances = zip(labels, match, strict=True)
        wanted_masks = torch.cat([frame_masks(target, instance) for target, (_, instance) in instances])
        losses["loss_mask"], losses["loss_dice"] = resized_mask_losses(masks[taught].float(), wanted_masks[taught])
        # Heads without a match stay in the graph, which distributed training needs.
        losses["loss_mask"] = losses["loss_mask"] + 0.0 * masks.sum()
    best = logits[video, :, query].argmax(-1)  # (N, T)
    hits = (best == classes[:, None])[present].float()
    return losses, 100 - 100 * hits.mean() if len(hits) else hits.new_tensor(100.0)


LOSS_MAPPING["DevisForVideoInstanceSegmentation"] = video_instance_segmentation_loss

__all__ = ["match_instances", "matching_cost", "video_instance_segmentation_loss"]

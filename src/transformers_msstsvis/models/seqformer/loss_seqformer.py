"""Matching and set losses of SeqFormer: focal class, L1 and generalised IoU boxes, focal and dice masks, at every
decoder layer.

Letters: B videos, T frames, Q queries, K labels, n instances of a video, N matched instances of the batch, h w
stride-4 pixels.
"""

import torch
from torch.nn import functional as F
from transformers.loss.loss_utils import LOSS_MAPPING

from ...losses.common import (
    Matches,
    assign,
    average_count,
    dice_loss,
    flatten_matches,
    focal_class_cost,
    generalized_iou,
    loss_coefficients,
    sigmoid_focal_loss,
)
from ...recomputation import recomputed

MASK_STRIDE = 4


def label_boxes(target: dict[str, torch.Tensor]) -> torch.Tensor:
    """Boxes `(n, T, 4)` of one video's labels, absent ones at 1e-6 so that their IoU is defined, as published."""
    return target["boxes"].float().masked_fill(~target["valid"].bool()[..., None], 0.0).clamp(min=1e-6)


@torch.no_grad()
def match_instances(
    logits: torch.Tensor, boxes: torch.Tensor, labels: list[dict], frame_mask: torch.Tensor, config
) -> Matches:
    """
    Cheapest one-to-one assignment of queries to instances, video by video.

    The cost is `class_cost` focal + `bbox_cost` distance + `giou_cost` (negative generalised IoU, mean over frames).
    The box distance is the Euclidean norm over all frames and coordinates, as in the published code.

    Args:
        logits: `(B, Q, K)`.
        boxes: `(B, Q, T, 4)` cx cy w h in `[0, 1]`.
        labels: one dict per video with `class_labels (n,)`, `boxes (n, T, 4)` and `valid (n, T)`.
        frame_mask: `(B, T)` bool, True = real frame; others cost nothing.
        config: with `class_cost`, `bbox_cost`, `giou_cost`.

    Returns:
        Per video the matched query and instance indices, two int64 tensors of length `min(Q, n)`.
    """
    matches = []
    for video_logits, video_boxes, target, real in zip(logits.float(), boxes.float(), labels, frame_mask, strict=True):
        predicted, wanted = video_boxes[:, real], label_boxes(target)[:, real]
        distance = torch.cdist(predicted.flatten(1), wanted.flatten(1))  # (Q, n)
        overlap = generalized_iou(predicted[:, None], wanted[None]).mean(-1)  # (Q, n)
        cost = (
            config.class_cost * focal_class_cost(video_logits, target["class_labels"])
            + config.bbox_cost * distance
            - config.giou_cost * overlap
        )
        matches.append(assign(cost))
    return matches


def class_loss(logits: torch.Tensor, matches: Matches, labels: list[dict], alpha: float) -> torch.Tensor:
    """Focal loss of all queries, the matched ones against their class, summed. `logits (B, Q, K)`."""
    targets = torch.zeros_like(logits)
    for video, ((query, instance), target) in enumerate(zip(matches, labels, strict=True)):
        targets[video, query, target["class_labels"][instance]] = 1.0
    return sigmoid_focal_loss(logits, targets, alpha).sum()


def box_losses(boxes: torch.Tensor, targets: torch.Tensor, real: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    L1 and generalised IoU losses, mean over the real frames, summed over instances.

    `boxes, targets (N, T, 4)` cx cy w h, `real (N, T)` bool.
    """
    weight = real / real.sum(1, keepdim=True).clamp(min=1)  # (N, T)
    distance = ((boxes - targets).abs().sum(-1) * weight).sum()
    return distance, ((1 - generalized_iou(boxes, targets)) * weight).sum()


def mask_losses(masks: torch.Tensor, targets: torch.Tensor, real: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Focal loss, mean over the pixels of real frames, and dice loss, summed over instances.

    `masks (N, T, h, w)` logits, `targets (N, T, h, w)` in {0, 1}, `real (N, T)` bool.
    """
    real = real[:, :, None, None]
    pixels = real.sum(1).flatten(1).sum(1) * masks.shape[-2] * masks.shape[-1]  # (N,)
    focal = (sigmoid_focal_loss(masks, targets, alpha=0.25) * real).flatten(1).sum(1) / pixels.clamp(min=1)
    probability = (masks.sigmoid() * real).flatten(1)
    targets = (targets * real).flatten(1)
    return focal.sum(), dice_loss(probability, targets).sum()


def sample_mask_targets(target: dict[str, torch.Tensor], height: int, width: int) -> torch.Tensor:
    """
    Masks `(n, T, H, W)` of one video's labels at the places of stride-4 logits: every fourth pixel from the third on.

    Returns:
        `(n, T, height, width)` float32; absent masks and pixels beyond the masks are background.
    """
    masks = target["masks"].float() * target["valid"][..., None, None]
    H, W = masks.shape[-2:]
    masks = F.pad(masks, (0, max(0, MASK_STRIDE * width - W), 0, max(0, MASK_STRIDE * height - H)))
    start = MASK_STRIDE // 2
    return masks[..., start::MASK_STRIDE, start::MASK_STRIDE][..., :height, :width]


@torch.no_grad()
def class_errors(logits: torch.Tensor, match: Matches, labels: list[dict]) -> dict[str, torch.Tensor]:
    """
    Two numbers for the logs, not losses, as published: `class_error`, percent of matched queries whose best class is
    wrong, and `cardinality_error`, how far the number of queries whose best class is not the last one is from the
    number of instances, mean over videos. `logits (B, Q, K)`.
    """
    best = logits.argmax(-1)
    hits = [
        best[video, query] == t["class_labels"][i]
        for video, ((query, i), t) in enumerate(zip(match, labels, strict=True))
    ]
    hits = torch.cat(hits).float()
    counts = (best != logits.shape[-1] - 1).sum(1)
    wanted = counts.new_tensor([len(target["class_labels"]) for target in labels])
    return {
        "class_error": 100 - 100 * hits.mean() if len(hits) else hits.new_zeros(()),
        "cardinality_error": (counts - wanted).abs().float().mean(),
    }


def video_instance_segmentation_loss(
    logits: list[torch.Tensor],
    boxes: list[torch.Tensor],
    masks: list[torch.Tensor],
    matches: list[Matches],
    labels: list[dict],
    frame_mask: torch.Tensor,
    config,
    **kwargs,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """
    Losses of all supervised decoder layers, first to last.

    Args:
        logits: per layer `(B, Q, K)`.
        boxes: per layer `(B, Q, T, 4)` cx cy w h in `[0, 1]`.
        masks: per layer `(N, T, h, w)` mask logits of the matched queries, in the order of `matches`.
        matches: per layer and video matched query and instance indices.
        labels: one dict per video, see [`MsstsVisForVideoInstanceSegmentation`].
        frame_mask: `(B, T)` bool, True = real frame.
        config: with the loss coefficients.

    Returns:
        The weighted sum, and every term by name (`loss_ce`, `loss_bbox`, `loss_giou`, `loss_mask`, `loss_dice`;
        suffix `_i` for layer i but the last), divided by the number of instances but not weighted, and the
        [`class_errors`].
    """
    coefficients = loss_coefficients(config)
    num_instances = average_count(sum(len(target["class_labels"]) for target in labels), logits[0].device)
    height, width = masks[0].shape[-2:]
    mask_targets = [sample_mask_targets(target, height, width) for target in labels]
    total, terms = 0.0, {}
    for layer in range(len(logits)):
        match = matches[layer]
        video, query, _ = flatten_matches(match)
        wanted = torch.cat([label_boxes(t)[i] for t, (_, i) in zip(labels, match, strict=True)])
        wanted_masks = torch.cat([m[i] for m, (_, i) in zip(mask_targets, match, strict=True)])
        real = frame_mask[video]  # (N, T)
        losses = [class_loss(logits[layer].float(), match, labels, config.focal_alpha)]
        losses += box_losses(boxes[layer][video, query].float(), wanted, real)
        losses += recomputed(mask_losses, masks[layer].float(), wanted_masks, real)
        suffix = "" if layer == len(logits) - 1 else f"_{layer}"
        for (name, coefficient), value in zip(coefficients.items(), losses, strict=True):
            value = value / num_instances
            terms[name + suffix] = value.detach()
            total = total + coefficient * value
        errors = class_errors(logits[layer], match, labels)
        terms["cardinality_error" + suffix] = errors["cardinality_error"]
        if not suffix:
            terms["class_error"] = errors["class_error"]
    # heads without a match stay in the graph, which distributed training needs
    return total + 0.0 * sum(mask.sum() for mask in masks) + 0.0 * boxes[-1].sum(), terms


LOSS_MAPPING["SeqFormerForVideoInstanceSegmentation"] = video_instance_segmentation_loss

__all__ = ["match_instances", "video_instance_segmentation_loss"]

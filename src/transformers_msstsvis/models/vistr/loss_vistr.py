"""Matching and losses of VisTR: every frame of an instance has a query of its own, which may find it absent.

Letters: B videos, T frames, Q queries of a frame, K labels, n instances of a video, N matched ones of the batch.
"""

import torch
from torch.nn import functional as F
from transformers.loss.loss_utils import LOSS_MAPPING

from ...losses.common import (
    Matches,
    assign,
    average_count,
    flatten_matches,
    frame_masks,
    loss_coefficients,
    resized_mask_losses,
    smoothed_ious,
)


def frame_targets(target: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Classes `(n, T)` and boxes `(n, T, 4)` of a video's labels, frame by frame: class 0 and a box of zeros where an
    instance is absent, as published.
    """
    absent = ~target["valid"].bool()
    classes = target["class_labels"][:, None].expand_as(absent)
    return classes.masked_fill(absent, 0), target["boxes"].float().masked_fill(absent[..., None], 0.0)


@torch.no_grad()
def matching_cost(
    frame_logits: torch.Tensor, boxes: torch.Tensor, labels: list[dict], frame_sizes: torch.Tensor, config
) -> list[torch.Tensor]:
    """
    What it costs to match a query, in all frames, to an instance: `class_cost` times minus the probability of its
    class, `bbox_cost` times the L1 distance, `iou_cost` times minus the IoU, which is not generalised; each is the
    mean over the real frames. Frames in which the instance is absent count, with the targets of [`frame_targets`].

    Args:
        frame_logits: `(B, T, Q, K + 1)`, "no object" last.
        boxes: `(B, Q, T, 4)` cx cy w h in `[0, 1]`.
        labels: one dict per video, see [`VistrForVideoInstanceSegmentation`].
        frame_sizes: `(B, T, 2)`, zero for padding frames.
        config: with `class_cost`, `bbox_cost`, `iou_cost`.

    Returns:
        Per video `(Q, n)` float32.
    """
    costs = []
    for logits, predicted, target, size in zip(frame_logits, boxes, labels, frame_sizes, strict=True):
        real = size[:, 0] > 0
        classes, wanted = (of_frames[:, real] for of_frames in frame_targets(target))  # (n, L), (n, L, 4)
        probability = logits[real].float().softmax(-1)  # (L, Q, K + 1), L real frames
        hit = probability[torch.arange(len(probability), device=classes.device), :, classes].mean(1).T  # (Q, n)
        predicted = predicted[:, None, real].float()  # (Q, 1, L, 4)
        distance = (predicted - wanted).abs().mean((2, 3))
        iou, _ = smoothed_ious(predicted, wanted)
        costs.append(config.bbox_cost * distance - config.class_cost * hit - config.iou_cost * iou.mean(2))
    return costs


@torch.no_grad()
def match_instances(
    frame_logits: torch.Tensor, boxes: torch.Tensor, labels: list[dict], frame_sizes: torch.Tensor, config
) -> Matches:
    """
    Cheapest one-to-one assignment of queries to instances, video by video; the arguments are those of
    [`matching_cost`].

    Returns:
        Per video the matched query and instance indices, two int64 tensors of length `min(Q, n)`, queries ascending.
    """
    return [assign(cost) for cost in matching_cost(frame_logits, boxes, labels, frame_sizes, config)]


def supervised_frames(target: dict, instance: torch.Tensor, real: torch.Tensor, published: bool) -> torch.Tensor:
    """
    Frames in which the matched queries of a video learn class, box and mask; in the others they learn "no object".
    `instance (N,)` and `real (T,)` bool to `(N, T)` bool. As published they are those of another instance, see
    `published_presence_flags` of [`VistrConfig`].
    """
    rows = torch.arange(len(instance), device=instance.device) if published else instance
    return target["valid"][rows].bool() & real


def class_loss(logits: torch.Tensor, targets: torch.Tensor, real: torch.Tensor, eos_coefficient: float):
    """
    Cross-entropy of the queries of real frames, weighted mean: "no object", the last class, weighs
    `eos_coefficient`. `logits (B, T, Q, K + 1)`, `targets (B, T, Q)`, `real (B, T)`.
    """
    weight = logits.new_ones(logits.shape[-1])
    weight[-1] = eos_coefficient
    logits, targets = logits[real].flatten(0, 1), targets[real].flatten()
    return F.cross_entropy(logits, targets, weight, reduction="sum") / weight[targets].sum().clamp(min=1e-6)


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
    Losses of decoder layers, first to last.

    Args:
        frame_logits: per layer `(B, T, Q, K + 1)`, "no object" last.
        boxes: per layer `(B, Q, T, 4)` cx cy w h in `[0, 1]`.
        masks: per layer `(N, T, h, w)` mask logits of the matched queries, in the order of `matches`, or None.
        matches: per layer and video matched query and instance indices.
        labels: one dict per video, see [`VistrForVideoInstanceSegmentation`].
        frame_sizes: `(B, T, 2)`, zero for padding frames, which count nothing.
        config: with the loss coefficients and `published_presence_flags`.

    Returns:
        The weighted sum, and every term by name, not weighted: `loss_ce`, `loss_bbox`, `loss_giou`, where there are
        masks `loss_mask` (focal) and `loss_dice`; suffix `_i` for layer i but the last. For the logs,
        `cardinality_error`, how far the number of queries that find an object is from the number of labelled instances
        times frames, mean over videos, and of the last layer `class_error`, percent of supervised queries whose best
        class is wrong, 100 without any.
    """
    coefficients = loss_coefficients(config)
    real = frame_sizes[..., 0] > 0  # (B, T)
    lengths = real.sum(1).tolist()
    num_rows = sum(len(target["class_labels"]) * length for target, length in zip(labels, lengths, strict=True))
    num_rows = average_count(num_rows, real.device)
    total, terms = 0.0, {}
    for layer, match in enumerate(matches):
        losses, logs = layer_losses(frame_logits[layer], boxes[layer], masks[layer], match, labels, real, config)
        suffix = "" if layer == len(matches) - 1 else f"_{layer}"
        for name, value in losses.items():
            value = value if name == "loss_ce" else value / num_rows
            total = total + coefficients[name] * value
            terms[name + suffix] = value.detach()
        terms["cardinality_error" + suffix] = logs["cardinality_error"]
    return total, {**terms, "class_error": logs["class_error"]}


def layer_losses(
    frame_logits: torch.Tensor,
    boxes: torch.Tensor,
    masks: torch.Tensor | None,
    match: Matches,
    labels: list[dict],
    real: torch.Tensor,
    config,
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """
    Losses of one decoder layer, all but the class loss summed over supervised rows, and two numbers for the logs, see
    [`video_instance_segmentation_loss`]; `real (B, T)` bool.
    """
    logits, no_object = frame_logits.float(), frame_logits.shape[-1] - 1
    video, query, _ = flatten_matches(match)
    rows = [(target, instance) for target, (_, instance) in zip(labels, match, strict=True)]
    published = config.published_presence_flags
    supervised = [supervised_frames(*row, frames, published) for row, frames in zip(rows, real, strict=True)]
    supervised = torch.cat(supervised)  # (N, T)
    found = [[of_frames[instance] for of_frames in frame_targets(target)] for target, instance in rows]
    classes, wanted = (torch.cat(of_videos) for of_videos in zip(*found, strict=True))  # (N, T), (N, T, 4)
    every_class = torch.full_like(logits[..., 0], no_object, dtype=torch.int64)  # (B, T, Q)
    every_class[video, :, query] = classes.masked_fill(~supervised, no_object)
    predicted, wanted = boxes[video, query][supervised].float(), wanted[supervised]  # (R, 4)
    losses = {
        "loss_ce": class_loss(logits, every_class, real, config.eos_coefficient),
        "loss_bbox": (predicted - wanted).abs().sum(),
        "loss_giou": (1 - smoothed_ious(predicted, wanted)[1]).sum(),
    }
    if masks is not None:
        wanted_masks = torch.cat([frame_masks(*row) for row in rows])[supervised]
        losses["loss_mask"], losses["loss_dice"] = resized_mask_losses(masks[supervised].float(), wanted_masks)
        # Heads without a match stay in the graph, which distributed training needs.
        losses["loss_mask"] = losses["loss_mask"] + 0.0 * masks.sum()
    return losses, class_errors(logits, classes[supervised], (video, query), supervised, labels, real)


def class_errors(logits, classes, matched, supervised, labels, real) -> dict[str, torch.Tensor]:
    """The numbers for the logs, see [`video_instance_segmentation_loss`]; `classes (R,)` of supervised rows."""
    best = logits.argmax(-1)  # (B, T, Q)
    video, query = matched
    hits = (best[video, :, query][supervised] == classes).float()
    objects = ((best != logits.shape[-1] - 1) & real[..., None]).flatten(1).sum(1)
    expected = real.sum(1) * objects.new_tensor([len(target["class_labels"]) for target in labels])
    return {
        "cardinality_error": (objects - expected).abs().float().mean(),
        "class_error": 100 - 100 * hits.mean() if len(hits) else hits.new_tensor(100.0),
    }


LOSS_MAPPING["VistrForVideoInstanceSegmentation"] = video_instance_segmentation_loss

__all__ = ["match_instances", "matching_cost", "video_instance_segmentation_loss"]

"""Matching and losses against values that can be worked out by hand."""

import math

import pytest
import torch
from torch.nn import functional as F

from transformers_msstsvis import MsstsVisConfig
from transformers_msstsvis.losses.common import generalized_iou, sigmoid_focal_loss
from transformers_msstsvis.models.seqformer.loss_seqformer import (
    box_losses,
    class_errors,
    mask_losses,
    match_instances,
    sample_mask_targets,
)

CONFIG = MsstsVisConfig()


def test_generalized_iou_by_hand():
    unit = torch.tensor([0.5, 0.5, 1.0, 1.0])
    assert generalized_iou(unit, unit).item() == 1.0
    left, right = torch.tensor([0.25, 0.5, 0.5, 1.0]), torch.tensor([0.75, 0.5, 0.5, 1.0])
    assert generalized_iou(unit, left).item() == pytest.approx(0.5)
    assert generalized_iou(left, right).item() == pytest.approx(0.0)
    far = torch.tensor([2.5, 0.5, 1.0, 1.0])  # hull of width 3, union of area 2
    assert generalized_iou(unit, far).item() == pytest.approx(-1 / 3)


def test_matching_follows_a_track_not_a_frame():
    """Two objects swap places between the frames; a query that follows one of them wins over one that stays."""
    a, b = [0.25, 0.25, 0.2, 0.2], [0.75, 0.75, 0.2, 0.2]
    boxes = torch.tensor([[[a, a], [b, a], [a, b]]])  # (1, 3 queries, 2 frames, 4)
    logits = torch.zeros(1, 3, 1)
    labels = [
        {"class_labels": torch.tensor([0, 0]), "boxes": torch.tensor([[a, b], [b, a]]), "valid": torch.ones(2, 2) > 0}
    ]
    query, instance = match_instances(logits, boxes, labels, torch.ones(1, 2, dtype=torch.bool), CONFIG)[0]
    assert dict(zip(query.tolist(), instance.tolist(), strict=True)) == {2: 0, 1: 1}


def test_matching_survives_nan_and_nothing_to_match():
    boxes, logits = torch.full((1, 3, 2, 4), math.nan), torch.full((1, 3, 2), math.nan)
    real = torch.ones(1, 2, dtype=torch.bool)
    labels = [{"class_labels": torch.tensor([1]), "boxes": torch.rand(1, 2, 4), "valid": real}]
    assert len(match_instances(logits, boxes, labels, real, CONFIG)[0][0]) == 1
    empty = [{"class_labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 2, 4), "valid": real[:0]}]
    assert len(match_instances(torch.zeros(1, 3, 2), torch.rand(1, 3, 2, 4), empty, real, CONFIG)[0][0]) == 0


def test_focal_loss_is_weighted_cross_entropy():
    logits, targets = torch.randn(20), torch.randint(0, 2, (20,)).float()
    plain = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    torch.testing.assert_close(sigmoid_focal_loss(logits, targets, alpha=0.5, gamma=0.0), plain / 2)


def test_padding_frames_cost_nothing():
    boxes, targets = torch.rand(2, 3, 4), torch.rand(2, 3, 4)
    masks, mask_targets = torch.randn(2, 3, 4, 4), torch.rand(2, 3, 4, 4).round()
    real = torch.tensor([[True, True, False]] * 2)
    for function, given, wanted in ((box_losses, boxes, targets), (mask_losses, masks, mask_targets)):
        padded = function(given, wanted, real)
        alone = function(given[:, :2], wanted[:, :2], real[:, :2])
        torch.testing.assert_close(padded, alone)


def test_dice_of_a_perfect_and_an_opposite_mask():
    target = torch.zeros(1, 1, 4, 4)
    target[..., :2] = 1
    real = torch.ones(1, 1, dtype=torch.bool)
    assert mask_losses(100 * (target - 0.5), target, real)[1].item() == pytest.approx(0.0, abs=1e-6)
    assert mask_losses(100 * (0.5 - target), target, real)[1].item() == pytest.approx(1 - 1 / 17, abs=1e-6)


def test_mask_targets_are_every_fourth_pixel_from_the_third():
    masks = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    masks[0, 0, 2, 6] = True
    target = {"masks": masks, "valid": torch.ones(1, 1, dtype=torch.bool)}
    assert sample_mask_targets(target, 2, 2)[0, 0].tolist() == [[0, 1], [0, 0]]
    cut = {**target, "masks": masks[..., :5, :7]}
    assert sample_mask_targets(cut, 4, 4)[0, 0].tolist()[0] == [0, 1, 0, 0]  # beyond: background
    assert not sample_mask_targets({**target, "valid": ~target["valid"]}, 2, 2).any()


def test_class_errors_by_hand():
    logits = torch.tensor([[[2.0, 0, 0], [0, 2, 0], [0, 0, 2]]])
    labels = [{"class_labels": torch.tensor([0, 2])}]
    errors = class_errors(logits, [(torch.tensor([0, 1]), torch.tensor([0, 1]))], labels)
    assert errors["class_error"].item() == pytest.approx(50.0)
    assert errors["cardinality_error"].item() == 0.0  # two queries choose a class before the last one

"""RoIAlign of all levels at once against that of torchvision, level by level."""

import pytest
import torch
from torchvision.ops import roi_align

from transformers_msstsvis.layers.region_features import level_of, region_features

SHAPES = [(24, 32), (12, 16), (6, 8), (3, 4)]


def boxes_of_all_sizes(number: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    centre = torch.rand(number, 2, generator=generator) * torch.tensor([160.0, 120.0]) - 16
    size = 4 * 250 ** torch.rand(number, 2, generator=generator)
    return torch.cat((centre - size / 2, centre + size / 2), dim=1)


def by_torchvision(features: torch.Tensor, boxes: torch.Tensor, frames: torch.Tensor, side: int) -> torch.Tensor:
    maps = features.split([height * width for height, width in SHAPES], dim=1)
    maps = [level.mT.unflatten(2, shape) for level, shape in zip(maps, SHAPES, strict=True)]
    rows = torch.cat((frames[:, None], boxes), dim=1)
    each = [roi_align(level, rows, side, 1 / (4 * 2**n), 2, aligned=True) for n, level in enumerate(maps)]
    return torch.stack(each)[level_of(boxes, 4).long(), torch.arange(len(boxes))].flatten(2).mT


@pytest.mark.parametrize("side", [7, 14])
def test_as_torchvision(side):
    features = torch.randn(3, sum(height * width for height, width in SHAPES), 8, requires_grad=True)
    boxes, frames = boxes_of_all_sizes(60), torch.arange(60) % 3
    assert set(level_of(boxes, 4).tolist()) == {0, 1, 2, 3}
    given, expected = (
        region_features(features, SHAPES, boxes, frames, side),
        by_torchvision(features, boxes, frames, side),
    )
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-5)
    weights = torch.randn_like(given)
    gradients = [torch.autograd.grad((x * weights).sum(), features)[0] for x in (given, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("area", "level"), [(1e-3, 0), (111.9**2, 0), (112.1**2, 1), (223.9**2, 1), (224.1**2, 2), (448.1**2, 3), (1e9, 3)]
)
def test_levels_by_the_root_of_the_area(area, level):
    width = 2 * area**0.5
    assert level_of(torch.tensor([[3.0, 5.0, 3 + width, 5 + area / width]]), 4).item() == level


def test_boxes_outside_and_of_negative_sides():
    """Far outside there is nothing; with one negative side there is no level, with two the box is read backwards."""
    features = torch.randn(1, sum(height * width for height, width in SHAPES), 4)
    boxes = torch.tensor([[-900.0, 0, -800, 40], [20.0, 40, 60, 10], [60.0, 40, 20, 10], [20.0, 10, 60, 40]])
    outside, flat, backwards, forwards = region_features(features, SHAPES, boxes, torch.zeros(4, dtype=torch.int64), 7)
    assert not outside.any()
    assert not flat.any()
    turned = backwards.unflatten(0, (7, 7)).flip(0, 1).flatten(0, 1)
    torch.testing.assert_close(turned, forwards, rtol=0, atol=1e-5)


def test_half_precision():
    features = torch.randn(1, sum(height * width for height, width in SHAPES), 8)
    boxes, frames = boxes_of_all_sizes(9), torch.zeros(9, dtype=torch.int64)
    half = region_features(features.bfloat16(), SHAPES, boxes, frames, 7)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), region_features(features, SHAPES, boxes, frames, 7), rtol=0.05, atol=0.05)

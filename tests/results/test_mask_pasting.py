"""Masks in boxes, pasted and compressed, against pasting whole frames first."""

import numpy as np
import pytest
import torch

from transformers_msstsvis.benchmarks.masks import dense_masks
from transformers_msstsvis.results.mask_pasting import paste, pasted_mask
from transformers_msstsvis.results.rle import decode_mask, encode_mask, encode_part


@pytest.mark.parametrize("size", [(45, 60), (7, 5), (120, 90)])
@pytest.mark.parametrize("kind", ["anywhere", "whole pixels", "far outside", "hard masks"])
def test_to_the_byte_as_from_whole_frames(size, kind):
    generator = torch.Generator().manual_seed(len(kind))
    probability = torch.rand(40, 28, 28, generator=generator)
    boxes = (3 * torch.rand(40, 4, generator=generator) - 1) * torch.tensor(
        [size[1], size[0]] * 2
    )  # sides of any sign
    if kind == "whole pixels":
        boxes = boxes.round()
        boxes[:5, 2:] = boxes[:5, :2]  # and none
    elif kind == "far outside":
        boxes = 100 * boxes
    elif kind == "hard masks":  # many pixels lie at the threshold
        probability, boxes = (probability > 0.5).float(), boxes.round()
    whole = dense_masks(probability, boxes, size)
    for mask, box, wanted in zip(probability, boxes, whole, strict=True):
        assert pasted_mask(mask, box, size) == encode_mask(wanted)


def test_another_threshold_reaches_beyond_the_box():
    mask, box = torch.ones(4, 4), torch.tensor([8.0, 8, 24, 24])
    strict, plain, lax = (
        decode_mask(pasted_mask(mask, box, (40, 40), threshold)).sum() for threshold in (0.9, 0.5, 0.2)
    )
    assert strict < plain == 16**2 - 4 < lax  # at a corner two halves meet


def test_nothing_of_a_box_without_a_pixel():
    mask = torch.ones(28, 28)
    for box in ([50.0, 0, 60, 10], [0.0, 0, 0, 10], [10.0, 10, 10, 10], [10.2, 10.2, 10.3, 10.3]):
        assert pasted_mask(mask, torch.tensor(box), (40, 40)) is None
    assert pasted_mask(torch.zeros(28, 28), torch.tensor([0.0, 0, 30, 30]), (40, 40)) is None
    assert pasted_mask(torch.full((28, 28), torch.nan), torch.tensor([0.0, 0, 30, 30]), (40, 40)) is None


def test_whole_frames_of_soft_masks():
    mask, boxes = torch.rand(2, 3, 28, 28), torch.rand(2, 3, 4) * 30
    pasted = paste(mask, boxes, (20, 25))
    assert pasted.shape == (2, 3, 20, 25)
    hard = dense_masks(mask[0], boxes[0], (20, 25)).astype(bool)
    assert ((pasted[0] >= 0.5).numpy() == hard).mean() > 0.999


@pytest.mark.parametrize(
    ("top", "left", "rows", "columns"), [(0, 0, 12, 9), (3, 2, 4, 5), (0, 4, 12, 5), (11, 8, 1, 1)]
)
def test_a_part_of_a_frame_is_compressed_as_the_frame(top, left, rows, columns):
    rng = np.random.default_rng(0)
    for density in (0.0, 0.3, 0.9, 1.0):
        part = rng.random((columns, rows)) < density
        whole = np.zeros((12, 9), dtype=bool)
        whole[top : top + rows, left : left + columns] = part.T
        assert encode_part(part, top, left, (12, 9)) == encode_mask(whole)

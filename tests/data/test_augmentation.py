"""Augmentation of clips: what moves with what, sizes, colours, and settings as JSON."""

import colorsys
import json

import numpy as np
import pytest
import torch

from transformers_msstsvis.data.augmentation import ClipAugmentation, resized_size, scale_saturation, shift_hue

STILL = {"flip_probability": 0, "crop_probability": 0, "photometric_probability": 0}


@pytest.fixture
def clip():
    """A red rectangle on black, which the first instance covers; the second is absent from the first frame."""
    frames = torch.zeros(3, 3, 60, 100, dtype=torch.uint8)
    masks = torch.zeros(2, 3, 60, 100, dtype=torch.bool)
    for t in range(3):
        masks[0, t, 20:40, 10 + 5 * t : 50 + 5 * t] = True
        frames[t, 0][masks[0, t]] = 255
    masks[1, 1:, 50:55, 60:70] = True
    return frames, masks


@pytest.mark.parametrize(
    ("size", "short_side", "limit", "expected"),
    [
        ((720, 1280), 288, 768, (288, 512)),
        ((720, 1280), 512, 768, (432, 768)),
        ((1280, 720), 512, 768, (768, 432)),
        ((480, 854), 360, None, (360, 640)),  # 640.5 is rounded down
        ((100, 100), 400, 768, (400, 400)),
    ],
)
def test_published_sizes(size, short_side, limit, expected):
    assert resized_size(*size, short_side, limit) == expected


def test_masks_follow_the_frames(clip):
    augment = ClipAugmentation(scale=0.2, photometric_probability=0)
    sizes = set()
    for seed in range(30):
        frames, masks = augment(*clip, np.random.default_rng(seed))
        assert frames.dtype == torch.uint8
        assert masks.dtype == torch.bool
        assert masks.shape == (2, 3, *frames.shape[-2:])
        shown = frames[:, 0] > 127
        assert (shown != masks[0]).sum() <= 0.05 * max(int(shown.sum()), 600)  # but for pixels on the edge
        sizes.add(tuple(frames.shape[-2:]))
    assert len(sizes) > 5


def test_mirroring(clip):
    settings = STILL | {"short_sides": [60], "max_long_side": None}
    frames, masks = ClipAugmentation(**settings)(*clip, np.random.default_rng(0))
    assert torch.equal(frames, clip[0])
    assert torch.equal(masks, clip[1])
    mirrored, mirrored_masks = ClipAugmentation(**settings | {"flip_probability": 1})(*clip, np.random.default_rng(0))
    assert torch.equal(mirrored, frames.flip(-1))
    assert torch.equal(mirrored_masks, masks.flip(-1))


def test_a_crop_is_a_part_of_published_size(clip):
    # at a fifth of the published sizes: parts of 77 to 120 pixels in frames of short side 80, 100 or 120
    augment = ClipAugmentation(scale=0.2, crop_probability=1)
    for seed in range(50):
        top, left, height, width = augment._draw_part(60, 100, np.random.default_rng(seed))
        assert 0 <= top <= 60 - height
        assert 0 <= left <= 100 - width
        assert 0.64 * 60 - 1 <= height <= 60
        assert 0.64 * 60 - 1 <= width <= 90 + 1


def test_frames_keep_within_the_published_sizes():
    frames, masks = torch.zeros(1, 3, 90, 160, dtype=torch.uint8), torch.zeros(0, 1, 90, 160, dtype=torch.bool)
    for seed in range(20):
        frames_out, masks_out = ClipAugmentation()(frames, masks, np.random.default_rng(seed))
        short, long = sorted(frames_out.shape[-2:])
        assert long <= 768
        assert short in (288, 320, 352, 392, 416, 448, 480, 512) or long >= 767
        assert masks_out.shape == (0, 1, *frames_out.shape[-2:])


def test_colours_differ_from_frame_to_frame_and_do_not_wrap():
    frames = torch.full((40, 3, 4, 4), 250, dtype=torch.uint8)
    frames[:, 1] = 240
    augment = ClipAugmentation(brightness=32, contrast=(1, 1.5), saturation=(1, 1), hue=0, permute_channels=False)
    out = augment.distort_colours(frames, np.random.default_rng(0))
    assert len({tuple(frame[:, 0, 0].tolist()) for frame in out}) > 10
    assert out.min() >= 240 - 32  # a wrapped value would be near 0
    assert out.max() == 255


def test_every_colour_change_can_be_switched_off():
    frames = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    none = {"brightness": 0, "contrast": (1, 1), "saturation": (1, 1), "hue": 0, "permute_channels": False}
    same = ClipAugmentation(**none).distort_colours(frames, np.random.default_rng(0))
    assert (same.int() - frames.int()).abs().max() <= 1
    swapped = ClipAugmentation(**none | {"permute_channels": True}).distort_colours(frames, np.random.default_rng(0))
    assert any(not torch.equal(a, b) for a, b in zip(swapped, same, strict=True))
    assert torch.equal(swapped.sort(dim=1).values, same.sort(dim=1).values)
    assert ClipAugmentation(photometric_probability=0).distort_colours(frames, None) is frames


@pytest.mark.parametrize("colour", [(200, 120, 40), (10, 90, 250), (77, 77, 77), (0, 0, 0)])
def test_hue_and_saturation_are_those_of_hsv(colour):
    pixels = torch.tensor(colour, dtype=torch.float32).view(3, 1, 1)
    hue, saturation, value = colorsys.rgb_to_hsv(*(c / 255 for c in colour))
    for factor in (0.5, 1.2, 9.0):
        expected = np.array(colorsys.hsv_to_rgb(hue, min(saturation * factor, 1), value)) * 255
        changed = scale_saturation(pixels, torch.tensor(factor)).flatten()
        np.testing.assert_allclose(changed, expected if saturation else colour, atol=0.01)
    expected = np.array(colorsys.hsv_to_rgb((hue + 18 / 360) % 1, saturation, value)) * 255
    np.testing.assert_allclose(shift_hue(pixels, 18).flatten(), expected, atol=0.01)


def test_the_same_draws_give_the_same_clip(clip):
    first, second = (ClipAugmentation(scale=0.2)(*clip, np.random.default_rng(7)) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_settings_survive_json():
    augment = ClipAugmentation(scale=0.5, short_sides=[96, 128], max_long_side=None)
    assert ClipAugmentation.from_dict(json.loads(json.dumps(augment.to_dict()))) == augment
    assert ClipAugmentation.from_dict({}) == ClipAugmentation()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flip": 0.5}, r"unknown \['flip'\]; expected some of"),
        ({"flip_probability": 1.5}, "flip_probability is 1.5; expected 0 to 1"),
        ({"contrast": [1.5, 0.5]}, r"contrast is \(1.5, 0.5\); expected two positive numbers, the lower one first"),
        ({"short_sides": []}, r"short_sides is \(\); expected at least one size"),
        ({"scale": 0}, "scale is 0; expected a positive number"),
        ({"hue": 270}, "hue is 270; expected 0 to 180 degrees"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        ClipAugmentation.from_dict(settings)

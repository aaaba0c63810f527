"""Clips made of single images."""

import numpy as np
import pytest
import torch

from tests.data.vis_rows import vis_dataset
from transformers_msstsvis.data.augmentation import ClipAugmentation
from transformers_msstsvis.data.pseudo_clips import PseudoClips, StillMotion, motion_blur

QUIET = {"brightness": 0, "hue_saturation": 0, "blur_probability": 0}
NO_MOVE = {"rotation": 0, "translation": 0, "perspective": 0}


@pytest.fixture
def still():
    """A white square on grey and its mask."""
    mask = np.zeros((40, 60), dtype=bool)
    mask[10:25, 20:40] = True
    image = np.full((40, 60, 3), 80, dtype=np.uint8)
    image[mask] = 255
    return image, mask


def as_tensors(still):
    return torch.from_numpy(still[0]).movedim(-1, 0), torch.from_numpy(still[1])[None]


def test_one_frame_is_the_image_and_the_others_are_moved_copies(still):
    image, masks = as_tensors(still)
    places = set()
    for seed in range(30):
        frames, clip_masks = StillMotion(**QUIET)(image, masks, 5, np.random.default_rng(seed))
        assert frames.shape == (5, 3, 40, 60)
        assert clip_masks.shape == (1, 5, 40, 60)
        same = [t for t in range(5) if torch.equal(frames[t], image) and torch.equal(clip_masks[:, t], masks)]
        assert len(same) == 1
        places.add(same[0])
        bright = frames[:, 0] > 170
        assert (bright != clip_masks[0]).sum() <= 0.1 * clip_masks[0].sum()  # masks moved as the pixels did
    assert places == {0, 1, 2, 3, 4}


def test_nothing_moves_without_motion(still):
    image, masks = as_tensors(still)
    frames, clip_masks = StillMotion(**QUIET, **NO_MOVE)(image, masks, 3, np.random.default_rng(0))
    assert torch.equal(frames, image.expand(3, -1, -1, -1))
    assert torch.equal(clip_masks, masks[:, None].expand(-1, 3, -1, -1))


def test_a_shift_is_the_same_fraction_of_both_sides_and_leaves_black(still):
    image, masks = as_tensors(still)
    motion = StillMotion(**QUIET, **NO_MOVE | {"translation": 0.1})
    columns, rows = torch.arange(60), torch.arange(40)
    for seed in range(10):
        frames, clip_masks = motion(image, masks, 2, np.random.default_rng(seed))
        moved = next(t for t in range(2) if not torch.equal(frames[t], image))
        mask = clip_masks[0, moved]
        dx = float(columns[mask.any(0)].float().mean()) - 29.5
        dy = float(rows[mask.any(1)].float().mean()) - 17.0
        assert abs(dx) <= 6.5
        assert dy / 40 == pytest.approx(dx / 60, abs=0.03)
        assert frames[moved, 0].min() < 80


def test_perspective_looks_at_a_part_of_the_image(still):
    image, masks = as_tensors(still)
    motion = StillMotion(**QUIET, **NO_MOVE | {"perspective": 0.08})
    areas = []
    for seed in range(20):
        frames, clip_masks = motion(image, masks, 2, np.random.default_rng(seed))
        assert frames.min() >= 70  # no black: the corners only move inward
        areas.append(int(clip_masks[0].sum()))
    assert np.mean(areas) > 2 * int(masks.sum())  # so things grow


def test_colours_change_on_the_copies_alone(still):
    image, masks = as_tensors(still)
    motion = StillMotion(**NO_MOVE, blur_probability=0)
    changed = []
    for seed in range(20):
        frames, clip_masks = motion(image, masks, 2, np.random.default_rng(seed))
        assert torch.equal(clip_masks, masks[:, None].expand(-1, 2, -1, -1))
        changed += [int((frame.int() - image.int()).abs().max()) for frame in frames]
    assert min(changed) == 0
    assert 0 < max(changed) <= 41


def test_motion_blur_smears_along_a_line():
    image = torch.zeros(3, 21, 21, dtype=torch.uint8)
    image[:, 10, 10] = 255
    smeared = motion_blur(image, 5, 0)
    assert (smeared[0] > 0).nonzero().tolist() == [[10, column] for column in range(8, 13)]
    assert smeared[0].sum().item() == 255
    upright = motion_blur(image, 5, 90)
    assert (upright[0] > 0).nonzero().tolist() == [[row, 10] for row in range(8, 13)]
    even = torch.full((3, 12, 12), 77, dtype=torch.uint8)
    assert torch.equal(motion_blur(even, 9, 33), even)


def test_pseudo_clips_of_a_data_set(still, tmp_path):
    image, mask = still
    crowd = [(0, [mask])] * 3
    videos = [(image[None], [(1, [mask])]), (image[None], []), (image[None], crowd), (image[None], [(0, [mask])])]
    stills = vis_dataset(tmp_path, videos, ["disk", "ring"])
    clips = PseudoClips(stills, num_frames=4, max_instances=2, seed=3)
    assert len(clips) == 2  # without the image of no instance and that of three
    items = [clips[0], clips[1]]
    assert [item["video_id"] for item in items] == [100, 103]
    assert [item["labels"]["class_labels"].tolist() for item in items] == [[1], [0]]
    assert items[0]["frames"].shape == (4, 3, 40, 60)
    assert items[0]["labels"]["valid"].shape == (1, 4)
    assert torch.equal(clips[0]["frames"], items[0]["frames"])
    clips.set_epoch(1)
    assert not torch.equal(clips[0]["frames"], items[0]["frames"])

    augmentation = ClipAugmentation(scale=0.1, photometric_probability=0)
    small = PseudoClips(stills, num_frames=2, augmentation=augmentation)[0]["frames"]
    assert max(small.shape[-2:]) <= 77
    with pytest.raises(ValueError, match="no image has between 1 and 0 instances"):
        PseudoClips(stills, max_instances=0)

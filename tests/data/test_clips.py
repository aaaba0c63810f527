"""Reading and sampling clips of annotated videos, and their batches."""

import json

import numpy as np
import pytest
import torch
from pycocotools import mask as rle_codec

from transformers_msstsvis.data.clips import (
    ClipCollator,
    VideoClips,
    decode_segmentation,
    masks_to_boxes,
    sample_frames,
)
from transformers_msstsvis.data.synthetic import CLASSES, make_synthetic, synthetic_video, video_seed


@pytest.fixture(scope="module")
def annotations(tmp_path_factory):
    sizes = {"height": 64, "width": 64, "min_frames": 3, "max_frames": 9}
    return make_synthetic(tmp_path_factory.mktemp("synthetic"), seed=3, num_videos=4, image_format="png", **sizes)


def test_a_segmentation_reads_the_same_in_every_form():
    mask = np.zeros((8, 6), dtype=np.uint8)
    mask[2:5, 1:4] = 1
    compressed = rle_codec.encode(np.asfortranarray(mask))
    text = {"size": compressed["size"], "counts": compressed["counts"].decode()}
    runs = np.flatnonzero(np.diff(mask.flatten(order="F"), prepend=0, append=0))
    counts = np.diff(np.concatenate(([0], runs, [mask.size]))).tolist()
    polygon = [[1, 2, 4, 2, 4, 5, 1, 5]]
    for segmentation in (compressed, text, {"size": [8, 6], "counts": counts}, polygon):
        np.testing.assert_array_equal(decode_segmentation(segmentation, 8, 6), mask.astype(bool))
    assert not decode_segmentation(None, 8, 6).any()
    assert not decode_segmentation([], 8, 6).any()


def test_boxes_are_tight():
    masks = torch.zeros(2, 10, 20, dtype=torch.bool)
    masks[0, 2:6, 5:15] = True
    assert masks_to_boxes(masks).tolist() == [pytest.approx([0.5, 0.4, 0.5, 0.4]), [0, 0, 0, 0]]


def test_frames_are_sorted_and_without_repeats_where_the_video_is_long_enough():
    rng = np.random.default_rng(0)
    near = 0
    for _ in range(200):
        frames = sample_frames(12, 5, rng)
        assert (np.diff(frames) > 0).all()
        assert frames[0] >= 0
        assert frames[-1] < 12
        near += frames[-1] - frames[0] == 4
    assert 0 < near < 200  # consecutive frames sometimes, not always
    assert sample_frames(2, 5, rng).shape == (5,)


def test_a_clip_shows_what_the_video_shows(annotations):
    index = 1
    length = json.loads(annotations.read_text())["videos"][index]["length"]
    clips = VideoClips(annotations, num_frames=length, flip=False, seed=0)  # every frame once, in order
    item = clips[index]
    truth = synthetic_video(video_seed(3, index), height=64, width=64, min_frames=3, max_frames=9)
    np.testing.assert_array_equal(item["frames"].movedim(1, -1).numpy(), truth.frames)
    np.testing.assert_array_equal(item["labels"]["masks"].numpy(), truth.masks)
    np.testing.assert_array_equal(item["labels"]["class_labels"].numpy(), truth.labels)
    assert clips.id2label == dict(enumerate(CLASSES))
    assert torch.equal(item["labels"]["valid"], item["labels"]["masks"].flatten(2).any(2))


def test_the_same_index_gives_the_same_clip_until_the_epoch_changes(annotations):
    clips = VideoClips(annotations, num_frames=3, seed=1)
    first = [clips[index]["frames"] for index in range(4)]
    assert all(torch.equal(a, clips[index]["frames"]) for index, a in enumerate(first))
    clips.set_epoch(1)
    assert not all(torch.equal(a, clips[index]["frames"]) for index, a in enumerate(first))


def test_flipping_mirrors_frames_and_masks(annotations):
    plain, flipped = (VideoClips(annotations, num_frames=3, flip=flip, seed=1) for flip in (False, True))
    mirrored = 0
    for index in range(4):
        a, b = plain[index], flipped[index]
        if not torch.equal(a["frames"], b["frames"]):
            mirrored += 1
            assert torch.equal(a["frames"].flip(-1), b["frames"])
            assert torch.equal(a["labels"]["masks"].flip(-1), b["labels"]["masks"])
    assert mirrored


def test_resizing_keeps_masks_on_their_objects(annotations):
    plain, small = (VideoClips(annotations, num_frames=2, flip=False, shortest_edge=edge) for edge in (None, 32))
    a, b = plain[0], small[0]
    assert b["frames"].shape[-2:] == (32, 32)
    assert b["labels"]["masks"].shape[-2:] == (32, 32)
    torch.testing.assert_close(a["labels"]["boxes"], b["labels"]["boxes"], atol=0.04, rtol=0)
    small.tracks = {video["id"]: [] for video in small.videos}
    assert small[0]["labels"]["masks"].shape == (0, 2, 32, 32)


def test_collator_pads_in_space_and_time():
    def clip(T, H, W, n):
        masks = torch.ones(n, T, H, W, dtype=torch.bool)
        labels = {
            "class_labels": torch.zeros(n, dtype=torch.int64),
            "boxes": torch.full((n, T, 4), 0.5),
            "masks": masks,
            "valid": masks.flatten(2).any(2),
        }
        return {"frames": torch.full((T, 3, H, W), 255, dtype=torch.uint8), "labels": labels}

    batch = ClipCollator(size_divisor=32)([clip(2, 30, 40, 1), clip(3, 33, 20, 0)])
    assert batch["pixel_values_videos"].shape == (2, 3, 3, 64, 64)
    assert batch["pixel_mask"][0].sum() == 2 * 30 * 40
    assert batch["pixel_mask"][1, 2].sum() == 33 * 20
    assert batch["pixel_values_videos"][0, 0, 0, 0, 0].item() == pytest.approx((1 - 0.485) / 0.229)
    assert not batch["pixel_values_videos"][batch["pixel_mask"][:, :, None].expand(-1, -1, 3, -1, -1) == 0].any()
    assert batch["labels"][0]["masks"].shape == (1, 3, 64, 64)
    assert batch["labels"][0]["valid"].tolist() == [[True, True, False]]
    assert batch["labels"][1]["boxes"].shape == (0, 3, 4)


def test_missing_files_and_labels(annotations, tmp_path):
    with pytest.raises(FileNotFoundError, match="no annotation file at"):
        VideoClips(tmp_path / "nothing.json")
    lonely = tmp_path / "annotations.json"
    lonely.write_text(annotations.read_text())
    with pytest.raises(FileNotFoundError, match=r"no frames folder at .* pass frames_dir"):
        VideoClips(lonely)
    clips = VideoClips(lonely, frames_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"frame .*png is missing"):
        clips[0]
    lonely.write_text(json.dumps({"videos": [], "annotations": None, "categories": []}))
    with pytest.raises(ValueError, match="expected a YouTube-VIS file with labels"):
        VideoClips(lonely, frames_dir=tmp_path)

"""Reading and sampling clips of annotated videos, and their batches."""

import json
import shutil

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.vis_rows import numbered_frames, numbers, rle, vis_dataset
from transformers_msstsvis import MsstsVisVideoProcessor
from transformers_msstsvis.data.augmentation import ClipAugmentation
from transformers_msstsvis.data.clips import (
    MAX_REPLACEMENTS,
    ClipError,
    VideoClips,
    masks_to_boxes,
)
from transformers_msstsvis.data.collator import ClipCollator
from transformers_msstsvis.data.loading import embed_frames, load_vis_dataset
from transformers_msstsvis.data.sampling import window_frames
from transformers_msstsvis.data.synthetic import CLASSES, make_synthetic, synthetic_video, video_seed

COLLATE = ClipCollator(MsstsVisVideoProcessor())


@pytest.fixture(scope="module", autouse=True)
def prepared_files(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def annotations(tmp_path_factory):
    sizes = {"height": 64, "width": 64, "min_frames": 3, "max_frames": 9}
    return make_synthetic(tmp_path_factory.mktemp("synthetic"), seed=3, num_videos=4, image_format="png", **sizes)


def test_boxes_are_tight():
    masks = torch.zeros(2, 10, 20, dtype=torch.bool)
    masks[0, 2:6, 5:15] = True
    assert masks_to_boxes(masks).tolist() == [pytest.approx([0.5, 0.4, 0.5, 0.4]), [0, 0, 0, 0]]


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

    batch = COLLATE([clip(2, 30, 40, 1), clip(3, 33, 20, 0)])
    assert batch["pixel_values_videos"].shape == (2, 3, 3, 64, 64)
    assert batch["pixel_mask"][0].sum() == 2 * 30 * 40
    assert batch["pixel_mask"][1, 2].sum() == 33 * 20
    assert batch["pixel_values_videos"][0, 0, 0, 0, 0].item() == pytest.approx((1 - 0.485) / 0.229)
    assert not batch["pixel_values_videos"][batch["pixel_mask"][:, :, None].expand(-1, -1, 3, -1, -1) == 0].any()
    assert batch["labels"][0]["masks"].shape == (1, 3, 64, 64)
    assert batch["labels"][0]["valid"].tolist() == [[True, True, False]]
    assert batch["labels"][1]["boxes"].shape == (0, 3, 4)


def test_collator_normalises_as_the_processor(annotations):
    mean, std = [0.5, 0.25, 0.0], [0.5, 1.0, 2.0]
    processor = MsstsVisVideoProcessor(image_mean=mean, image_std=std, size_divisor=48)
    clip = VideoClips(annotations, num_frames=2, flip=False)[0]
    batch = ClipCollator(processor)([clip])
    assert batch["pixel_values_videos"].shape == (1, 2, 3, 96, 96)
    expected = (clip["frames"] / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(batch["pixel_values_videos"][0, :, :, :64, :64], expected)


def test_missing_files(annotations, tmp_path):
    with pytest.raises(FileNotFoundError, match="no annotation file"):
        VideoClips(tmp_path / "nothing.json")
    copy = shutil.copytree(annotations.parent, tmp_path / "copy")
    (copy / "JPEGImages" / "00001" / "00001.png").unlink()
    whole = {"num_frames": 9, "sampling": "consecutive"}
    clips = VideoClips(copy / annotations.name, **whole)
    with pytest.raises(FileNotFoundError, match=r"frame .*00001.png of video 2 is missing: restore it, pass frames"):
        clips[1]
    there = VideoClips(load_vis_dataset(copy / annotations.name), annotations.parent / "JPEGImages", **whole)
    assert torch.equal(there[1]["frames"], VideoClips(annotations, **whole)[1]["frames"])


def test_embedded_frames_give_the_same_clips(annotations):
    dataset = load_vis_dataset(annotations)
    files, embedded = VideoClips(dataset, num_frames=3), VideoClips(embed_frames(dataset), num_frames=3)
    for index in range(4):
        a, b = files[index], embedded[index]
        assert torch.equal(a["frames"], b["frames"])
        assert torch.equal(a["labels"]["masks"], b["labels"]["masks"])


def test_a_selection_of_videos(annotations):
    dataset = load_vis_dataset(annotations)
    clips = VideoClips(dataset.select([2, 0]), num_frames=2, flip=False)
    assert [clips[0]["video_id"], clips[1]["video_id"]] == [dataset[2]["video_id"], dataset[0]["video_id"]]
    frames = window_of(clips, 1)
    pixels, _, _ = VideoClips(dataset).read(0, frames)
    assert torch.equal(pixels, clips[1]["frames"])


def window_of(clips, index):
    rng = np.random.default_rng((clips.seed, clips.epoch, index))
    return window_frames(int(clips.lengths[index]), clips.num_frames, rng)


TOP, LEFT = np.zeros((2, 8, 8), dtype=bool)
TOP[:4] = True
LEFT[:, :3] = True
FAINT = np.zeros((8, 8), dtype=bool)
FAINT[7, 7] = True


@pytest.fixture
def videos(tmp_path):
    """A video with overlapping instances, one that leaves, and one without any."""
    content = [
        (numbered_frames(4), [(1, [TOP, TOP, None, None]), (0, [LEFT] * 4)]),
        (numbered_frames(3), []),
    ]
    return vis_dataset(tmp_path, content, ["disk", "ring"])


def test_labels_of_overlapping_and_leaving_instances(videos):
    clips = VideoClips(videos, num_frames=4, flip=False)
    assert clips.id2label == {0: "disk", 1: "ring"}
    labels = clips[0]["labels"]
    assert labels["class_labels"].tolist() == [1, 0]
    assert labels["valid"].tolist() == [[True, True, False, False], [True] * 4]
    np.testing.assert_array_equal(labels["masks"][0, 0], TOP)
    np.testing.assert_array_equal(labels["masks"][1, 0], LEFT)
    assert labels["boxes"][0].tolist() == [[0.5, 0.25, 1, 0.5]] * 2 + [[0, 0, 0, 0]] * 2
    late = VideoClips(videos, num_frames=2, flip=False, sampling="consecutive")[1]
    assert late["labels"]["class_labels"].tolist() == [0]  # the ring is gone


def test_a_clip_without_instances_collates(videos):
    clips = VideoClips(videos, num_frames=3)
    batch = COLLATE([clips[0], clips[1]])
    assert [len(labels["class_labels"]) for labels in batch["labels"]] == [2, 0]
    assert batch["labels"][1]["masks"].shape == (0, 3, 32, 32)
    assert batch["labels"][1]["boxes"].shape == (0, 3, 4)
    assert [labels["video_id"].item() for labels in batch["labels"]] == [100, 101]


def test_instances_lost_in_resizing_are_left_out(tmp_path):
    content = [(numbered_frames(2), [(0, [FAINT, FAINT]), (1, [TOP, TOP])])]
    dataset = vis_dataset(tmp_path, content, ["disk", "ring"])
    assert VideoClips(dataset, num_frames=2)[0]["labels"]["class_labels"].tolist() == [0, 1]
    assert VideoClips(dataset, num_frames=2, shortest_edge=2)[0]["labels"]["class_labels"].tolist() == [1]


def test_crowds_are_left_out(tmp_path):
    dataset = vis_dataset(tmp_path, [(numbered_frames(2), [(0, [TOP] * 2), (1, [LEFT] * 2)])], ["disk", "ring"])
    row = dataset[0]
    row["annotations"][0]["iscrowd"] = True
    clips = VideoClips(datasets.Dataset.from_list([row], features=dataset.features), num_frames=2)
    assert clips[0]["labels"]["class_labels"].tolist() == [1]


def test_what_an_index_is_depends_on_the_sampling(videos):
    def drawn(sampling, **settings):
        clips = VideoClips(videos, num_frames=3, flip=False, sampling=sampling, **settings)
        return [(item["video_id"], numbers(item)) for item in map(clips.__getitem__, range(len(clips)))]

    assert drawn("wrapped")[:4] == [(100, [2, 3, 0]), (100, [3, 0, 1]), (100, [0, 1, 2]), (100, [1, 2, 3])]
    assert drawn("consecutive") == [(100, [0, 1, 2]), (100, [3]), (101, [0, 1, 2])]
    published = drawn("published")
    assert [video for video, _ in published] == [100] * 4 + [101] * 3
    assert all(key in frames for key, (_, frames) in zip([0, 1, 2, 3, 0, 1, 2], published, strict=True))
    assert [video for video, _ in drawn("window")] == [100, 101]
    clips = VideoClips(videos, num_frames=2, flip=False, sampling="strided", stride=3)
    assert numbers(clips[0]) == [0, 3]
    assert numbers(clips[1]) == [0, 2]  # no room for more
    assert numbers(clips[-1]) == [0, 2]
    with pytest.raises(IndexError, match="index is 2; expected less than 2"):
        clips[2]


def test_augmentation_takes_the_place_of_flip_and_size(videos):
    augmentation = ClipAugmentation(scale=1 / 32, flip_probability=0, photometric_probability=0, crop_probability=0)
    clips = VideoClips(videos, num_frames=2, augmentation=augmentation)
    item = clips[0]
    assert item["frames"].shape[-1] in (9, 10, 11, 12, 13, 14, 15, 16)
    assert item["labels"]["masks"].shape[1:] == item["frames"].shape[:1] + item["frames"].shape[-2:]
    assert item["labels"]["masks"][item["labels"]["class_labels"] == 0][0, 0, :, 0].all()
    with pytest.raises(ValueError, match="shortest_edge is 32, but the augmentation resizes the frames already"):
        VideoClips(videos, augmentation=augmentation, shortest_edge=32)


@pytest.fixture
def broken(videos, tmp_path):
    """A cut-off frame in the first of two videos."""
    path = tmp_path / "0" / "2.png"
    path.write_bytes(path.read_bytes()[:50])
    return videos


def test_an_undecodable_frame_is_named(broken):
    clips = VideoClips(broken, num_frames=4)
    with pytest.raises(
        ClipError, match=r"frame .*0/2.png of video 100 cannot be decoded \(.*\); expected one complete"
    ):
        clips[0]
    assert len(clips[1]["frames"]) == 4
    assert clips.failures == {"0/2.png": 1}


def test_a_broken_clip_is_replaced_by_another_one(broken, caplog):
    clips = VideoClips(broken, num_frames=4, on_error="skip")
    with caplog.at_level("WARNING"):
        items = [clips[0] for _ in range(3)]
    assert [item["video_id"] for item in items] == [101] * 3
    assert torch.equal(items[0]["frames"], items[1]["frames"])
    assert clips.failures["0/2.png"] >= 3
    assert [record.message for record in caplog.records if "0/2.png of video 100 cannot be decoded" in record.message]
    assert len(caplog.records) == 1
    loader = torch.utils.data.DataLoader(clips, batch_size=2, num_workers=1, collate_fn=COLLATE)
    before = clips.failures["0/2.png"]
    assert torch.equal(
        next(iter(loader))["pixel_values_videos"],
        COLLATE([clips[0], clips[1]])["pixel_values_videos"],
    )
    assert clips.failures["0/2.png"] > before + 1  # the worker's and this process's


def test_data_without_a_readable_clip_is_refused(broken):
    clips = VideoClips(broken.select([0]), num_frames=4, on_error="skip")
    with pytest.raises(ClipError, match=rf"clip 0 cannot be read, and {MAX_REPLACEMENTS} others in its place neither"):
        clips[0]


def test_a_frame_of_another_size_is_named(videos, tmp_path):
    Image.new("RGB", (6, 5)).save(tmp_path / "1" / "1.png")
    with pytest.raises(ClipError, match=r"1/1.png of video 101 has 5x6 pixels .*; the annotations declare 8x8"):
        VideoClips(videos, num_frames=3)[1]


@pytest.mark.parametrize(
    ("segmentations", "message"),
    [
        ([rle(np.ones((4, 8)))] * 2, r"video 100 has a segmentation of 4x8 \(.*\); the video is declared as 8x8"),
        ([rle(TOP)], "video 100 has 2 frames and an instance with another number of segmentations"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(tmp_path, segmentations, message):
    dataset = vis_dataset(tmp_path, [(numbered_frames(2), [(0, [TOP] * 2)])], ["disk"])
    row = dataset[0]
    row["annotations"][0]["segmentations"] = segmentations
    with pytest.raises(ClipError, match=message):
        VideoClips(datasets.Dataset.from_list([row], features=dataset.features), num_frames=2)[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampling": "random"}, "sampling is 'random'; expected one of"),
        ({"on_error": "ignore"}, 'on_error is \'ignore\'; expected "raise" or "skip"'),
        ({"num_frames": 0}, "num_frames is 0 and stride 1; expected at least 1"),
        ({"shortest_edge": 0}, "shortest_edge is 0; expected at least 1 pixel"),
    ],
)
def test_wrong_arguments(videos, settings, message):
    with pytest.raises(ValueError, match=message):
        VideoClips(videos, **settings)


def test_a_data_set_of_something_else_is_refused(videos):
    with pytest.raises(ValueError, match=r"lacks the columns \['frames_dir'\]; expected those of load_vis_dataset"):
        VideoClips(videos.remove_columns("frames_dir"))
    with pytest.raises(ValueError, match="the data set has no frames"):
        VideoClips(videos.select([]))

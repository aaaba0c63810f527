import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle_codec

from transformers_msstsvis.data import synthetic
from transformers_msstsvis.data.synthetic import (
    CLASSES,
    MIN_VISIBLE_AREA,
    make_synthetic,
    synthetic_video,
    video_seed,
)

SMALL = {"height": 64, "width": 80, "min_frames": 8, "max_frames": 10}
NUM_VIDEOS = 12


@pytest.fixture(scope="module")
def videos():
    return [synthetic_video(video_seed(3, index), **SMALL) for index in range(60)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    output = tmp_path_factory.mktemp("set") / "out"
    path = make_synthetic(output, 3, NUM_VIDEOS, image_format="png", **SMALL)
    return path, json.loads(path.read_text())


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def decode(segmentations, height, width):
    empty = np.zeros((height, width), bool)
    return np.stack([empty if rle is None else rle_codec.decode(rle).astype(bool) for rle in segmentations])


def visible_runs(present):
    """Number of uninterrupted stretches in which an object is visible."""
    return int(np.sum(np.diff(present.astype(int), prepend=0) == 1))


def test_shapes_types_and_ranges(videos):
    lengths, counts = set(), set()
    for video in videos:
        length, count = len(video.frames), len(video.labels)
        assert video.frames.shape == (length, 64, 80, 3)
        assert video.masks.shape == (count, length, 64, 80)
        assert (video.frames.dtype, video.masks.dtype, video.labels.dtype) == (np.uint8, bool, np.int64)
        lengths.add(length)
        counts.add(count)
    assert lengths == {8, 9, 10}
    assert counts == {1, 2, 3, 4, 5}


def test_same_seed_same_bytes_whatever_the_global_state():
    np.random.seed(0)
    first = synthetic_video(7, **SMALL)
    np.random.seed(1)
    second = synthetic_video(7, **SMALL)
    assert first.frames.tobytes() == second.frames.tobytes()
    assert first.masks.tobytes() == second.masks.tobytes()
    assert first.labels.tolist() == second.labels.tolist()


def test_sets_of_one_seed_are_equal_for_any_number_of_workers_and_differ_between_seeds(tmp_path):
    for name, seed, workers in (("alone", 5, 0), ("workers", 5, 2), ("other", 6, 0)):
        make_synthetic(tmp_path / name, seed, 5, num_workers=workers, **SMALL)
    alone = all_bytes(tmp_path / "alone")
    assert alone == all_bytes(tmp_path / "workers")
    other = all_bytes(tmp_path / "other")
    assert alone["JPEGImages/00000/00000.jpg"] != other["JPEGImages/00000/00000.jpg"]
    assert alone["annotations.json"] != other["annotations.json"]


def test_videos_of_a_set_differ(videos):
    assert len({video.frames[0].tobytes() for video in videos}) == len(videos)


def test_one_video_alone_equals_the_same_video_in_the_set(written, videos):
    path, document = written
    for index in (0, 7):
        entry = document["videos"][index]
        frames = np.stack([np.asarray(Image.open(path.parent / "JPEGImages" / n)) for n in entry["file_names"]])
        annotations = [a for a in document["annotations"] if a["video_id"] == entry["id"]]
        np.testing.assert_array_equal(frames, videos[index].frames)
        assert [a["category_id"] - 1 for a in annotations] == videos[index].labels.tolist()
        for annotation, mask in zip(annotations, videos[index].masks, strict=True):
            np.testing.assert_array_equal(decode(annotation["segmentations"], 64, 80), mask)


def test_a_longer_set_begins_with_the_shorter_one(tmp_path, written):
    make_synthetic(tmp_path, 3, 2, image_format="png", **SMALL)
    shorter = json.loads((tmp_path / "annotations.json").read_text())
    assert shorter["videos"] == written[1]["videos"][:2]
    assert shorter["annotations"] == written[1]["annotations"][: len(shorter["annotations"])]


def test_annotations_are_consistent(written):
    path, document = written
    assert [video["id"] for video in document["videos"]] == list(range(1, NUM_VIDEOS + 1))
    assert [annotation["id"] for annotation in document["annotations"]] == list(
        range(1, len(document["annotations"]) + 1)
    )
    assert [(category["id"], category["name"]) for category in document["categories"]] == list(enumerate(CLASSES, 1))
    videos = {video["id"]: video for video in document["videos"]}
    for video in videos.values():
        assert (video["height"], video["width"]) == (64, 80)
        assert len(video["file_names"]) == video["length"]
        assert all((path.parent / "JPEGImages" / name).is_file() for name in video["file_names"])
    for annotation in document["annotations"]:
        assert annotation["iscrowd"] == 0
        assert annotation["length"] == videos[annotation["video_id"]]["length"]
        segmentations, areas, boxes = (annotation[key] for key in ("segmentations", "areas", "bboxes"))
        assert len(segmentations) == len(areas) == len(boxes) == annotation["length"]
        assert any(rle is not None for rle in segmentations)
        for rle, area, box in zip(segmentations, areas, boxes, strict=True):
            if rle is None:
                assert area is None
                assert box is None
                continue
            mask = rle_codec.decode(rle)
            rows, columns = np.nonzero(mask)
            assert mask.shape == (64, 80)
            assert area == mask.sum() >= MIN_VISIBLE_AREA
            assert box == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]


def test_masks_are_disjoint_and_every_object_is_seen(videos):
    for video in videos:
        assert video.masks.sum(axis=0).max() <= 1
        assert video.masks.any(axis=(1, 2, 3)).all()


def test_most_objects_are_visible_in_most_frames(videos):
    shares = np.concatenate([video.masks.any(axis=(2, 3)).mean(axis=1) for video in videos])
    assert np.mean(shares >= 0.5) > 0.9


def test_objects_leave_return_and_appear_late(videos):
    present = [track for video in videos for track in video.masks.any(axis=(2, 3))]
    assert sum(visible_runs(track) >= 2 for track in present) >= 5
    assert sum(not track[0] and track[-1] for track in present) >= 3
    assert sum(track[0] and not track[-1] for track in present) >= 3


def test_objects_hide_each_other():
    # The pixels of `behind` under `front` belong to `front` alone.
    square = np.ones((2, 2), np.float32)
    behind = synthetic._Patch((slice(0, 6), slice(0, 6)), np.ones((6, 6), np.float32), None, None, None)
    front = synthetic._Patch((slice(0, 6), slice(3, 8)), np.ones((6, 5), np.float32), None, None, None)
    speck = synthetic._Patch((slice(6, 8), slice(0, 2)), square, None, None, None)
    masks = synthetic._visible_masks([[behind], [front], [speck]], 8, 8)
    drawn = np.full((8, 8), ".")
    for letter, mask in zip("bfs", masks[:, 0], strict=True):
        drawn[mask] = letter
    assert ["".join(row) for row in drawn] == ["bbbfffff"] * 6 + ["........"] * 2  # 4 pixels of speck: too small


def test_motion_is_smooth():
    """No object moves further than a quarter of the frame from one frame to the next, and all of them move."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        track = synthetic._sample_track(rng, 24, 100, 100)
        steps = np.hypot(np.diff(track.x), np.diff(track.y))
        assert 0.2 < steps.max() < 25
        ratio = track.half_width / track.half_height
        radius = np.sqrt(track.half_width * track.half_height)
        assert 0.7 <= ratio.min() < ratio.max() <= 1.41
        assert 7 <= radius.min() <= radius.max() <= 28


def test_all_classes_occur(videos):
    assert {label for video in videos for label in video.labels.tolist()} == set(range(len(CLASSES)))


@pytest.mark.parametrize(
    ("name", "drawing"),
    [
        ("ring", ["...#...", ".#####.", ".#...#.", "##...##", ".#...#.", ".#####.", "...#..."]),
        ("cross", ["..###..", "..###..", "#######", "#######", "#######", "..###..", "..###.."]),
        ("rectangle", [".......", ".#####.", ".#####.", ".#####.", ".#####.", ".#####.", "......."]),
    ],
)
def test_shape_functions(name, drawing):
    v, u = np.mgrid[-1.05:1.05:7j, -1.05:1.05:7j].astype(np.float32)
    inside = synthetic._SHAPES[CLASSES.index(name)](u, v) < 0.03
    assert ["".join(".#"[int(pixel)] for pixel in row) for row in inside] == drawing


@pytest.mark.parametrize("label", range(len(CLASSES)), ids=CLASSES)
def test_shapes_are_filled_distinct_and_within_their_extent(label):
    extent = synthetic._SHAPE_EXTENT
    v, u = np.mgrid[-2:2:201j, -2:2:201j].astype(np.float32)
    inside = [shape(u, v) < 0 for shape in synthetic._SHAPES]
    assert not inside[label][np.maximum(np.abs(u), np.abs(v)) > extent].any()
    for other in range(len(CLASSES)):
        if other != label:
            overlap = np.sum(inside[label] & inside[other]) / np.sum(inside[label] | inside[other])
            assert overlap < 0.9


def test_colour_does_not_tell_the_class_and_textures_vary(videos):
    colours, labels, spreads = [], [], []
    for video in videos:
        for label, masks in zip(video.labels, video.masks, strict=True):
            pixels = video.frames[masks]
            colours.append(pixels.mean(axis=0))
            spreads.append(pixels.std(axis=0).max())
            labels.append(label)
    colours, labels = np.array(colours), np.array(labels)
    within = np.mean([colours[labels == label].var(axis=0).sum() for label in range(len(CLASSES))])
    assert within > 0.8 * colours.var(axis=0).sum()
    assert np.median(spreads) > 20
    assert np.ptp(spreads) > 40


def test_objects_stand_out_from_the_background(videos):
    distances = []
    for video in videos:
        background = video.frames[~video.masks.any(axis=0)].mean(axis=0)
        distances += [np.linalg.norm(video.frames[masks].mean(axis=0) - background) for masks in video.masks]
    assert np.quantile(distances, 0.1) > 40


def test_videos_of_a_seed_are_those_of_earlier_versions():
    expected = [
        ([4, 1, 7, 5], [3265, 1351, 2795, 708], [93.72, 30.23, 149.92]),
        ([0, 4, 2], [2809, 2597, 2151], [66.95, 194.63, 161.42]),
        ([3, 7], [899, 1525], [57.11, 98.86, 104.34]),
    ]
    for seed, (labels, areas, colour) in enumerate(expected):
        video = synthetic_video(seed, **SMALL)
        assert video.labels.tolist() == labels
        np.testing.assert_allclose(video.masks.sum(axis=(1, 2, 3)), areas, atol=2)
        np.testing.assert_allclose(video.frames.mean(axis=(0, 1, 2)), colour, atol=0.1)


@pytest.fixture(scope="module")
def crowds():
    """Full videos of the same seeds, without and with look-alikes."""
    full = {**SMALL, "min_objects": 4, "max_objects": 4}
    seeds = [video_seed(3, index) for index in range(40)]
    return [[synthetic_video(seed, **full, look_alikes=alike) for seed in seeds] for alike in (False, True)]


def test_look_alikes_share_class_and_colour(crowds):
    def colour_difference(video):
        colours = np.stack([video.frames[masks].mean(axis=0) for masks in video.masks])
        return np.linalg.norm(colours - colours.mean(axis=0), axis=1).mean()

    others, alike = crowds
    assert all(len(set(video.labels.tolist())) == 1 for video in alike)
    assert len({video.labels[0] for video in alike}) == len(CLASSES)
    assert np.mean([colour_difference(video) for video in alike]) < 20
    assert np.mean([colour_difference(video) for video in others]) > 60


def test_look_alikes_are_closer_together(crowds):
    def gap(video):
        """Mean distance between centres of objects in the middle frame."""
        shown = [np.argwhere(mask).mean(axis=0) for mask in video.masks[:, len(video.frames) // 2] if mask.any()]
        pairs = itertools.combinations(shown, 2)
        return np.mean([np.linalg.norm(one - other) for one, other in pairs]) if len(shown) > 1 else np.nan

    others, alike = (np.nanmean([gap(video) for video in videos]) for videos in crowds)
    assert alike < 0.9 * others


def test_sets_of_look_alikes_are_reproducible_and_say_so(tmp_path):
    for name, workers in (("alone", 0), ("workers", 2)):
        make_synthetic(tmp_path / name, 5, 2, num_workers=workers, look_alikes=True, **SMALL)
    make_synthetic(tmp_path / "others", 5, 2, **SMALL)
    assert all_bytes(tmp_path / "alone") == all_bytes(tmp_path / "workers")
    alike, others = (json.loads((tmp_path / n / "annotations.json").read_text()) for n in ("alone", "others"))
    assert alike["info"] == {**others["info"], "look_alikes": True}
    for video in alike["videos"]:
        assert len({a["category_id"] for a in alike["annotations"] if a["video_id"] == video["id"]}) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_objects": 4, "max_objects": 2}, r"min_objects is 4 and max_objects is 2; expected 1 <= min_objects"),
        ({"min_objects": 0}, r"min_objects is 0"),
        ({"max_objects": 13}, r"max_objects is 13; expected at most 12"),
        ({"min_frames": 9, "max_frames": 8}, r"min_frames is 9 and max_frames is 8"),
        ({"height": 63}, r"height is 63; expected at least 64"),
        ({"width": 10}, r"width is 10; expected at least 64"),
        ({"seed": -1}, r"seed is -1; expected 0 or more"),
        ({"num_videos": 0}, r"num_videos is 0; expected at least 1"),
        ({"num_workers": -1}, r"num_workers is -1"),
        ({"image_format": "gif"}, r"image_format is 'gif'; expected 'jpg' or 'png'"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_synthetic(tmp_path / "out", **{"seed": 0, "num_videos": 1, **arguments})
    assert not (tmp_path / "out").exists()


def test_a_folder_with_files_is_refused_unless_overwrite(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match=r"not empty.*overwrite=True"):
        make_synthetic(tmp_path, 0, 1, **SMALL)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
    make_synthetic(tmp_path, 0, 1, overwrite=True, **SMALL)
    make_synthetic(tmp_path, 1, 1, overwrite=True, **SMALL)
    assert (tmp_path / "mine.txt").read_text() == "keep"
    document = json.loads((tmp_path / "annotations.json").read_text())
    frames = sorted(file.name for file in (tmp_path / "JPEGImages" / "00000").iterdir())
    assert [f"00000/{name}" for name in frames] == document["videos"][0]["file_names"]


def test_a_file_as_output_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ValueError, match="is a file; expected a folder"):
        make_synthetic(tmp_path / "out", 0, 1, **SMALL)


def test_a_stopped_run_leaves_no_annotations(tmp_path, monkeypatch):
    make_synthetic(tmp_path, 0, 2, **SMALL)
    original = synthetic.synthetic_video

    def stop_at_second(seed, **sizes):
        if seed == video_seed(0, 1):
            raise KeyboardInterrupt
        return original(seed, **sizes)

    monkeypatch.setattr(synthetic, "synthetic_video", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        make_synthetic(tmp_path, 0, 2, overwrite=True, **SMALL)
    assert not (tmp_path / "annotations.json").exists()


def test_many_objects_in_a_single_small_frame_are_all_seen():
    video = synthetic_video(0, height=64, width=64, min_frames=1, max_frames=1, min_objects=8, max_objects=8)
    assert video.masks.shape == (8, 1, 64, 64)
    assert (video.masks.sum(axis=(1, 2, 3)) >= MIN_VISIBLE_AREA).all()


def test_script(tmp_path):
    script = Path(__file__).parents[2] / "scripts" / "make_synthetic.py"
    command = [sys.executable, str(script), "--output", str(tmp_path / "out"), "--videos", "2", "--height", "64"]
    command.append("--look-alikes")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("wrote 2 videos (")
    assert json.loads((tmp_path / "out" / "annotations.json").read_text())["info"]["look_alikes"] is True
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "not empty" in refused.stderr

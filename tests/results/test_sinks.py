"""Sinks: opened, appended to stretch by stretch, closed; their memory does not grow, and no older file is lost."""

import csv
import errno
import gc
import json
import os
import re
import signal
import subprocess
import sys
import tracemalloc
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from transformers_msstsvis.results.json_lines import read_json_lines
from transformers_msstsvis.results.polygons import exact_polygon
from transformers_msstsvis.results.rle import decode_mask, encode_mask
from transformers_msstsvis.results.sinks import SINKS, open_sink
from transformers_msstsvis.results.video_instances import VideoInstances

from .test_stretches import VIDEO, assert_same, mask, result

FOLDERS = {"davis", "mots", "masks"}
FILES = set(SINKS) - FOLDERS


def write(kind, path, video, cuts=(0, 3, 4, 7), **options):
    with open_sink(kind, path, **options) as sink:
        for start, stop in pairwise(cuts):
            sink.append(video.frames(start, stop))
    return sink


def stopped(kind, path):
    """A sink whose `with` block an error left."""
    sink = open_sink(kind, path)
    try:
        with sink:
            sink.append(result({1: [1, 2]}))
            raise RuntimeError("stop")
    except RuntimeError:
        return sink


def content(path):
    """What an output holds, but for times."""
    files = sorted(path.rglob("*.*")) if path.is_dir() else [path]
    without_times = re.compile(rb"<(created|updated|dumped)>[^<]*")
    return {file.relative_to(path): without_times.sub(b"", file.read_bytes()) for file in files if file.is_file()}


@pytest.mark.parametrize("kind", SINKS)
def test_stretches_or_the_whole_give_the_same_file(tmp_path, kind):
    video = result(VIDEO)
    write(kind, tmp_path / "one", video, cuts=(0, 7))
    write(kind, tmp_path / "many", video, cuts=(0, 1, 2, 3, 4, 5, 6, 7))
    assert content(tmp_path / "one") == content(tmp_path / "many")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many", "one"]
    video.export(kind, tmp_path / "method")
    assert content(tmp_path / "method") == content(tmp_path / "one")


@pytest.mark.parametrize("kind", SINKS)
def test_an_older_output_survives_an_error(tmp_path, kind):
    path = tmp_path / "out"
    write(kind, path, result(VIDEO))
    before = content(path)
    sink = stopped(kind, path)
    assert {name: text for name, text in content(path).items() if "partial" not in str(name)} == before
    assert sink.written_to != path
    assert "partial" in sink.written_to.name
    assert content(sink.written_to) == content_of_one(kind, tmp_path / "other")


def content_of_one(kind, path):
    return content(write(kind, path, result({1: [1, 2]}), cuts=(0, 2)).written_to)


@pytest.mark.parametrize("kind", SINKS)
def test_what_is_there_is_named_where_nothing_was(tmp_path, kind):
    assert stopped(kind, tmp_path / "out").written_to == tmp_path / "out"
    assert content(tmp_path / "out") == content_of_one(kind, tmp_path / "other")


@pytest.mark.parametrize("kind", SINKS)
def test_a_sink_that_nothing_was_appended_to_leaves_nothing(tmp_path, kind):
    with open_sink(kind, tmp_path / "below" / "out") as sink:
        pass
    assert sink.written_to is None
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("kind", SINKS)
def test_wrong_stretches_are_refused_and_cost_nothing(tmp_path, kind):
    video = result(VIDEO)
    with open_sink(kind, tmp_path / "out") as sink:
        sink.append(video.frames(0, 3))
        with pytest.raises(ValueError, match="begins at frame 4; expected frame 3"):
            sink.append(video.frames(4, 7))
        with pytest.raises(ValueError, match=r"size \(4, 4\); expected \(6, 8\)"):
            sink.append(VideoInstances([], [], [], [], None, (4, 4), 1, first_frame=3))
        sink.append(video.frames(3, 7))
    with pytest.raises(ValueError, match="is closed"):
        sink.append(video)
    write(kind, tmp_path / "right", video)
    assert content(tmp_path / "out") == content(tmp_path / "right")


def test_unknown_kinds_and_empty_names_are_told(tmp_path):
    with pytest.raises(ValueError, match="no sink of kind 'xml'; expected one of 'jsonl', 'ytvis'"):
        open_sink("xml", tmp_path / "out")
    for kind in ("csv", "davis"):
        with pytest.raises(ValueError, match="is empty"):
            open_sink(kind, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
@pytest.mark.parametrize("kind", sorted(FILES))
def test_a_full_disk_is_told(kind):
    with pytest.raises(OSError, match=r"No space left on device.*/dev/full"), open_sink(kind, "/dev/full") as sink:
        sink.append(result(VIDEO))


@pytest.mark.parametrize("kind", sorted(FILES))
def test_memory_of_a_sink_does_not_grow_with_the_video(tmp_path, kind):
    def peak(num_stretches: int) -> int:
        gc.collect()
        tracemalloc.start()
        with open_sink(kind, tmp_path / f"{num_stretches}") as sink:
            for number in range(num_stretches):
                tracks = {1: [number % 5] * 4, 2 + number % 3: [None, 2, 3, None]}
                sink.append(result(tracks, first_frame=4 * number))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(2)  # imports
    assert peak(300) < 1.3 * peak(30) + 20_000


def test_a_kill_loses_no_stretch(tmp_path):
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(os.getcwd())!r})
from tests.results.test_stretches import VIDEO, result
from transformers_msstsvis.results.sinks import open_sink
video = result(VIDEO)
for kind in ("jsonl", "csv", "mots_txt", "coco"):
    sink = globals()[kind] = open_sink(kind, {str(tmp_path)!r} + "/out." + kind)
    sink.append(video.frames(0, 3))
    sink.append(video.frames(3, 5))
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"out.partial.{kind}" for kind in ("coco", "csv", "jsonl", "mots_txt")
    ]
    assert_same(
        VideoInstances.load_json(tmp_path / "out.partial.jsonl"), VideoInstances.join([result(VIDEO).frames(0, 5)])
    )
    assert len((tmp_path / "out.partial.mots_txt").read_text().splitlines()) == 8


class FullDisk:
    """A file that takes half of what is written, and no more."""

    def __init__(self, file):
        self._file = file

    def write(self, content) -> None:
        self._file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def writelines(self, contents) -> None:
        self.write(b"".join(contents))

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()


@pytest.mark.parametrize("kind", ["jsonl", "csv", "mots_txt", "coco", "cvat", "ytvis"])
def test_a_disk_that_is_full_leaves_whole_stretches(tmp_path, kind):
    video = result(VIDEO)
    sink = open_sink(kind, tmp_path / "out")
    with (
        pytest.raises(OSError, match=f"No space left on device, so it could not be written.*{tmp_path / 'out'}"),
        sink,
    ):
        fill_disk_behind_the_first_stretch(sink, video)
    assert content(sink.written_to) == content(write(kind, tmp_path / "whole", video, cuts=(0, 3)).written_to)


def fill_disk_behind_the_first_stretch(sink, video) -> None:
    sink.append(video.frames(0, 3))
    if hasattr(sink, "_spool"):
        file, sink._spool._file = sink._spool._file, FullDisk(sink._spool._file)
    else:
        file, sink._file = sink._file, FullDisk(sink._file)
    try:
        sink.append(video.frames(3, 7))
    finally:
        if hasattr(sink, "_spool"):
            sink._spool._file = file


@pytest.mark.parametrize("kind", ["coco", "cvat", "ytvis", "label_studio"])
def test_a_disk_that_is_full_at_the_end_costs_no_older_file(tmp_path, kind):
    path = tmp_path / "out"
    write(kind, path, result(VIDEO))
    before = content(path)
    sink = open_sink(kind, path)
    sink.append(result({1: [1]}))
    sink._file = FullDisk(sink._file)
    with pytest.raises(OSError, match="No space left on device"):
        sink.close()
    assert content(path) == before
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    assert sink.written_to is None


# JSON


@pytest.mark.parametrize("first_frame", [0, 30])
def test_json_lines_give_back_what_was_joined(tmp_path, first_frame):
    chunks = [
        result({1: [0, 1], 2: [None, 3]}, scores=[0.9, 0.2], labels=[0, 1], first_frame=first_frame),
        result({1: [1, None], 7: [4, 4]}, scores=[1 / 3, 0.7], labels=[1, 0], first_frame=first_frame + 2),
    ]
    with open_sink("jsonl", tmp_path / "out.jsonl", video_id="a", category_ids={0: 11, 1: 12}) as sink:
        for chunk in chunks:
            sink.append(chunk)
    assert_same(VideoInstances.join(read_json_lines(tmp_path / "out.jsonl")), VideoInstances.join(chunks))
    header, *frames = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert header["video"] == {"id": "a", "height": 6, "width": 8, "fps": 12.5, "first_frame": first_frame}
    assert header["categories"] == [{"id": 11, "label": 0, "name": "cat"}, {"id": 12, "label": 1, "name": "dog"}]
    assert [frame["frame"] for frame in frames] == list(range(first_frame, first_frame + 4))
    assert frames[1]["instances"][1] == {
        "track_id": 2,
        "label": "dog",
        "category_id": 12,
        "score": 0.2,
        "box": [3.0, 1.0, 6.0, 4.0],
        "mask": mask(3),
        "frame_score": 0.265625,
    }


def test_the_youtube_vis_list_is_that_of_the_result(tmp_path):
    video = result(VIDEO)
    write("ytvis", tmp_path / "out.json", video, video_id=3, category_ids={0: 7, 1: 9})
    assert json.loads((tmp_path / "out.json").read_text()) == video.to_ytvis(3, {0: 7, 1: 9})


def test_the_coco_document_is_that_of_the_result(tmp_path):
    video, names = result(VIDEO), [f"a/{frame}.png" for frame in range(7)]
    write("coco", tmp_path / "out.json", video, video_id=3, file_names=names, first_image_id=100)
    expected = video.to_coco_video(3, file_names=names, first_image_id=100)
    for annotation in expected["annotations"]:
        annotation["instance_id"] = annotation["track_id"]
    assert json.loads((tmp_path / "out.json").read_text()) == expected
    with open_sink("coco", tmp_path / "few.json", file_names=names[:3]) as sink:
        with pytest.raises(ValueError, match="3 file_names were given for 7 frames"):
            sink.append(video)


def test_files_begin_at_the_first_frame_of_a_stretch(tmp_path):
    video = result(VIDEO, first_frame=40)
    for kind in ("davis", "coco", "csv", "mots_txt"):
        write(kind, tmp_path / kind, video)
    assert min(path.name for path in (tmp_path / "davis").iterdir()) == "00040.png"
    assert json.loads((tmp_path / "coco").read_text())["images"][0]["file_name"] == "00040.jpg"
    assert video.to_coco_video()["images"][0]["file_name"] == "00040.jpg"
    assert (tmp_path / "csv").read_text().splitlines()[1].startswith("40,3.2,5,dog,2,0.8,4.0,1.0,7.0,4.0,9")
    assert (tmp_path / "mots_txt").read_text().startswith("40 ")


def test_label_studio_has_boxes_in_percent(tmp_path):
    write("label_studio", tmp_path / "out.json", result(VIDEO, first_frame=10), video_id="/data/a.mp4", num_frames=50)
    [task] = json.loads((tmp_path / "out.json").read_text())
    assert task["data"] == {"video": "/data/a.mp4"}
    regions = {region["meta"]["track_id"]: region for region in task["predictions"][0]["result"]}
    assert set(regions) == set(VIDEO)
    region = regions[3]
    assert (region["type"], region["from_name"], region["to_name"]) == ("videorectangle", "box", "video")
    value = region["value"]
    assert (value["framesCount"], value["duration"], value["labels"]) == (50, 4.0, ["cat"])
    assert [(key["frame"], key["enabled"]) for key in value["sequence"]] == [(12, True), (13, False), (16, False)]
    assert value["sequence"][1] == {
        "frame": 13,
        "time": 13 / 12.5,
        "enabled": False,
        "rotation": 0,
        "x": 12.5,
        "y": 100 / 6,
        "width": 37.5,
        "height": 50.0,
    }


def test_pycocotools_reads_the_coco_document(tmp_path, capsys):
    video = result(VIDEO)
    write("coco", tmp_path / "out.json", video)
    coco = COCO(str(tmp_path / "out.json"))
    capsys.readouterr()
    for frame in range(7):
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=[frame + 1]))
        masks = {annotation["instance_id"]: coco.annToMask(annotation) for annotation in annotations}
        assert set(masks) == set(video.track_ids[video.present(frame)].tolist())
        for index in video.present(frame):
            np.testing.assert_array_equal(masks[int(video.track_ids[index])], video.decode(frame)[index])


def test_csv_has_a_row_for_each_visible_box(tmp_path):
    write("csv", tmp_path / "out.csv", result(VIDEO))
    rows = list(csv.DictReader((tmp_path / "out.csv").open(newline="")))
    assert len(rows) == sum(place is not None for places in VIDEO.values() for place in places)
    video = result(VIDEO)
    for row in rows:
        index = video.track_ids.tolist().index(int(row["track_id"]))
        box = [float(row[name]) for name in ("x1", "y1", "x2", "y2")]
        assert box == video.boxes[index, int(row["frame"])].tolist()
        assert np.float32(row["score"]) == video.scores[index]
        assert (row["label"], int(row["area"])) == (video.label_name(video.labels[index]), 9)


# Images


def test_mots_images_hold_the_category_and_the_track(tmp_path):
    video = result({1: [0, 0], 1000: [2, None], 7: [5, 5]}, labels=[0, 0, 1], scores=[0.5, 0.9, 0.7])
    sink = write("mots", tmp_path, video, cuts=(0, 1, 2))
    assert sink.values == {1001: 1, 1002: 1000, 2007: 7}
    first = Image.open(tmp_path / "000000.png")
    assert first.mode == "I;16"
    row = np.array(first)[1].tolist()
    assert row == [1001, 1001, 1002, 1002, 1002, 2007, 2007, 2007]
    assert np.array(Image.open(tmp_path / "000001.png"))[1].tolist() == [1001] * 3 + [0] * 2 + [2007] * 3
    with pytest.raises(ValueError, match="category id is 200; expected 1 to 64"):
        write("mots", tmp_path / "more", video, cuts=(0, 2), category_ids={0: 200, 1: 1})


def test_mots_text_has_no_overlaps(tmp_path):
    video = result(VIDEO)
    write("mots_txt", tmp_path / "out.txt", video)
    covered = np.zeros((7, 6, 8), dtype=int)
    for line in (tmp_path / "out.txt").read_text().splitlines():
        frame, value, category, height, width, counts = line.split(" ")
        assert int(value) // 1000 == int(category)
        covered[int(frame)] += decode_mask({"size": [int(height), int(width)], "counts": counts})
    assert covered.max() == 1
    np.testing.assert_array_equal(covered > 0, [video.decode(frame).any(0) for frame in range(7)])


def test_values_of_davis_hold_over_stretches(tmp_path):
    chunks = [result({300: [0], 2: [4]}), result({1: [4], 300: [0]}, first_frame=1)]
    with open_sink("davis", tmp_path) as sink:
        for chunk in chunks:
            sink.append(chunk)
    assert sink.values == {1: 300, 2: 2, 3: 1}
    assert np.array(Image.open(tmp_path / "00001.png"))[1].tolist() == [1, 1, 1, 0, 3, 3, 3, 0]


def test_no_track_has_the_value_of_void(tmp_path):
    sink = write("davis", tmp_path, result({255: [0], 1: [4]}), cuts=(0, 1))
    assert sink.values == {1: 255, 2: 1}


def test_every_track_has_a_folder_of_its_masks(tmp_path):
    write("masks", tmp_path / "out", result(VIDEO))
    for track, places in VIDEO.items():
        files = sorted((tmp_path / "out" / f"{track:03d}").iterdir())
        assert [file.name for file in files] == [f"{t:05d}.png" for t, x in enumerate(places) if x is not None]
        values = np.array(Image.open(files[0]))
        assert set(np.unique(values)) == {0, 255}
        np.testing.assert_array_equal(values > 0, decode_mask(mask(next(x for x in places if x is not None))))


# CVAT

# What CVAT's documentation of "XML annotation format", version 1.1, says: children in order, and attributes.
TASK = {
    "id": int,
    "name": str,
    "size": int,
    "mode": lambda text: ["interpolation", "annotation"].index(text),
    "overlap": int,
    "bugtracker": str,
    "flipped": lambda text: ["False", "True"].index(text),
    "created": str,
    "updated": str,
    "labels": None,
    "segments": None,
    "owner": None,
    "original_size": None,
}
SHAPE = {"frame", "points", "outside", "occluded", "keyframe", "z_order"}
POINTS = re.compile(r"\d+(\.\d+)?,\d+(\.\d+)?(;\d+(\.\d+)?,\d+(\.\d+)?){2,}")


def check_cvat(path) -> ElementTree.Element:
    root = ElementTree.parse(path).getroot()
    assert root.tag == "annotations"
    assert [child.tag for child in root[:2]] == ["version", "meta"]
    assert root.findtext("version") == "1.1"
    assert [child.tag for child in root.find("meta")] == ["task", "dumped"]
    task = root.find("meta/task")
    assert [child.tag for child in task] == list(TASK)
    for child in task:
        if TASK[child.tag] is not None:
            TASK[child.tag](child.text or "")
    labels = {label.findtext("name") for label in task.iterfind("labels/label")}
    types = "any bbox cuboid ellipse mask polygon polyline points skeleton tag".split()
    assert all(label.findtext("type") in types for label in task.iterfind("labels/label"))
    [segment] = task.iterfind("segments/segment")
    assert [child.tag for child in segment] == ["id", "start", "stop", "url"]
    assert [child.tag for child in task.find("owner")] == ["username", "email"]
    assert [child.tag for child in task.find("original_size")] == ["width", "height"]
    size = int(task.findtext("size"))
    assert int(segment.findtext("stop")) == size - 1
    for track in root[2:]:
        assert (track.tag, set(track.attrib)) == ("track", {"id", "label", "source"})
        assert track.get("label") in labels
        assert track.get("source") in ("manual", "auto")
        frames = [int(shape.get("frame")) for shape in track]
        assert frames == sorted(set(frames))
        assert all(0 <= frame < size for frame in frames)
        for shape in track:
            assert (shape.tag, set(shape.attrib)) == ("polygon", SHAPE)
            assert POINTS.fullmatch(shape.get("points"))
            assert {shape.get(name) for name in ("outside", "occluded", "keyframe")} <= {"0", "1"}
    return root


@pytest.mark.parametrize(("first_frame", "num_frames"), [(0, None), (0, 9), (40, None)])
def test_cvat_tracks_end_where_they_are_out_of_sight(tmp_path, first_frame, num_frames):
    write("cvat", tmp_path / "a.xml", result(VIDEO, first_frame=first_frame), video_id="<a&b>", num_frames=num_frames)
    root = check_cvat(tmp_path / "a.xml")
    assert root.findtext("meta/task/name") == "<a&b>"
    assert root.findtext("meta/task/size") == str(num_frames or first_frame + 7)
    assert [track.get("id") for track in root.iterfind("track")] == ["2", "3", "5", "9"]
    outside = {track.get("id"): "".join(shape.get("outside") for shape in track) for track in root.iterfind("track")}
    more = "1" if num_frames else ""
    assert outside == {"2": "0000000" + more, "3": "00101", "5": "01", "9": "0" + more}
    frames = [int(shape.get("frame")) - first_frame for shape in root.find("track[@id='3']")]
    assert frames == [1, 2, 3, 5, 6]


def test_cvat_names_are_quoted(tmp_path):
    video = result({1: [1]})
    video.id2label = {0: 'a "<b>" & c', 1: "d"}
    write("cvat", tmp_path / "a.xml", video, cuts=(0, 1))
    assert check_cvat(tmp_path / "a.xml").find("track").get("label") == 'a "<b>" & c'


def test_polygons_cover_exactly_the_pixels_of_masks():
    """Parts, holes, corners that touch: with one polygon, filled by the even-odd and by the non-zero rule."""
    random = np.random.default_rng(0)
    for _ in range(300):
        height, width = random.integers(1, 12, 2).tolist()
        pixels = random.random((height, width)) < random.random()
        pixels[random.integers(height), random.integers(width)] = True
        polygon = exact_polygon(encode_mask(pixels))
        flat = [float(value) for corner in polygon for value in corner]
        drawn = coco_mask.decode(coco_mask.frPyObjects([flat], height, width)[0])
        np.testing.assert_array_equal(drawn.astype(bool), pixels)
        np.testing.assert_array_equal(winding_numbers(polygon, height, width), pixels)


def winding_numbers(polygon, height: int, width: int) -> np.ndarray:
    """How often a polygon goes around the centre of each pixel."""
    y, x = np.mgrid[:height, :width] + 0.5
    winding = np.zeros((height, width), dtype=int)
    for (x1, y1), (x2, y2) in pairwise([*polygon, polygon[0]]):
        if y1 == y2:
            continue
        crossing = x1 + (y - y1) * (x2 - x1) / (y2 - y1)
        between = (min(y1, y2) < y) & (y < max(y1, y2)) & (crossing > x)
        winding += between * (1 if y2 > y1 else -1)
    return winding

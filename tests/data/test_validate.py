"""Every mistake in annotations is found, named with its place, and repaired where that is possible."""

import json
import os
import runpy
import sys

import numpy as np
import pytest

from transformers_msstsvis.commands.validate import main_of_module as main
from transformers_msstsvis.data import validate
from transformers_msstsvis.data.clips import VideoClips
from transformers_msstsvis.data.loading import categories_of, load_vis_dataset
from transformers_msstsvis.data.pseudo_clips import PseudoClips
from transformers_msstsvis.evaluation import read_ground_truth
from transformers_msstsvis.metrics.ytvis_map import YtvisMeanAveragePrecision, read_json

from .test_loading import coco_content, coco_video_content
from .vis_files import CAT, DOG, rle, uncompressed, write_dataset, write_frame, ytvis_content


def video(content):
    return content["videos"][0]


def dog(content):
    return content["annotations"][1]


def change(entry, **values):
    return lambda content: entry(content).update(values)


DOG_AT = r"video 10 \(park\), annotation 1"

# What is done to good data, and the place and message that tell it.
MISTAKES = {
    "mask of another size": (
        change(dog, segmentations=[rle(DOG.T), None, None]),
        DOG_AT + r", frame 0 \(park/00000.png\): the mask has size \[6, 4\]; expected \[height, width\] = \[4, 6\]",
    ),
    "counts of another mask": (
        change(dog, segmentations=[None, {**rle(CAT), "counts": rle(np.ones((5, 6)))["counts"]}, None]),
        DOG_AT + r", frame 1 \(.*\): the run lengths in the counts of the mask sum to 30; expected .* = 24",
    ),
    "list counts that do not add up": (
        change(dog, segmentations=[{"size": [4, 6], "counts": [5, 5]}, None, None]),
        DOG_AT + ", frame 0 .*: the run lengths in the counts of the mask sum to 10; expected .* = 24",
    ),
    "negative counts": (
        change(dog, segmentations=[{"size": [4, 6], "counts": [-1, 25]}, None, None]),
        DOG_AT
        + r", frame 0 .*: the counts of the mask are \[-1, 25\] .*; expected .* run lengths, integers from 0 on",
    ),
    "no counts": (
        change(dog, segmentations=[{"size": [4, 6], "counts": None}, None, None]),
        DOG_AT + ", frame 0 .*: the counts of the mask are None .*; expected a string, or a list of run lengths",
    ),
    "endless frames": (
        lambda content: content["videos"][0].update(height=2**31 - 1),
        r"video \d+.*: the size is {'height': 2147483647, .*; expected height and width in pixels, up to 65535",
    ),
    "no mask": (
        change(dog, segmentations=[{"size": [4, 6]}, None, None]),
        DOG_AT + r", frame 0 .*: the mask has the keys \['size'\]; expected 'size' and 'counts'",
    ),
    "box for a polygon": (
        change(dog, segmentations=[[[1, 1, 3, 3]], None, None]),
        DOG_AT + ", frame 0 .*: the mask is a list.*expected null, a dict .* or a list of polygons",
    ),
    "endless polygon": (
        change(dog, segmentations=[[[1, 1, 1e12, 3, 1, 5]], None, None]),
        DOG_AT + ", frame 0 .*: the polygon .* has corners far outside of the frame",
    ),
    "too few masks": (
        change(dog, segmentations=[rle(DOG)]),
        DOG_AT + ": segmentations has 1 entries; expected 3, one for each frame of the video",
    ),
    "too many masks": (
        change(dog, segmentations=[rle(DOG)] * 4),
        DOG_AT + ": segmentations has 4 entries; expected 3",
    ),
    "no masks": (change(dog, segmentations=None), DOG_AT + ": segmentations is None; expected a list"),
    "unknown video": (
        change(dog, video_id=99),
        "annotations.json: annotation 1: the annotation has video_id 99; expected the id of one of the 2 videos",
    ),
    "unknown category": (
        change(dog, category_id=9),
        DOG_AT + r": category_id is 9; expected one of the categories of the file \(3, 7\)",
    ),
    "annotation twice": (
        change(dog, id=2),
        r"video 10 \(park\), annotation 2: another annotation has this id; expected unique ids",
    ),
    "annotation without id": (
        lambda content: dog(content).pop("id"),
        r"video 10 \(park\), annotation at position 1: id is None; expected an integer",
    ),
    "annotation of nothing": (
        lambda content: content["annotations"].append(None),
        "annotation at position 3: the annotation is None; expected",
    ),
    "crowd in words": (change(dog, iscrowd="no"), DOG_AT + ": iscrowd is 'no'; expected 0 or 1"),
    "boxes of another length": (change(dog, bboxes=[]), DOG_AT + ": bboxes has 0 entries; expected 3"),
    "box that is none": (
        change(dog, bboxes=[[1, 2, 3], None, None]),
        DOG_AT + r", frame 0: bboxes has \[1, 2, 3\]; expected x, y, width and height, or null",
    ),
    "area that is none": (
        change(dog, areas=[4, None, float("nan")]),
        DOG_AT + ", frame 2: areas has nan; expected a number, or null",
    ),
    "negative area": (
        change(dog, areas=[4, None, -1]),
        DOG_AT + r", frame 2: areas has -1; expected a number, or null: pixels, from 0 to height \* width = 24",
    ),
    "area beyond the frame": (
        change(dog, areas=[25, None, 4]),
        DOG_AT + ", frame 0: areas has 25; expected a number, or null: pixels, from 0 to .* = 24",
    ),
    "crowd by halves": (change(dog, iscrowd=1.5), DOG_AT + ": iscrowd is 1.5; expected 0 or 1"),
    "category as text": (
        change(dog, category_id="7"),
        DOG_AT + r": category_id is '7'; expected one of the categories of the file \(3, 7\)",
    ),
    "occlusion that is none": (
        change(dog, occlusion=[1, 2, 3]),
        DOG_AT + ", frame 0: occlusion has 1; expected a string, or null",
    ),
    "length of another video": (
        change(video, length=5),
        r"video 10 \(park\): length is 5, but there are 3 file_names",
    ),
    "video twice": (
        lambda content: content["videos"].append(video(content)),
        r"video 10 \(park\): another video has this id; expected unique ids",
    ),
    "video without id": (
        change(lambda content: content["videos"][0], id="park"),
        r"video at position 0 \(park\): the video has id 'park'; expected an integer",
    ),
    "video without size": (
        lambda content: video(content).pop("height"),
        r"video 10 \(park\): the size is {'height': None, 'width': 6}; expected height and width in pixels",
    ),
    "video without frames": (
        change(lambda content: content["videos"][1], file_names=[]),
        r"video 20: file_names is \[\]; expected a list with the name of each frame",
    ),
    "video of nothing": (
        lambda content: content["videos"].insert(0, 5),
        "video at position 0: the video is 5; expected an object",
    ),
    "category twice": (
        lambda content: content["categories"].append({"id": 3, "name": "bird"}),
        "annotations.json: category 3 is listed twice; expected unique ids",
    ),
    "category of the same name": (
        lambda content: content["categories"].append({"id": 8, "name": "dog"}),
        "category 8 has the name 'dog' of another one; expected unique names",
    ),
    "category without name": (
        lambda content: content["categories"].append({"id": 8}),
        r"category 8 is {'id': 8}; expected an object with an integer id and a name",
    ),
    "no categories": (
        change(lambda content: content, categories=[]),
        "annotations.json: there are no categories; expected a list of objects with id and name",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_every_mistake_is_told_the_same_by_validating_and_loading(tmp_path, capsys, mistake):
    content = ytvis_content()
    spoil, message = MISTAKES[mistake]
    spoil(content)
    names = [name for entry in ytvis_content()["videos"] for name in entry["file_names"]]
    for name in names:
        write_frame(tmp_path / "JPEGImages" / name)
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))

    assert main([str(path)]) == 1
    told = [line for line in capsys.readouterr().out.splitlines() if "remark" not in line]
    with pytest.raises(ValueError, match=message) as refusal:
        load_vis_dataset(path, cache_dir=tmp_path / "cache")
    assert str(refusal.value).splitlines()[0] in told

    # The other annotations and videos are not affected, unless it is the categories that are missing.
    dataset = load_vis_dataset(path, cache_dir=tmp_path / "cache", on_error="skip")
    kept = {annotation["id"] for row in dataset for annotation in row["annotations"]}
    assert 5 in kept or mistake in ("no categories", "video without frames")

    # And the copy is good.
    assert main([str(path), "--fix", str(tmp_path / "fixed.json"), "--frames", str(tmp_path / "JPEGImages")]) == 1
    assert " -> " in capsys.readouterr().out
    assert main([str(tmp_path / "fixed.json")]) == 0


def test_good_files_pass(tmp_path, capsys):
    for name, content in {"y": ytvis_content(), "c": coco_content(), "v": coco_video_content()}.items():
        assert main([str(write_dataset(tmp_path / name, content))]) == 0
    assert "YouTube-VIS, 2 videos and 3 annotations are good, 0 errors" in capsys.readouterr().out


def test_everything_is_told_at_once(tmp_path, capsys):
    content = ytvis_content()
    dog(content).update(segmentations=[rle(DOG), rle(DOG.T), rle(CAT.T)], category_id=1, iscrowd=7)
    assert main([str(write_dataset(tmp_path, content))]) == 1
    out = capsys.readouterr().out
    assert len([line for line in out.splitlines() if "annotation 1" in line]) == 4
    assert "2 videos and 2 annotations are good, 4 errors" in out


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path: path.unlink(), "the frame is missing; expected"),
        (lambda path: path.write_bytes(b"no image"), "the frame cannot be read: it is no image"),
        (lambda path: write_frame(path, 4, 7), r"the frame has size [4, 7]; expected [height, width] = [4, 6]"),
    ],
)
def test_frames(tmp_path, capsys, harm, message):
    path = write_dataset(tmp_path, ytvis_content())
    harm(tmp_path / "JPEGImages" / "park" / "00001.png")
    assert main([str(path)]) == 1
    assert f"video 10 (park), frame 1 (park/00001.png): {message}" in capsys.readouterr().out
    # The frame goes, and with it the annotation that only it shows; the rest stays in step.
    assert main([str(path), "--fix", str(tmp_path / "fixed.json")]) == 1
    assert "-> frame taken out of the video" in capsys.readouterr().out
    fixed = json.loads((tmp_path / "fixed.json").read_text())
    assert fixed["videos"][0]["file_names"] == ["park/00000.png", "park/00002.png"]
    assert fixed["videos"][0]["length"] == 2
    assert [annotation["id"] for annotation in fixed["annotations"]] == [1, 5]
    assert fixed["annotations"][0]["segmentations"] == [rle(DOG), rle(DOG)]
    assert main([str(tmp_path / "fixed.json")]) == 0


def test_images_that_were_cut_off_are_found_by_decoding(tmp_path, capsys):
    content = coco_content()
    content["images"][0] |= {"height": 300, "width": 300}
    path = write_dataset(tmp_path, content)
    frame = tmp_path / "JPEGImages" / "9.png"
    write_frame(frame, 300, 300)
    frame.write_bytes(frame.read_bytes()[:-200])
    assert main([str(path)]) == 0
    assert main([str(path), "--decode"]) == 1
    assert "video 9, frame 0 (9.png): the frame cannot be read" in capsys.readouterr().out


def test_no_frames_folder(tmp_path, capsys):
    path = write_dataset(tmp_path, ytvis_content(), frames="some/where")
    assert main([str(path)]) == 1
    assert "no folder around it has 'park/00000.png'" in capsys.readouterr().out
    assert main([str(path), "--fix", str(tmp_path / "fixed.json")]) == 1
    assert "is relative to -> not repaired" in capsys.readouterr().out
    assert main([str(path), "--frames", str(tmp_path / "nothing")]) == 1
    assert "no frames folder at" in capsys.readouterr().out
    assert main([str(path), "--frames", str(tmp_path / "some" / "where")]) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"videos": [{"id": 1}, {"id"', "ends in the middle, at byte"),
        ('{"videos": [{"id": 1}', "ends in the middle, at byte"),
        ("", "ends in the middle, at byte 0"),
        ('{"videos": [{"id": 1 "height": 2}]}', "is not JSON at byte 21, near '\"height\": 2}]}'"),
        ('{"videos": []} {}', "is not JSON at byte 15, near '{}': expected the end of the file"),
        ("[]", "holds a list; expected an object"),
        ("{1: 2}", "expected a key in quotes"),
        ('{"a": 1}', "has the keys ['a']; expected YouTube-VIS or OVIS"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, capsys, text, message):
    path = tmp_path / "annotations.json"
    path.write_text(text)
    assert main([str(path)]) == 1
    out = capsys.readouterr().out
    assert message in out
    assert str(path) in out
    with pytest.raises(ValueError) as refusal:
        load_vis_dataset(path, cache_dir=tmp_path, on_error="skip")
    assert message in str(refusal.value)


def test_an_object_that_no_frame_shows_is_kept(tmp_path, capsys):
    # The official evaluation counts it as missed: leaving it out would change the figures.
    content = ytvis_content()
    dog(content)["segmentations"] = [None, [], None]
    path = write_dataset(tmp_path, content)
    assert main([str(path)]) == 0
    place = "video 10 (park), annotation 1"
    assert f"{place}: segmentations is null in every frame; expected a mask in one at least" in capsys.readouterr().out
    annotation = load_vis_dataset(path, cache_dir=tmp_path / "cache")[0]["annotations"][0]
    assert annotation["segmentations"] == annotation["bboxes"] == annotation["areas"] == [None, None, None]


def test_remarks_are_no_errors(tmp_path, capsys):
    content = ytvis_content()
    content["annotations"][0] |= {"id": 0, "segmentations": [uncompressed(np.zeros((4, 6), dtype=bool))]}
    assert main([str(write_dataset(tmp_path, content))]) == 0
    out = capsys.readouterr().out
    assert "category ids are 3, 7, not 1 to 2; they are kept, labels count from 0 (a remark, no error)" in out
    assert "crowds (iscrowd), which are kept and marked: annotations 2 (a remark, no error)" in out
    assert "an annotation has id 0, which the official evaluation never matches" in out
    assert "video 20 (home), annotation 0: its masks have no pixel in any frame" in out
    content["annotations"] = []
    assert main([str(write_dataset(tmp_path, content))]) == 0
    assert "there are no annotations; every video has zero" in capsys.readouterr().out
    content["annotations"] = None
    assert main([str(write_dataset(tmp_path, content))]) == 0
    assert "there are no labels (annotations missing or null)" in capsys.readouterr().out
    content["videos"] = []
    assert main([str(write_dataset(tmp_path, content))]) == 0
    assert "there are no videos" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c["annotations"][0].update(image_id=77), "annotation 1: the annotation has image_id 77; expected"),
        (
            lambda c: c["annotations"][0].pop("instance_id"),
            "video 10, annotation 1, frame 1 (park/1.png): the annotation has no instance_id",
        ),
        (
            lambda c: c["annotations"][2].update(instance_id=1),
            "video 10, annotation 3, frame 1 (park/1.png): instance 1 has another annotation in this frame",
        ),
        (
            lambda c: c["annotations"][0].update(category_id=3),
            "video 10, annotation of instance 1: its frames have the category ids 7, 3; expected one",
        ),
        (lambda c: c["images"][0].update(frame_id=0), "video 10: two images have frame_id 0; expected unique ones"),
        (lambda c: c["images"][0].update(id=2), "the image 2 has the id of another image"),
        (lambda c: c["images"][0].pop("frame_id"), "the image 3 has frame_id None; expected an integer"),
        (
            lambda c: c["images"][0].update(height=5),
            "video 10, frame 1 (park/1.png): the image has height 5 and width 6; expected 4 and 6",
        ),
    ],
)
def test_mistakes_of_coco_video(tmp_path, capsys, spoil, message):
    content = coco_video_content()
    spoil(content)
    path = write_dataset(tmp_path, content)
    assert main([str(path)]) == 1
    assert message in capsys.readouterr().out
    with pytest.raises(ValueError):
        load_vis_dataset(path, cache_dir=tmp_path / "cache")
    dataset = load_vis_dataset(path, cache_dir=tmp_path / "cache", on_error="skip")
    assert len(dataset[-1]["annotations"]) == 1  # the other video is whole


def test_repairs(tmp_path, capsys):
    content = ytvis_content()
    video(content)["length"] = 9
    dog(content).update(
        id=2, segmentations=[rle(DOG), None, rle(DOG), None], bboxes=[None], areas="many", occlusion=[]
    )
    content["categories"].append({"id": 9, "name": "dog"})
    path = write_dataset(tmp_path, content)
    assert main([str(path), "--fix", str(tmp_path / "fixed.json")]) == 1
    out = capsys.readouterr().out
    for remedy in (
        "-> length is 3",
        "-> id is 6",
        "-> the surplus nulls were cut",
        "-> computed from the masks",
        "-> removed",
        "-> named 'dog (9)'",
    ):
        assert remedy in out
    assert "left out: nothing" in out
    fixed = json.loads((tmp_path / "fixed.json").read_text())
    repaired = next(annotation for annotation in fixed["annotations"] if annotation["category_id"] == 7)
    assert repaired["segmentations"] == [rle(DOG), None, rle(DOG)]
    assert repaired["bboxes"] == [[1, 1, 2, 2], None, [1, 1, 2, 2]]
    assert repaired["areas"] == [4, None, 4]
    assert len(fixed["annotations"]) == 3
    assert main([str(tmp_path / "fixed.json")]) == 0


def test_the_file_itself_is_not_overwritten(tmp_path, capsys):
    path = write_dataset(tmp_path, ytvis_content())
    before = path.read_bytes()
    assert main([str(path), "--fix", str(path)]) == 1
    assert "is the annotation file itself; give another name" in capsys.readouterr().out
    assert path.read_bytes() == before
    for name, link in (("soft.json", os.symlink), ("hard.json", os.link)):
        link(path, tmp_path / name)
        assert main([str(path), "--fix", str(tmp_path / name)]) == 1
        assert "is the annotation file itself; give another name" in capsys.readouterr().out
        assert path.read_bytes() == before


def test_neither_a_frame_nor_an_older_copy_is_lost(tmp_path, capsys, monkeypatch):
    path = write_dataset(tmp_path, ytvis_content())
    frame = tmp_path / "JPEGImages" / "park" / "00000.png"
    before = frame.read_bytes()
    assert main([str(path), "--fix", str(frame)]) == 1
    assert "00000.png has the name of an image; expected that of a JSON file" in capsys.readouterr().out
    assert frame.read_bytes() == before
    assert main([str(path), "--fix", str(path / "fixed.json")]) == 1
    assert "can't be written" in capsys.readouterr().out

    (tmp_path / "fixed.json").write_text("older")
    monkeypatch.setattr(validate._YtvisWriter, "write", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left")))
    assert main([str(path), "--fix", str(tmp_path / "fixed.json")]) == 1
    assert "No space left" in capsys.readouterr().out
    assert (tmp_path / "fixed.json").read_text() == "older"
    assert not list(tmp_path.glob("*partial*"))


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_command_line(tmp_path, capsys, monkeypatch):
    content = ytvis_content()
    dog(content)["category_id"] = 1
    path = write_dataset(tmp_path, content)
    monkeypatch.setattr(sys, "argv", ["validate", str(path)])
    with pytest.raises(SystemExit) as status:
        runpy.run_module("transformers_msstsvis.data.validate", run_name="__main__")
    assert status.value.code == 1
    assert f"{path}: video 10 (park), annotation 1: category_id is 1; expected" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ fragments and boxes

RING = [1, 1, 3, 1, 3, 3, 1, 3]


@pytest.mark.parametrize("fragment", [[3, 3], [3, 3, 4, 3], [], [5]])
def test_a_fragment_beside_a_polygon_costs_itself_alone(tmp_path, capsys, fragment):
    content = ytvis_content()
    dog(content)["segmentations"] = [[RING], [RING, fragment], None]
    path = write_dataset(tmp_path, content)
    told = f"annotation 1, frame 1 (park/00001.png): the mask has a polygon of less than three corners, {fragment};"
    assert main([str(path)]) == 1
    assert told in capsys.readouterr().out
    assert main([str(path), "--fix", str(tmp_path / "fixed.json")]) == 1
    out = capsys.readouterr().out
    assert "-> this part was left out" in out
    assert "3 annotations are good, 1 errors" in out
    assert main([str(tmp_path / "fixed.json")]) == 0
    with pytest.raises(ValueError) as refusal:
        load_vis_dataset(path, cache_dir=tmp_path / "cache")
    assert told in str(refusal.value)
    annotations = load_vis_dataset(path, cache_dir=tmp_path / "cache", on_error="skip")[0]["annotations"]
    masks = next(annotation["segmentations"] for annotation in annotations if annotation["id"] == 1)
    assert masks[0] == masks[1]
    assert masks[1] is not None


@pytest.mark.parametrize(
    ("mask", "left"), [([[]], True), ([[3, 3]], True), ([[1, 1, 3, 3]], False), ([RING, [1] * 7], False)]
)
def test_fragments_alone(tmp_path, capsys, mask, left):
    """A click shows nothing; what may be a box, or a polygon with a number lost, is not thrown away in silence."""
    content = ytvis_content()
    dog(content)["segmentations"] = [[RING], mask, None]
    path = write_dataset(tmp_path, content)
    assert main([str(path)]) == 1
    rows = load_vis_dataset(path, cache_dir=tmp_path / "cache", on_error="skip")
    masks = {annotation["id"]: annotation["segmentations"] for annotation in rows[0]["annotations"]}
    assert (1 in masks) == left
    if left:
        assert masks[1][1:] == [None, None]


def only_boxes(content, kind: str) -> None:
    for annotation in content["annotations"]:
        length = len(annotation["segmentations"])
        annotation["segmentations"] = [None if kind == "null" else []] * length
        annotation["bboxes"] = [[1, 1, 2, 2]] * length


@pytest.mark.parametrize("kind", ["null", "empty"])
def test_boxes_without_masks_are_remarked_on_once_and_not_trained_on(tmp_path, capsys, kind):
    content = ytvis_content()
    only_boxes(content, kind)
    path = write_dataset(tmp_path, content)
    assert main([str(path)]) == 0
    out = capsys.readouterr().out
    assert out.count("no annotation has a mask; training needs masks") == 1
    assert "segmentations is null" not in out
    for clips in (VideoClips, PseudoClips):
        with pytest.raises(ValueError, match=r"no annotation of the data set has a mask .*; expected masks to"):
            clips(load_vis_dataset(path, cache_dir=tmp_path / "cache"))


def test_coco_boxes_without_masks(tmp_path, capsys):
    content = coco_content()
    for annotation in content["annotations"]:
        annotation |= {"segmentation": [], "bbox": [1, 1, 2, 2], "iscrowd": 0}
    path = write_dataset(tmp_path, content)
    assert main([str(path)]) == 0
    assert capsys.readouterr().out.count("no annotation has a mask") == 1
    with pytest.raises(ValueError, match="no annotation of the data set has a mask"):
        PseudoClips(load_vis_dataset(path, cache_dir=tmp_path / "cache"))
    content["annotations"][0]["segmentation"] = [RING]
    path.write_text(json.dumps(content))
    assert main([str(path)]) == 0
    assert "boxes without a mask, which training leaves out: annotations 2" in capsys.readouterr().out
    assert len(PseudoClips(load_vis_dataset(path, cache_dir=tmp_path / "cache"))) == 1


# ---------------------------------------------------------------------------------------------------------- encodings


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_every_unicode_is_read(tmp_path, capsys, encoding):
    content = ytvis_content()
    content["categories"][0]["name"] = "Bär 熊"
    path = write_dataset(tmp_path, content)
    path.write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))
    dataset = load_vis_dataset(path, cache_dir=tmp_path / "cache")
    assert [category["name"] for category in categories_of(dataset)] == ["cat", "Bär 熊"]
    assert len(dataset[0]["annotations"]) == 2
    assert main([str(path)]) == 0
    assert read_json(path) == content
    assert YtvisMeanAveragePrecision(path).compute()["AP"] == 0
    assert len(read_ground_truth(path)["annotations"]) == 3


def test_other_encodings_are_refused_in_a_line(tmp_path, capsys):
    content = ytvis_content()
    content["categories"][0]["name"] = "Bär"
    path = write_dataset(tmp_path, content)
    path.write_bytes(json.dumps(content, ensure_ascii=False).encode("latin-1"))
    told = r"byte \d+ is not UTF-8, near '.*Bär.*'; expected JSON in UTF-8: save the file in this encoding"
    for read in (
        lambda path: load_vis_dataset(path, cache_dir=tmp_path / "cache"),
        read_json,
        read_ground_truth,
        YtvisMeanAveragePrecision,
    ):
        with pytest.raises(ValueError, match=told) as refusal:
            read(path)
        assert str(path) in str(refusal.value)
        assert "\n" not in str(refusal.value)
    assert main([str(path)]) == 1
    assert "is not UTF-8" in capsys.readouterr().out


def test_a_file_that_is_cut_within_a_character(tmp_path):
    path = tmp_path / "annotations.json"
    path.write_bytes(json.dumps(ytvis_content()).encode("utf-16")[:-1])
    with pytest.raises(ValueError, match=r"annotations.json seems to be UTF-16, but is not .*; save it in UTF-8"):
        load_vis_dataset(path, cache_dir=tmp_path / "cache")


# ------------------------------------------------------------------------------------------------------ odd documents


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize("depth", [900, 2_000, 200_000])
def test_nested_lists_are_refused(tmp_path, capsys, depth):
    path = write_dataset(tmp_path, ytvis_content())
    path.write_text(path.read_text().replace('"category_id": 7', f'"category_id": {nested(depth)}'))
    assert main([str(path)]) == 1
    for read in (lambda path: load_vis_dataset(path, cache_dir=tmp_path / "cache"), YtvisMeanAveragePrecision):
        with pytest.raises(ValueError, match=r"nested too deeply|category_id is"):
            read(path)


def test_data_of_which_nothing_is_left_is_refused(tmp_path):
    content = ytvis_content()
    for entry in content["videos"]:
        entry["height"] = 0
    path = write_dataset(tmp_path, content)
    with pytest.raises(ValueError, match=r"annotations.json has 2 videos, none of them without errors; expected one"):
        load_vis_dataset(path, cache_dir=tmp_path / "cache", on_error="skip")
    content["videos"] = []
    path.write_text(json.dumps({**content, "annotations": []}))
    with pytest.raises(ValueError, match=r"annotations.json has 0 videos"):
        load_vis_dataset(path, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("name", ["x" * 100_000, "a\0b", "\ud800"])
def test_names_that_no_file_has_are_refused(tmp_path, capsys, name):
    content = ytvis_content()
    path = write_dataset(tmp_path, content)
    content["videos"][0]["file_names"][0] = name
    path.write_text(json.dumps(content))
    assert main([str(path)]) == 1
    assert all(len(line) < 1000 for line in capsys.readouterr().out.splitlines())
    with pytest.raises(ValueError, match="expected a list with the name of each frame"):
        load_vis_dataset(path, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    ("number", "kept"), [(2**63, True), (1e308, True), (10**400, False)], ids=["2^63", "1e308", "400 digits"]
)
def test_large_numbers_are_kept_or_refused(tmp_path, number, kept):
    content = ytvis_content()
    dog(content)["bboxes"] = [[0, 0, number, 1], None, None]
    path = write_dataset(tmp_path, content)
    if kept:
        dataset = load_vis_dataset(path, cache_dir=tmp_path / "cache")
        boxes = {annotation["id"]: annotation["bboxes"] for annotation in dataset[0]["annotations"]}
        assert boxes[1] == [[0, 0, float(number), 1], None, None]
    else:
        with pytest.raises(ValueError, match=r"bboxes has .*; expected x, y, width and height"):
            load_vis_dataset(path, cache_dir=tmp_path / "cache")


# The official evaluator leaves out what belongs to no video.
@pytest.mark.parametrize("spoil", sorted(MISTAKES.keys() - {"unknown video", "annotation of nothing"}))
def test_evaluation_refuses_what_loading_refuses(tmp_path, spoil):
    content = ytvis_content()
    path = write_dataset(tmp_path, content)
    MISTAKES[spoil][0](content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError) as loading:
        load_vis_dataset(path, cache_dir=tmp_path / "cache")
    with pytest.raises(ValueError) as evaluation:
        read_ground_truth(path)
    assert str(loading.value).splitlines()[0] == str(evaluation.value)

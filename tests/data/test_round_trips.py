"""What is written of results is read back as data, with the same masks and ids."""

import numpy as np
import pytest
from PIL import Image

from transformers_msstsvis.data.loading import categories_of, load_vis_dataset
from transformers_msstsvis.data.validate import validate
from transformers_msstsvis.results.overlap import without_overlap
from transformers_msstsvis.results.rle import encode_mask
from transformers_msstsvis.results.video_instances import VideoInstances

SIZE = (24, 30)
NUM_FRAMES = 6
TRACKS = [4, 1, 12]


def instances(first_frame: int = 0) -> VideoInstances:
    """A ring that is away for a while, an object of several parts, and one of single pixels: they overlap."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    random = np.random.default_rng(0)
    masks = []
    for frame in range(NUM_FRAMES):
        distance = (x - 8 - 2 * frame) ** 2 + (y - 11) ** 2
        ring = (distance < 60) & (distance > 12)
        parts = ((x + frame) % 9 < 5) & (y % 8 < 5)
        dots = random.random(SIZE) < 0.05
        masks.append([ring & (frame not in (2, 3)), parts & (frame < 4), dots])
    masks = [[encode_mask(of_frame[index]) for of_frame in masks] for index in range(3)]
    labels, names = [2, 0, 2], {0: "cat", 2: "dog & <cow>"}
    return VideoInstances(
        [0.5, 0.9, 0.7], labels, TRACKS, masks, None, SIZE, NUM_FRAMES, 5.0, names, None, first_frame
    )


def write_frames(folder, names) -> None:
    folder.mkdir(parents=True)
    for name in names:
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(folder / name)


@pytest.mark.parametrize("first_frame", [0, 7])
@pytest.mark.parametrize(
    ("kind", "output", "frames", "overlaps", "named"),
    [
        ("ytvis_annotations", "a.json", "images/{:05d}.jpg", True, True),
        ("coco", "a.json", "images/{:05d}.jpg", True, True),
        ("cvat", "annotations.xml", "images/frame_{:06d}.png", True, True),
        ("davis", "masks", "frames/{:05d}.jpg", False, False),
        ("mots", "masks", "frames/{:06d}.jpg", False, True),
        ("mots_txt", "0001.txt", "images/0001/{:06d}.jpg", False, False),
        ("masks", "masks", "frames/{:05d}.jpg", True, False),
    ],
)
def test_exports_are_data(tmp_path, capsys, first_frame, kind, output, frames, overlaps, named):
    video = instances(first_frame)
    names = [frames.format(first_frame + frame) for frame in range(NUM_FRAMES)]
    write_frames((tmp_path / names[0]).parent, [name.rpartition("/")[2] for name in names])
    video.export(kind, tmp_path / output)
    frames_dir = tmp_path / "frames" if (tmp_path / "frames").exists() else None
    dataset = load_vis_dataset(tmp_path / output, frames_dir, cache_dir=tmp_path / "cache")
    [row] = dataset
    assert [name.rpartition("/")[2] for name in row["file_names"]] == [name.rpartition("/")[2] for name in names]
    expected = video if overlaps else without_overlap(video)
    found = {entry["id"]: entry for entry in row["annotations"]}
    assert set(found) == set(TRACKS)
    for index, track in enumerate(TRACKS):
        assert found[track]["segmentations"] == expected.masks[index]
        boxes = [box and [*box[:2], box[0] + box[2], box[1] + box[3]] for box in found[track]["bboxes"]]
        assert boxes == expected[index].to_list()[0]["boxes"]
    if named:
        labels = {category["id"]: category["name"] for category in categories_of(dataset)}
        of_tracks = [labels[found[track]["category_id"]] for track in TRACKS]
        assert of_tracks == ["dog & <cow>", "cat", "dog & <cow>"]
    assert validate(tmp_path / output, frames_dir) == 0
    assert "0 errors" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["davis", "masks", "mots"])
def test_masks_are_named_as_their_frames(tmp_path, kind):
    names = [f"clip/shot-{letter}.jpg" for letter in "abcdef"]
    write_frames(tmp_path / "clip", [name.rpartition("/")[2] for name in names])
    instances().export(kind, tmp_path / "masks", file_names=names)
    [row] = load_vis_dataset(tmp_path / "masks", tmp_path / "clip", cache_dir=tmp_path / "cache")
    assert row["file_names"] == names
    assert {entry["id"] for entry in row["annotations"]} == set(TRACKS)


def test_frames_without_an_object_are_part_of_an_export(tmp_path):
    """The tracks end before the video: formats with a frame each keep the others, too."""
    video = instances().frames(0, 6)[[1]]
    write_frames(tmp_path / "images", [f"{frame:05d}.jpg" for frame in range(6)])
    for kind, name in (("coco", "a.json"), ("ytvis_annotations", "b.json"), ("cvat", "c.xml"), ("davis", "masks")):
        video.export(kind, tmp_path / name)
        frames_dir = tmp_path / "images"
        [row] = load_vis_dataset(tmp_path / name, frames_dir, cache_dir=tmp_path / "cache")
        assert row["length"] == 6
        assert row["annotations"][0]["segmentations"] == video.masks[0]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("0 1001 1 24 30", "line 1 is '0 1001 1 24 30.*expected `frame id category height width counts`"),
        ("0 1001 2 24 30 {counts}", "line 1 has id 1001 and category 2; expected 1000"),
        ("0 1002 1 24 30 {counts}\n0 1002 1 24 30 {counts}", "line 2 is another mask of object 1002 in frame 0"),
        ("0 1002 1 24 31 {counts}", "has size"),
        ("0 1002 1 24 30 0", "sum to 0"),
        ("9 1002 1 24 30 {counts}", "were not found"),
    ],
)
def test_broken_lines_of_mots_are_told(tmp_path, lines, message):
    good = "1 2007 2 24 30 {counts}\n"
    write_frames(tmp_path / "images", ["0.png", "1.png"])
    counts = instances().masks[0][0]["counts"]
    path = tmp_path / "a.txt"
    path.write_text((good + lines + "\n").format(counts=counts).replace("line 1", "line 2"))
    message = message.replace("line 2", "line 3").replace("line 1", "line 2")
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        load_vis_dataset(path, cache_dir=tmp_path / "cache")
    assert str(path) in str(error.value)
    if "not found" not in message:
        [row] = load_vis_dataset(path, cache_dir=tmp_path / "cache", on_error="skip")
        assert 7 in [entry["id"] for entry in row["annotations"]]


@pytest.mark.parametrize("content", ["{", "3", "[1]", '[{"id": "x"}]'])
def test_a_broken_list_of_categories_is_told(tmp_path, content):
    write_frames(tmp_path / "frames", [f"{frame:06d}.jpg" for frame in range(6)])
    instances().export("mots", tmp_path / "masks")
    (tmp_path / "masks" / "categories.json").write_text(content)
    with pytest.raises(ValueError, match="categories"):
        load_vis_dataset(tmp_path / "masks", tmp_path / "frames", cache_dir=tmp_path / "cache")

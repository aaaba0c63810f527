"""The XML of CVAT as data: what its documentation describes, what we write, and what is broken."""

import zipfile

import numpy as np
import pytest

from transformers_msstsvis.data.loading import categories_of, load_vis_dataset
from transformers_msstsvis.data.validate import validate
from transformers_msstsvis.results.rle import decode_mask

from .vis_files import write_frame

META = """<version>1.1</version>
  <meta>
    <task>
      <id>5</id>
      <name>interpolation</name>
      <size>{size}</size>
      <mode>interpolation</mode>
      <overlap>5</overlap>
      <bugtracker></bugtracker>
      <flipped>False</flipped>
      <created>2018-09-25 12:32:09.868194+03:00</created>
      <updated>2018-09-25 16:05:05.619841+03:00</updated>
      {more}
      <labels>
        <label><name>person</name><attributes><attribute><name>age</name></attribute></attributes></label>
        <label><name>car</name><attributes></attributes></label>
      </labels>
      <segments>
        <segment><id>5</id><start>0</start><stop>4619</stop><url>http://localhost:8080/?id=5</url></segment>
      </segments>
      <owner><username>admin</username><email></email></owner>
      <original_size><width>{width}</width><height>{height}</height></original_size>
    </task>
    <dumped>2018-09-25 16:05:07.134046+03:00</dumped>
  </meta>"""


def polygon(frame, points="1,1;4,1;4,3;1,3", outside=0, **more):
    values = {"frame": frame, "points": points, "outside": outside, "occluded": 0, "keyframe": 1, **more}
    return f"<polygon {' '.join(f'{key}={str(value)!r}' for key, value in values.items())}></polygon>"


def track(number, *shapes, label="car"):
    return f'<track id="{number}" label="{label}" source="manual">{"".join(shapes)}</track>'


def document(*elements, size=4, width=6, height=4, more=""):
    meta = META.format(size=size, width=width, height=height, more=more)
    return f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>{meta}{"".join(elements)}</annotations>'


def write(folder, content, frames=range(4), size=(4, 6), name="images/frame_{:06d}.png"):
    for frame in frames:
        write_frame(folder / name.format(frame), *size)
    path = folder / "annotations.xml"
    path.write_text(content, encoding="utf-8")
    return path


def load(path, tmp_path, **options):
    return load_vis_dataset(path, cache_dir=tmp_path / "cache", **options)


def pixels(rle) -> str | None:
    """Rows of a mask, as of `vis_files.mask`."""
    return rle and " ".join("".join(".#"[value] for value in row) for row in decode_mask(rle).astype(int))


BLOCK = "...... .###.. .###.. ......"


@pytest.mark.parametrize("given", ["file", "folder", "folder above"])
def test_tracks_of_polygons(tmp_path, given):
    shapes = [polygon(0), polygon(1, outside=1), polygon(3)]
    path = write(tmp_path / "export", document(track(7, *shapes), track(3, polygon(1), label="person")))
    path = {"file": path, "folder": path.parent, "folder above": tmp_path}[given]
    dataset = load(path, tmp_path)
    [row] = dataset
    assert (row["video_id"], row["height"], row["width"], row["length"]) == (1, 4, 6, 4)
    assert row["file_names"] == [f"frame_{frame:06d}.png" for frame in range(4)]
    assert categories_of(dataset) == [{"id": 1, "name": "person"}, {"id": 2, "name": "car"}]
    assert [(entry["id"], entry["category_id"]) for entry in row["annotations"]] == [(7, 2), (3, 1)]
    assert [pixels(rle) for rle in row["annotations"][0]["segmentations"]] == [BLOCK, None, None, BLOCK]
    assert row["annotations"][0]["bboxes"][0] == [1, 1, 3, 2]


def test_the_example_of_the_documentation(tmp_path):
    """Tracks from 0 on, and 4620 frames, of which those that are annotated are there."""
    first = "324.79,213.16;323.74,227.90;347.42,237.37;371.11,217.37;350.05,190.00;318.47,191.58"
    second = "305.32,237.90;312.16,207.90;352.69,206.32;355.32,233.16;331.11,254.74"
    third = "313.74,233.16;331.11,220.00;359.53,243.16;333.21,283.16;287.95,274.74"
    shapes = []
    for frame, points in ((0, first), (6, second), (13, third)):
        shapes += [polygon(frame, points), polygon(frame + 1, points, outside=1)]
    content = document(track(0, *shapes), size=4620, width=640, height=480)
    [row] = load(write(tmp_path, content, range(15), (480, 640)), tmp_path)
    [entry] = row["annotations"]
    assert (row["length"], entry["id"]) == (15, 1)
    assert [frame for frame, rle in enumerate(entry["segmentations"]) if rle is not None] == [0, 6, 13]
    x, y, width, height = entry["bboxes"][6]
    assert (round(x), round(y), round(x + width), round(y + height)) == (305, 206, 355, 254)


def test_masks_are_runs_along_the_rows_of_a_box(tmp_path):
    shape = '<mask frame="1" outside="0" keyframe="1" rle="1, 2, 1, 2" left="2" top="1" width="3" height="2"></mask>'
    [row] = load(write(tmp_path, document(track(1, shape))), tmp_path)
    masks = row["annotations"][0]["segmentations"]
    assert [pixels(rle) for rle in masks] == [None, "...... ...##. ...##. ......", None, None]


@pytest.mark.parametrize(
    ("runs", "box", "expected"),
    [
        ("0, 24", (0, 0, 6, 4), "###### ###### ###### ######"),
        ("5,1", (5, 0, 1, 4), None),
        ("3,1", (5, 0, 1, 4), "...... ...... ...... .....#"),
    ],
)
def test_masks_at_the_border(tmp_path, runs, box, expected):
    place = " ".join(f'{key}="{value}"' for key, value in zip(("left", "top", "width", "height"), box, strict=True))
    path = write(tmp_path, document(track(1, f'<mask frame="0" rle="{runs}" {place}></mask>')))
    if expected is None:
        with pytest.raises(ValueError, match=r"rle is '5,1'; expected run lengths that sum to width \* height = 4"):
            load(path, tmp_path)
    else:
        assert pixels(load(path, tmp_path)[0]["annotations"][0]["segmentations"][0]) == expected


def test_masks_of_many_runs(tmp_path):
    height, width = 40, 50
    expected = np.random.default_rng(0).random((height, width)) < 0.5
    flat = np.concatenate([[False], expected[5:35, 7:47].ravel()])
    runs = np.diff(np.flatnonzero(np.diff(flat, prepend=False, append=~flat[-1])), prepend=1)
    runs = ", ".join(map(str, runs.tolist()))
    shape = f'<mask frame="0" rle="{runs}" left="7" top="5" width="40" height="30"></mask>'
    path = write(tmp_path, document(track(1, shape), width=width, height=height), size=(height, width))
    found = decode_mask(load(path, tmp_path)[0]["annotations"][0]["segmentations"][0])
    expected[:5], expected[35:], expected[:, :7], expected[:, 47:] = False, False, False, False
    np.testing.assert_array_equal(found, expected)


def test_archives_are_told_to_be_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.writestr("annotations.xml", document())
    with pytest.raises(ValueError, match=r"export.zip is a ZIP archive.*unpack it"):
        load(tmp_path / "export.zip", tmp_path)


def test_labels_of_the_parts_of_a_skeleton_are_no_categories(tmp_path):
    part = "</name></label><label><name>knee</name><type>points</type><parent>person</parent></label>"
    content = document(track(1, polygon(0))).replace("</name><attributes></attributes></label>", part)
    names = [category["name"] for category in categories_of(load(write(tmp_path, content), tmp_path))]
    assert names == ["person", "car"]


def test_boxes_alone_are_told(tmp_path, caplog):
    box = '<box frame="0" outside="0" occluded="0" keyframe="1" xtl="1" ytl="1" xbr="3.5" ybr="3"></box>'
    [row] = load(write(tmp_path, document(track(1, box))), tmp_path)
    assert row["annotations"][0]["segmentations"] == [None] * 4
    assert row["annotations"][0]["bboxes"][0] == [1, 1, 2.5, 2]
    assert "no annotation has a mask; training needs masks" in caplog.text
    with pytest.raises(ValueError, match="the track has boxes and masks; expected one of them"):
        load(write(tmp_path / "b", document(track(1, box, polygon(1)))), tmp_path)


def test_other_shapes_are_left_out_and_told(tmp_path, caplog):
    line = '<polyline frame="0" outside="0" occluded="0" keyframe="1" points="1,1;2,2"></polyline>'
    [row] = load(write(tmp_path, document(track(4, line), track(2, polygon(0)))), tmp_path)
    assert [entry["id"] for entry in row["annotations"]] == [2]
    assert "shapes that are no polygons, masks or boxes are left out: 1 polyline" in caplog.text


def test_images_are_videos_of_one_frame(tmp_path, caplog):
    """The example of the documentation for images: box, polygon, polyline, points and tag."""
    shapes = """
    <box label="car" xtl="1" ytl="1" xbr="3" ybr="2" occluded="0" z_order="4"></box>
    <polygon label="car" points="1.00,1.00;4.00,1.00;4.00,3.00;1.00,3.00" occluded="0" z_order="1"></polygon>
    <polyline label="person" points="2.10,0.00;1.80,3.00" occluded="0" z_order="3"></polyline>
    <points label="person" points="4.90,3.48;1.90,2.90" occluded="0" z_order="5"></points>
    <mask label="person" rle="0, 2" left="0" top="0" width="2" height="1" occluded="0" z_order="0"></mask>
    <tag label="person" source="manual"></tag>"""
    images = f"""<image id="0" name="a/x.png" width="6" height="4">{shapes}</image>
    <image id="1" name="a/y.png" width="6" height="4"></image>"""
    write(tmp_path, document(images), ())
    for name in "xy":
        write_frame(tmp_path / f"images/a/{name}.png")
    rows = load(tmp_path, tmp_path)
    assert [row["file_names"] for row in rows] == [["a/x.png"], ["a/y.png"]]
    assert [len(row["annotations"]) for row in rows] == [3, 0]
    masks = [pixels(entry["segmentations"][0]) for entry in rows[0]["annotations"]]
    assert masks == [None, BLOCK, "##.... ...... ...... ......"]
    assert "1 points, 1 polyline" in caplog.text


def test_images_without_a_suffix_are_frames_of_a_video(tmp_path):
    image = f'<image id="0" name="frame_000000" width="6" height="4">{polygon(0, label="car")}</image>'
    write(tmp_path, document(image), range(1), name="images/frame_{:06d}.PNG")
    assert load(tmp_path, tmp_path)[0]["file_names"] == ["frame_000000.PNG"]


# Frames


EVERY_FIFTH = "<start_frame>10</start_frame><frame_filter>step=5</frame_filter>"


@pytest.mark.parametrize(
    ("name", "frames", "more", "numbers", "length"),
    [
        ("images/default/frame_{:06d}.png", range(4), "", (0, 3), 4),
        ("JPEGImages/annotations/{:05d}.png", range(4), "", (0, 3), 4),
        ("{:d}.png", range(1, 5), "", (0, 3), 4),  # as many as the task has, in order
        ("images/{:d}.png", range(0, 40, 5), EVERY_FIFTH, (10, 25), 4),
        ("images/{:d}.png", range(12), "", (0, 3), 4),
        ("images/{:d}.png", (0, 2, 3), "", (0, 3), 3),  # one was deleted
    ],
)
def test_frames_are_found(tmp_path, name, frames, more, numbers, length):
    path = write(tmp_path, document(track(1, *map(polygon, numbers)), more=more), frames, name=name)
    [row] = load(path, tmp_path)
    visible = [
        file for file, rle in zip(row["file_names"], row["annotations"][0]["segmentations"], strict=True) if rle
    ]
    assert len(row["file_names"]) == length
    assert visible == [row["file_names"][0], row["file_names"][-1]]


def test_frames_dir(tmp_path):
    path = write(tmp_path / "a", document(track(1, polygon(2))), range(4), name="../elsewhere/{}.png")
    with pytest.raises(FileNotFoundError, match=r"frames of .* were not found: no folder .* 4 images.*ffmpeg"):
        load(path, tmp_path)
    assert load(path, tmp_path, frames_dir=tmp_path / "elsewhere")[0]["length"] == 4
    with pytest.raises(FileNotFoundError, match="no frames folder"):
        load(path, tmp_path, frames_dir=tmp_path / "nowhere")


def test_the_size_is_that_of_the_frames_where_it_is_not_told(tmp_path):
    content = document(track(1, polygon(0))).replace("original_size", "other_size")
    [row] = load(write(tmp_path, content), tmp_path)
    assert (row["height"], row["width"]) == (4, 6)


# What is wrong


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (track(1, polygon(9)), "annotation 1: line .*frame is 9; expected one of the 4 frames of the video, 0 to 3"),
        (track(1, polygon("x")), "'frame': 'x'.*expected a whole number, and 0 or 1"),
        (track(1, polygon(0, outside=2)), "'outside': '2'"),
        (track(1, polygon(0), polygon(0)), r"frame 0 \(frame_000000.png\).*another shape of the track is in this"),
        (track(1, polygon(0, "1,1;2")), "points is '1,1;2'; expected x,y;x,y"),
        (track(1, polygon(0, "1,1;2,2")), "three corners"),
        (track(1, polygon(0, "1,1;nan,2;3,3")), "polygon .* has corners far outside"),
        (track(1, polygon(0, "1,1;1e9,2;3,3")), "polygon .* has corners far outside"),
        (track(1, "<polygon frame='0' outside='0'/>"), "it has no 'points'"),
        (track(1, "<mask frame='0' rle='0,4' left='5' top='0' width='2' height='2'/>"), "expected a box within the"),
        (track(1, "<mask frame='0' rle='0,-4' left='1' top='0' width='2' height='2'/>"), "rle is"),
        (track(1, polygon(0), label="tree"), r"label is 'tree'; expected one of the labels of the task \('person', "),
    ],
)
def test_a_broken_track_costs_only_itself(tmp_path, caplog, capsys, broken, message):
    path = write(tmp_path, document(broken, track(2, polygon(0))))
    with pytest.raises(ValueError, match=message):
        load(path, tmp_path)
    [row] = load(path, tmp_path, on_error="skip")
    assert [entry["id"] for entry in row["annotations"]] == [2]
    assert "left out 1 annotations with errors" in caplog.text
    assert validate(path, fix=tmp_path / "fixed.json") == 1
    assert "left out" in capsys.readouterr().out
    [fixed] = load(tmp_path / "fixed.json", tmp_path)
    assert [entry["id"] for entry in fixed["annotations"]] == [2]


BOMB = """<?xml version="1.0"?>
<!DOCTYPE lolz [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>
<annotations><version>&c;</version></annotations>"""
OUTSIDE = '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotations><track label="&e;"/></annotations>'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB, "document type"),
        (OUTSIDE, "document type"),
        (document(track(1, polygon(0)))[:-60], "is not XML that can be read .*copied, completely"),
        (document("<track>&undefined;</track>"), "is not XML that can be read"),
        ("<html></html>", "is XML of <html>; expected <annotations>"),
        (document(track(1, polygon(0)), '<image id="0" name="a.png" width="6" height="4"/>'), "has tracks and images"),
        (document(track(1)).replace("<dumped>", "<task></task><dumped>"), "holds 2 tasks of a project"),
        (document(track(1, polygon(0)), width=10**9), "the size is"),
        ("<" * 50_000, "is not XML"),
    ],
)
def test_what_is_no_file_of_cvat_is_told(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(ValueError, match=message) as error:
        load(path, tmp_path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_other_encodings(tmp_path, encoding):
    path = write(tmp_path, "")
    path.write_bytes(document(track(1, polygon(0))).replace('encoding="utf-8"', "").encode(encoding))
    assert len(load(path, tmp_path)[0]["annotations"]) == 1


def test_gaps_between_key_frames_are_told(tmp_path, caplog):
    tracks = [track(1, polygon(0), polygon(3)), track(2, polygon(0), polygon(1, outside=1), polygon(3))]
    [row] = load(write(tmp_path, document(*tracks)), tmp_path)
    assert [pixels(rle) for rle in row["annotations"][0]["segmentations"]] == [BLOCK, None, None, BLOCK]
    assert "1 tracks have no shape in frames before which none is outside, as track 1 in frames 1 to 2" in caplog.text


def test_an_empty_task_is_a_video_without_objects(tmp_path):
    [row] = load(write(tmp_path, document()), tmp_path)
    assert (row["length"], row["annotations"]) == (4, [])


@pytest.mark.parametrize("seed", range(3))
def test_mutations_are_read_or_told(tmp_path, seed):
    random = np.random.default_rng(seed)
    content = document(track(1, polygon(0), polygon(1, outside=1)), track(2, polygon(3)))
    alphabet = list("<>/\"'=&;,.0159-ax ")
    for number in range(40):
        text = list(content)
        for place in random.integers(400, len(text), 3):
            text[place] = str(random.choice(alphabet))
        path = write(tmp_path / str(number), "".join(text))
        try:
            load(path, tmp_path)
        except (ValueError, FileNotFoundError) as error:
            assert str(path.parent) in str(error)  # noqa: PT017 (some are read)

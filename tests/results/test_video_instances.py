import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from transformers_msstsvis.results.rle import decode_mask, encode_mask
from transformers_msstsvis.results.video_instances import VideoInstances

# 3x4 pixels, three frames; the cat hides in the second one.
CAT = ["##../##../....", "..../..../....", ".##./.##./...."]
DOG = ["..../.###/.###", "..../..##/..##", "..../...#/...#"]


def drawn(picture: str) -> np.ndarray:
    return np.array([[pixel == "#" for pixel in row] for row in picture.split("/")])


def example(**changes) -> VideoInstances:
    values = {
        "scores": [0.87, 0.5],
        "labels": [2, 0],
        "track_ids": [7, 3],
        "masks": [[encode_mask(drawn(frame)) for frame in track] for track in (CAT, DOG)],
        "boxes": None,
        "size": (3, 4),
        "num_frames": 3,
        "fps": 6.0,
        "id2label": {0: "dog", 2: "cat"},
    }
    return VideoInstances(**{**values, **changes})


def assert_same(a: VideoInstances, b: VideoInstances) -> None:
    for name in ("scores", "labels", "track_ids", "boxes"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert getattr(a, name).dtype == getattr(b, name).dtype
    for name in ("masks", "size", "num_frames", "fps", "id2label"):
        assert getattr(a, name) == getattr(b, name)


# Masks


@pytest.mark.parametrize("picture", [*CAT, *DOG, "#", "####", "#/#/#/#"])
def test_encode_and_decode(picture):
    mask = drawn(picture)
    rle = encode_mask(mask)
    if not mask.any():
        assert rle is None
    else:
        assert isinstance(rle["counts"], str)
        np.testing.assert_array_equal(decode_mask(json.loads(json.dumps(rle))), mask)


@pytest.mark.parametrize("convert", [np.uint8, np.int64, lambda m: m * 255, torch.from_numpy, np.asfortranarray])
def test_encode_accepts_every_binary_array(convert):
    assert encode_mask(convert(drawn(DOG[0]))) == encode_mask(drawn(DOG[0]))


def test_decode_accepts_every_form_of_counts():
    rle = encode_mask(drawn(CAT[0]))
    # Column by column: two pixels of the cat, one without, two with it, seven without.
    for counts in (rle["counts"], rle["counts"].encode(), [0, 2, 1, 2, 7]):
        np.testing.assert_array_equal(decode_mask({"size": [3, 4], "counts": counts}), drawn(CAT[0]))


@pytest.mark.parametrize("mask", [np.zeros((2, 3, 4), bool), np.zeros(4, bool), np.full((3, 4), 0.5)])
def test_encode_refuses_other_arrays(mask):
    with pytest.raises(ValueError, match=r"expected \(height, width\) of bool or integers.*one frame.*threshold"):
        encode_mask(mask)


# Construction


def test_values_get_their_types_and_boxes_come_from_masks():
    video = example()
    assert (video.scores.dtype, video.labels.dtype, video.track_ids.dtype) == (np.float32, np.int64, np.int64)
    nan = [np.nan] * 4
    expected = [[[0, 0, 2, 2], nan, [1, 0, 3, 2]], [[1, 1, 4, 3], [2, 1, 4, 3], [3, 1, 4, 3]]]
    np.testing.assert_array_equal(video.boxes, np.float32(expected))
    assert len(video) == 2
    assert repr(video) == "VideoInstances(2 instances in 3 frames of 4x3: [cat #7 0.87, dog #3 0.50])"


def test_a_box_is_nan_exactly_where_the_mask_is_absent():
    given = np.full((2, 3, 4), 0.25)
    given[1, 2] = np.nan
    video = example(boxes=given)
    assert np.isnan(video.boxes[0, 1]).all()
    assert video.boxes[1, 2].tolist() == [3, 1, 4, 3]
    assert (video.boxes[1, :2] == 0.25).all()
    assert (given[0, 1] == 0.25).all()  # the caller's array stays as it was


def test_no_instances():
    for boxes in (None, [], np.zeros((0, 4))):
        video = VideoInstances([], [], [], [], boxes, (3, 4), 2)
        assert (len(video), video.boxes.shape, video.decode(1).shape) == (0, (0, 2, 4), (0, 3, 4))
        assert video.to_list() == video.to_ytvis(1) == []
        assert len(video.to_supervision(0)) == 0


def damaged_masks(**change):
    masks = [list(track) for track in example().masks]
    masks[1][2] = {**masks[1][2], **change}
    return masks


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": [0.5]}, r"scores has shape \(1,\); expected \(2,\), one value for each"),
        ({"labels": [[1], [2]]}, r"labels has shape \(2, 1\); expected \(2,\)"),
        ({"track_ids": [1, 2, 3]}, r"track_ids has shape \(3,\); expected \(2,\)"),
        ({"scores": [0.5, np.nan]}, r"scores of instances \[1\] are not finite"),
        ({"num_frames": 4}, "masks of instance 0 cover 3 frames; expected num_frames = 4: use None"),
        ({"boxes": np.zeros((2, 4))}, r"boxes has shape \(2, 4\); expected \(2, 3, 4\)"),
        ({"size": (4, 3)}, r"instance 0 in frame 0 has size \(3, 4\); expected \(4, 3\) \(height, width\)"),
        ({"masks": damaged_masks(size=[3, 5])}, r"instance 1 in frame 2 has size \(3, 5\)"),
        ({"masks": damaged_masks(counts=None)}, "a mask is .*expected a COCO RLE.*encode_mask"),
        ({"masks": [[drawn(frame) for frame in CAT]] * 2}, "a mask is array.*encode_mask"),
    ],
)
def test_contradictions_are_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        example(**changes)


# Choosing


@pytest.mark.parametrize(
    ("index", "tracks"),
    [
        (slice(1, None), [3]),
        (np.array([False, True]), [3]),
        (torch.tensor([True, False]), [7]),
        ([1, 0, 1], [3, 7, 3]),
        (np.array([], dtype=int), []),
        ([], []),
        (-1, [3]),
    ],
)
def test_indexing(index, tracks):
    video = example()
    chosen = video[index]
    assert chosen.track_ids.tolist() == tracks
    for position, track in enumerate(tracks):
        origin = video.track_ids.tolist().index(track)
        assert chosen.masks[position] == video.masks[origin]
        np.testing.assert_array_equal(chosen.boxes[position], video.boxes[origin])
    assert (chosen.size, chosen.num_frames, chosen.fps) == (video.size, video.num_frames, video.fps)


def test_iterating_gives_single_instances():
    assert [instance.track_ids.tolist() for instance in example()] == [[7], [3]]


def test_filter_includes_the_threshold():
    assert example().filter(0.87).track_ids.tolist() == [7]
    assert example().filter(0.5).track_ids.tolist() == [7, 3]
    assert len(example().filter(0.88)) == 0


def test_decode_one_frame():
    for frame in range(3):
        expected = [drawn(CAT[frame]), drawn(DOG[frame])]
        np.testing.assert_array_equal(example().decode(frame), expected)
    for frame in (-1, 3):
        with pytest.raises(IndexError, match=f"frame {frame} does not exist: expected 0 to 2"):
            example().decode(frame)


# Exporters


def test_to_list_is_json():
    cat, dog = json.loads(json.dumps(example().to_list(), allow_nan=False))
    assert {key: cat[key] for key in ("score", "label", "track_id", "boxes")} == {
        "score": 0.87,
        "label": "cat",
        "track_id": 7,
        "boxes": [[0, 0, 2, 2], None, [1, 0, 3, 2]],
    }
    assert [mask is None for mask in cat["masks"]] == [False, True, False]
    np.testing.assert_array_equal(decode_mask(dog["masks"][1]), drawn(DOG[1]))
    assert [entry["label"] for entry in example(id2label=None).to_list()] == [2, 0]


def test_to_ytvis():
    cat, dog = example().to_ytvis(video_id=12)
    assert (cat["video_id"], cat["category_id"], cat["score"]) == (12, 3, 0.87)
    assert dog["category_id"] == 1
    assert cat["segmentations"] == example().masks[0]
    assert (cat["track_id"], cat["label"]) == (7, "cat")
    assert [entry["category_id"] for entry in example().to_ytvis(1, {2: 40, 0: 9})] == [40, 9]
    with pytest.raises(ValueError, match=r"label 0 has no entry in category_ids \(labels \[2\]\)"):
        example().to_ytvis(1, {2: 40})


def test_to_coco_video():
    document = example().to_coco_video(
        video_id=5, first_image_id=100, first_annotation_id=1000, first_instance_id=20, category_ids={0: 18, 2: 17}
    )
    assert [
        (image["id"], image["video_id"], image["frame_id"], image["file_name"]) for image in document["images"]
    ] == [
        (100, 5, 0, "00000.jpg"),
        (101, 5, 1, "00001.jpg"),
        (102, 5, 2, "00002.jpg"),
    ]
    keys = ("id", "image_id", "frame_id", "category_id", "instance_id", "track_id", "bbox", "area")
    assert [tuple(annotation[key] for key in keys) for annotation in document["annotations"]] == [
        (1000, 100, 0, 17, 20, 7, [0, 0, 2, 2], 4),
        (1001, 100, 0, 18, 21, 3, [1, 1, 3, 2], 6),
        (1002, 101, 1, 18, 21, 3, [2, 1, 2, 2], 4),
        (1003, 102, 2, 17, 20, 7, [1, 0, 2, 2], 4),
        (1004, 102, 2, 18, 21, 3, [3, 1, 1, 2], 2),
    ]
    assert document["categories"] == [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}]
    assert document["videos"] == [{"id": 5, "height": 3, "width": 4, "length": 3}]
    json.dumps(document, allow_nan=False)
    with pytest.raises(ValueError, match="2 file names were given for 3 frames"):
        example().to_coco_video(file_names=["a.jpg", "b.jpg"])


def test_to_mots_puts_the_higher_score_in_front(tmp_path):
    assert example().to_mots(tmp_path / "out") == {3: 3, 7: 7}
    frames = [Image.open(path) for path in sorted((tmp_path / "out").iterdir())]
    assert [frame.mode for frame in frames] == ["P"] * 3
    assert np.array(frames[0]).tolist() == [[7, 7, 0, 0], [7, 7, 3, 3], [0, 3, 3, 3]]
    assert np.array(frames[1]).tolist() == [[0, 0, 0, 0], [0, 0, 3, 3], [0, 0, 3, 3]]
    dog_in_front = example(scores=[0.1, 0.2])
    dog_in_front.to_mots(tmp_path / "other")
    assert np.array(Image.open(tmp_path / "other" / "00000.png"))[1].tolist() == [7, 3, 3, 3]


def test_to_mots_numbers_tracks_that_do_not_fit(tmp_path):
    assert example(track_ids=[1000, 0]).to_mots(tmp_path) == {1: 0, 2: 1000}
    assert np.array(Image.open(tmp_path / "00000.png")).tolist() == [[2, 2, 0, 0], [2, 2, 1, 1], [0, 1, 1, 1]]
    video = example()[[0] * 256]
    video.track_ids = np.arange(256)
    with pytest.raises(ValueError, match=r"256 tracks do not fit.*filter\(threshold\)"):
        video.to_mots(tmp_path)


def test_to_supervision_has_the_visible_instances():
    detections = example().to_supervision(1)
    assert detections.tracker_id.tolist() == [3]
    assert detections.class_id.tolist() == [0]
    assert detections.xyxy.tolist() == [[2, 1, 4, 3]]
    assert detections.confidence.tolist() == [0.5]
    assert detections.data["class_name"].tolist() == ["dog"]
    np.testing.assert_array_equal(detections.mask, [drawn(DOG[1])])
    assert example().to_supervision(0).tracker_id.tolist() == [7, 3]


# Files


@pytest.mark.parametrize(
    "video",
    [
        example(),
        example(fps=None, id2label=None),
        example(id2label={2: "cat"}),
        example()[:0],
        example(boxes=np.random.default_rng(0).random((2, 3, 4)), scores=[1 / 3, 2 / 3]),
    ],
)
@pytest.mark.parametrize("category_ids", [None, {0: 41, 2: 5}])
def test_save_and_load(tmp_path, video, category_ids):
    video.save_json(tmp_path / "video.json", video_id="clip", category_ids=category_ids)
    assert_same(VideoInstances.load_json(tmp_path / "video.json"), video)
    tracks = json.loads((tmp_path / "video.json").read_text())["tracks"]
    assert [track["category_id"] for track in tracks] == [
        entry["category_id"] for entry in video.to_ytvis("clip", category_ids)
    ]


def test_plain_list_round_trip(tmp_path):
    video = example(fps=None)
    video.save_ytvis_json(tmp_path / "results.json", video_id=4)
    assert isinstance(json.loads((tmp_path / "results.json").read_text()), list)
    assert_same(VideoInstances.load_json(tmp_path / "results.json"), video)


def test_results_of_other_programs_are_read(tmp_path):
    empty = {"size": [3, 4], "counts": coco_mask.encode(np.zeros((3, 4), np.uint8, order="F"))["counts"].decode()}
    cat = encode_mask(drawn(CAT[0]))
    entries = [
        {"video_id": 1, "category_id": 9, "score": 0.9, "segmentations": [cat, empty, None, []]},
        {"video_id": 2, "category_id": 9, "score": 0.1, "segmentations": [None, cat]},
    ]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(entries))
    video = VideoInstances.load_json(path, video_id=1, category_ids={4: 9}, id2label={4: "cat"})
    assert video.masks == [[cat, None, None, None]]
    assert video.boxes[0, 0].tolist() == [0, 0, 2, 2]
    assert (video.labels.tolist(), video.track_ids.tolist(), video.label_name(4)) == ([4], [1], "cat")
    assert VideoInstances.load_json(path, video_id=2).labels.tolist() == [8]
    with pytest.raises(
        ValueError, match=r"results.json could not be read.*videos \[1, 2\]: choose one with video_id="
    ):
        VideoInstances.load_json(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{", "is not a JSON file.*written completely"),
        ('{"video": {}}', "'categories' is missing; expected a file of save_json or a YouTube-VIS results list"),
        ("3", "could not be read"),
        ("[]", "list has videos"),
        ('[{"video_id": 1, "category_id": 1, "score": 1, "segmentations": [null]}]', "no result shows a mask"),
        (
            '[{"video_id": 1, "category_id": 1, "score": 1, "segmentations": [{"size": [3, 4], "counts": "1"}]}]',
            r"sum to 1; expected height \* width = 12",
        ),
        ('[{"video_id": 1, "category_id": 1, "segmentations": [{"size": [3, 4], "counts": "<"}]}]', "'score' is"),
    ],
)
def test_broken_files(tmp_path, text, message):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        VideoInstances.load_json(path)
    assert str(path) in str(error.value)


def whole(counts: list[int], size=(8, 8)) -> VideoInstances:
    return VideoInstances([0.5], [0], [1], [[{"size": list(size), "counts": counts}]], None, size, 1)


@pytest.mark.parametrize("counts", [[64], [64, 0], [10, 0, 10, 0, 44]])
def test_a_mask_without_a_pixel_is_none(counts):
    instances = whole(counts)
    assert instances.masks == [[None]]
    assert np.isnan(instances.boxes).all()


def test_runs_of_no_length_do_not_mislead_the_box():
    assert whole([0, 0, 9, 2, 53]).boxes[0, 0].tolist() == whole([9, 2, 53]).boxes[0, 0].tolist() == [1, 1, 2, 3]
    assert json.loads(json.dumps(whole([9, 2, 53]).to_list()))[0]["masks"][0]["size"] == [8, 8]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [0.7]}, "labels is .*expected whole numbers"),
        ({"labels": ["disk"]}, "labels is .*expected whole numbers"),
        ({"track_ids": [1.9]}, "track_ids is .*expected whole numbers"),
        ({"scores": ["a"]}, "scores are .*expected numbers"),
        ({"size": None}, "size is None; expected whole numbers"),
        ({"size": (4,)}, r"size has shape \(1,\); expected \(2,\)"),
        ({"num_frames": -1, "masks": [[]]}, "expected no negative number"),
        ({"fps": "x"}, "fps is 'x'; expected a positive number"),
        ({"id2label": ["x"]}, "id2label is .*expected a dict"),
        ({"masks": None}, "masks is None; expected a list"),
        ({"masks": [5]}, "masks of instance 0 are 5; expected a list"),
        ({"boxes": "x"}, "boxes are 'x'; expected numbers"),
    ],
)
def test_wrong_values_are_told(changes, message):
    values = {"scores": [0.9], "labels": [0], "track_ids": [1], "masks": [[None]], "boxes": None}
    with pytest.raises(ValueError, match=message):
        VideoInstances(**{**values, "size": (4, 4), "num_frames": 1, **changes})


def test_track_ids_are_unique():
    with pytest.raises(ValueError, match=r"track_ids are \[1, 1\]; expected a different one for each"):
        VideoInstances([0.9, 0.8], [0, 0], [1, 1], [[None], [None]], None, (4, 4), 1)


def test_importing_stays_light():
    code = "import sys, transformers_msstsvis.results; print({'supervision', 'matplotlib', 'av'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"

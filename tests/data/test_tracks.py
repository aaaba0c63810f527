"""COCO files whose annotations say which object they are, while the images belong to no video."""

import pytest

from transformers_msstsvis.commands.validate import main_of_module as main
from transformers_msstsvis.data.loading import load_vis_dataset

from .vis_files import CAT, CATEGORIES, DOG, rle, write_dataset


def content(names: list[str], identify, sizes=None) -> dict:
    """Two objects in every image; `identify(image, number)` is what their annotations have beside the usual."""
    images = [{"id": 11 + i, "height": 4, "width": 6, "file_name": name} for i, name in enumerate(names)]
    for image, size in zip(images, sizes or (), strict=False):
        image |= size
    annotations = []
    for image in images:
        for number, (category, shape) in enumerate(((7, DOG), (3, CAT))):
            entry = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": category, "iscrowd": 0}
            annotations.append({**entry, "segmentation": rle(shape), **identify(image, number)})
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def load(path, **settings):
    return load_vis_dataset(path, cache_dir=path.parent / "cache", **settings)


NUMBERED = [f"frame_{number:06d}.png" for number in (2, 0, 1)]  # not in their order


@pytest.mark.parametrize(
    "identify",
    [
        lambda image, number: {"attributes": {"occluded": False, "track_id": number}},
        lambda image, number: {"attributes": {"object_id": number + 5}},
        lambda image, number: {"track_id": number + 1},
        lambda image, number: {"instance_id": number + 1},
        lambda image, number: {"object_id": number + 1},
        lambda image, number: {"instance_id": ["left one", "right one"][number]},
    ],
    ids=["CVAT", "object_id in attributes", "track_id", "instance_id", "object_id", "texts"],
)
def test_objects_that_recur_in_numbered_frames_are_tracks(tmp_path, capsys, identify):
    path = write_dataset(tmp_path, content(NUMBERED, identify))
    dataset = load(path)
    assert len(dataset) == 1
    assert dataset[0]["file_names"] == sorted(NUMBERED)
    assert [annotation["category_id"] for annotation in dataset[0]["annotations"]] == [7, 3]
    for annotation, shape in zip(dataset[0]["annotations"], (DOG, CAT), strict=True):
        assert annotation["segmentations"] == [rle(shape)] * 3
        assert annotation["id"] > 0
    assert main([str(path)]) == 0
    out = capsys.readouterr().out
    assert "but the images no video_id: read as 1 videos" in out
    assert "1 videos and 2 annotations are good, 0 errors" in out
    assert len(load(path, tracks=False)) == 3
    assert main([str(path), "--tracks", "no"]) == 0
    assert "3 videos and 6 annotations are good" in capsys.readouterr().out


def test_every_folder_and_every_beginning_of_names_is_a_video(tmp_path):
    names = ["a/10.png", "a/20.png", "b/1.png", "b/2.png", "c/x_1.png", "c/y_1.png", "c/x_2.png"]
    dataset = load(write_dataset(tmp_path, content(names, lambda image, number: {"track_id": number})))
    assert [row["file_names"] for row in dataset] == [
        ["a/10.png", "a/20.png"],
        ["b/1.png", "b/2.png"],
        ["c/x_1.png", "c/x_2.png"],
        ["c/y_1.png"],
    ]
    assert [len(row["annotations"]) for row in dataset] == [2] * 4
    ids = [annotation["id"] for row in dataset for annotation in row["annotations"]]
    assert sorted(ids) == list(range(1, 9))  # the same in every folder, so numbered anew


@pytest.mark.parametrize(
    ("names", "identify", "sizes"),
    [
        (["one.png", "two.png"], lambda image, number: {"track_id": number}, None),
        (["000139.png", "000285.png", "000632.png", "397133.png"], lambda image, number: {"track_id": number}, None),
        (["0.png", "1.png"], lambda image, number: {"track_id": number}, [{"height": 4}, {"height": 5}]),
        (["0.png", "1.png"], lambda image, number: {"instance_id": 1}, None),
        (["0.png", "1.png"], lambda image, number: {"track_id": (image["id"] + number) % 2}, None),
        (["0.png", "1.png"], lambda image, number: {"track_id": 1} if number else {}, None),
        (["a/0.png", "b/0.png"], lambda image, number: {"track_id": number}, None),
    ],
    ids=["no numbers", "far apart", "sizes", "several in one image", "categories", "some without", "a folder each"],
)
def test_where_the_order_is_not_plain_it_is_told(tmp_path, capsys, names, identify, sizes):
    given = content(names, identify, sizes)
    for image, entries in zip(given["images"], zip(*[iter(given["annotations"])] * 2, strict=True), strict=True):
        if image["height"] == 5:
            for entry in entries:
                entry["segmentation"] = None
    path = write_dataset(tmp_path, given)
    main([str(path)])
    out = capsys.readouterr().out
    assert "every image is a video of one frame; pass tracks=True (--tracks yes)" in out
    assert out.count("tracks=True") == 1
    assert len(load(path)) == len(names)
    assert main([str(path), "--tracks", "no"]) == (sizes is not None)  # that frame has another size
    assert "tracks" not in capsys.readouterr().out


def test_an_order_that_is_not_plain_is_taken_on_request(tmp_path):
    names = ["take 10 b.png", "take 9 a.png", "take x.png"]
    dataset = load(write_dataset(tmp_path, content(names, lambda image, number: {"track_id": number})), tracks=True)
    assert [row["file_names"] for row in dataset] == [["take 9 a.png", "take 10 b.png", "take x.png"]]


def test_numbers_of_annotations_are_no_tracks(tmp_path, capsys):
    path = write_dataset(
        tmp_path, content(NUMBERED, lambda image, number: {"instance_id": 2 * image["id"] + number, "attributes": 5})
    )
    assert [len(row["annotations"]) for row in load(path)] == [2, 2, 2]
    assert main([str(path)]) == 0
    assert "tracks" not in capsys.readouterr().out


def test_tracks_without_identities_are_refused(tmp_path):
    path = write_dataset(tmp_path, content(NUMBERED, lambda image, number: {}))
    assert len(load(path)) == 3
    with pytest.raises(ValueError, match=r"has 0 annotations with instance_id, track_id, .* for tracks=True"):
        load(path, tracks=True)


def test_identities_of_a_coco_video_in_attributes(tmp_path):
    given = content(NUMBERED, lambda image, number: {"attributes": {"track_id": number + 1}})
    for frame, image in enumerate(given["images"]):
        image |= {"video_id": 4, "frame_id": frame}
    dataset = load(write_dataset(tmp_path, given))
    assert [(row["video_id"], row["length"]) for row in dataset] == [(4, 3)]
    assert [annotation["id"] for annotation in dataset[0]["annotations"]] == [1, 2]

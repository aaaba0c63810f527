"""Loading videos with masks from every format, and writing them back."""

import io
import json

import numpy as np
import pytest
from datasets import Dataset, load_dataset, load_from_disk
from PIL import Image
from pycocotools import mask as rle_codec

from transformers_msstsvis.data import json_index
from transformers_msstsvis.data.loading import (
    categories_of,
    dataset_to_ytvis,
    embed_frames,
    id2label_of,
    load_vis_dataset,
)

from .vis_files import (
    CAT,
    CATEGORIES,
    DOG,
    mask,
    rle,
    uncompressed,
    write_dataset,
    write_frame,
    write_palette,
    ytvis_content,
)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder)
    return folder


def masks_of(annotation: dict) -> list:
    return [None if s is None else rle_codec.decode(s).astype(bool) for s in annotation["segmentations"]]


def assert_shows(annotation: dict, *shapes) -> None:
    masks = masks_of(annotation)
    assert len(masks) == len(shapes)
    for given, shape in zip(masks, shapes, strict=True):
        if shape is None:
            assert given is None
        else:
            np.testing.assert_array_equal(given, shape)


def assert_round_trip(dataset: Dataset, tmp_path) -> None:
    path = tmp_path / "back" / "annotations.json"
    path.parent.mkdir()
    path.write_text(json.dumps(dataset_to_ytvis(dataset)), encoding="utf-8")
    again = load_vis_dataset(path, frames_dir=dataset[0]["frames_dir"])
    assert again.features == dataset.features
    assert again.to_list() == dataset.to_list()


def coco_content() -> dict:
    return {
        "images": [
            {"id": 9, "height": 4, "width": 6, "file_name": "9.png"},
            {"id": 4, "height": 4, "width": 6, "file_name": "4.png"},
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 4,
                "category_id": 7,
                "iscrowd": 0,
                "bbox": [1, 1, 2, 2],
                "area": 4,
                "segmentation": [[1, 1, 3, 1, 3, 3, 1, 3]],
            },
            {"id": 2, "image_id": 4, "category_id": 3, "iscrowd": 1, "segmentation": uncompressed(CAT)},
        ],
        "categories": CATEGORIES,
    }


def coco_video_content() -> dict:
    """The frames in the wrong order, the instance ids beginning anew in the second video."""
    size = {"height": 4, "width": 6}
    return {
        "images": [
            {"id": 3, "video_id": 10, "frame_id": 1, "file_name": "park/1.png", **size},
            {"id": 2, "video_id": 10, "frame_id": 0, "file_name": "park/0.png", **size},
            {"id": 8, "video_id": 20, "frame_id": 0, "file_name": "home/0.png", **size},
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 3,
                "instance_id": 1,
                "category_id": 7,
                "segmentation": rle(DOG),
                "bbox": [1, 1, 2, 2],
                "area": 4,
            },
            {
                "id": 2,
                "image_id": 2,
                "instance_id": 1,
                "category_id": 7,
                "segmentation": rle(CAT),
                "bbox": [4, 0, 2, 2],
                "area": 4,
            },
            {
                "id": 3,
                "image_id": 3,
                "instance_id": 2,
                "category_id": 3,
                "segmentation": rle(CAT),
                "bbox": [4, 0, 2, 2],
                "area": 4,
            },
            {
                "id": 4,
                "image_id": 8,
                "instance_id": 1,
                "category_id": 3,
                "segmentation": rle(CAT),
                "bbox": [4, 0, 2, 2],
                "area": 4,
            },
        ],
        "videos": [{"id": 10, "name": "park"}, {"id": 20, "name": "home"}],
        "categories": CATEGORIES,
    }


# ------------------------------------------------------------------------------------------------------------- formats


def test_youtube_vis(tmp_path):
    dataset = load_vis_dataset(write_dataset(tmp_path, ytvis_content()))
    park, home = dataset
    assert park["video_id"] == 10
    assert (park["height"], park["width"], park["length"]) == (4, 6, 3)
    assert park["file_names"] == ["park/00000.png", "park/00001.png", "park/00002.png"]
    assert park["frames_dir"] == str(tmp_path / "JPEGImages")
    dog, crowd = park["annotations"]
    assert (dog["id"], dog["category_id"], dog["label"], dog["iscrowd"]) == (1, 7, 1, False)
    assert (crowd["id"], crowd["category_id"], crowd["label"], crowd["iscrowd"]) == (2, 3, 0, True)
    assert_shows(dog, DOG, None, DOG)
    assert dog["bboxes"] == [[1, 1, 2, 2], None, [1, 1, 2, 2]]
    assert dog["areas"] == [4, None, 4]
    assert dog["occlusion"] is None
    assert park["categories"] == [0, 1]
    assert home["categories"] == [0]
    assert_shows(home["annotations"][0], CAT)
    assert_round_trip(dataset, tmp_path)


def test_given_boxes_and_areas_are_kept(tmp_path):
    content = ytvis_content()
    content["annotations"][1] |= {"bboxes": [[0, 0, 5, 4], None, None], "areas": [20, None, None]}
    dog = load_vis_dataset(write_dataset(tmp_path, content))[0]["annotations"][0]
    assert dog["bboxes"] == [[0, 0, 5, 4], None, None]
    assert dog["areas"] == [20, None, None]


def test_ovis_keeps_occlusion(tmp_path):
    content = ytvis_content()
    content["annotations"][1]["occlusion"] = ["no_occlusion", None, "severe_occlusion"]
    dataset = load_vis_dataset(write_dataset(tmp_path, content))
    assert dataset[0]["annotations"][0]["occlusion"] == ["no_occlusion", None, "severe_occlusion"]
    assert_round_trip(dataset, tmp_path)


def test_every_form_of_a_mask_is_what_pycocotools_makes_of_it(tmp_path):
    polygons = [[0.5, 0.3, 3.7, 1.2, 2.1, 3.9], [4, 0, 6, 0, 6, 2.5]]
    content = ytvis_content()
    content["annotations"] = [
        {"id": 1, "video_id": 10, "category_id": 7, "segmentations": [polygons, uncompressed(DOG), rle(DOG)]}
    ]
    given = load_vis_dataset(write_dataset(tmp_path, content))[0]["annotations"][0]["segmentations"]
    merged = rle_codec.merge(rle_codec.frPyObjects(polygons, 4, 6))
    assert given == [{"size": [4, 6], "counts": merged["counts"].decode()}, rle(DOG), rle(DOG)]


def test_masks_without_pixels_are_absent(tmp_path):
    content = ytvis_content()
    content["annotations"][1]["segmentations"] = [rle(DOG), rle(np.zeros((4, 6), dtype=bool)), []]
    assert_shows(load_vis_dataset(write_dataset(tmp_path, content))[0]["annotations"][0], DOG, None, None)


def test_coco_stills_are_videos_of_one_frame(tmp_path):
    path = write_dataset(tmp_path, coco_content(), "val2017", "annotations/instances_val2017.json")
    dataset = load_vis_dataset(path)
    assert dataset["video_id"] == [9, 4]
    assert dataset.split == "validation"
    dog, cat = dataset[1]["annotations"]
    assert dataset[1]["file_names"] == ["4.png"]
    assert_shows(dog, DOG)
    assert (dog["bboxes"], dog["areas"]) == ([[1, 1, 2, 2]], [4])
    assert cat["iscrowd"]
    assert_shows(cat, CAT)
    assert_round_trip(dataset, tmp_path)


def test_coco_video_joins_the_frames_of_an_instance(tmp_path):
    dataset = load_vis_dataset(write_dataset(tmp_path, coco_video_content()))
    park, home = dataset
    assert park["file_names"] == ["park/0.png", "park/1.png"]
    assert [annotation["id"] for annotation in (*park["annotations"], *home["annotations"])] == [1, 2, 3]
    assert_shows(park["annotations"][0], CAT, DOG)
    assert park["annotations"][0]["bboxes"] == [[4, 0, 2, 2], [1, 1, 2, 2]]
    assert_shows(park["annotations"][1], None, CAT)
    assert_shows(home["annotations"][0], CAT)
    assert_round_trip(dataset, tmp_path)


def test_coco_video_keeps_instance_ids_that_are_unique(tmp_path):
    content = coco_video_content()
    content["annotations"][3]["instance_id"] = 30
    park, home = load_vis_dataset(write_dataset(tmp_path, content))
    assert [annotation["id"] for annotation in (*park["annotations"], *home["annotations"])] == [1, 2, 30]


def write_masks(masks, frames, values=(1, 2)) -> None:
    for frame in range(3):
        write_frame(frames / f"{frame:05d}.jpg")
    write_palette(masks / "00000.png", DOG * values[0] + CAT * values[1])
    write_palette(masks / "00002.png", CAT * values[1])


@pytest.mark.parametrize("layout", ["davis", "davis masks", "side by side", "one video", "frames elsewhere"])
def test_folders_of_palette_masks(tmp_path, layout):
    masks, frames, given, frames_dir = {
        "davis": ("D/Annotations/480p/park", "D/JPEGImages/480p/park", "D", None),
        "davis masks": ("D/Annotations/480p/park", "D/JPEGImages/480p/park", "D/Annotations/480p", None),
        "side by side": ("all/park", "all/park", "all", None),
        "one video": ("all/park", "all/park", "all/park", None),
        "frames elsewhere": ("labels/park", "photos/park", "labels", "photos"),
    }[layout]
    write_masks(tmp_path / masks, tmp_path / frames)
    dataset = load_vis_dataset(tmp_path / given, frames_dir=frames_dir and tmp_path / frames_dir)
    [row] = dataset
    assert row["file_names"] == ["park/00000.jpg", "park/00002.jpg"]  # the frames that have a mask
    assert row["frames_dir"] == str((tmp_path / frames).parent)
    assert (row["height"], row["width"]) == (4, 6)
    assert [annotation["id"] for annotation in row["annotations"]] == [1, 2]
    assert_shows(row["annotations"][0], DOG, None)
    assert_shows(row["annotations"][1], CAT, CAT)
    assert id2label_of(dataset) == {0: "object"}
    assert_round_trip(dataset, tmp_path)


def test_void_of_davis_is_no_object(tmp_path):
    write_masks(tmp_path / "park", tmp_path / "park", values=(1, 255))
    [row] = load_vis_dataset(tmp_path)
    assert len(row["annotations"]) == 1
    assert_shows(row["annotations"][0], DOG, None)


def write_drawn(folder, *masks: Image.Image) -> None:
    for number, image in enumerate(masks):
        write_frame(folder / "JPEGImages" / "v" / f"{number}.jpg", image.height, image.width)
        path = folder / "Annotations" / "v" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)


def palette(values: np.ndarray) -> Image.Image:
    image = Image.fromarray(values.astype(np.uint8), "P")
    image.putpalette(bytes(range(256)) * 3)
    return image


def grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.astype(np.uint8))


BIG = np.pad(np.ones((20, 20), dtype=bool), ((10, 18), (5, 39)))


@pytest.mark.parametrize(
    "draw",
    [
        lambda mask: palette(mask),
        lambda mask: palette(mask * 255),
        lambda mask: grey(mask * 255),
        lambda mask: grey(mask * 128),
        lambda mask: grey(mask * 255).convert("1"),
        lambda mask: Image.fromarray(mask.astype(np.uint16)),
        lambda mask: Image.fromarray(mask.astype(np.uint16) * 65535),
    ],
    ids=["P 1", "P 255", "L 255", "L 128", "1 bit", "16 bits 1", "16 bits 65535"],
)
def test_one_object_is_one_in_every_kind_of_png(tmp_path, draw):
    write_drawn(tmp_path, draw(BIG), draw(np.zeros_like(BIG)), draw(BIG[::-1]))
    annotations = load_vis_dataset(tmp_path)[0]["annotations"]
    assert len(annotations) == 1
    assert_shows(annotations[0], BIG, None, BIG[::-1])
    assert annotations[0]["category_id"] == 1


def test_the_only_value_of_a_palette_is_told_to_be_an_object(tmp_path, caplog):
    write_drawn(tmp_path, palette(BIG * 255))
    load_vis_dataset(tmp_path)
    assert "no other value than 255; it is taken for an object, not for the void of DAVIS" in caplog.text


@pytest.mark.parametrize(("draw", "told"), [(palette, False), (grey, True)])
def test_255_beside_numbers_is_void(tmp_path, caplog, draw, told):
    values = BIG * 2
    values[9, 4:26] = values[30, 4:26] = values[9:31, 4] = values[9:31, 25] = 255  # all around
    write_drawn(tmp_path, draw(values), draw((values > 2) * 255))
    annotations = load_vis_dataset(tmp_path)[0]["annotations"]
    assert len(annotations) == 1
    assert_shows(annotations[0], BIG, None)
    assert ("have small numbers and 255, which is taken for void" in caplog.text) == told


def test_objects_in_shades_of_grey(tmp_path):
    values = np.repeat([0, 85, 170, 255], 12)[:, None] * np.ones((1, 64))
    write_drawn(tmp_path, grey(values))
    annotations = load_vis_dataset(tmp_path)[0]["annotations"]
    for annotation, value in zip(annotations, (85, 170, 255), strict=True):
        assert_shows(annotation, values == value)


def test_small_and_thin_objects_are_no_rims(tmp_path):
    values = np.zeros((48, 64))
    for number in range(1, 9):
        values[5 * number, 4 : 4 + number] = number
        values[5 * number + 1, 4] = 200 + number  # touches the other
    write_drawn(tmp_path, grey(np.minimum(values, 100)))
    assert len(load_vis_dataset(tmp_path)[0]["annotations"]) == 9


@pytest.mark.parametrize("times", [2, 3])
@pytest.mark.parametrize("resampling", [Image.BILINEAR, Image.BICUBIC, Image.LANCZOS])
@pytest.mark.parametrize("white", [1, 257])
def test_masks_that_were_resized_smoothly_are_refused(tmp_path, times, resampling, white):
    mask = grey(BIG * 255)
    smooth = mask.resize((64 // times, 48 // times), resampling).resize(mask.size, resampling)
    if white > 1:
        smooth = Image.fromarray(np.asarray(smooth).astype(np.uint16) * white)
    write_drawn(tmp_path, smooth)
    with pytest.raises(ValueError, match=r"video 1 \(v\), frame 0.png: the mask has \d+ grey levels, .* only as rims"):
        load_vis_dataset(tmp_path)


def test_masks_with_the_noise_of_jpeg_are_refused(tmp_path):
    file = io.BytesIO()
    grey(BIG * 255).save(file, "JPEG", quality=60)
    write_drawn(tmp_path, Image.open(file))
    with pytest.raises(ValueError, match=r"the mask has \d+ grey levels, .* only as rims"):
        load_vis_dataset(tmp_path)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_masks_in_colours_are_refused(tmp_path, mode):
    write_drawn(tmp_path, grey(BIG * 255).convert(mode))
    with pytest.raises(ValueError, match=rf"the mask has colours \({mode}\); expected a palette or grey PNG"):
        load_vis_dataset(tmp_path)


def test_masks_of_single_objects_are_told_to_have_no_frame(tmp_path):
    write_drawn(tmp_path, grey(BIG * 255))
    grey(BIG[::-1] * 255).save(tmp_path / "Annotations" / "v" / "0_2.png")
    with pytest.raises(ValueError, match=r"frame 0_2.png: the mask has no frame 0_2 in"):
        load_vis_dataset(tmp_path)


def test_numbers_below_those_of_mots_are_told(tmp_path):
    write_drawn(
        tmp_path, Image.fromarray((BIG * 1001).astype(np.uint16)), Image.fromarray((BIG * 7).astype(np.uint16))
    )
    with pytest.raises(ValueError, match="the mask has the value 7; expected 1000 "):
        load_vis_dataset(tmp_path)


def test_videos_of_a_split_of_davis(tmp_path):
    for name in ("park", "home"):
        write_masks(tmp_path / "Annotations" / "480p" / name, tmp_path / "JPEGImages" / "480p" / name)
    (tmp_path / "ImageSets" / "2017").mkdir(parents=True)
    (tmp_path / "ImageSets" / "2017" / "val.txt").write_text("home\n")
    assert [row["file_names"][0] for row in load_vis_dataset(tmp_path, split="validation")] == ["home/00000.jpg"]
    with pytest.raises(FileNotFoundError, match="has no list of split 'train'"):
        load_vis_dataset(tmp_path, split="train")


def test_mots_values_tell_the_class(tmp_path):
    write_frame(tmp_path / "images" / "0002" / "000001.jpg")
    (tmp_path / "instances" / "0002").mkdir(parents=True)
    values = (DOG * 2005 + CAT * 1001).astype(np.uint16)
    values[3] = 10000
    Image.fromarray(values).save(tmp_path / "instances" / "0002" / "000001.png")
    dataset = load_vis_dataset(tmp_path)
    car, pedestrian = dataset[0]["annotations"]
    assert id2label_of(dataset) == {0: "car", 1: "pedestrian"}
    assert (car["label"], pedestrian["label"]) == (0, 1)
    assert_shows(car, CAT)
    assert_shows(pedestrian, DOG)


def test_masks_without_frames(tmp_path):
    write_palette(tmp_path / "park" / "00000.png", DOG * 1)
    with pytest.raises(FileNotFoundError, match=r"no frames \(.jpg\) beside the masks of .*; pass frames_dir"):
        load_vis_dataset(tmp_path)


def test_a_mask_that_does_not_fit_its_frame_costs_only_the_frame(tmp_path, caplog):
    write_masks(tmp_path / "park", tmp_path / "park")
    write_palette(tmp_path / "park" / "00001.png", mask("## ##") * 3)
    with pytest.raises(ValueError, match=r"video 1 \(park\), frame 00001.png: the mask has size \[2, 2\]; expected"):
        load_vis_dataset(tmp_path)
    [row] = load_vis_dataset(tmp_path, on_error="skip")
    assert row["file_names"] == ["park/00000.jpg", "park/00002.jpg"]


# ------------------------------------------------------------------------------------------------------- finding files


@pytest.mark.parametrize(
    ("annotations", "frames"),
    [
        ("annotations/instances_train_sub.json", "train/JPEGImages"),  # MS-STS VIS, SeqFormer, VNext
        ("annotations/instances_val_sub.json", "valid/JPEGImages"),  # VisTR
        ("instances.json", "val/JPEGImages"),  # VNext, 2022
        ("annotations_train.json", "train"),  # OVIS in VNext
        ("train.json", "train/JPEGImages"),  # Mask2Former
        ("valid/instances.json", "valid/JPEGImages"),  # Mask2Former, DeVIS, mmtracking, 2021
        ("train/train.json", "train/JPEGImages"),  # DeVIS, 2019
        ("annotations/annotations_valid.json", "valid"),  # OVIS in DeVIS
        ("annotations/train.json", "train"),  # TeViT
        ("annotations/youtube_vis_2021_train.json", "train/JPEGImages"),  # mmtracking
    ],
)
def test_frames_are_found_in_every_layout(tmp_path, annotations, frames):
    path = write_dataset(tmp_path, ytvis_content(), name=annotations, frames="unused")
    for name in ("park/00000.png", "home/00000.png"):
        write_frame(tmp_path / frames / name)
    assert load_vis_dataset(path)[0]["frames_dir"] == str(tmp_path / frames)


def test_the_frames_of_the_files_split_come_first(tmp_path):
    path = write_dataset(tmp_path, ytvis_content(), name="annotations/instances_val_sub.json", frames="unused")
    for split in ("train", "val"):
        write_frame(tmp_path / split / "JPEGImages" / "park/00000.png")
    dataset = load_vis_dataset(path)
    assert dataset[0]["frames_dir"] == str(tmp_path / "val" / "JPEGImages")
    assert dataset.split == "validation"


def test_the_file_of_a_split_is_found(tmp_path):
    write_dataset(tmp_path, ytvis_content(), "train/JPEGImages", "train.json")
    content = {**ytvis_content(), "annotations": None}
    write_dataset(tmp_path, content, "valid/JPEGImages", "valid.json")
    assert len(load_vis_dataset(tmp_path, split="train")[0]["annotations"]) == 2
    assert load_vis_dataset(tmp_path, split="validation")[0]["annotations"] == []
    with pytest.raises(ValueError, match="2 annotation files that fit"):
        load_vis_dataset(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"no JSON file for split 'test' \(JSON files: train.json, valid.json\)"
    ):
        load_vis_dataset(tmp_path, split="test")


def test_frames_that_are_not_found(tmp_path):
    path = write_dataset(tmp_path, ytvis_content(), frames="somewhere/else")
    with pytest.raises(FileNotFoundError, match=r"no folder around it has 'park/00000.png' .* pass frames_dir"):
        load_vis_dataset(path)
    with pytest.raises(FileNotFoundError, match="no frames folder at"):
        load_vis_dataset(path, frames_dir=tmp_path / "nothing")
    frames = tmp_path / "somewhere"
    (frames / "else").rename(frames / "JPEGImages")
    assert load_vis_dataset(path, frames_dir=frames)[0]["frames_dir"] == str(frames / "JPEGImages")


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no annotation file or folder of masks at"):
        load_vis_dataset(tmp_path / "nothing.json")


# ---------------------------------------------------------------------------------------------------- the dataset kept


def test_categories_survive_disk_and_parquet(tmp_path):
    dataset = load_vis_dataset(write_dataset(tmp_path, ytvis_content()))
    dataset.save_to_disk(tmp_path / "disk")
    dataset.to_parquet(tmp_path / "data.parquet")
    parquet = load_dataset(
        "parquet", data_files=str(tmp_path / "data.parquet"), split="train", cache_dir=str(tmp_path)
    )
    for kept in (dataset, load_from_disk(tmp_path / "disk"), parquet):
        assert categories_of(kept) == [CATEGORIES[1], CATEGORIES[0]]
        assert id2label_of(kept) == {0: "cat", 1: "dog"}
        assert kept.features["annotations"].feature["label"].names == ["cat", "dog"]
        assert kept.to_list() == dataset.to_list()
    with pytest.raises(ValueError, match="the dataset has no categories"):
        categories_of(dataset.remove_columns("categories"))


def test_frames_are_embedded_as_they_are(tmp_path):
    path = write_dataset(tmp_path, ytvis_content())
    embed_frames(load_vis_dataset(path)).to_parquet(tmp_path / "data.parquet")
    bytes_of = {name: (tmp_path / "JPEGImages" / name).read_bytes() for name in ("park/00002.png", "home/00000.png")}
    frame = tmp_path / "JPEGImages" / "park" / "00002.png"
    frame.unlink()
    park, home = load_dataset(
        "parquet", data_files=str(tmp_path / "data.parquet"), split="train", cache_dir=str(tmp_path)
    )
    assert park["frames_dir"] is None
    assert park["frames"][2] == {"bytes": bytes_of["park/00002.png"], "path": "park/00002.png"}
    assert home["frames"] == [{"bytes": bytes_of["home/00000.png"], "path": "home/00000.png"}]
    with pytest.raises(
        FileNotFoundError, match=r"video 10 \(park\), frame 2 \(park/00002.png\): the frame is missing"
    ):
        embed_frames(load_vis_dataset(path))


def test_a_dataset_with_embedded_frames_is_written_and_embedded_again(tmp_path):
    dataset = load_vis_dataset(write_dataset(tmp_path, ytvis_content()))
    embedded = embed_frames(dataset)
    assert dataset_to_ytvis(embedded) == dataset_to_ytvis(dataset)
    assert embed_frames(embedded).to_list() == embedded.to_list()


def test_a_prepared_file_is_used_until_the_annotations_change(tmp_path, monkeypatch):
    path = write_dataset(tmp_path, ytvis_content())
    first = load_vis_dataset(path)
    with monkeypatch.context() as context:
        context.setattr(json_index, "scan_json", None)
        context.setattr("transformers_msstsvis.data.formats.scan_json", None)  # reading would fail
        again = load_vis_dataset(path)
    assert again.cache_files == first.cache_files
    assert again.to_list() == first.to_list()
    content = ytvis_content()
    del content["annotations"][1:]
    write_dataset(tmp_path, content)
    assert load_vis_dataset(path)[0]["annotations"] == []


def test_relative_paths_hold_in_any_working_directory(tmp_path, monkeypatch):
    for name in ("one", "two"):
        write_dataset(tmp_path / name, ytvis_content())
    datasets = []
    for name in ("one", "two"):
        monkeypatch.chdir(tmp_path / name)
        datasets.append(load_vis_dataset("annotations.json", frames_dir="JPEGImages"))
    # The same file, and another folder of the same name.
    datasets.append(load_vis_dataset(tmp_path / "one" / "annotations.json", frames_dir="JPEGImages"))
    found = [dataset[0]["frames_dir"] for dataset in datasets]
    assert found == [str(tmp_path / name / "JPEGImages") for name in ("one", "two", "two")]
    monkeypatch.chdir(tmp_path)
    assert len(embed_frames(datasets[0])[0]["frames"]) == 3


def test_frames_that_moved_are_found_again(tmp_path):
    path = write_dataset(tmp_path, ytvis_content())
    load_vis_dataset(path)
    (tmp_path / "JPEGImages").rename(tmp_path / "train")
    assert load_vis_dataset(path)[0]["frames_dir"] == str(tmp_path / "train")


# -------------------------------------------------------------------------------------------------------------- errors


def test_errors_are_skipped_counted_and_cost_nothing_else(tmp_path, caplog):
    content = ytvis_content()
    content["annotations"][1]["segmentations"].pop()
    content["annotations"].append({**content["annotations"][0], "id": 6, "video_id": 99})
    content["videos"].append({"id": 30, "height": 4, "width": 6, "file_names": []})
    path = write_dataset(tmp_path, content)
    with pytest.raises(ValueError, match=r"annotation 1: segmentations has 2 entries; expected 3"):
        load_vis_dataset(path)
    for _ in range(2):  # prepared, and opened again
        caplog.clear()
        dataset = load_vis_dataset(path, on_error="skip")
        [summary] = [record.message for record in caplog.records if "left out" in record.message]
        assert summary == f"{path}: left out 2 annotations, 1 videos with errors"
    assert [[annotation["id"] for annotation in row["annotations"]] for row in dataset] == [[2], [5]]
    with pytest.raises(ValueError, match="on_error is 'ignore'; expected 'raise' or 'skip'"):
        load_vis_dataset(path, on_error="ignore")


def test_a_set_without_labels_loads_and_says_so(tmp_path, caplog):
    content = {**ytvis_content(), "annotations": None}
    path = write_dataset(tmp_path, content)
    dataset = load_vis_dataset(path)
    assert [row["annotations"] for row in dataset] == [[], []]
    assert "there are no labels (annotations missing or null); every video has zero annotations" in caplog.text
    del content["annotations"], content["categories"]
    dataset = load_vis_dataset(write_dataset(tmp_path, content))
    assert len(dataset) == 2
    assert categories_of(dataset) == []


def test_frames_are_checked_on_request(tmp_path):
    path = write_dataset(tmp_path, ytvis_content())
    assert len(load_vis_dataset(path, check_frames=True)) == 2
    (tmp_path / "JPEGImages" / "park" / "00001.png").unlink()
    assert len(load_vis_dataset(path)) == 2
    with pytest.raises(
        ValueError, match=r"video 10 \(park\), frame 1 \(park/00001.png\): the frame is missing; expected"
    ):
        load_vis_dataset(path, check_frames=True)
    assert load_vis_dataset(path, check_frames=True, on_error="skip")["video_id"] == [20]


def test_files_longer_than_the_window_read_the_same(tmp_path, monkeypatch):
    content = ytvis_content()
    content["info"] = {"description": 'Čeština "quoted" \\ back', "numbers": [1.5e3, -12, True, None]}
    content["videos"][0]["file_names"] = [f"pärk/{t}.png" for t in range(3)]
    path = write_dataset(tmp_path, content)
    path.write_text(json.dumps(content, ensure_ascii=False, indent=3), encoding="utf-8-sig")
    expected = list(json_index.scan_json(path))
    for chunk in (1, 7):
        monkeypatch.setattr(json_index, "_CHUNK", chunk)
        assert list(json_index.scan_json(path)) == expected
    with open(path, "rb") as file:
        for section, position, value, start, stop in expected:
            exact = json_index.read_element(file, start, stop) if position is not None or value != [] else []
            given = content[section] if position is None else content[section][position]
            assert exact == ([] if position is None and isinstance(given, list) else given)
    assert load_vis_dataset(path)[0]["file_names"] == content["videos"][0]["file_names"]

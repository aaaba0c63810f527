"""Every reader of frames shows the same picture, from below the folder of frames and from nowhere else."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from transformers_msstsvis import VideoReader
from transformers_msstsvis.commands.validate import main_of_module as main
from transformers_msstsvis.data.clips import ClipError, VideoClips
from transformers_msstsvis.data.loading import embed_frames, load_vis_dataset
from transformers_msstsvis.data.pseudo_clips import PseudoClips
from transformers_msstsvis.evaluation import SkippedVideo, find_frames, read_ground_truth
from transformers_msstsvis.evaluation.predictions import _frames_of
from transformers_msstsvis.video.images import ImageError, image_size, read_image

from .vis_files import rle, write_dataset, write_frame, write_palette, ytvis_content

ORIENTATION = 0x0112
HEIGHT, WIDTH = 24, 40  # as shown


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def shown() -> tuple[np.ndarray, np.ndarray]:
    """A picture without symmetry, and the mask of its red part."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[2:10, 4:20] = True
    picture = np.full((HEIGHT, WIDTH, 3), 60, dtype=np.uint8)
    picture[mask] = (220, 40, 40)
    return picture, mask


def store(path: Path, tag: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    """The picture as a camera stores it that was held in another way."""
    image = Image.fromarray(shown()[0]).resize(size[::-1], Image.Resampling.NEAREST)
    for stored in (image.transpose(method) for method in (None, *Image.Transpose) if method is not None):
        exif = stored.getexif()
        exif[ORIENTATION] = tag
        if ImageOps.exif_transpose(stored).tobytes() == image.tobytes():
            break
    else:
        stored, exif = image, image.getexif()
        exif[ORIENTATION] = tag
    path.parent.mkdir(parents=True, exist_ok=True)
    stored.save(path, exif=exif, quality=95, lossless=True)


def write_oriented(folder: Path, tag: int, suffix: str = ".png", frames: int = 2, size=None) -> Path:
    """A video of the picture; `size` is declared, that which is shown by default."""
    mask = shown()[1]
    size = size or mask.shape
    names = [f"v/{frame}{suffix}" for frame in range(frames)]
    for name in names:
        store(folder / "JPEGImages" / name, tag)
    masks = [rle(mask if mask.shape == size else mask.T)] * frames
    video = {"id": 1, "height": size[0], "width": size[1], "length": frames, "file_names": names}
    content = {
        "videos": [video],
        "annotations": [{"id": 1, "video_id": 1, "category_id": 1, "segmentations": masks}],
        "categories": [{"id": 1, "name": "red"}],
    }
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    return path


def colour_under_the_mask(clip: dict) -> list[float]:
    return clip["frames"][0][:, clip["labels"]["masks"][0, 0]].float().mean(1).tolist()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("tag", range(1, 9))
def test_every_orientation_is_the_same_to_training_inference_and_checks(tmp_path, capsys, tag, suffix):
    path = write_oriented(tmp_path, tag, suffix)
    dataset = load_vis_dataset(path, check_frames=True)
    inferred = next(iter(VideoReader(tmp_path / "JPEGImages" / "v")))
    for videos in (dataset, embed_frames(dataset)):
        clip = VideoClips(videos, num_frames=2, flip=False)[0]
        assert clip["frames"].shape == (2, 3, HEIGHT, WIDTH)
        np.testing.assert_allclose(colour_under_the_mask(clip), (220, 40, 40), atol=12)
        np.testing.assert_array_equal(clip["frames"][0].permute(1, 2, 0).numpy(), inferred)
    assert main([str(path)]) == 0
    assert main([str(path), "--decode"]) == 0


@pytest.mark.parametrize("tag", [5, 6, 7, 8])
def test_annotations_of_frames_as_they_are_stored_are_told_so(tmp_path, capsys, tag):
    path = write_oriented(tmp_path, tag, size=(WIDTH, HEIGHT))
    told = (
        f"it is stored with {WIDTH}x{HEIGHT} pixels, and its EXIF orientation {tag} turns it to {HEIGHT}x{WIDTH}, as "
        "every viewer does: annotate the turned frames, or remove the tag"
    )
    dataset = load_vis_dataset(path)
    for videos in (dataset, embed_frames(dataset)):
        with pytest.raises(ClipError) as refusal:
            VideoClips(videos)[0]
        assert told in str(refusal.value)
    assert main([str(path)]) == 1
    assert told in capsys.readouterr().out
    with pytest.raises(ValueError) as refusal:
        load_vis_dataset(path, check_frames=True)
    assert told in str(refusal.value)


@pytest.mark.parametrize("tag", [1, 2, 3, 4])
def test_frames_that_are_turned_without_another_size_are_remarked_on(tmp_path, capsys, tag):
    path = write_oriented(tmp_path, tag, ".jpg")
    assert main([str(path)]) == 0
    told = f"1 videos (the first: 1 (v), {tag}) have an EXIF orientation" in capsys.readouterr().out
    assert told == (tag > 1)


def test_stills_and_folders_of_masks_are_turned_too(tmp_path):
    path = write_oriented(tmp_path / "stills", 6, ".jpg", frames=1)
    clips = PseudoClips(load_vis_dataset(path), num_frames=2, flip=False)
    assert clips[0]["frames"].shape[-2:] == (HEIGHT, WIDTH)

    write_oriented(tmp_path / "masks", 8, ".jpg")
    (tmp_path / "masks" / "annotations.json").unlink()
    for frame in range(2):
        write_palette(tmp_path / "masks" / "Annotations" / "v" / f"{frame}.png", shown()[1])
    dataset = load_vis_dataset(tmp_path / "masks", check_frames=True)
    assert [dataset[0][key] for key in ("height", "width")] == [HEIGHT, WIDTH]
    np.testing.assert_allclose(colour_under_the_mask(VideoClips(dataset, flip=False)[0]), (220, 40, 40), atol=12)


def test_masks_of_the_stored_size_beside_a_turned_frame_are_told(tmp_path, caplog):
    write_oriented(tmp_path, 6, ".jpg")
    (tmp_path / "annotations.json").unlink()
    write_palette(tmp_path / "Annotations" / "v" / "0.png", shown()[1].T)
    with pytest.raises(ValueError, match="its EXIF orientation 6 turns it to 24x40"):
        load_vis_dataset(tmp_path)


@pytest.mark.parametrize("tag", [1, 6])
def test_the_size_of_a_png_needs_no_pixels(tmp_path, tag):
    store(tmp_path / "frame.png", tag, (200, 300))
    content = (tmp_path / "frame.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    assert image_size(tmp_path / "cut.png") == (200, 300)


def test_exif_behind_the_pixels_of_a_png_counts(tmp_path):
    store(tmp_path / "frame.png", 6)
    content = (tmp_path / "frame.png").read_bytes()
    start = content.index(b"eXIf") - 4
    stop = start + 12 + int.from_bytes(content[start : start + 4], "big")
    end = content.index(b"IEND") - 4
    (tmp_path / "late.png").write_bytes(content[:start] + content[stop:end] + content[start:stop] + content[end:])
    assert image_size(tmp_path / "late.png") == (HEIGHT, WIDTH)
    np.testing.assert_array_equal(read_image(tmp_path / "late.png"), shown()[0])


# ------------------------------------------------------------------------------------------------ kinds of images


def grey(values=(60, 200)) -> np.ndarray:
    picture = np.full((HEIGHT, WIDTH), values[0])
    picture[shown()[1]] = values[1]
    return picture


GOOD = {
    "grey": lambda: Image.fromarray(grey().astype(np.uint8)),
    "16 bits": lambda: Image.fromarray((grey() * 257).astype(np.uint16)),
    "palette with alpha": lambda: Image.fromarray(
        np.dstack([grey()] * 3 + [grey((9, 255))]).astype(np.uint8)
    ).quantize(),
    "alpha": lambda: Image.fromarray(np.dstack([grey()] * 3 + [grey((0, 255))]).astype(np.uint8)),
    "grey and alpha": lambda: Image.fromarray(np.dstack([grey(), grey((0, 255))]).astype(np.uint8), "LA"),
    "1 bit": lambda: Image.fromarray(grey((0, 255)).astype(np.uint8)).convert("1"),
}
BAD = {
    "12 bits": (lambda: Image.fromarray((grey() * 16).astype(np.uint16)), ".png", "no pixel above 3200"),
    "floats": (lambda: Image.fromarray((grey() / 255).astype(np.float32)), ".tif", "are floating-point numbers"),
    "32 bits": (
        lambda: Image.fromarray((grey() * 10**6).astype(np.int32)),
        ".tif",
        "its pixels go from 0 to 200000000",
    ),
}


def write_video(folder: Path, image: Image.Image, suffix: str, **settings) -> Path:
    path = write_oriented(folder, 1, suffix)
    for frame in (folder / "JPEGImages" / "v").iterdir():
        image.save(frame, **settings)
    return path


@pytest.mark.parametrize("kind", GOOD)
def test_kinds_of_pixels_come_out_as_one_picture(tmp_path, kind):
    path = write_video(tmp_path, GOOD[kind](), ".png")
    expected = grey((0, 255) if kind == "1 bit" else (60, 200))
    for videos in (dataset := load_vis_dataset(path, check_frames=True), embed_frames(dataset)):
        pixels = VideoClips(videos, num_frames=1, flip=False)[0]["frames"][0]
        for channel in pixels.numpy():
            np.testing.assert_allclose(channel, expected, atol=1)
    assert main([str(path), "--decode"]) == 0


def test_cmyk_is_one_picture_to_all(tmp_path):
    path = write_video(tmp_path, Image.fromarray(shown()[0]).convert("CMYK"), ".jpg", quality=95)
    clip = VideoClips(path, num_frames=1, flip=False)[0]
    np.testing.assert_allclose(colour_under_the_mask(clip), (220, 40, 40), atol=12)
    assert main([str(path), "--decode"]) == 0


@pytest.mark.parametrize("kind", BAD)
def test_kinds_of_pixels_without_a_known_range_are_refused_alike(tmp_path, capsys, kind):
    make, suffix, told = BAD[kind]
    path = write_video(tmp_path, make(), suffix)
    assert main([str(path)]) == 1
    assert told in capsys.readouterr().out
    with pytest.raises(ValueError, match=told):
        load_vis_dataset(path, check_frames=True)
    with pytest.raises(ClipError, match=told):
        VideoClips(path)[0]
    with pytest.raises(ValueError, match=told):
        embed_frames(load_vis_dataset(path))


@pytest.mark.parametrize("suffix", [".webp", ".png", ".tif"])
def test_several_pictures_in_a_file_are_no_frame(tmp_path, capsys, suffix):
    pages = [Image.fromarray(shown()[0]), Image.fromarray(shown()[0][:, ::-1].copy())]
    path = write_video(tmp_path, pages[0], suffix, save_all=True, append_images=pages[1:])
    assert main([str(path)]) == 1
    assert "it holds 2 pictures, not one frame" in capsys.readouterr().out
    with pytest.raises(ClipError, match="it holds 2 pictures, not one frame"):
        VideoClips(path)[0]


def test_photos_with_a_second_exposure_are_frames(tmp_path):
    path = write_oriented(tmp_path, 1, ".jpg")
    for frame in (tmp_path / "JPEGImages" / "v").iterdir():
        pages = [Image.fromarray(shown()[0])] * 2
        pages[0].save(frame, format="MPO", save_all=True, append_images=pages[1:], quality=95)
    assert main([str(path), "--decode"]) == 0
    np.testing.assert_allclose(colour_under_the_mask(VideoClips(path, flip=False)[0]), (220, 40, 40), atol=12)


# ------------------------------------------------------------------------------------- nothing outside of the folder


@pytest.fixture
def secret(tmp_path) -> Path:
    """An image that nobody meant to be read, and a text."""
    folder = tmp_path / "secret"
    write_frame(folder / "0.png")
    (folder / "passwd").write_text("root:x:0:0")
    return folder


def spoiled(tmp_path: Path, name: str) -> Path:
    """A data set whose first video names another frame."""
    content = ytvis_content()
    path = write_dataset(tmp_path / "data", content)
    content["videos"][0]["file_names"][1] = name
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    "name",
    [
        "../../secret/0.png",
        "../../secret/passwd",
        "{secret}/0.png",
        "park/../../../secret/0.png",
        "..\\..\\secret\\0.png",
    ],
)
def test_names_that_lead_out_are_refused_in_every_reader(tmp_path, secret, capsys, name):
    path = spoiled(tmp_path, name.format(secret=secret))
    told = r"leads out of the frames folder .*, to .*secret.*; expected frames below it: .* allow_outside"
    with pytest.raises(ValueError, match="video 10.*" + told):
        load_vis_dataset(path)
    with pytest.raises(ValueError, match=told):
        VideoClips(path)
    with pytest.raises(ValueError, match=told):
        read_ground_truth(path)
    assert main([str(path), "--fix", str(tmp_path / "fixed.json")]) == 1
    assert "leads out of the frames folder" in capsys.readouterr().out
    assert "secret" not in (tmp_path / "fixed.json").read_text()
    kept = load_vis_dataset(path, on_error="skip")
    assert [row["video_id"] for row in kept] == [20]


def test_rows_from_elsewhere_are_refused_when_their_frames_are_read(tmp_path, secret):
    dataset = load_vis_dataset(write_dataset(tmp_path / "data", ytvis_content()))
    names = ["park/00000.png", "../../secret/0.png", "park/00002.png"]
    dataset = dataset.map(lambda row: {**row, "file_names": names if row["video_id"] == 10 else row["file_names"]})
    with pytest.raises(ClipError, match=r"frame 1 of video 10: '../../secret/0.png' leads out of the frames folder"):
        VideoClips(dataset, num_frames=3)[0]
    with pytest.raises(ClipError, match="leads out of the frames folder"):
        PseudoClips(dataset).read(0, np.array([1]))
    with pytest.raises(ValueError, match=r"video 10 \(park\), frame 1 .*: .* leads out of the frames folder"):
        embed_frames(dataset)
    with pytest.raises(SkippedVideo, match=r"video 10 is skipped: .* leads out of the frames folder"):
        _frames_of({"id": 10, **dataset[0]}, None, "video 10")


def test_links_that_lead_out_are_refused_when_their_frames_are_read(tmp_path, secret, capsys):
    path = write_dataset(tmp_path / "data", ytvis_content())
    frame = tmp_path / "data" / "JPEGImages" / "park" / "00001.png"
    frame.unlink()
    frame.symlink_to(secret / "0.png")
    told = "leads out of the frames folder"
    dataset = load_vis_dataset(path)
    with pytest.raises(ClipError, match=told):
        VideoClips(dataset, num_frames=3)[0]
    with pytest.raises(ValueError, match=told):
        embed_frames(dataset)
    with pytest.raises(ValueError, match=told):
        load_vis_dataset(path, check_frames=True)
    assert main([str(path)]) == 1
    assert told in capsys.readouterr().out
    truth = read_ground_truth(path)
    with pytest.raises(SkippedVideo, match=told):
        _frames_of(truth["videos"][0], find_frames(path, truth), "video 10")


def test_a_folder_of_frames_that_is_a_link_is_good(tmp_path):
    path = write_dataset(tmp_path / "data", ytvis_content())
    os.rename(tmp_path / "data" / "JPEGImages", tmp_path / "elsewhere")
    (tmp_path / "data" / "JPEGImages").symlink_to(tmp_path / "elsewhere")
    dataset = load_vis_dataset(path, check_frames=True)
    assert len(VideoClips(dataset, num_frames=3)[0]["frames"]) == 3


def test_links_in_folders_of_masks_are_read_on_request(tmp_path, secret):
    frame = tmp_path / "masks" / "JPEGImages" / "v" / "0.jpg"
    frame.parent.mkdir(parents=True)
    frame.symlink_to(secret / "0.png")
    write_palette(tmp_path / "masks" / "Annotations" / "v" / "0.png", np.eye(4, 6))
    with pytest.raises(ClipError, match="leads out of the frames folder"):
        VideoClips(load_vis_dataset(tmp_path / "masks"))[0]
    dataset = load_vis_dataset(tmp_path / "masks", allow_outside=True)
    assert VideoClips(dataset)[0]["frames"].shape[-2:] == (4, 6)


@pytest.mark.parametrize("name", ["../../secret/0.png", "{secret}/0.png"])
def test_frames_elsewhere_are_read_on_request(tmp_path, secret, capsys, name):
    path = spoiled(tmp_path, name.format(secret=secret))
    dataset = load_vis_dataset(path, check_frames=True, allow_outside=True)
    assert dataset[0]["frames_dir"] == str(tmp_path.resolve())
    assert dataset[0]["file_names"][1] == "secret/0.png"
    assert dataset[1]["frames_dir"] == str(tmp_path / "data" / "JPEGImages")
    assert len(VideoClips(dataset, num_frames=3)[0]["frames"]) == 3
    assert len(embed_frames(dataset)[0]["frames"]) == 3
    assert main([str(path), "--allow_outside"]) == 0
    truth = read_ground_truth(path, allow_outside=True)
    assert len(_frames_of(truth["videos"][0], find_frames(path, truth), "video 10")) == 3


def test_only_images_are_embedded(tmp_path):
    path = write_dataset(tmp_path, ytvis_content())
    (tmp_path / "JPEGImages" / "park" / "00001.png").write_text("a password")
    with pytest.raises(ValueError, match=r"video 10 \(park\), frame 1 .* cannot be read: it is no image"):
        embed_frames(load_vis_dataset(path))


# ----------------------------------------------------------------------------------------- names of other machines


@pytest.mark.parametrize("frames_dir", [None, ".", "images"])
@pytest.mark.parametrize(
    "name",
    [
        "images/0.png",
        "images\\0.png",
        "./images/0.png",
        "..\\..\\label-studio\\media\\upload\\4\\0.png",
        "../../label-studio/media/upload/4/0.png",
        "images/1/0.png",
        "C:\\data\\images\\0.png",
        "C:/data/images/0.png",
        "/home/somebody/data/images/0.png",
        "\\\\server\\share\\images\\0.png",
    ],
)
def test_frames_are_found_by_the_last_parts_of_their_names(tmp_path, name, frames_dir):
    write_frame(tmp_path / "images" / "0.png")
    content = ytvis_content()
    content["videos"], content["annotations"] = content["videos"][1:], content["annotations"][:1]
    content["videos"][0]["file_names"] = [name]
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    given = None if frames_dir is None else tmp_path / frames_dir
    dataset = load_vis_dataset(path, given, check_frames=True)
    row = dataset[0]
    assert Path(row["frames_dir"], row["file_names"][0]).resolve() == tmp_path / "images" / "0.png"
    truth = read_ground_truth(path, given)
    found = _frames_of(truth["videos"][0], find_frames(path, truth, given), "video 20")
    assert [Path(frame).resolve() for frame in found] == [tmp_path / "images" / "0.png"]


def test_what_was_tried_is_told(tmp_path, caplog):
    content = ytvis_content()
    content["videos"][0]["file_names"] = [f"D:\\my\\park\\{frame}.png" for frame in range(3)]
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    told = r"has 'D:.*park.*0.png' .*, nor what it ends with, 'my/park/0.png', 'park/0.png', '0.png'; pass frames_dir"
    with pytest.raises(FileNotFoundError, match=told):
        load_vis_dataset(path)


def test_last_parts_that_are_those_of_several_frames_are_not_taken(tmp_path):
    content = ytvis_content()
    path = write_dataset(tmp_path, content)
    for folder in ("park", "home"):
        os.rename(tmp_path / "JPEGImages" / folder / "00000.png", tmp_path / f"{folder}.png")
    write_frame(tmp_path / "JPEGImages" / "00000.png")
    with pytest.raises(FileNotFoundError):  # park/00000.png and home/00000.png would be one
        load_vis_dataset(path)


def test_a_later_frame_that_would_be_another_one_is_told(tmp_path):
    content = ytvis_content()
    content["videos"], content["annotations"] = content["videos"][:1], []
    content["videos"][0]["file_names"] = ["D:/a/0.png", "D:/a/1.png", "D:/b/1.png"]
    for frame in range(2):
        write_frame(tmp_path / "JPEGImages" / f"{frame}.png")
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"in file_names, 'D:/b/1.png' and 'D:/a/1.png' both would be '1.png' below"):
        load_vis_dataset(path)


def test_a_backslash_in_the_name_of_a_file_is_kept(tmp_path):
    content = ytvis_content()
    content["videos"][1]["file_names"] = ["home\\0.png"]
    path = write_dataset(tmp_path, content)
    dataset = load_vis_dataset(path, check_frames=True)
    assert dataset[1]["file_names"] == ["home\\0.png"]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", "xmp.png"])
def test_the_size_of_the_header_is_that_of_the_frame(tmp_path, suffix, orientation):
    from PIL.PngImagePlugin import PngInfo

    path, options = tmp_path / f"frame{suffix}", {}
    if suffix == "xmp.png":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt(
            "XML:com.adobe.xmp",
            '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
            f'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{orientation}"/>'
            "</rdf:RDF></x:xmpmeta>",
        )
    else:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
    Image.fromarray(np.zeros((6, 10, 3), dtype=np.uint8)).save(path, **options)
    shown = (10, 6) if orientation > 4 else (6, 10)
    assert image_size(path) == read_image(path).shape[:2] == shown


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3)])
def test_twelve_bits_in_sixteen_are_refused_in_grey_and_in_colour(tmp_path, shape):
    import av

    values = np.full(shape, 3200, dtype=np.uint16)
    path = tmp_path / "dark.png"
    if len(shape) == 2:
        Image.fromarray(values).save(path)
    else:
        with av.open(str(path), "w", format="image2") as container:
            stream = container.add_stream("png")
            stream.height, stream.width, stream.pix_fmt = 4, 5, "rgb48be"
            frame = av.VideoFrame.from_ndarray(values, format="rgb48le").reformat(format="rgb48be")
            container.mux([*stream.encode(frame), *stream.encode(None)])
    with pytest.raises(ImageError, match="it has 16 bits, but no pixel above"):
        read_image(path)

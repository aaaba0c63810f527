import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from tests.tiny import moving_square, tiny_config, tiny_model
from transformers_msstsvis import MsstsVisImageProcessor, MsstsVisImageProcessorPil, MsstsVisVideoProcessor

BOTH = pytest.mark.parametrize("processor_class", [MsstsVisImageProcessor, MsstsVisImageProcessorPil])


def image(height: int = 48, width: int = 64) -> np.ndarray:
    return moving_square(1, height, width)[0]


@BOTH
def test_a_still_is_a_video_of_one_frame(processor_class):
    inputs = processor_class()(image(720, 1280), return_tensors="pt")
    assert inputs["pixel_values_videos"].shape == (1, 1, 3, 360, 640)
    assert inputs["pixel_mask"].shape == (1, 1, 360, 640)
    assert inputs["pixel_mask"].dtype == torch.int64
    expected = MsstsVisVideoProcessor()(image(720, 1280)[None], return_tensors="pt")["pixel_values_videos"]
    # Pillow rounds on its own; a grey value is 0.02 after normalisation.
    assert (inputs["pixel_values_videos"] - expected).abs().max() < 0.05


@BOTH
def test_images_of_different_sizes(processor_class):
    pictures = [image(32, 48), Image.fromarray(image(40, 32)), image(24, 56).transpose(2, 0, 1), image() / 255]
    inputs = processor_class()(pictures, do_resize=False, return_tensors="pt")
    assert inputs["pixel_values_videos"].shape == (4, 1, 3, 48, 64)
    assert inputs["pixel_mask"].flatten(1).sum(1).tolist() == [32 * 48, 40 * 32, 24 * 56, 48 * 64]
    for index, picture in enumerate(pictures):
        alone = processor_class()(picture, do_resize=False, return_tensors="pt")["pixel_values_videos"]
        height, width = alone.shape[-2:]
        assert torch.equal(inputs["pixel_values_videos"][index : index + 1, ..., :height, :width], alone)


@BOTH
def test_grey_and_transparent_images_become_rgb(processor_class):
    grey = Image.fromarray(np.full((8, 8), 100, dtype=np.uint8))
    clear = Image.new("RGBA", (8, 8), (100, 100, 100, 255))
    inputs = processor_class()([grey, clear], do_resize=False, do_normalize=False, return_tensors="pt")
    torch.testing.assert_close(inputs["pixel_values_videos"], torch.full((2, 1, 3, 8, 8), 100 / 255))


@BOTH
def test_padding(processor_class):
    inputs = processor_class()(image(33, 50), do_resize=False, size_divisor=32, return_tensors="pt")
    assert inputs["pixel_mask"].shape[-2:] == (64, 64)
    inputs = processor_class()(image(), do_resize=False, pad_size={"height": 50, "width": 70}, return_tensors="pt")
    assert inputs["pixel_mask"].shape[-2:] == (50, 70)
    with pytest.raises(ValueError, match=r"pad_size is \(8, 8\), but after resizing"):
        processor_class()(image(), do_resize=False, pad_size={"height": 8, "width": 8})


@BOTH
@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((8, 8, 4)), "drop an alpha channel"),
        (np.zeros((3, 8, 3)), "input_data_format="),
        (np.full((8, 8, 3), np.nan), "NaN or infinite"),
        (np.full((8, 8, 3), 300.0), r"expected 0\.\.255"),
        (np.full((8, 8, 3), -1.0), "undo a normalisation"),
        (np.zeros((0, 8, 3)), "which is empty"),
        (np.zeros((1, 3000, 3)), r"size \(1, 3000\).*less than a pixel is left"),
    ],
)
def test_errors(processor_class, picture, message):
    with pytest.raises(ValueError, match=message):
        processor_class()(picture, return_tensors="pt")


@BOTH
def test_more_errors(processor_class):
    with pytest.raises(ValueError):
        processor_class()([], return_tensors="pt")
    with pytest.raises(ValueError, match="masks are mapped back to the whole image"):
        processor_class()(image(), do_center_crop=True, crop_size={"height": 8, "width": 8})
    with pytest.raises(ValueError, match="pass do_pad=True"):
        processor_class()([image(), image(50, 60)], do_resize=False, do_pad=False, return_tensors="pt")


@BOTH
def test_round_trip_through_the_auto_class(tmp_path, processor_class):
    tiny_config().save_pretrained(tmp_path)
    processor = processor_class(size={"shortest_edge": 64, "longest_edge": 96})
    processor.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert stored["image_processor_type"] == "MsstsVisImageProcessor"
    backend = "pil" if processor_class is MsstsVisImageProcessorPil else "torchvision"
    loaded = AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
    assert type(loaded) is processor_class
    assert loaded.to_dict() == processor.to_dict()
    expected = processor(image(), return_tensors="pt")["pixel_values_videos"]
    assert torch.equal(loaded(image(), return_tensors="pt")["pixel_values_videos"], expected)


@BOTH
def test_model_and_post_processing_fit(processor_class):
    processor = processor_class(size={"shortest_edge": 48, "longest_edge": 96})
    with torch.no_grad():
        outputs = tiny_model()(**processor(image(), return_tensors="pt"))
    [result] = processor.post_process_video_instance_segmentation(outputs, target_sizes=[(48, 64)])
    assert (result.num_frames, result.size) == (1, (48, 64))
    assert len(result)


@pytest.mark.parametrize("processor", [MsstsVisImageProcessor, MsstsVisImageProcessorPil])
def test_images_are_read_as_the_frames_of_videos(processor, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its left side
    stored = np.zeros((8, 12, 3), dtype=np.uint8)
    stored[:4, :6] = 200
    Image.fromarray(stored).save(tmp_path / "turned.png", exif=exif)
    grey = np.linspace(0, 65535, 8 * 12).reshape(8, 12).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    as_they_are = processor(do_resize=False, do_normalize=False, rescale_factor=1)
    for name, shown in (
        ("turned.png", np.rot90(stored, -1)),
        ("grey.png", np.repeat(np.round(grey / 257)[..., None], 3, axis=-1)),
    ):
        with Image.open(tmp_path / name) as image:
            for given in (image, tmp_path / name, str(tmp_path / name)):
                pixels = as_they_are(given, return_tensors="pt")["pixel_values_videos"][0, 0]
                np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), shown)
    with pytest.raises(ValueError, match="floating-point numbers"):
        as_they_are(Image.fromarray(stored[..., 0].astype(np.float32)))

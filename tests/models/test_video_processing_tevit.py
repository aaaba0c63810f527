"""Preprocessing of TeViT: the resizing of OpenCV, sizes rounded half up, padding to multiples of 32."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.image_utils import PILImageResampling, SizeDict

from transformers_msstsvis import TevitImageProcessor, TevitImageProcessorPil, TevitVideoProcessor
from transformers_msstsvis.models.tevit.resizing_tevit import bilinear, rounded_size

PICTURE = torch.from_numpy((np.arange(35).reshape(5, 7) ** 2 * 37 % 256).astype(np.uint8))
# cv2.resize of OpenCV 4 of this picture to 3 x 4 and to 8 x 11 (height x width)
SMALLER = [[21, 150, 94, 109], [102, 25, 210, 147], [138, 67, 46, 75]]
LARGER = [
    [0, 17, 47, 118, 122, 77, 79, 101, 150, 100, 52],
    [9, 27, 59, 131, 137, 94, 98, 121, 172, 123, 77],
    [25, 45, 77, 142, 152, 121, 127, 149, 192, 153, 115],
    [64, 86, 106, 71, 98, 172, 180, 160, 104, 140, 177],
    [117, 140, 156, 72, 80, 155, 166, 149, 95, 133, 172],
    [182, 207, 225, 144, 96, 72, 85, 114, 164, 133, 100],
    [128, 154, 175, 96, 97, 157, 81, 64, 126, 90, 52],
    [80, 108, 130, 53, 96, 229, 83, 27, 92, 57, 20],
]


@pytest.mark.parametrize("expected", [SMALLER, LARGER], ids=["smaller", "larger"])
def test_bytes_are_resized_as_by_opencv(expected):
    size = len(expected), len(expected[0])
    assert bilinear(PICTURE[None, None].expand(2, 3, -1, -1), size)[1, 2].tolist() == expected
    floats = bilinear(PICTURE[None].float(), size)[0]
    assert (floats - torch.tensor(expected)).abs().max() <= 1
    assert bilinear(PICTURE[None], (5, 7))[0].equal(PICTURE)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [((110, 150), (360, 491)), ((150, 110), (491, 360)), ((720, 1280), (360, 640)), ((360, 1000), (230, 640))],
)
def test_sizes_are_rounded_half_up(frame, expected):
    assert rounded_size(frame, SizeDict(shortest_edge=360, longest_edge=640)) == expected


def test_frames_are_normalised_and_padded():
    frames = np.random.default_rng(0).integers(0, 256, (2, 110, 150, 3), dtype=np.uint8)
    inputs = TevitVideoProcessor()(frames, return_tensors="pt")
    assert inputs["pixel_values_videos"].shape == (1, 2, 3, 384, 512)
    mask = inputs["pixel_mask"].bool()
    assert mask[0, :, :360, :491].all()
    assert mask.sum() == 2 * 360 * 491
    assert not inputs["pixel_values_videos"].masked_select(~mask[:, :, None]).any()
    resized = bilinear(torch.from_numpy(frames).movedim(-1, 1), (360, 491)).double()
    mean, deviation = (torch.tensor(x).view(3, 1, 1) for x in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))
    given = inputs["pixel_values_videos"][0, ..., :360, :491].double()
    assert (given - (resized - mean) / deviation).abs().max() < 1e-5


def test_images_are_frames():
    picture = np.random.default_rng(0).integers(0, 256, (110, 150, 3), dtype=np.uint8)
    expected = TevitVideoProcessor()(picture[None], return_tensors="pt")["pixel_values_videos"]
    for kind in (TevitImageProcessor, TevitImageProcessorPil):
        given = kind()(Image.fromarray(picture), return_tensors="pt")["pixel_values_videos"]
        torch.testing.assert_close(given, expected, rtol=0, atol=1e-5)


def test_other_filters_and_sizes_are_those_of_every_processor():
    frames = np.random.default_rng(0).integers(0, 256, (1, 40, 60, 3), dtype=np.uint8)
    processor = TevitVideoProcessor(size={"height": 30, "width": 50}, size_divisor=None)
    plain = processor(frames, return_tensors="pt")["pixel_values_videos"]
    cubic = processor(frames, resample=PILImageResampling.BICUBIC, return_tensors="pt")["pixel_values_videos"]
    assert plain.shape == cubic.shape == (1, 1, 3, 30, 50)
    assert (plain - cubic).abs().max() > 0.01
    floats = processor(frames / 255.0, return_tensors="pt")["pixel_values_videos"]
    assert (plain - floats).abs().max() < 0.05

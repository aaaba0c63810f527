import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoVideoProcessor

from tests.tiny import moving_square, tiny_config, tiny_model, write_mp4
from transformers_msstsvis import MsstsVisVideoProcessor, SeqFormerConfig, SeqFormerVideoProcessor
from transformers_msstsvis.tracking.clips import split_clips
from transformers_msstsvis.video.reader import VideoReader

MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
AS_IS = {"do_resize": False, "do_normalize": False, "do_rescale": False}


def process(videos, **changes):
    return MsstsVisVideoProcessor()(videos, return_tensors="pt", **changes)


def frames_of(videos, **changes) -> np.ndarray:
    """The pixels that arrive at the model, back as uint8 `(T, H, W, 3)` of the first video."""
    values = process(videos, do_resize=False, do_normalize=False, **changes)["pixel_values_videos"][0]
    return (values * 255).round().byte().movedim(1, -1).numpy()


def test_defaults():
    inputs = process(moving_square(3, 720, 1280))
    assert inputs["pixel_values_videos"].shape == (1, 3, 3, 360, 640)
    assert inputs["pixel_values_videos"].dtype == torch.float32
    assert inputs["pixel_mask"].shape == (1, 3, 360, 640)
    assert inputs["pixel_mask"].dtype == torch.int64
    assert inputs["pixel_mask"].all()
    assert set(inputs) == set(MsstsVisVideoProcessor().model_input_names)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(720, 1280, (360, 640)), (640, 480, (480, 360)), (100, 400, (160, 640)), (1280, 720, (640, 360))],
)
def test_size_keeps_the_aspect_ratio(height, width, expected):
    inputs = process(np.zeros((1, height, width, 3), dtype=np.uint8))
    assert tuple(inputs["pixel_mask"].shape[2:]) == expected


def test_values_are_normalised():
    video = np.full((1, 8, 8, 3), (255, 0, 128), dtype=np.uint8)
    values = process(video, do_resize=False)["pixel_values_videos"][0, 0]
    expected = (torch.tensor([1, 0, 128 / 255])[:, None, None] - MEAN) / STD
    torch.testing.assert_close(values, expected.expand(3, 8, 8), atol=1e-5, rtol=0)


def test_resize_is_antialiased():
    """A checkerboard reduced eightfold is even grey; without antialiasing it would stay black and white."""
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    video = np.repeat(board[None, :, :, None], 3, axis=-1)
    values = process(video, size={"height": 8, "width": 8}, do_normalize=False)["pixel_values_videos"]
    assert values.min() > 0.4
    assert values.max() < 0.6


def test_every_kind_of_video_gives_the_same(tmp_path):
    video = moving_square(3)
    for number, frame in enumerate(video):
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
    paths = [str(tmp_path / f"{number}.png") for number in range(3)]
    kinds = [
        video,
        torch.from_numpy(video),
        video.transpose(0, 3, 1, 2),
        torch.from_numpy(video).movedim(-1, 1),
        [Image.fromarray(frame) for frame in video],
        list(video),
        [frame.transpose(2, 0, 1) for frame in video],
        list(torch.from_numpy(video)),
        video.astype(np.int64),
        video.astype(np.float32),
        (video / 255).astype(np.float64),
        torch.from_numpy(video / 255).half(),
        str(tmp_path),
        tmp_path,
        f"{tmp_path}/*.png",
        paths,
        [video],
        (video,),
        video[None],
    ]
    for kind in kinds:
        np.testing.assert_array_equal(frames_of(kind), video)
    # All at once, each with its own layout.
    batch = process(kinds[:16], do_resize=False, do_normalize=False)["pixel_values_videos"]
    assert batch.shape == (16, 3, 3, 48, 64)
    assert (batch - batch[0]).abs().max() < 1e-3


def test_a_file_is_decoded(tmp_path):
    path = write_mp4(tmp_path / "clip.mp4")
    np.testing.assert_array_equal(frames_of(str(path)), np.stack(list(VideoReader(path))))
    inputs = process([path, moving_square(2)], return_metadata=True)
    assert inputs["pixel_values_videos"].shape[:2] == (2, 5)
    assert inputs["video_metadata"][0].fps == 10
    assert inputs["video_metadata"][0].total_num_frames == 5
    assert (inputs["video_metadata"][1].height, inputs["video_metadata"][1].width) == (48, 64)


def test_padding_of_a_batch():
    videos = [moving_square(2, 32, 48), moving_square(4, 40, 32)]
    inputs = process(videos, do_resize=False)
    values, mask = inputs["pixel_values_videos"], inputs["pixel_mask"]
    assert values.shape == (2, 4, 3, 40, 48)
    expected = torch.zeros(2, 4, 40, 48, dtype=torch.int64)
    expected[0, :2, :32, :48] = 1
    expected[1, :4, :40, :32] = 1
    assert torch.equal(mask, expected)
    assert values[~mask.bool()[:, :, None].expand_as(values)].eq(0).all()
    for index, video in enumerate(videos):
        frames, height, width, _ = video.shape
        alone = process(video, do_resize=False)["pixel_values_videos"][0]
        assert torch.equal(values[index, :frames, :, :height, :width], alone)


def test_size_divisor():
    inputs = process(moving_square(1, 33, 50), do_resize=False, size_divisor=32)
    assert inputs["pixel_values_videos"].shape[-2:] == (64, 64)
    assert inputs["pixel_mask"].sum() == 33 * 50


def test_without_padding():
    values = process([moving_square(2), moving_square(2)], do_pad=False)
    assert "pixel_mask" not in values
    assert values["pixel_values_videos"].shape[:2] == (2, 2)
    unequal = [moving_square(2), moving_square(3)]
    assert len(MsstsVisVideoProcessor()(unequal, do_pad=False)["pixel_values_videos"]) == 2
    with pytest.raises(ValueError, match="pass do_pad=True"):
        process(unequal, do_pad=False)


def test_numpy_output():
    inputs = MsstsVisVideoProcessor()(moving_square(1), return_tensors="np")
    assert isinstance(inputs["pixel_values_videos"], np.ndarray)
    assert inputs["pixel_mask"].dtype == np.int64


def test_without_rescaling_values_stay():
    values = torch.randn(2, 3, 8, 8)
    assert torch.equal(process(values, **AS_IS)["pixel_values_videos"][0], values)


def test_sampling(tmp_path):
    video = moving_square(8)
    np.testing.assert_array_equal(frames_of(video, do_sample_frames=True, num_frames=4), video[::2])
    path = write_mp4(tmp_path / "clip.mp4", frames=8)
    decoded = np.stack(list(VideoReader(path)))
    np.testing.assert_array_equal(frames_of(path, do_sample_frames=True, num_frames=4), decoded[::2])
    np.testing.assert_array_equal(frames_of(path, do_sample_frames=True, fps=5), decoded[::2])
    given = {"do_sample_frames": True, "fps": 5, "video_metadata": [{"total_num_frames": 8, "fps": 10}]}
    np.testing.assert_array_equal(frames_of(video, **given), video[::2])


def test_fetch_videos(tmp_path):
    path = write_mp4(tmp_path / "clip.mp4")
    frames, metadata = MsstsVisVideoProcessor().fetch_videos(str(path))
    assert frames.shape == (5, 48, 64, 3)
    assert metadata.fps == 10
    several, _ = MsstsVisVideoProcessor().fetch_videos([str(path)])
    np.testing.assert_array_equal(several[0], frames)


@pytest.mark.parametrize(
    ("video", "error", "message"),
    [
        (np.zeros((8, 8)), ValueError, r"shape \(8, 8\); expected \(frames, height, width, 3\)"),
        (np.zeros((8, 8, 3)), ValueError, r"add the frame dimension of a single image with \[None\]"),
        (Image.new("RGB", (8, 8)), ValueError, "single image"),
        (np.zeros((2, 8, 9, 4)), ValueError, "drop an alpha channel"),
        (np.zeros((3, 2, 8, 9)), ValueError, "put frames before channels"),
        (np.zeros((2, 3, 8, 3)), ValueError, "input_data_format="),
        (np.zeros((0, 8, 8, 3)), ValueError, "at least one frame"),
        (np.zeros((2, 0, 8, 3)), ValueError, "which is empty"),
        ([], ValueError, "list of videos is empty"),
        ([[]], ValueError, "list of videos is empty"),
        ([np.zeros((2, 8, 8, 3)), np.zeros((8, 8, 3))], ValueError, "mixes frames with videos"),
        ([[np.zeros((2, 8, 8, 3))] * 2] * 2, ValueError, "one flat list"),
        ([np.zeros((8, 8, 3)), np.zeros((8, 9, 3))], ValueError, "expected one shape"),
        (np.full((1, 8, 8, 3), np.nan), ValueError, "NaN or infinite"),
        (np.full((1, 8, 8, 3), np.inf), ValueError, "NaN or infinite"),
        (np.full((1, 8, 8, 3), 300.0), ValueError, r"from 300 to 300; expected 0\.\.255"),
        (np.full((1, 8, 8, 3), -2.0), ValueError, "undo a normalisation"),
        (np.full((1, 8, 8, 3), 256), ValueError, r"expected 0\.\.255"),
        (np.zeros((1, 8, 8, 3), dtype=bool), ValueError, "of type torch.bool"),
        (np.zeros((1, 1, 3000, 3)), ValueError, r"size \(1, 3000\).*less than a pixel is left"),
        ("nowhere/clip.mp4", FileNotFoundError, "nowhere/clip.mp4 does not exist"),
        (7, TypeError, "of type int"),
    ],
)
def test_errors(video, error, message):
    with pytest.raises(error, match=message):
        process(video)


def test_a_channel_order_that_could_be_either():
    video = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(frames_of(video, input_data_format="channels_last"), video)
    as_first = frames_of(video, input_data_format="channels_first")
    np.testing.assert_array_equal(as_first, video.transpose(0, 2, 3, 1))
    with pytest.raises(ValueError, match="without an axis of 3 channels"):
        process(np.zeros((2, 8, 8, 3)), input_data_format="channels_first")


def test_nan_is_refused_even_without_rescaling():
    with pytest.raises(ValueError, match="NaN or infinite"):
        process(torch.full((1, 3, 8, 8), torch.nan), **AS_IS)


def test_no_frame_after_sampling():
    class Nothing(MsstsVisVideoProcessor):
        def sample_frames(self, metadata, **kwargs):
            return []

    with pytest.raises(ValueError, match="no frame is left of 2 after sampling"):
        Nothing()(moving_square(2), do_sample_frames=True)


def test_centre_crop_is_refused():
    with pytest.raises(ValueError, match="masks are mapped back to the whole frame"):
        process(moving_square(1), do_center_crop=True, crop_size={"height": 8, "width": 8})


def test_round_trip_through_the_auto_class(tmp_path):
    processor = MsstsVisVideoProcessor(size={"shortest_edge": 64, "longest_edge": 96}, size_divisor=32)
    processor.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "video_preprocessor_config.json").read_text())
    assert stored["video_processor_type"] == "MsstsVisVideoProcessor"
    loaded = AutoVideoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is MsstsVisVideoProcessor
    assert loaded.to_dict() == processor.to_dict()
    video = moving_square(2)
    expected = processor(video, return_tensors="pt")
    for name, values in loaded(video, return_tensors="pt").items():
        assert torch.equal(values, expected[name])
    assert loaded.size_divisor == 32


@pytest.mark.parametrize(
    ("config", "processor_class"),
    [(tiny_config(), MsstsVisVideoProcessor), (SeqFormerConfig(), SeqFormerVideoProcessor)],
    ids=["msstsvis", "seqformer"],
)
def test_found_by_model_type(tmp_path, config, processor_class):
    config.save_pretrained(tmp_path)
    stored = {"size": {"shortest_edge": 64, "longest_edge": 96}}
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(stored))
    assert type(AutoConfig.from_pretrained(tmp_path)) is type(config)
    assert type(AutoVideoProcessor.from_pretrained(tmp_path)) is processor_class


def test_model_and_post_processing_fit():
    processor = MsstsVisVideoProcessor(size={"shortest_edge": 48, "longest_edge": 96})
    videos = [moving_square(2, 60, 80), moving_square(3, 50, 90)]
    with torch.no_grad():
        outputs = tiny_model()(**processor(videos, return_tensors="pt"), mask_top_k=10)
    results = processor.post_process_video_instance_segmentation(outputs, target_sizes=[(60, 80), (50, 90)])
    assert [result.num_frames for result in results] == [2, 3]
    assert [result.size for result in results] == [(60, 80), (50, 90)]
    assert all(len(result) for result in results)


@pytest.mark.parametrize(
    ("clip_stride", "max_frames", "expected"),
    [(None, 36, (36, 30)), (None, 1, (1, 1)), (4, 6, (6, 4)), (4, 4, (4, 3)), (4, 3, (3, 2)), (4, 1, (1, 1))],
)
def test_clips_of_a_plan_overlap_however_short_they_are(clip_stride, max_frames, expected):
    plan = MsstsVisVideoProcessor(clip_stride=clip_stride).clip_plan(tiny_config(), max_frames)
    assert plan[:2] == expected
    for start, frames, _ in split_clips(range(9), *plan):
        assert frames == list(range(start, start + len(frames)))


def test_a_wrong_stride_of_clips():
    with pytest.raises(ValueError, match="clip_stride is -1; expected at least 1"):
        MsstsVisVideoProcessor(clip_stride=-1).clip_plan(tiny_config())

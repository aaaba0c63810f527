import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.pt_utils import KeyDataset
from transformers.utils.logging import disable_progress_bar, enable_progress_bar

from tests.tiny import moving_square, tiny_model, write_mp4
from transformers_msstsvis import (
    MsstsVisVideoProcessor,
    SeqFormerConfig,
    SeqFormerForVideoInstanceSegmentation,
    VideoInstances,
    VideoInstanceSegmentationPipeline,
    VideoReader,
    VideoWriter,
    encode_mask,
    pipelines,
    write_video,
)
from transformers_msstsvis.pipelines import SAMPLE_MODEL
from transformers_msstsvis.tracking.clips import ClipJoiner, split_clips
from transformers_msstsvis.video import reader as video_reader

TASK = "video-instance-segmentation"


def small_processor() -> MsstsVisVideoProcessor:
    return MsstsVisVideoProcessor(size={"shortest_edge": 32, "longest_edge": 64})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint")
    tiny_model().save_pretrained(path)
    small_processor().save_pretrained(path)
    return path


@pytest.fixture
def segmenter(checkpoint):
    # The masks of random weights cover each other.
    return pipeline(TASK, model=str(checkpoint), device="cpu", threshold=0.0, duplicate_iou=1)


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    messages = []
    monkeypatch.setattr(pipelines.logger, "warning", messages.append)
    monkeypatch.setattr(video_reader.logger, "warning", messages.append)
    return messages


@pytest.fixture
def calls(segmenter, monkeypatch) -> list[dict]:
    """What the model was called with, and the shape of its masks."""
    seen, forward = [], segmenter.model.forward

    def spy(**inputs):
        outputs = forward(**inputs)
        seen.append({**inputs, "masks": tuple(outputs.pred_masks.shape)})
        return outputs

    monkeypatch.setattr(segmenter.model, "forward", spy)
    return seen


def assert_same(got, expected):
    assert [track["label"] for track in got] == [track["label"] for track in expected]
    assert [track["track_id"] for track in got] == [track["track_id"] for track in expected]
    np.testing.assert_allclose([t["score"] for t in got], [t["score"] for t in expected], atol=1e-5)
    for a, b in zip(got, expected, strict=True):
        assert a["masks"] == b["masks"]


def test_registered_by_the_import():
    assert PIPELINE_REGISTRY.supported_tasks[TASK]["impl"] is VideoInstanceSegmentationPipeline


def test_the_default_model_is_the_one_of_the_package(checkpoint, monkeypatch):
    default = PIPELINE_REGISTRY.supported_tasks[TASK]["default"]
    assert Path(default["model"][0]) == SAMPLE_MODEL
    monkeypatch.setitem(default, "model", (str(checkpoint), None))
    assert len(pipeline(TASK)(moving_square(2), threshold=0.0)) > 0


def test_result_of_a_video(segmenter, calls):
    tracks = segmenter(moving_square(5))
    assert 1 <= len(tracks) <= 10
    assert set(tracks[0]) == {"score", "label", "track_id", "boxes", "masks"}
    assert [track["track_id"] for track in tracks] == list(range(1, len(tracks) + 1))
    scores = [track["score"] for track in tracks]
    assert scores == sorted(scores, reverse=True)
    for track in tracks:
        assert track["label"] in ("disk", "star", "ring")
        assert len(track["boxes"]) == len(track["masks"]) == 5
        for mask, box in zip(track["masks"], track["boxes"], strict=True):
            assert (mask is None) == (box is None)
            assert mask is None or mask["size"] == [48, 64]
    assert json.loads(json.dumps(tracks)) == tracks
    # Masks are computed only for queries that can be among the results.
    assert calls[0]["mask_top_k"] == 10
    assert calls[0]["masks"][1] == 10


def test_equals_model_and_processor_by_hand(segmenter):
    video = moving_square(4)
    with torch.no_grad():
        outputs = segmenter.model(**small_processor()(video, return_tensors="pt"))
    [expected] = small_processor().post_process_video_instance_segmentation(
        outputs, [(48, 64)], id2label=segmenter.model.config.id2label
    )
    assert_same(segmenter(video), expected.to_list())


def test_every_kind_of_video_gives_the_same(segmenter, tmp_path):
    video = moving_square(3)
    for number, frame in enumerate(video):
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
    expected = segmenter(video)
    for kind in (
        torch.from_numpy(video),
        video.transpose(0, 3, 1, 2),
        video / 255,
        [Image.fromarray(frame) for frame in video],
        list(video),
        tuple(video),
        str(tmp_path),
        tmp_path,
        f"{tmp_path}/*.png",
        [str(tmp_path / f"{number}.png") for number in range(3)],
    ):
        assert_same(segmenter(kind), expected)


def test_several_videos(segmenter, tmp_path, calls):
    videos = [moving_square(3), str(write_mp4(tmp_path / "a.mp4", 5)), list(moving_square(2))]
    alone = [segmenter(video) for video in videos]
    assert len(alone[0][0]["masks"]) == 3
    calls.clear()
    for got, expected in zip(segmenter(videos), alone, strict=True):
        assert_same(got, expected)
    assert len(calls) == 3
    calls.clear()
    for got, expected in zip(segmenter(videos, batch_size=2), alone, strict=True):
        assert_same(got, expected)
    assert [len(call["pixel_values_videos"]) for call in calls] == [2, 1]
    assert len(segmenter(np.stack([moving_square(2)] * 2))) == 2
    [only] = segmenter([videos[1]])
    assert_same(only, alone[1])


def test_videos_of_different_sizes_share_a_batch(segmenter):
    """Convolutions see the padding, so that results may differ a little from those alone, but not in their form."""
    small, large = segmenter([moving_square(2, 32, 48), moving_square(3, 64, 40)], batch_size=2)
    assert {tuple(mask["size"]) for track in small for mask in track["masks"] if mask} == {(32, 48)}
    assert {tuple(mask["size"]) for track in large for mask in track["masks"] if mask} == {(64, 40)}
    assert len(small[0]["masks"]) == 2
    assert len(large[0]["masks"]) == 3


def test_datasets_and_generators_stream(segmenter, tmp_path):
    datasets = pytest.importorskip("datasets")
    videos = [moving_square(2), moving_square(3)]
    for number, video in enumerate(videos):
        write_video(tmp_path / str(number), video)
    expected = segmenter(videos)
    read = []

    def one_by_one():
        for number, video in enumerate(videos):
            read.append(number)
            yield video

    stream = iter(segmenter(one_by_one()))
    assert_same(next(stream), expected[0])
    assert read == [0]
    assert_same(next(stream), expected[1])
    rows = datasets.Dataset.from_dict({"video": [str(tmp_path / "0"), str(tmp_path / "1")]})
    for got, track in zip(segmenter(KeyDataset(rows, "video"), batch_size=2), expected, strict=True):
        assert_same(got, track)


@pytest.mark.parametrize(
    ("frames", "num_frames", "stride", "expected"),
    [
        (3, 3, 2, [(0, [0, 1, 2], True)]),
        (4, 3, 2, [(0, [0, 1, 2], False), (2, [2, 3], True)]),
        (5, 3, 2, [(0, [0, 1, 2], False), (2, [2, 3, 4], True)]),
        (6, 4, 2, [(0, [0, 1, 2, 3], False), (2, [2, 3, 4, 5], True)]),
        (3, 1, 1, [(0, [0], False), (1, [1], False), (2, [2], True)]),
        (1, 9, 8, [(0, [0], True)]),
    ],
)
def test_split_clips(frames, num_frames, stride, expected):
    assert list(split_clips(range(frames), num_frames, stride)) == expected


@pytest.mark.parametrize(
    ("frames", "num_frames", "stride", "expected"),
    [
        (2, 3, 2, [(0, [0, 1], True)]),
        (4, 3, 2, [(0, [0, 1, 2], False), (1, [1, 2, 3], True)]),
        (6, 3, 2, [(0, [0, 1, 2], False), (2, [2, 3, 4], False), (3, [3, 4, 5], True)]),
        (7, 3, 3, [(0, [0, 1, 2], False), (3, [3, 4, 5], False), (4, [4, 5, 6], True)]),
    ],
)
def test_the_last_of_full_clips_begins_earlier(frames, num_frames, stride, expected):
    assert list(split_clips(range(frames), num_frames, stride, full=True)) == expected


@pytest.mark.parametrize("frames", [6, 7, 11, 12, 17])
def test_no_frame_of_a_long_video_is_lost(segmenter, calls, frames):
    tracks = segmenter(moving_square(frames), max_frames=6)
    assert len(tracks)
    assert {len(track["masks"]) for track in tracks} == {frames}
    assert max(call["pixel_values_videos"].shape[1] for call in calls) <= 6
    assert any(track["masks"][-1] is not None for track in tracks)
    ids = [track["track_id"] for track in tracks]
    assert sorted(ids) == list(range(1, len(tracks) + 1))


def test_one_frame_at_a_time(segmenter):
    tracks = segmenter(moving_square(3), max_frames=1)
    assert {len(track["masks"]) for track in tracks} == {3}


def test_a_long_file_is_read_as_it_is_needed(segmenter, tmp_path, monkeypatch):
    path = write_mp4(tmp_path / "long.mp4", frames=20)
    decoded, at_call = [], []
    picture, forward = video_reader.VideoReader._picture, segmenter.model.forward
    monkeypatch.setattr(
        video_reader.VideoReader, "_picture", lambda self, frame: decoded.append(0) or picture(self, frame)
    )

    def spy(**inputs):
        at_call.append(len(decoded))
        return forward(**inputs)

    monkeypatch.setattr(segmenter.model, "forward", spy)
    assert len(segmenter(path, max_frames=6)[0]["masks"]) == 20
    # Clips start every 5 frames; one frame is read ahead to know whether a clip is the last.
    assert at_call == [7, 12, 17, 20]


def test_clips_of_a_long_video_share_batches(segmenter, calls):
    video = moving_square(16)
    expected = segmenter(video, max_frames=6)
    calls.clear()
    assert_same(segmenter(video, max_frames=6, batch_size=2), expected)
    assert [len(call["pixel_values_videos"]) for call in calls] == [2, 1]


def drawn(score: float, *frames: str, label: int = 0) -> VideoInstances:
    """One instance on frames of one row of pixels."""
    masks = [encode_mask(np.array([[pixel == "#" for pixel in frame]])) for frame in frames]
    return VideoInstances(
        scores=[score],
        labels=[label],
        track_ids=[9],
        masks=[masks],
        boxes=None,
        size=(1, len(frames[0])),
        num_frames=len(frames),
        id2label={0: "cat", 1: "dog"},
    )


def join_clips(clips, threshold) -> VideoInstances:
    joiner = ClipJoiner("iou", num_frames=2, stride=1)
    for start, clip in clips:
        joiner.add(clip, start)
    return joiner.finish(threshold)


def test_a_stream(segmenter, tmp_path):
    path = write_mp4(tmp_path / "clip.mp4", 14)
    stretches = segmenter(str(path), stream=True, max_frames=6)
    first = next(stretches)
    assert isinstance(first, VideoInstances)
    assert (first.first_frame, first.num_frames, first.fps) == (0, 5, 10)
    joined = VideoInstances.join([first, *stretches])
    assert_same(joined.to_list(), segmenter(str(path), max_frames=6))
    assert [s.num_frames for s in segmenter(str(path), stream=True, latency=3)] == [3, 3, 3, 3, 2]


def test_streams_of_several_videos(segmenter, tmp_path, warnings):
    videos = [moving_square(4), str(tmp_path / "nowhere.mp4"), moving_square(9)]
    for given in (videos, (video for video in videos)):
        lengths = [[s.num_frames for s in stream] for stream in segmenter(given, stream=True, max_frames=6)]
        assert lengths == [[4], [], [5, 4]]
    assert "nowhere.mp4 ends here: " in warnings[-1]
    with pytest.raises(FileNotFoundError, match=r"nowhere.mp4 does not exist"):
        next(segmenter(videos[1], stream=True))
    for given in (videos[0], videos):
        with pytest.raises(TypeError, match="there is no argument thresh"):
            segmenter(given, stream=True, thresh=0.5)
        with pytest.raises(ValueError, match="threshold is 7; expected a score"):
            segmenter(given, stream=True, threshold=7, batch_size=2)


def test_frames_that_are_wanted(segmenter, tmp_path):
    path = write_mp4(tmp_path / "clip.mp4", 12)
    video = np.stack(list(VideoReader(path)))
    for options, expected in (
        ({"frames": "3:7"}, video[3:7]),
        ({"frame_stride": 5}, video[::5]),
        ({"fps": 5}, video[::2]),
    ):
        assert_same(segmenter(str(path), **options), segmenter(expected))
        assert_same(segmenter([str(path)], **options)[0], segmenter(expected))
    assert segmenter(str(path), fps=5, return_instances=True).fps == 5
    assert segmenter(str(path), max_side=32, return_instances=True).size == (24, 32)


def test_every_pixel_once(segmenter):
    video = moving_square(8)
    for found in (
        segmenter(video, overlap="none", max_frames=6, return_instances=True),
        VideoInstances.join(segmenter(video, overlap="none", max_frames=6, stream=True)),
    ):
        assert len(found) > 1
        assert all(found.decode(frame).sum(0).max() == 1 for frame in range(8))
    overlapping = segmenter(video, max_frames=6, return_instances=True)
    assert overlapping.decode(0).sum(0).max() > 1


def test_the_content_of_a_file(segmenter, tmp_path):
    path = write_mp4(tmp_path / "clip.mp4")
    expected = segmenter(str(path))
    assert segmenter(path.read_bytes()) == expected
    with open(path, "rb") as file:
        assert segmenter(file) == expected
    assert segmenter([path.read_bytes(), str(path)]) == [expected] * 2


def test_a_weak_clip_does_not_cut_a_track():
    clips = [(0, drawn(0.9, "##..", "##..")), (1, drawn(0.1, "##..", ".##.")), (2, drawn(0.8, ".##.", "..##"))]
    joined = join_clips(clips, threshold=0.5)
    assert len(joined) == 1
    assert joined.scores[0] == pytest.approx(0.6)
    assert ["".join(".#"[pixel] for pixel in joined.decode(frame)[0, 0].astype(int)) for frame in range(4)] == [
        "##..",
        "##..",
        ".##.",
        "..##",
    ]
    assert len(join_clips(clips, threshold=0.7)) == 0


def test_a_long_video_by_several_cues(segmenter):
    video = moving_square(11)
    [alone, *_] = segmenter(video, tracker="devis", max_frames=12)
    assert alone["score"] == pytest.approx(segmenter(video, max_frames=12)[0]["score"], abs=1e-5)
    tracks = segmenter(video, tracker="devis", max_frames=4, return_instances=True)
    assert 1 <= len(tracks) <= 10
    assert tracks.num_frames == 11
    assert tracks.track_ids.tolist() == list(range(1, len(tracks) + 1)) or len(set(tracks.track_ids)) == len(tracks)
    chosen = segmenter(video, tracker="devis", max_frames=4, classes="star", return_instances=True)
    assert chosen.scores.tolist() == tracks[tracks.labels == 1].scores.tolist()
    centred = {"center_cost": 1, "min_track_score": 0.4}
    assert len(segmenter(video, tracker="devis", max_frames=4, tracker_options=centred)) <= len(tracks)


def test_the_processor_says_what_joins_clips(checkpoint, tmp_path):
    processor = MsstsVisVideoProcessor(tracker="devis", tracker_options={"center_cost": 1})
    tiny_model().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    segmenter = pipeline(TASK, model=str(tmp_path), device="cpu")
    assert segmenter.video_processor.tracker == "devis"
    assert segmenter._clips_of()[1]._stitcher.center_cost == 1
    assert segmenter._clips_of(tracker="iou")[1]._stitcher.iou_threshold == 0.3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tracker": "sort"}, "tracker is 'sort'; expected 'iou', 'devis' or 'none'"),
        (
            {"tracker": "devis", "max_frames": 1},
            "stride is 1 with clips of 1 frames; expected a smaller one, or longer",
        ),
        (
            {"tracker": "devis", "tracker_options": {"speed": 1}},
            "tracker 'devis' has no option speed; expected some of",
        ),
        ({"tracker_options": {"mask_cost": 1}}, "tracker 'iou' has no option mask_cost; expected some of iou_thresh"),
        ({"tracker_options": "fast"}, "tracker_options is 'fast'; expected a dict of options of the tracker"),
        ({"tracker_options": {"iou_threshold": 2}}, "iou_threshold is 2; expected a value above 0 and at most 1"),
    ],
)
def test_trackers_that_there_are_not(segmenter, arguments, message):
    with pytest.raises(ValueError, match=message):
        segmenter(moving_square(2), **arguments)


def test_a_clip_that_is_damaged_by_several_cues(segmenter, monkeypatch, warnings):
    forward, clips = segmenter.model.forward, iter(range(10))

    def damaged(**inputs):
        outputs = forward(**inputs)
        if next(clips) == 1:
            outputs.logits[:] = float("nan")
        return outputs

    monkeypatch.setattr(segmenter.model, "forward", damaged)
    first, second = segmenter([moving_square(8), moving_square(3)], tracker="devis", max_frames=3)
    assert first is None
    assert second
    assert any("not one score of the model is a number" in warning for warning in warnings)


def test_ids_of_a_long_video_have_no_gaps():
    clips = [
        (0, drawn(0.1, "#...", "#...")),
        (1, drawn(0.6, "...#", "...#")),
        (2, drawn(0.9, ".#..", ".#..", label=1)),
    ]
    joined = join_clips(clips, threshold=0.5)
    assert joined.track_ids.tolist() == [2, 1]
    assert [joined.label_name(label) for label in joined.labels] == ["dog", "cat"]


def test_clips_of_a_long_video_keep_weak_instances(segmenter, monkeypatch):
    thresholds = []
    processor = segmenter.video_processor
    post_process = processor.post_process_video_instance_segmentation

    def spy(*arguments, threshold, **others):
        thresholds.append(threshold)
        return post_process(*arguments, threshold=threshold, **others)

    monkeypatch.setattr(processor, "post_process_video_instance_segmentation", spy, raising=False)
    segmenter(moving_square(3), threshold=0.4)
    segmenter(moving_square(8), threshold=0.4, max_frames=6)
    segmenter(moving_square(8), threshold=0.01, max_frames=6)
    assert thresholds == [0.4, 0.05, 0.05, 0.01, 0.01]


class Bar:
    """A progress bar that shows nothing and remembers everything; like the real one it may be switched off."""

    made: list["Bar"] = []

    def __init__(self, **options):
        self.options, self.updates, self.closed = options, [], False
        self.made.append(self)

    def update(self, count):
        self.updates.append(count)

    def close(self):
        self.closed = True


def test_progress_bar_for_long_videos_only(segmenter, monkeypatch):
    monkeypatch.setattr(Bar, "made", [])
    monkeypatch.setattr(pipelines.logging, "tqdm", Bar)
    segmenter(moving_square(6), max_frames=6)
    assert Bar.made == []
    segmenter(moving_square(14), max_frames=6)
    [bar] = Bar.made
    assert (bar.options["total"], bar.updates, bar.closed) == (14, [6, 5, 3], True)
    segmenter([moving_square(7), moving_square(2), moving_square(8)], max_frames=6, batch_size=3)
    assert [sum(bar.updates) for bar in Bar.made] == [14, 7, 8]
    assert all(bar.closed for bar in Bar.made)


def test_progress_bar_can_be_switched_off(segmenter, capsys):
    disable_progress_bar()
    try:
        assert segmenter(moving_square(8), max_frames=6)
    finally:
        enable_progress_bar()
    assert capsys.readouterr().err == ""


def test_threshold_and_top_k(segmenter):
    everything = segmenter(moving_square(2))
    threshold = everything[1]["score"]
    assert_same(segmenter(moving_square(2), threshold=threshold), everything[:2])
    assert_same(segmenter(moving_square(2), top_k=1), everything[:1])
    assert segmenter(moving_square(2), threshold=1.0) == []


def test_default_threshold(checkpoint):
    tracks = pipeline(TASK, model=str(checkpoint), device="cpu")(moving_square(2))
    assert all(track["score"] >= 0.3 for track in tracks)


def test_instances(segmenter, tmp_path):
    path = write_mp4(tmp_path / "clip.mp4", fps=10)
    instances = segmenter(path, return_instances=True)
    assert isinstance(instances, VideoInstances)
    assert (instances.fps, instances.num_frames, instances.size) == (10, 5, (48, 64))
    assert instances.id2label == {0: "disk", 1: "star", 2: "ring"}
    assert_same(instances.to_list(), segmenter(path))
    assert segmenter(path, return_instances=True, max_frames=2).fps == 10


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_a_bad_video_does_not_cost_the_others(segmenter, tmp_path, warnings, batch_size):
    (tmp_path / "text.mp4").write_text("no video")
    good = moving_square(8)
    videos = [
        good,
        "nowhere.mp4",
        tmp_path / "text.mp4",
        np.zeros((8, 8, 3)),
        np.full((2, 8, 8, 3), np.nan),
        None,
        good,
    ]
    results = segmenter(videos, batch_size=batch_size, max_frames=6)
    expected = segmenter(good, max_frames=6)
    assert_same(results[0], expected)
    assert results[1:6] == [None] * 5
    assert_same(results[6], expected)
    assert len(warnings) == 5
    assert "nowhere.mp4 is skipped, its result is None" in warnings[0]


def test_on_error(segmenter, warnings):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.mp4 does not exist"):
        segmenter("nowhere.mp4")
    with pytest.raises(FileNotFoundError):
        segmenter([moving_square(2), "nowhere.mp4"], on_error="raise")
    assert warnings == []
    assert segmenter("nowhere.mp4", on_error="skip") is None
    assert list(segmenter(path for path in ["nowhere.mp4"])) == [None]


def test_on_error_of_the_pipeline(checkpoint, warnings):
    strict = pipeline(TASK, model=str(checkpoint), device="cpu", on_error="raise")
    with pytest.raises(FileNotFoundError):
        strict(["nowhere.mp4"])
    assert pipeline(TASK, model=str(checkpoint), device="cpu", on_error="skip")("nowhere.mp4") is None


def test_a_damaged_file_is_used_up_to_the_damage(segmenter, tmp_path, warnings):
    path = tmp_path / "clip.mp4"
    with VideoWriter(path) as writer:
        for frame in np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8):
            writer.write(frame)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + len(content) // 4] = bytes(len(content) // 4)
    path.write_bytes(content)
    tracks = segmenter(path)
    assert 1 < len(tracks[0]["masks"]) < 40
    assert "breaks off" in warnings[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 1.5}, "threshold is 1.5; expected a score from 0 to 1"),
        ({"mask_threshold": 0.0}, "mask_threshold is 0.0; expected a probability"),
        ({"top_k": 0}, "top_k is 0; expected at least 1"),
        ({"max_frames": 0}, "max_frames is 0; expected at least 1"),
        ({"max_frames": 2.5}, "max_frames is 2.5; expected at least 1, and a whole number"),
        ({"on_error": "ignore"}, "on_error is 'ignore'; expected 'raise' or 'skip'"),
    ],
)
def test_arguments_out_of_range(segmenter, arguments, message):
    with pytest.raises(ValueError, match=message):
        segmenter(moving_square(1), **arguments)


def test_an_empty_list_is_an_error(segmenter):
    with pytest.raises(ValueError, match="list of videos is empty"):
        segmenter([])


def test_an_unknown_argument_is_refused_with_the_known_ones(segmenter):
    with pytest.raises(TypeError, match=r"no argument treshold; expected some of boxes, classes, .*threshold, top_k"):
        segmenter(moving_square(2), treshold=0.5)


def test_classes(segmenter):
    every = segmenter(moving_square(3))
    for classes in (["star", "ring"], [1, 2], ("ring", 1)):
        got = segmenter(moving_square(3), classes=classes)
        assert [(t["label"], t["score"]) for t in got] == [
            (t["label"], t["score"]) for t in every if t["label"] in ("star", "ring")
        ]
    assert {track["label"] for track in segmenter(moving_square(3), classes="star")} == {"star"}


def test_boxes_are_those_of_the_masks_or_of_the_model(segmenter):
    of_masks = segmenter(moving_square(2), return_instances=True)
    of_model = segmenter(moving_square(2), return_instances=True, boxes="model")
    assert of_masks.masks == of_model.masks
    for track in of_masks.present(0):
        rows, columns = np.nonzero(of_masks.decode(0)[track])
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert of_masks.boxes[track, 0].tolist() == box
    assert not np.array_equal(of_masks.boxes, of_model.boxes, equal_nan=True)


def test_each_object_once_by_default(checkpoint):
    segmenter = pipeline(TASK, model=str(checkpoint), device="cpu", threshold=0.0)
    every = segmenter(moving_square(3), duplicate_iou=1, return_instances=True)
    once = segmenter(moving_square(3), return_instances=True)
    assert 0 < len(once) < len(every)
    assert once.track_ids.tolist() == list(range(1, len(once) + 1))
    assert once.scores[0] == every.scores[0]  # the better one stays


class ByIndex(torch.utils.data.Dataset):
    """Has a length, and raises nothing beyond it."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return {"video": moving_square(2)}


def test_a_dataset_by_index_ends_at_its_length(segmenter):
    assert len(list(segmenter(KeyDataset(ByIndex(), "video")))) == 3


def test_a_model_without_numbers_says_so(segmenter, warnings):
    for head in segmenter.model.class_embed:
        torch.nn.init.constant_(head.bias, float("nan"))
    with pytest.raises(ValueError, match="not one score of the model is a number; its weights are damaged"):
        segmenter(moving_square(2))
    assert segmenter([moving_square(2)]) == [None]
    assert "not one score" in warnings[-1]


@pytest.mark.parametrize("threshold", [0.0, 1.0])  # also if nothing was found in them
def test_ctrl_c_hands_over_the_clips_that_are_finished(segmenter, monkeypatch, threshold):
    forward, calls = segmenter.model.forward, []

    def stopped(**inputs):
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return forward(**inputs)

    monkeypatch.setattr(segmenter.model, "forward", stopped)
    with pytest.raises(pipelines.VideoInterrupted) as stop:
        segmenter(moving_square(16), max_frames=6, threshold=threshold)
    assert stop.value.instances.num_frames == 11
    assert (len(stop.value.instances) > 0) == (threshold == 0)


def test_addresses_can_be_limited_to_public_ones(segmenter, warnings):
    address = "http://127.0.0.1:9/clip.mp4"  # refused before anything is connected
    with pytest.raises(OSError, match=r"127\.0\.0\.1 is not a public address"):
        segmenter(address, public_urls=True)
    assert segmenter([address], public_urls=True) == [None]
    assert "not a public address" in warnings[-1]


def test_save_and_load(segmenter, tmp_path):
    segmenter.model.config.custom_pipelines = {TASK: {"impl": "elsewhere.Pipeline", "pt": ["AutoModel"]}}
    segmenter.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert "custom_pipelines" not in config
    assert not list(tmp_path.glob("*.py"))
    loaded = pipeline(TASK, model=str(tmp_path), device="cpu", threshold=0.0, duplicate_iou=1)
    assert loaded.video_processor.size["shortest_edge"] == 32
    assert_same(loaded(moving_square(3)), segmenter(moving_square(3)))


def test_seqformer_in_bfloat16(tmp_path):
    values = {name: value for name, value in tiny_model().config.to_diff_dict().items() if name != "model_type"}
    values.update(encoder_temporal_attention=False, decoder_temporal_attention=False)
    config = SeqFormerConfig(**values)
    SeqFormerForVideoInstanceSegmentation(config).save_pretrained(tmp_path)
    small_processor().save_pretrained(tmp_path)
    segmenter = pipeline(TASK, model=str(tmp_path), device="cpu", dtype="bfloat16", threshold=0.0)
    assert segmenter.model.dtype == torch.bfloat16
    assert all(len(track["masks"]) == 2 for track in segmenter(moving_square(2)))


def test_import_is_light():
    heavy = ["timm", "av", "supervision", "matplotlib", "datasets", "cv2", "transformers_msstsvis.results.drawing"]
    code = f"import sys, transformers_msstsvis; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_public_name_exists():
    import transformers_msstsvis

    for name in transformers_msstsvis.__all__:
        assert getattr(transformers_msstsvis, name) is not None
    assert set(transformers_msstsvis.__all__) <= set(dir(transformers_msstsvis))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        transformers_msstsvis.nothing  # noqa: B018

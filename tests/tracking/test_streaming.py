import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from tests.models.testers import model_of
from tests.test_pipelines import small_processor
from tests.tiny import moving_square, tiny_model
from transformers_msstsvis import DevisVideoProcessor, VideoInstances, VideoReader, VistrVideoProcessor
from transformers_msstsvis.tracking import StreamingPredictor
from transformers_msstsvis.tracking.clip_record import ClipRecord

SIZE = {"shortest_edge": 32, "longest_edge": 64}


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def predictor(model, **options) -> StreamingPredictor:
    return StreamingPredictor(model, small_processor(), **{"threshold": 0.0, "duplicate_iou": 1.0, **options})


def whole(model, video, processor=None, **options) -> VideoInstances:
    """What the pipeline finds, which joins everything at the end."""
    segmenter = pipeline("video-instance-segmentation", model=model, video_processor=processor or small_processor())
    options = {"threshold": 0.0, "duplicate_iou": 1.0, **options}
    return segmenter(video, return_instances=True, **options)


def assert_same(streamed: VideoInstances, expected: VideoInstances) -> None:
    """But for ids, which the pipeline gives by score where there is one clip only."""
    assert streamed.num_frames == expected.num_frames
    np.testing.assert_allclose(streamed.scores, expected.scores, rtol=1e-6)
    assert streamed.labels.tolist() == expected.labels.tolist()
    for masks, others in zip(streamed.masks, expected.masks, strict=True):
        assert masks == others
    np.testing.assert_array_equal(streamed.boxes, expected.boxes)


@pytest.mark.parametrize("tracker", ["iou", "devis", "none"])
@pytest.mark.parametrize("frames", [1, 5, 6, 7, 11, 12, 23])
def test_the_stretches_together_are_the_video(model, tracker, frames):
    video = moving_square(frames)
    stretches = list(predictor(model, max_frames=6, tracker=tracker).stream(video))
    assert [stretch.first_frame for stretch in stretches] == [0, *np.cumsum([s.num_frames for s in stretches[:-1]])]
    assert_same(VideoInstances.join(stretches), whole(model, video, max_frames=6, tracker=tracker))


@pytest.mark.parametrize("name", ["vistr", "devis"])
@pytest.mark.parametrize("extra", [-1, 0, 1, 9])
def test_models_of_one_clip_length_stream_too(name, extra):
    model = model_of(name)
    processor = {"vistr": VistrVideoProcessor, "devis": DevisVideoProcessor}[name](size={"shortest_edge": 32})
    video = moving_square(model.config.num_frames + extra)
    streaming = StreamingPredictor(model, processor, threshold=0.0, duplicate_iou=1.0)
    stretches, waiting = [], []
    for number, frame in enumerate(video):
        if (stretch := streaming.push(frame)) is not None:
            stretches.append(stretch)
            waiting.append(number - stretch.first_frame)
    assert max(waiting, default=0) <= streaming.latency
    stretches.append(streaming.flush())
    expected = whole(model, video, processor)
    assert len(expected) > 0
    assert_same(VideoInstances.join(stretches), expected)


@pytest.mark.parametrize(
    ("options", "latency"), [({}, 35), ({"max_frames": 6}, 5), ({"latency": 3}, 3), ({"latency": 0}, 0)]
)
def test_no_frame_waits_longer_than_the_latency(model, options, latency):
    streaming = predictor(model, **options)
    assert streaming.latency == latency
    longest, done = 0, 0
    for number, frame in enumerate(moving_square(80, 16, 24)):
        stretch = streaming.push(frame)
        if stretch is not None:
            assert stretch.first_frame == done
            longest, done = max(longest, number - done), done + stretch.num_frames
    assert longest == latency
    rest = streaming.flush()
    assert done + (rest.num_frames if rest is not None else 0) == 80
    assert streaming.flush() is None


def test_a_latency_that_the_model_cannot_keep():
    model, processor = model_of("devis"), DevisVideoProcessor(size={"shortest_edge": 32})
    least = StreamingPredictor(model, processor).latency
    assert StreamingPredictor(model, processor, latency=least).latency == least
    with pytest.raises(ValueError, match=f"latency is 2; expected at least {least} with the clips of .* devis knows"):
        StreamingPredictor(model, processor, latency=2)


def test_stretches_come_while_the_video_goes_in(model):
    """A camera of thirty frames a second: what comes out does so before the camera ends."""
    seen, came = [], []

    def camera():
        for number, frame in enumerate(moving_square(20)):
            time.sleep(1 / 30)
            seen.append(number)
            yield frame

    for stretch in predictor(model, latency=4).stream(camera()):
        came.append((stretch.first_frame, seen[-1]))
    assert came[0][1] == 4
    assert len(came) >= 4
    assert all(last - first <= 4 for first, last in came)


def test_kinds_of_frames(model):
    video = moving_square(3)
    expected = VideoInstances.join(predictor(model).stream(video))
    for frames in ([Image.fromarray(frame) for frame in video], iter(video), torch.from_numpy(video)):
        assert VideoInstances.join(predictor(model).stream(frames)).to_list() == expected.to_list()


def test_a_camera_may_write_into_the_same_memory(model):
    video, buffer = moving_square(9), np.empty((48, 64, 3), np.uint8)
    streaming, found = predictor(model, max_frames=4), []
    for frame in video:
        buffer[:] = frame
        found.append(streaming.push(buffer))
    found = [stretch for stretch in (*found, streaming.flush()) if stretch is not None]
    assert [stretch.to_list() for stretch in found] == [
        s.to_list() for s in predictor(model, max_frames=4).stream(video)
    ]


def test_every_video_has_its_own_rate(model):
    streaming = predictor(model)
    rates = [next(iter(streaming.stream(VideoReader(moving_square(2), fps=fps)))).fps for fps in (10, 30)]
    assert rates == [10, 30]


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([np.zeros((48, 64), np.uint8)], r"the frame has shape \(48, 64\) and type uint8; expected RGB"),
        ([np.zeros((48, 64, 3))], r"type float64; expected RGB, uint8 \(height, width, 3\)"),
        ([*moving_square(1), *moving_square(1, 32, 64)], r"the frame has size \(32, 64\); expected \(48, 64\)"),
    ],
)
def test_frames_that_are_none(model, frames, message):
    with pytest.raises(ValueError, match=message):
        list(predictor(model).stream(frames))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latency": -1}, "latency is -1; expected at least 0"),
        ({"threshold": 2}, "threshold is 2; expected a score"),
        ({"overlap": "some"}, "overlap is 'some'; expected 'any' or 'none'"),
        ({"tracker": "sort"}, "tracker is 'sort'; expected 'iou', 'devis' or 'none'"),
        ({"classes": "dog"}, "the model has no class dog"),
        ({"max_frames": 0}, "max_frames is 0; expected at least 1"),
    ],
)
def test_options_out_of_range(model, options, message):
    with pytest.raises(ValueError, match=message):
        StreamingPredictor(model, small_processor(), **options)


def test_scores_that_are_no_numbers_are_told(model):
    broken = tiny_model()
    with torch.no_grad():
        for head in broken.class_embed:
            head.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="the video: not one score of the model is a number"):
        list(predictor(broken).stream(moving_square(3)))


def test_a_predictor_serves_one_video_after_the_other(model):
    streaming = predictor(model, max_frames=4)
    first = [stretch.to_list() for stretch in streaming.stream(moving_square(9))]
    again = [stretch.to_list() for stretch in streaming.stream(moving_square(9))]
    assert first == again
    assert VideoInstances.join(streaming.stream(moving_square(2, 32, 32))).size == (32, 32)


def test_nothing_is_held_of_a_long_video(model):
    """Frames, masks and what is known of tracks that are over: as much after 300 frames as after 60."""

    def held(streaming) -> tuple[int, ...]:
        stitcher, selection = streaming._joiner._stitcher, streaming._selection
        tracks = [*stitcher._open, *stitcher._closed]
        observed = sum(len(track.frames) for track in tracks)
        return len(streaming._window._frames), observed, len(selection._numbers), len(selection._shared)

    streaming = predictor(model, max_frames=6, duplicate_iou=0.5, tracker_options={"max_absence": 10})
    sizes = []
    for frame in np.concatenate([moving_square(20, 16, 24)] * 15):
        if streaming.push(frame) is not None:
            sizes.append(held(streaming))
    early, late = np.max(sizes[8:12], axis=0), np.max(sizes[12:], axis=0)
    assert (late <= 1.2 * early + 2).all()


def test_two_predictors_share_a_model(model):
    """Of two cameras each has its own tracks, also in threads."""
    expected = [stretch.to_list() for stretch in predictor(model, max_frames=4).stream(moving_square(12))]
    found: dict[int, list] = {}

    def work(number: int) -> None:
        found[number] = [s.to_list() for s in predictor(model, max_frames=4).stream(moving_square(12))]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: expected, 1: expected}


class Broken(Exception):
    pass


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_record_goes_on_where_it_was_stopped(model, tmp_path, after):
    """With the same numbers, and without what was done before being done again."""
    video = moving_square(25)
    expected = [stretch.to_list() for stretch in predictor(model, max_frames=6).stream(video)]
    settings = {"model": "tiny"}
    stopped = predictor(model, max_frames=6, record=ClipRecord(tmp_path / "a.jsonl", settings))
    found_in, calls = stopped.found_in, []

    def found_until(clip):
        if len(calls) == after:
            raise Broken
        calls.append(clip.start)
        return found_in(clip)

    stopped.found_in = found_until
    with pytest.raises(Broken):
        list(stopped.stream(video))
    with open(tmp_path / "a.jsonl", "a") as file:
        file.write('{"video": {"id"')  # cut while it was written
    again = predictor(model, max_frames=6, record=ClipRecord(tmp_path / "a.jsonl", settings, resume=True))
    found_in, starts = again.found_in, []

    def found(clip):
        starts.append(clip.start)
        return found_in(clip)

    again.found_in = found
    assert [stretch.to_list() for stretch in again.stream(video)] == expected
    assert starts == [0, 5, 10, 15, 20][after:]
    complete = predictor(model, max_frames=6, record=ClipRecord(tmp_path / "a.jsonl", settings, resume=True))
    complete.found_in = None  # nothing is left to be found
    assert [stretch.to_list() for stretch in complete.stream(video)] == expected
    complete.record.close(finished=True)
    assert not list(tmp_path.iterdir())


def test_records_that_do_not_fit(model, tmp_path):
    path = tmp_path / "a.jsonl"
    record = ClipRecord(path, {"model": "a", "options": {"top_k": 3}})
    list(predictor(model, record=record).stream(moving_square(3)))
    record.close()
    with pytest.raises(ValueError, match=r"can't go on with other settings: model was 'a' and is 'b'. Use the same"):
        ClipRecord(path, {"model": "b", "options": {"top_k": 3}}, resume=True)
    again = ClipRecord(path, {"model": "a", "options": {"top_k": 3}}, resume=True)
    with pytest.raises(ValueError, match=r"a.jsonl is the record of another video"):
        list(predictor(model, record=again).stream(moving_square(4)))
    with pytest.raises(ValueError, match="tracker is 'devis', which needs more of a clip than a record keeps"):
        predictor(model, tracker="devis", record=again)
    ClipRecord(path, {"options": {"frames": slice(1, 3)}}).close()
    ClipRecord(path, {"options": {"frames": slice(1, 3)}}, resume=True).close()
    path.write_text("[]\n")
    with pytest.raises(ValueError, match=r"a.jsonl is no record of an unfinished run; remove it"):
        ClipRecord(path, {"model": "a"}, resume=True)

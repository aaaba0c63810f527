"""Results hold only the stretch in which a track lives; stretches of videos are cut and joined."""

import itertools
import json
import tracemalloc

import numpy as np
import pytest

from transformers_msstsvis.results.json_lines import read_json_lines
from transformers_msstsvis.results.line_format import frame_lines, header_line
from transformers_msstsvis.results.rle import encode_mask
from transformers_msstsvis.results.track_masks import TrackMasks
from transformers_msstsvis.results.video_instances import VideoInstances

SIZE = (6, 8)


def mask(x: int, y: int = 1):
    pixels = np.zeros(SIZE, dtype=bool)
    pixels[y : y + 3, x : x + 3] = True
    return encode_mask(pixels)


def result(tracks: dict[int, list[int | None]], scores=None, labels=None, scored=True, **values) -> VideoInstances:
    """Tracks by id, each a place x or None for every frame."""
    number, num_frames = len(tracks), len(next(iter(tracks.values())))
    of_frames = [[0.25 + frame / 64 for frame in range(num_frames)] for _ in tracks]
    return VideoInstances(
        scores=scores or [0.9 - index / 10 for index in range(number)],
        labels=labels or [index % 2 for index in range(number)],
        track_ids=list(tracks),
        masks=[[None if x is None else mask(x) for x in places] for places in tracks.values()],
        boxes=None,
        size=SIZE,
        num_frames=num_frames,
        fps=12.5,
        id2label={0: "cat", 1: "dog"},
        frame_scores=of_frames if scored else None,
        **values,
    )


N = None
VIDEO = {3: [N, 0, 1, N, N, 2, N], 5: [4, N, N, N, N, N, N], 9: [N, N, N, N, N, N, 1], 2: [0, 1, 2, 3, 4, 5, 5]}


def assert_same(a: VideoInstances, b: VideoInstances) -> None:
    for name in ("scores", "labels", "track_ids", "boxes", "frame_scores"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    for name in ("masks", "size", "num_frames", "fps", "id2label", "first_frame"):
        assert getattr(a, name) == getattr(b, name), name


# Masks of a track


@pytest.mark.parametrize("places", [[N, 1, N, 2, N, N], [1], [N, N], [], [1, 2, 3]])
def test_the_masks_of_a_track_are_a_list(places):
    plain = [None if x is None else mask(x) for x in places]
    masks = TrackMasks(plain)
    assert masks == plain
    assert plain == masks
    assert list(masks) == plain
    assert len(masks) == len(plain)
    assert [masks[t] for t in range(len(plain))] == plain
    assert list(masks.visible()) == [(t, rle) for t, rle in enumerate(plain) if rle is not None]
    for cut in (slice(1, 4), slice(-2, None), slice(None, None, 2), slice(4, 1), slice(None, None, -1)):
        assert masks[cut] == plain[cut]
        assert isinstance(masks[cut], TrackMasks)
    assert masks != [*plain, None]
    assert masks != [*plain[:-1], mask(0, 0)]
    with pytest.raises(IndexError):
        masks[len(plain)]


def test_a_stretch_takes_its_place_in_the_video():
    masks = TrackMasks([None, mask(0), None, mask(1), None], start=10, num_frames=20)
    assert (masks.start, masks.stop, len(masks)) == (11, 14, 20)
    assert masks == [*[None] * 11, mask(0), None, mask(1), *[None] * 6]
    assert masks[-7] == mask(1)
    assert masks[12] is None
    with pytest.raises(ValueError, match="5 masks were given for the frames from 16 on of 20"):
        TrackMasks([None] * 5, start=16, num_frames=20)


# What is held


def test_absent_frames_take_no_memory_and_no_json(tmp_path):
    def measure(num_frames: int) -> tuple[int, int]:
        path = tmp_path / "tracks.json"
        masks = [mask(x) for x in (0, 1, 2, 1)]
        tracemalloc.start()
        tracks = [TrackMasks(masks, start * (num_frames - 4) // 200, num_frames) for start in range(200)]
        video = VideoInstances([0.5] * 200, [0] * 200, range(200), tracks, None, SIZE, num_frames)
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        video.save_json(path)
        assert VideoInstances.load_json(path).masks == video.masks
        return held, path.stat().st_size

    (short, short_file), (long, long_file) = measure(1_000), measure(100_000)
    assert long < 1.1 * short
    assert long_file < 1.1 * short_file


def test_rows_of_a_stretch_are_those_of_all_frames():
    whole = result(VIDEO)
    spans = [slice(masks.start, masks.stop) for masks in whole.masks]
    again = VideoInstances(
        whole.scores,
        whole.labels,
        whole.track_ids,
        whole.masks,
        [boxes[span] for boxes, span in zip(whole.boxes, spans, strict=True)],
        SIZE,
        7,
        12.5,
        whole.id2label,
        [scores[span] for scores, span in zip(whole.frame_scores, spans, strict=True)],
    )
    assert_same(again, whole)
    with pytest.raises(ValueError, match=r"boxes has shape \(4, 3, 4\); expected \(4, 7, 4\)"):
        VideoInstances(
            whole.scores, whole.labels, whole.track_ids, whole.masks, np.zeros((4, 3, 4)), SIZE, 7, frame_scores=None
        )


def test_scores_of_frames_are_zero_where_an_instance_is_absent():
    scores = result(VIDEO).frame_scores
    assert [[score > 0 for score in row] for row in scores] == [
        [place is not None for place in places] for places in VIDEO.values()
    ]
    assert scores[0, 5] == np.float32(0.25 + 5 / 64)


def test_boxes_of_a_frame_are_those_of_the_visible_instances():
    video = result(VIDEO)
    for frame in range(7):
        np.testing.assert_array_equal(video.boxes_at(frame), video.boxes[video.present(frame), frame])
    assert video.boxes_at(3).shape == (1, 4)
    assert result({1: [N]}).boxes_at(0).shape == (0, 4)
    with pytest.raises(ValueError, match="read-only"):
        video.boxes[0, 1] = 0


# Cutting and joining


def test_frames_cuts_a_stretch():
    cut = result(VIDEO).frames(3, 6)
    assert (cut.track_ids.tolist(), cut.num_frames, cut.first_frame) == ([3, 2], 3, 3)
    assert cut.masks == [[None, None, mask(2)], [mask(3), mask(4), mask(5)]]
    np.testing.assert_array_equal(cut.boxes, result(VIDEO).boxes[[0, 3], 3:6])
    assert cut.frame_scores.tolist() == result(VIDEO).frame_scores[[0, 3], 3:6].tolist()
    assert cut.frames(1, 3).first_frame == 4
    assert len(result(VIDEO).frames(3, 3)) == 0
    for wrong in ((4, 3), (-1, 2), (0, 8)):
        with pytest.raises(ValueError, match="expected some of 0 to 7"):
            result(VIDEO).frames(*wrong)


@pytest.mark.parametrize("cuts", [[0, 7], [0, 3, 7], [0, 1, 2, 3, 4, 5, 6, 7], [0, 3, 3, 7]])
@pytest.mark.parametrize("first_frame", [0, 100])
@pytest.mark.parametrize("scored", [True, False])
def test_joining_the_stretches_of_a_video_gives_it_back(cuts, first_frame, scored):
    video = result(VIDEO, first_frame=first_frame, scored=scored)
    chunks = [video.frames(start, stop) for start, stop in itertools.pairwise(cuts)]
    joined = VideoInstances.join(iter(chunks))
    if scored:
        assert_same(joined, video)
    else:
        assert joined.frame_scores is None
        assert joined.masks == video.masks


def test_score_and_label_are_those_of_the_last_stretch_with_the_instance():
    chunks = [
        result({1: [0, 1], 2: [N, 3]}, scores=[0.9, 0.2], labels=[0, 1]),
        result({1: [1, N], 2: [4, N]}, scores=[0.5, 0.7], labels=[1, 0], first_frame=2),
        result({1: [N, N], 2: [4, 4]}, scores=[0.99, 0.7], labels=[0, 0], first_frame=4),
    ]
    joined = VideoInstances.join(chunks)
    assert joined.track_ids.tolist() == [2, 1]
    assert joined.scores.tolist() == np.float32([0.7, 0.5]).tolist()
    assert joined.labels.tolist() == [0, 1]
    assert joined.masks[1] == [mask(0), mask(1), mask(1), None, None, None]


def test_equal_scores_are_ordered_by_id():
    chunks = [result({7: [1], 4: [2]}, scores=[0.5, 0.5]), result({1: [0]}, scores=[0.5], first_frame=1)]
    assert VideoInstances.join(chunks).track_ids.tolist() == [1, 4, 7]


def test_only_stretches_that_follow_each_other_are_joined():
    video = result(VIDEO)
    with pytest.raises(ValueError, match="begins at frame 4; expected frame 3"):
        VideoInstances.join([video.frames(0, 3), video.frames(4, 7)])
    with pytest.raises(ValueError, match="begins at frame 0; expected frame 7"):
        VideoInstances.join([video, video])
    other = VideoInstances([], [], [], [], None, (4, 4), 1, first_frame=7)
    with pytest.raises(ValueError, match=r"size \(4, 4\); expected \(6, 8\)"):
        VideoInstances.join([video, other])
    with pytest.raises(ValueError, match="no stretch"):
        VideoInstances.join([])
    with pytest.raises(TypeError, match="of type str; expected VideoInstances"):
        VideoInstances.join(["a"])


# Files


def test_the_first_frame_is_kept_in_json(tmp_path):
    video = result(VIDEO, first_frame=40)
    video.save_json(tmp_path / "video.json")
    assert_same(VideoInstances.load_json(tmp_path / "video.json"), video)
    tracks = json.loads((tmp_path / "video.json").read_text())["tracks"]
    assert [(track["first_frame"], len(track["masks"])) for track in tracks] == [(41, 5), (40, 1), (46, 1), (40, 7)]


def test_files_with_an_entry_for_every_frame_are_read(tmp_path):
    video = result(VIDEO)
    document = {
        "video": {"id": 1, "height": 6, "width": 8, "length": 7, "fps": 12.5},
        "categories": [{"id": 1, "label": 0, "name": "cat"}, {"id": 2, "label": 1, "name": "dog"}],
        "results": video.to_ytvis(1),
    }
    (tmp_path / "older.json").write_text(json.dumps(document))
    assert_same(VideoInstances.load_json(tmp_path / "older.json"), video)


@pytest.mark.parametrize("places", [VIDEO, {1: [N, N]}, {1: [2]}])
def test_the_youtube_vis_list_is_expanded_in_the_file(tmp_path, places):
    video = result(places)
    video.save_ytvis_json(tmp_path / "results.json", video_id="a")
    assert json.loads((tmp_path / "results.json").read_text()) == video.to_ytvis("a")
    video[:0].save_ytvis_json(tmp_path / "results.json")
    assert json.loads((tmp_path / "results.json").read_text()) == []


def write_lines(path, chunks, **values) -> None:
    path.write_text(
        header_line(chunks[0], **values) + "".join(line for chunk in chunks for line in frame_lines(chunk))
    )


@pytest.mark.parametrize("first_frame", [0, 100])
@pytest.mark.parametrize("num_frames", [1, 2, 7, 64])
def test_json_lines_are_read_back(tmp_path, num_frames, first_frame):
    video = result(VIDEO, first_frame=first_frame, scores=[1 / 3, 2 / 3, 0.1, 0.2])
    path = tmp_path / "video.jsonl"
    write_lines(path, [video.frames(0, 4), video.frames(4, 7)])
    stretches = list(read_json_lines(path, num_frames))
    assert [stretch.num_frames for stretch in stretches] == {1: [1] * 7, 2: [2, 2, 2, 1], 7: [7], 64: [7]}[num_frames]
    assert_same(VideoInstances.join(stretches), VideoInstances.join([video]))
    assert_same(VideoInstances.load_json(path), VideoInstances.join([video]))


def test_json_lines_without_frames_are_an_empty_result(tmp_path):
    path = tmp_path / "video.jsonl"
    write_lines(path, [result(VIDEO).frames(0, 0)])
    loaded = VideoInstances.load_json(path)
    assert (len(loaded), loaded.num_frames, loaded.size, loaded.fps) == (0, 0, SIZE, 12.5)


def test_wherever_a_file_of_json_lines_is_cut_its_whole_frames_are_read(tmp_path):
    video = result(VIDEO)
    path = tmp_path / "video.jsonl"
    write_lines(path, [video])
    content = path.read_bytes()
    ends = [place for place, byte in enumerate(content) if byte == ord("\n")]
    for cut in range(ends[0], len(content), 97):
        path.write_bytes(content[:cut])
        whole = sum(end <= cut for end in ends) - 1  # a line is whole without its end, too
        loaded = VideoInstances.load_json(path)
        assert loaded.num_frames == max(whole, 0)
        assert_same(loaded, VideoInstances.join([video.frames(0, loaded.num_frames)]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [lines[0], *lines[2:]], "line 2: a stretch of the video begins at frame 1; expected frame 0"),
        (lambda lines: [*lines[:3], b"{]\n", *lines[3:]], "line 4 is no JSON"),
        (lambda lines: [lines[0], b'{"frame": 0}\n'], "line 2: 'instances' is missing"),
        (lambda lines: [lines[0], lines[1].replace(b'"score"', b'"scor"')], "line 2: 'score' is missing"),
        (lambda lines: [lines[0], b"7\n"], "line 2"),
    ],
)
def test_broken_json_lines_are_told(tmp_path, change, message):
    path = tmp_path / "video.jsonl"
    write_lines(path, [result(VIDEO)])
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(ValueError, match=message) as error:
        VideoInstances.load_json(path)
    assert str(path) in str(error.value)

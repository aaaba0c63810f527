import numpy as np
import pytest

from transformers_msstsvis.results.rle import encode_mask
from transformers_msstsvis.results.video_instances import VideoInstances
from transformers_msstsvis.tracking.track_selection import TrackSelection, suppress_duplicates


def video(*tracks: tuple[float, list[str]]) -> VideoInstances:
    """Tracks of a score and a row of pixels for each frame."""
    masks = [[encode_mask(np.array([[pixel == "#" for pixel in row]])) for row in rows] for _, rows in tracks]
    return VideoInstances(
        scores=[score for score, _ in tracks],
        labels=range(len(tracks)),
        track_ids=range(1, len(tracks) + 1),
        masks=masks,
        boxes=None,
        size=(1, 8),
        num_frames=len(tracks[0][1]),
    )


LONG = [".####...", "..####..", "...####."]


@pytest.mark.parametrize(
    ("rows", "stays"),
    [
        (LONG, False),
        (["........", "..####..", "........"], False),  # the same object for a while
        ([".###....", "..###...", "...###.."], False),  # three quarters of it
        ([".##.....", "..##....", "...##..."], True),  # a part, IoU 0.5
        ([".....###", "......##", ".......#"], True),  # another object
        ([".####...", "......##", "#......."], True),  # met once
        (["########", "########", "########"], True),  # all around it, IoU 0.5
    ],
)
def test_a_lower_track_of_the_same_object_goes(rows, stays):
    for scores in ((0.9, 0.5), (0.5, 0.9)):
        tracks = [(max(scores), LONG), (min(scores), rows)]
        given = video(*(tracks if scores[0] > scores[1] else tracks[::-1]))
        kept = suppress_duplicates(given)
        assert sorted(kept.scores, reverse=True) == pytest.approx(sorted(scores, reverse=True)[: 1 + stays])
        assert len(suppress_duplicates(given, 1)) == 2


def test_only_tracks_that_stay_suppress_others():
    # The third is like the second, which goes, and not like the first.
    first, second, third = ["####...."], [".####..."], ["..####.."]
    assert suppress_duplicates(video((0.9, first), (0.8, second), (0.7, third))).labels.tolist() == [0, 2]


def test_frames_without_a_track():
    gone = [LONG[0], "........", LONG[2]]
    assert suppress_duplicates(video((0.9, gone), (0.8, gone))).labels.tolist() == [0]


def stretch(start: int, *tracks: tuple[int, float, list[str]]) -> VideoInstances:
    """Tracks with their ids, from frame `start` on."""
    found = video(*((score, rows) for _, score, rows in tracks))
    found.track_ids = np.array([track for track, *_ in tracks])
    found.first_frame = start
    return found


def test_a_track_is_shown_from_the_threshold_on_with_one_id():
    selection = TrackSelection(threshold=0.5)
    ids = [selection(stretch(0, (7, 0.4, ["#......."]), (8, 0.6, ["......##"]))).track_ids.tolist()]
    ids.append(selection(stretch(1, (7, 0.55, ["#......."]), (8, 0.6, ["......##"]))).track_ids.tolist())
    ids.append(selection(stretch(2, (7, 0.45, ["#......."]))).track_ids.tolist())  # shown, so it stays
    ids.append(selection(stretch(3, (8, 0.6, ["......##"]))).track_ids.tolist())
    assert ids == [[1], [1, 2], [2], [1]]


def test_duplicates_are_known_over_stretches():
    """By what they share so far; what is shown is not given up for one that scores better now."""
    selection = TrackSelection(duplicate_iou=0.5)
    ids = []
    for start, first, second in (
        (0, "####....", "........"),
        (1, "####....", ".####..."),
        (2, "####....", ".####..."),
    ):
        found = stretch(start, (1, 0.6, [first]), (2, 0.7, [second]))
        ids.append(selection(found).track_ids.tolist())
    assert ids == [[1], [1], [1]]
    apart = TrackSelection(duplicate_iou=0.5)
    assert apart(stretch(0, (1, 0.6, ["####...."] * 2), (2, 0.7, ["....####", "####...."]))).track_ids.tolist() == [
        2,
        1,
    ]


def test_what_is_over_is_forgotten():
    selection = TrackSelection(duplicate_iou=0.5)
    for start in range(20):
        selection(stretch(start, (start, 0.6, ["####...."]), (start + 1, 0.5, ["....####"])), alive=[start + 1])
        assert set(selection._areas) == set(selection._numbers) == {start + 1}
        assert len(selection._shared) <= 1


def test_nothing_and_one():
    assert len(suppress_duplicates(video((0.9, LONG))[:0])) == 0
    assert len(suppress_duplicates(video((0.9, LONG)))) == 1

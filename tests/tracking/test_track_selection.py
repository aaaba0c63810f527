import numpy as np
import pytest

from transformers_msstsvis.results.rle import encode_mask
from transformers_msstsvis.results.video_instances import VideoInstances
from transformers_msstsvis.tracking.track_selection import suppress_duplicates


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


def test_nothing_and_one():
    assert len(suppress_duplicates(video((0.9, LONG))[:0])) == 0
    assert len(suppress_duplicates(video((0.9, LONG)))) == 1

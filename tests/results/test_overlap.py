import numpy as np
import pytest

from transformers_msstsvis.results.overlap import without_overlap
from transformers_msstsvis.results.rle import encode_mask
from transformers_msstsvis.results.video_instances import VideoInstances

from .test_stretches import VIDEO, mask, result


def place_of(video: VideoInstances, frame: int) -> list[list[int]]:
    """The columns that each instance covers in row 1."""
    return [np.flatnonzero(pixels[1]).tolist() for pixels in video.decode(frame)]


def test_the_higher_score_is_in_front():
    video = result({1: [0], 2: [2], 3: [4]}, scores=[0.5, 0.9, 0.7])
    found = without_overlap(video)
    assert place_of(found, 0) == [[0, 1], [2, 3, 4], [5, 6]]
    assert found.boxes[:, 0].tolist() == [[0, 1, 2, 4], [2, 1, 5, 4], [5, 1, 7, 4]]
    for name in ("scores", "labels", "track_ids", "frame_scores"):
        np.testing.assert_array_equal(getattr(found, name), getattr(video, name))
    assert (found.size, found.fps, found.id2label) == (video.size, video.fps, video.id2label)
    assert place_of(video, 0) == [[0, 1, 2], [2, 3, 4], [4, 5, 6]]  # as it was


def test_at_equal_scores_the_smaller_id_is_in_front():
    assert place_of(without_overlap(result({9: [0], 4: [1]}, scores=[0.5, 0.5])), 0) == [[0], [1, 2, 3]]


def test_masks_without_a_pixel_left_are_none():
    video = result({1: [0, 1, 5, 0], 2: [0, 1, 1, 0]}, scores=[0.2, 0.9], first_frame=8)
    found = without_overlap(video)
    assert found.masks == [[None, None, mask(5), None], [mask(0), mask(1), mask(1), mask(0)]]
    assert np.isnan(found.boxes[0, [0, 1, 3]]).all()
    assert found.frame_scores[0].tolist() == [0, 0, video.frame_scores[0, 2], 0]
    assert (found.first_frame, found.num_frames) == (8, 4)
    gone = without_overlap(result({1: [0], 2: [0]}, scores=[0.2, 0.9]))
    assert gone.masks == [[None], [mask(0)]]


def test_boxes_of_untouched_masks_stay():
    video = result({1: [0, 0], 2: [5, 1]}, scores=[0.9, 0.2])
    boxes = np.full((2, 2, 4), 0.5)
    video = VideoInstances(video.scores, video.labels, [1, 2], video.masks, boxes, (6, 8), 2)
    assert without_overlap(video).boxes.tolist() == [[[0.5] * 4] * 2, [[0.5] * 4, [3, 1, 4, 4]]]


def test_nothing_to_do_gives_the_same():
    apart = result({1: [0, None], 2: [4, 4]})
    assert without_overlap(apart) is apart
    assert len(without_overlap(result(VIDEO)[:0])) == 0


@pytest.mark.parametrize("seed", range(5))
def test_every_pixel_goes_to_the_front_one(seed):
    random = np.random.default_rng(seed)
    pixels = random.random((6, 4, 9, 11)) < random.random((6, 4, 1, 1))
    scores = random.choice([0.25, 0.5, 0.75], 6)
    tracks = random.permutation(6)
    masks = [[encode_mask(frame) for frame in track] for track in pixels]
    found = without_overlap(VideoInstances(scores, [0] * 6, tracks, masks, None, (9, 11), 4))
    expected = np.zeros_like(pixels)
    taken = np.zeros_like(pixels[0])
    for index in np.lexsort((tracks, -scores)):
        expected[index] = pixels[index] & ~taken
        taken |= pixels[index]
    for frame in range(4):
        np.testing.assert_array_equal(found.decode(frame), expected[:, frame])

"""Videos of 8x8 pixels, in which squares of 2x2 pixels move; each is a query with one class."""

import numpy as np
import pytest
import torch

from transformers_msstsvis import VideoInstanceSegmentationOutput
from transformers_msstsvis.results import candidates
from transformers_msstsvis.tracking import DevisTracker, MultiCueStitcher

SIZE = (8, 8)


def outputs(*queries, frame_scores=True, num_frames=6, num_labels=3) -> VideoInstanceSegmentationOutput:
    """Of queries `(label, score, column)`; score and column hold for all frames, or are lists of one for each."""
    Q = len(queries)
    probability = torch.full((1, num_frames, Q, num_labels), 1e-6)
    masks, boxes = torch.full((1, Q, num_frames, *SIZE), -20.0), torch.zeros(1, Q, num_frames, 4)
    for query, (label, scores, columns) in enumerate(queries):
        columns = [columns] * num_frames if isinstance(columns, int) else columns
        probability[0, :, query, label] = torch.as_tensor(scores, dtype=torch.float32).expand(num_frames)
        for frame, column in enumerate(columns):
            masks[0, query, frame, 2:4, column : column + 2] = 20.0
            boxes[0, query, frame] = torch.tensor([(column + 1) / 8, 3 / 8, 2 / 8, 2 / 8])
    return VideoInstanceSegmentationOutput(
        logits=probability.mean(1).logit(),
        frame_logits=probability.logit() if frame_scores else None,
        pred_boxes=boxes,
        pred_masks=masks,
        frame_sizes=torch.full((1, num_frames, 2), 8),
    )


def track(*clips, num_out=2, **options):
    tracker = DevisTracker(num_out=num_out, **options)
    for clip in clips:
        tracker.add(clip, SIZE)
    return tracker, tracker.finish()


def columns(instances) -> list[list[int | None]]:
    """Where each track begins in every frame."""
    return [[None if np.isnan(x) else int(x) for x in boxes[:, 0]] for boxes in instances.boxes]


def test_a_track_continues_where_its_masks_are():
    _, found = track(outputs((0, 0.9, 0), (0, 0.8, 5)), outputs((0, 0.8, 5), (0, 0.9, 0)))
    assert columns(found) == [[0] * 10, [5] * 10]
    assert found.track_ids.tolist() == [1, 2]
    np.testing.assert_allclose(found.scores, [0.9, 0.8], atol=1e-5)
    assert found.frame_scores.shape == (2, 10)


def test_the_class_decides_where_the_masks_tell_nothing():
    first, second = outputs((0, 0.9, 0), (1, 0.8, 0)), outputs((1, 0.9, 0), (0, 0.8, 0))
    _, found = track(first, second)
    assert found.labels.tolist() == [0, 1]
    _, found = track(first, second, class_cost=0)
    np.testing.assert_allclose(found.frame_scores[:, -1], [0.9, 0.8], atol=1e-5)


def test_the_place_decides_where_it_is_asked_for():
    # The second object jumps between the clips to where no mask was.
    first, second = outputs((0, 0.9, 0), (0, 0.8, 4)), outputs((0, 0.8, 2), (0, 0.9, 6))
    _, found = track(first, second)
    assert [row[-1] for row in columns(found)] == [6, 2]
    _, found = track(first, second, score_cost=0, center_cost=1)
    assert [row[-1] for row in columns(found)] == [2, 6]


def test_the_higher_score_decides_in_shared_frames_and_the_earlier_clip_at_equal_ones():
    first = outputs((0, [0.5] * 4 + [0.5, 0.9], 0), num_frames=6)
    second = outputs((0, [0.5, 0.95] + [0.7] * 4, 2))
    _, found = track(first, second, num_out=1)
    assert columns(found) == [[0] * 5 + [2] * 5]
    np.testing.assert_allclose(found.frame_scores[0], [0.5] * 5 + [0.95] + [0.7] * 4, atol=1e-5)


def test_all_pairs_are_matched_however_far_apart():
    _, found = track(outputs((0, 0.9, 0)), outputs((1, 0.2, 6)), num_out=1)
    assert columns(found) == [[0] * 6 + [6] * 4]


def test_within_classes_what_is_left_over_ends_or_starts_a_track():
    _, found = track(outputs((0, 0.9, 0)), outputs((1, 0.8, 0)), num_out=1, per_class_matching=True)
    assert columns(found) == [[0] * 6 + [None] * 4, [None] * 4 + [0] * 6]
    assert found.labels.tolist() == [0, 1]


def test_a_clip_that_shows_fewer_pairs_ends_the_others():
    _, found = track(outputs((0, 0.9, 0), (0, 0.8, 4), num_labels=1), outputs((0, 0.8, 4), num_labels=1))
    assert columns(found) == [[0] * 6 + [None] * 4, [4] * 10]


def test_a_track_is_absent_where_it_scores_next_to_nothing():
    clip = outputs((0, [0.9] * 3 + [0.0001] * 3, 0))
    _, found = track(clip, num_out=1)
    assert columns(found) == [[0, 0, 0, None, None, None]]
    assert found.scores[0] == pytest.approx(0.9)
    assert len(track(clip, num_out=1, min_detections=4)[1]) == 0
    assert len(track(clip, num_out=1, min_track_score=0.95)[1]) == 0


def test_the_last_clip_may_share_more_frames():
    tracker = DevisTracker(num_out=1)
    plan = tracker.plan(9)
    assert plan == [([0, 1, 2, 3, 4, 5], 0), ([3, 4, 5, 6, 7, 8], 1)]
    for frames, start_idx in plan:
        tracker.add(outputs((0, 0.9, [min(frame, 6) for frame in frames])), SIZE, start_idx)
    assert columns(tracker.finish()) == [[0, 1, 2, 3, 4, 5, 6, 6, 6]]


@pytest.mark.parametrize(
    ("length", "frames"),
    [
        (1, [[0] * 6]),
        (2, [[0, 1, 0, 1, 0, 1]]),
        (4, [[0, 1, 2, 3, 2, 1]]),
        (6, [[0, 1, 2, 3, 4, 5]]),
        (10, [[*range(6)], [*range(4, 10)]]),
        (11, [[*range(6)], [*range(4, 10)], [*range(5, 11)]]),
    ],
)
def test_the_clips_of_a_video(length, frames):
    assert [clip for clip, _ in DevisTracker().plan(length)] == frames


def test_a_model_without_scores_of_frames_has_those_of_the_video():
    _, found = track(outputs((0, [0.2, 0.4] * 3, 0), frame_scores=False), num_out=1)
    assert found.scores[0] == pytest.approx(0.3, abs=1e-5)
    assert found.frame_scores is None


def test_the_class_no_object_is_left_out():
    clip = outputs((0, 0.9, 0))
    clip.frame_logits = torch.tensor([0.3, 0.5, 0.1, 0.1]).log().expand(1, 6, 1, 4)
    _, found = track(clip, num_out=1)
    assert found.labels.tolist() == [1]
    assert found.scores[0] == pytest.approx(0.5)


def test_masks_of_chosen_queries():
    clip = outputs((0, 0.1, 0), (1, 0.9, 2), (2, 0.8, 4))
    clip.pred_masks, clip.mask_query_indices = clip.pred_masks[:, [2, 1]], torch.tensor([[2, 1]])
    _, found = track(clip)
    assert found.labels.tolist() == [1, 2]
    assert columns(found) == [[2] * 6, [4] * 6]
    clip.mask_label_indices = torch.tensor([[2, 1]])
    _, pairs = track(clip)
    assert pairs.labels.tolist() == found.labels.tolist()
    assert pairs.masks == found.masks


def test_masks_of_enough_queries_will_do():
    clip = outputs((0, 0.5, 0), (0, 0.5, 2), (0, 0.5 + 1e-6, 4))
    clip.pred_masks, clip.mask_query_indices = clip.pred_masks[:, :2], torch.tensor([[0, 1]])
    assert sorted(columns(track(clip)[1])) == [[0] * 6, [2] * 6]
    with pytest.raises(ValueError, match="masks were computed for 2 queries, but others are among the 3 best pairs"):
        track(clip, num_out=3)


def test_scores_that_are_not_numbers_are_left_out(monkeypatch):
    warnings = []
    monkeypatch.setattr(candidates.logger, "warning", warnings.append)
    clip = outputs((0, 0.9, 0), (0, 0.8, 4), num_labels=1)
    clip.frame_logits[0, 2, 0] = float("nan")
    _, found = track(outputs((0, 0.8, 4), num_labels=1), clip)
    assert columns(found) == [[4] * 10]
    assert len(warnings) == 1


def test_soft_masks_are_kept_of_shared_frames_only():
    tracker = DevisTracker(num_out=2)
    for clip in range(5):
        tracker.add(outputs((0, 0.9, 0), (0, 0.8, 5)), SIZE)
        soft = {
            index: frame.logits
            for track in tracker._tracks
            for index, frame in track.frames.items()
            if frame.logits is not None
        }
        assert sorted(soft) == [4 * clip + 4, 4 * clip + 5]
        assert all(logits.untyped_storage().nbytes() <= 2 * 2 * 64 * 4 for logits in soft.values())


def test_released_frames_are_forgotten():
    whole, parts = DevisTracker(num_out=1), DevisTracker(num_out=1)
    clips = [outputs((0, 0.5 + 0.1 * clip, clip)) for clip in range(4)]
    released = []
    for clip in clips:
        whole.add(clip, SIZE)
        parts.add(clip, SIZE)
        released.append(parts.release(parts.num_frames - parts.overlap))
        assert len(parts._tracks[0].frames) == 2
    released.append(parts.finish())
    expected = whole.finish()
    assert [part.num_frames for part in released] == [4, 4, 4, 4, 2]
    assert [mask for part in released for mask in part.masks[0]] == expected.masks[0]
    assert released[-1].scores[0] == pytest.approx(expected.scores[0])
    with pytest.raises(ValueError, match="of which 18 are released; expected it to share the last 2 and go on"):
        parts.add(clips[0], SIZE)


def test_released_frames_count_for_score_and_label():
    clips = [outputs((0, 0.9, 0), num_labels=3), outputs((1, [0.95] * 2 + [0.4] * 4, 0)), outputs((1, 0.5, 0))]
    for options in ({}, {"final_class": "score_weighting", "final_score": "median", "min_detections": 14}):
        whole, parts = DevisTracker(num_out=1, **options), DevisTracker(num_out=1, **options)
        for clip in clips:
            whole.add(clip, SIZE)
            parts.add(clip, SIZE)
            parts.release(parts.num_frames - 2)
        found, expected = parts.finish(), whole.finish()
        assert found.labels.tolist() == expected.labels.tolist()
        np.testing.assert_allclose(found.scores, expected.scores)
    assert parts.finish().num_frames == 0


def test_an_ended_track_is_forgotten_once_it_is_released():
    tracker = DevisTracker(num_out=1, per_class_matching=True)
    for label in (0, 1, 2):
        tracker.add(outputs((label, 0.9, 0)), SIZE)
        found = tracker.release(tracker.num_frames - 2)
        assert found.track_ids.tolist() == ([1, 2, 3][max(0, label - 1) : label + 1])
    assert [track.track_id for track in tracker._tracks] == [3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_out": 0}, "num_out is 0; expected at least 1, and a whole number"),
        ({"stride": 6}, "stride is 6 with clips of 6 frames; expected a smaller one"),
        ({"num_frames": 2.5}, "num_frames is 2.5; expected at least 1, and a whole number"),
        ({"mask_cost": -1}, "mask_cost is -1; expected a number from 0 on"),
        ({"min_track_score": "high"}, "min_track_score is 'high'; expected a number from 0 on"),
        ({"final_class": "first"}, "final_class is 'first'; expected 'most_common' or 'score_weighting'"),
        ({"final_score": "max"}, "final_score is 'max'; expected 'mean' or 'median'"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        DevisTracker(**options)


def test_clips_that_do_not_fit():
    tracker = DevisTracker(num_out=1)
    with pytest.raises(ValueError, match="no clip was added"):
        tracker.finish()
    with pytest.raises(ValueError, match="length is 0; expected at least 1, and a whole number"):
        tracker.plan(0)
    with pytest.raises(TypeError, match="outputs are of type dict without pred_boxes and pred_masks; expected what"):
        tracker.add({}, SIZE)
    clip = outputs((0, 0.9, 0))
    two = VideoInstanceSegmentationOutput(**{name: torch.cat([clip[name]] * 2) for name in clip})
    with pytest.raises(ValueError, match="outputs are of 2 clips; expected one"):
        tracker.add(two, SIZE)
    for size in ((8, 0), (8,), "large"):
        with pytest.raises(ValueError, match=r"size is .*; expected \(height, width\) of the video in pixels"):
            tracker.add(clip, size)
    stitcher = MultiCueStitcher()
    with pytest.raises(TypeError, match="clip is of type str; expected ClipTracks"):
        stitcher.add("clip", 0)
    tracker.add(outputs((0, 0.9, 0)), SIZE)
    with pytest.raises(ValueError, match=r"clip has frames of size \(4, 4\); expected \(8, 8\)"):
        tracker.add(outputs((0, 0.9, 0)), (4, 4))
    with pytest.raises(ValueError, match="expected it to share the last 2 and go on: add clips in order"):
        tracker.add(outputs((0, 0.9, 0)), SIZE, start_idx=4)
    with pytest.raises(ValueError, match="stop is 7; expected 0 to 6"):
        tracker.release(7)

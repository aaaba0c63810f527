import json

import pytest

from tests.metrics.test_ytvis_map import LEFT, RIGHT, WIDE, guess, truth
from transformers_msstsvis.metrics.short_long import compute_short_long
from transformers_msstsvis.metrics.ytvis_map import YtvisMeanAveragePrecision, evaluate_ytvis


def moved(entry, video_id):
    return {**entry, "video_id": video_id}


def three_videos():
    """A short video found exactly, a long one found roughly (IoU 4/6), another long one not found."""
    ground_truth = truth([LEFT])
    annotation, video = ground_truth["annotations"][0], ground_truth["videos"][0]
    ground_truth["videos"] = [{**video, "id": video_id} for video_id in (1, 2, 3)]
    ground_truth["annotations"] = [{**moved(annotation, video_id), "id": video_id} for video_id in (1, 2, 3)]
    predictions = [guess(LEFT), moved(guess(WIDE), 2), moved(guess(RIGHT, score=0.1), 3)]
    return ground_truth, predictions


def only(ground_truth, predictions, *video_ids):
    part = {key: [e for e in ground_truth[key] if e.get("video_id", e["id"]) in video_ids] for key in ("annotations",)}
    part["videos"] = [video for video in ground_truth["videos"] if video["id"] in video_ids]
    return ground_truth | part, [p for p in predictions if p["video_id"] in video_ids]


def evaluated(ground_truth, predictions):
    metric = YtvisMeanAveragePrecision(ground_truth)
    metric.update(predictions)
    return metric


@pytest.mark.parametrize("form", ["ids", "dict", "ids in a file", "annotations in a file"])
def test_mean_of_two_evaluations(form, tmp_path):
    ground_truth, predictions = three_videos()
    long_videos = only(ground_truth, predictions, 2, 3)[0] if "dict" in form or "annotations" in form else [2, 3]
    if "file" in form:
        (tmp_path / "long.json").write_text(json.dumps(long_videos))
        long_videos = tmp_path / "long.json"
    result = compute_short_long(evaluated(ground_truth, predictions), long_videos)
    assert result["short"] == evaluate_ytvis(*only(ground_truth, predictions, 1))
    assert result["long"] == evaluate_ytvis(*only(ground_truth, predictions, 2, 3))
    assert result["AP_S"] == result["short"]["AP"] == pytest.approx(1)
    # 4 of 10 thresholds are at most 4/6; half of the objects is found: 51 of 101 recalls.
    assert result["AP_L"] == result["long"]["AP"] == pytest.approx(0.4 * 51 / 101)
    assert result["AP"] == (result["AP_S"] + result["AP_L"]) / 2


def test_no_ground_truth_on_one_side():
    ground_truth, predictions = three_videos()
    ground_truth["annotations"] = ground_truth["annotations"][:1]
    result = compute_short_long(evaluated(ground_truth, predictions), [2, 3])
    assert (result["AP"], result["AP_L"]) == (-1, -1)
    assert result["AP_S"] == pytest.approx(1)


def test_bad_long_videos():
    metric = evaluated(*three_videos())
    with pytest.raises(ValueError, match="of 3 videos, 0 are given as long; expected some long and some short"):
        compute_short_long(metric, [])
    with pytest.raises(ValueError, match="of 3 videos, 3 are given as long"):
        compute_short_long(metric, [1, 2, 3])
    with pytest.raises(ValueError, match=r"video_ids has 1 ids without a video, e.g. \[9\]; expected some of 3 ids"):
        compute_short_long(metric, [1, 9])

"""The offline YouTube-VIS and OVIS metric equals the official evaluators.

The cases in `tests/fixtures/golden/metric` hold ground truth, predictions and what the official evaluators return.
"""

import copy
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as mask_utils

from transformers_msstsvis.metrics.ytvis_map import YtvisMeanAveragePrecision, evaluate_ytvis, read_tracks

RTOL = 1e-9  # the official values themselves vary by 1.5e-15 between versions of numpy
GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden" / "metric"
YTVIS_CASES = [
    "a_perfect",
    "b_noisy",
    "c_crowd",
    "d_over_100",
    "e_empty",
    "f_unannotated_video",
    "g_ties",
    "h_areas",
    "i_odd_but_legal",
]
OVIS_CASE = "j_ovis_occlusion"
YTVIS_NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
ARRAYS = ("precision", "recall", "scores")


def load(case):
    return json.loads((GOLDEN / f"{case}.json").read_text())


def evaluated(case, **kwargs):
    metric = YtvisMeanAveragePrecision(case["ground_truth"], **kwargs)
    metric.update(case["predictions"])
    return metric


def numbers(result):
    return {name: value for name, value in result.items() if isinstance(value, float)}


def assert_same(actual, expected):
    """Every number, per category and every entry of the curves, bit for bit."""
    assert numbers(actual) == numbers(expected)
    assert actual["per_category"] == expected["per_category"]
    for name in ARRAYS:
        np.testing.assert_array_equal(actual[name], expected[name])


def by_video(ground_truth):
    """One small ground truth per video, in file order."""
    for video in ground_truth["videos"]:
        annotations = [a for a in ground_truth["annotations"] if a["video_id"] == video["id"]]
        yield {"videos": [video], "annotations": annotations, "categories": ground_truth["categories"]}


def predictions_of(case, references):
    ids = {video["id"] for video in references["videos"]}
    return [prediction for prediction in case["predictions"] if prediction["video_id"] in ids]


# ------------------------------------------------------------------------------------------------- official values


@pytest.mark.parametrize("name", YTVIS_CASES)
def test_official_numbers(name):
    case = load(name)
    result = evaluate_ytvis(case["ground_truth"], case["predictions"])
    expected = case["expected"]
    assert list(result) == [*YTVIS_NAMES, "per_category"]
    assert numbers(result) == pytest.approx(expected["stats"], rel=RTOL, abs=0)
    per_category = {str(category_id): values for category_id, values in result["per_category"].items()}
    assert per_category.keys() == expected["per_category"].keys()
    for category_id, values in expected["per_category"].items():
        assert per_category[category_id] == pytest.approx(values, rel=RTOL, abs=0)


@pytest.mark.parametrize("name", YTVIS_CASES)
def test_official_curves(name):
    case = load(name)
    metric = evaluated(case)
    result = metric.compute(return_arrays=True)
    expected = case["expected"]
    assert metric.video_ids == expected["video_ids"]
    assert metric.category_ids == result["category_ids"] == expected["category_ids"]
    for array in ARRAYS:
        values, summary = result[array], expected[array]
        assert list(values.shape) == summary["shape"]
        assert (values == -1).sum() == summary["n_minus_one"]
        assert values[values > -1].sum() == pytest.approx(summary["sum_valid"], rel=RTOL)
        weights = np.arange(values.size) % 997 + 1
        assert (values.ravel() * weights).sum() == pytest.approx(summary["weighted_sum"], rel=RTOL)
    for sample in expected["precision"]["samples"]:
        index = tuple(sample["index"])
        assert result["precision"][index] == pytest.approx(sample["value"], rel=RTOL, abs=0)
        assert result["scores"][index] == pytest.approx(sample["score"], rel=RTOL, abs=0)
    for sample in expected["recall"]["samples"]:
        assert result["recall"][tuple(sample["index"])] == pytest.approx(sample["value"], rel=RTOL, abs=0)


def test_official_precision_curve():
    case = load("b_noisy")
    result = evaluated(case).compute(return_arrays=True)
    curve = case["expected"]["precision_curve"]
    k = result["category_ids"].index(curve["category_id"])
    for threshold, expected in curve["precision"].items():
        t = np.flatnonzero(np.isclose(result["iou_thresholds"], float(threshold))).item()
        np.testing.assert_allclose(result["precision"][t, :, k, 0, -1], expected, rtol=RTOL)


@pytest.mark.parametrize("name", YTVIS_CASES)
def test_official_iou_tables_and_areas(name):
    case = load(name)
    metric = YtvisMeanAveragePrecision()
    metric.update(case["predictions"], case["ground_truth"])
    expected = case["expected"]
    for table in expected["iou_tables"]:
        tracks = metric.tracks[table["video_id"]][table["category_id"]]
        # Long tables hold the best predictions and the first annotations only.
        rows, columns = np.shape(table["iou"])
        assert tracks.annotation_ids[:columns].tolist() == table["gt_ids"]
        np.testing.assert_allclose(tracks.iou[:rows, :columns], table["iou"], rtol=RTOL)
        scores = [case["predictions"][row]["score"] for row in table["prediction_rows"]]
        assert tracks.scores[:rows].tolist() == scores

    annotation_areas = {}
    for tracks in itertools.chain(*(video.values() for video in metric.tracks.values())):
        annotation_areas |= dict(zip(tracks.annotation_ids.tolist(), tracks.annotation_areas.tolist(), strict=True))
    for annotation_id, area in expected.get("gt_avg_area", {}).items():
        assert annotation_areas[int(annotation_id)] == pytest.approx(area, rel=RTOL, abs=0)

    for position, area in expected.get("prediction_avg_area", {}).items():
        prediction = case["predictions"][int(position)]
        same = [
            row
            for row, other in enumerate(case["predictions"])
            if (other["video_id"], other["category_id"]) == (prediction["video_id"], prediction["category_id"])
        ]
        rank = sorted(same, key=lambda row: -case["predictions"][row]["score"]).index(int(position))
        tracks = metric.tracks[prediction["video_id"]][prediction["category_id"]]
        assert tracks.prediction_areas[rank] == pytest.approx(area, rel=RTOL, abs=0)


def test_official_ovis():
    case = load(OVIS_CASE)
    metric = evaluated(case, ovis=True)
    result = metric.compute(return_arrays=True)
    expected = case["expected"]
    assert list(numbers(result)) == list(expected["stats"])
    assert len(expected["stats"]) == 18
    assert numbers(result) == pytest.approx(expected["stats"], rel=RTOL, abs=0)
    assert list(result["precision"].shape) == expected["counts"]
    for array in ("precision", "recall"):
        assert list(result[array].shape) == expected[array]["shape"]
        assert (result[array] == -1).sum() == expected[array]["n_minus_one"]
        assert result[array][result[array] > -1].sum() == pytest.approx(expected[array]["sum_valid"], rel=RTOL)
    occlusion = {}
    for tracks in itertools.chain(*(video.values() for video in metric.tracks.values())):
        occlusion |= dict(zip(tracks.annotation_ids.astype(str).tolist(), tracks.occlusion.tolist(), strict=True))
    assert occlusion == pytest.approx(expected["occlusion_score"], rel=RTOL, abs=0)


def test_ovis_data_with_the_youtube_vis_metric():
    case = load(OVIS_CASE)
    result = evaluate_ytvis(case["ground_truth"], case["predictions"])
    assert numbers(result) == pytest.approx(case["expected"]["youtube_vis_stats"], rel=RTOL, abs=0)


# ------------------------------------------------------------------------------------- order, grouping, merging, paths


@pytest.mark.parametrize(("name", "ovis"), [("b_noisy", False), ("g_ties", False), (OVIS_CASE, True)])
def test_streaming_one_video_at_a_time_equals_one_shot_in_any_order(name, ovis):
    case = load(name)
    expected = evaluated(case, ovis=ovis).compute(return_arrays=True)
    videos = list(by_video(case["ground_truth"]))
    for order in (videos, videos[::-1], videos[1::2] + videos[::2]):
        metric = YtvisMeanAveragePrecision(ovis=ovis)
        for references in order:
            metric.update(predictions_of(case, references), references)
        assert_same(metric.compute(return_arrays=True), expected)


def test_updates_of_several_videos_with_a_list_of_references():
    case = load("b_noisy")
    videos = list(by_video(case["ground_truth"]))
    metric = YtvisMeanAveragePrecision()
    for batch in (videos[:5], videos[5:]):
        metric.update([p for references in batch for p in predictions_of(case, references)], batch)
    assert_same(metric.compute(return_arrays=True), evaluated(case).compute(return_arrays=True))


@pytest.mark.parametrize("name", ["b_noisy", "g_ties"])
@pytest.mark.parametrize("streaming", [True, False])
def test_merge_equals_single_process(name, streaming):
    case = load(name)
    expected = evaluated(case).compute(return_arrays=True)
    videos = list(by_video(case["ground_truth"]))
    for order in itertools.permutations(range(3)):
        processes = []
        for rank in range(3):
            metric = YtvisMeanAveragePrecision(None if streaming else case["ground_truth"])
            for references in videos[rank::3]:
                metric.update(predictions_of(case, references), references if streaming else None)
            processes.append(metric)
        first, *others = (processes[rank] for rank in order)
        for other in others:
            assert first.merge(other) is first
        assert_same(first.compute(return_arrays=True), expected)


def test_a_video_repeated_by_a_padding_sampler_counts_once():
    case = load("b_noisy")
    videos = list(by_video(case["ground_truth"]))
    ranks = [YtvisMeanAveragePrecision(), YtvisMeanAveragePrecision()]
    for rank, share in zip(ranks, (videos[::2], [*videos[1::2], videos[0]]), strict=True):
        for references in share:
            rank.update(predictions_of(case, references), references)
    assert_same(ranks[1].merge(ranks[0]).compute(True), evaluated(case).compute(True))


def test_reset():
    case = load("b_noisy")
    metric = evaluated(case)
    before = metric.compute(return_arrays=True)
    metric.reset()
    assert metric.compute()["AP"] == 0.0  # all objects are missed
    metric.update(case["predictions"])
    assert_same(metric.compute(return_arrays=True), before)


def test_paths(tmp_path):
    case = load("c_crowd")
    for name in ("ground_truth", "predictions"):
        (tmp_path / f"{name}.json").write_text(json.dumps(case[name]))
    result = evaluate_ytvis(tmp_path / "ground_truth.json", str(tmp_path / "predictions.json"))
    assert result == evaluate_ytvis(case["ground_truth"], case["predictions"])


def test_input_is_not_changed():
    case = load("c_crowd")
    original = copy.deepcopy(case)
    evaluate_ytvis(case["ground_truth"], case["predictions"])
    assert case == original


def test_measurements_hold_no_masks():
    tracks = evaluated(load("b_noisy")).tracks
    for category in itertools.chain(*(video.values() for video in tracks.values())):
        assert all(isinstance(value, np.ndarray) and value.ndim <= 2 for value in vars(category).values())


# ---------------------------------------------------------------------------------------------------- small pictures


def picture(text, compressed=True):
    """Rows of `#` and `.` -> RLE."""
    mask = np.array([[character == "#" for character in row] for row in text.split()], dtype=np.uint8)
    if compressed:
        rle = mask_utils.encode(np.asfortranarray(mask))
        return {"size": rle["size"], "counts": rle["counts"].decode()}
    pixels = mask.T.ravel()
    changes = np.flatnonzero(np.diff(pixels, prepend=0, append=1 - pixels[-1]))
    return {"size": list(mask.shape), "counts": np.diff(changes, prepend=0).tolist()}


LEFT = "##.. ##.. ...."  # 4 pixels
WIDE = "###. ###. ...."  # 6 pixels, 4 in common with LEFT
RIGHT = "...# ...# ...#"  # 3 pixels, none in common with LEFT
FULL = "#### #### ####"


def video(length, video_id=1):
    return {"id": video_id, "height": 3, "width": 4, "length": length}


def truth(*tracks, **extra):
    """Ground truth of one video, every track a list of pictures or None."""
    annotations = [
        {
            "id": number,
            "video_id": 1,
            "category_id": 1,
            "segmentations": [frame and picture(frame, compressed=False) for frame in track],
            **extra,
        }
        for number, track in enumerate(tracks, start=1)
    ]
    return {"videos": [video(len(tracks[0]))], "annotations": annotations, "categories": [{"id": 1}, {"id": 2}]}


def guess(*frames, score=0.5, category_id=1):
    segmentations = [frame and picture(frame) for frame in frames]
    return {"video_id": 1, "category_id": category_id, "score": score, "segmentations": segmentations}


@pytest.mark.parametrize(
    ("annotation", "prediction", "iou"),
    [
        ([LEFT, LEFT], [LEFT, LEFT], 1),
        ([LEFT, LEFT], [LEFT, WIDE], 8 / 10),  # not the mean of the frames, (1 + 4 / 6) / 2
        ([LEFT, LEFT], [LEFT, RIGHT], 4 / 11),
        ([LEFT, LEFT], [LEFT, None], 4 / 8),  # a missing frame costs the other side's area
        ([LEFT, None], [LEFT, WIDE], 4 / 10),
        ([LEFT, None], [LEFT, None], 1),
        ([LEFT, None], [None, LEFT], 0),
        ([None, None], [None, None], 0),
    ],
)
def test_iou_sums_over_frames(annotation, prediction, iou):
    metric = YtvisMeanAveragePrecision(truth(annotation))
    metric.update([guess(*prediction)])
    assert metric.tracks[1][1].iou.item() == iou


def test_iou_of_more_than_255_frames():
    metric = YtvisMeanAveragePrecision(truth([LEFT] * 300))
    metric.update([guess(*[WIDE] * 300)])
    assert metric.tracks[1][1].iou.item() == 4 / 6


def test_predictions_in_every_encoding_are_equal():
    polygon = [[0, 0, 2, 0, 2, 2, 0, 2]]  # covers LEFT
    for segmentation in (picture(LEFT, compressed=False), polygon, {**picture(LEFT), "size": (3, 4)}):
        prediction = guess(LEFT, LEFT) | {"segmentations": [segmentation, segmentation]}
        assert evaluate_ytvis(truth([LEFT, LEFT]), [prediction])["AP"] == pytest.approx(1)
    counts = picture(LEFT)["counts"].encode()
    prediction = guess(LEFT) | {"segmentations": [{"size": [3, 4], "counts": counts}]}
    assert evaluate_ytvis(truth([LEFT]), [prediction])["AP"] == pytest.approx(1)


def test_one_element_tensors_as_ids_and_scores():
    one, half = torch.tensor(1), torch.tensor(0.5)
    prediction = guess(LEFT) | {"video_id": one, "category_id": one, "score": half}
    result = evaluate_ytvis(truth([LEFT]), [prediction])
    assert result["AP"] == pytest.approx(1)
    assert json.loads(json.dumps(result))["per_category"].keys() == {"1"}


def test_missing_iscrowd_counts_and_crowds_do_not():
    predictions = [guess(LEFT)]
    assert evaluate_ytvis(truth([LEFT], [RIGHT]), predictions)["AR100"] == 0.5
    ground_truth = truth([LEFT], [RIGHT])
    ground_truth["annotations"][1]["iscrowd"] = 1
    assert evaluate_ytvis(ground_truth, predictions)["AR100"] == 1.0


@pytest.mark.parametrize("predictions", [[], [guess(LEFT, None)]])
def test_missing_areas_come_from_the_masks(predictions):
    metric = YtvisMeanAveragePrecision()
    metric.update(predictions, truth([LEFT, WIDE], [LEFT, None], areas=None))
    assert metric.tracks[1][1].annotation_areas.tolist() == [5, 4]


def test_given_areas_decide():
    square = np.zeros((300, 300), dtype=np.uint8)
    square[:10, :10] = 1
    mask = mask_utils.encode(np.asfortranarray(square))
    ground_truth = truth([LEFT, LEFT], areas=[200.0**2, None], segmentations=[mask, mask])
    ground_truth["videos"][0] |= {"height": 300, "width": 300}
    result = evaluate_ytvis(ground_truth, [{**guess(), "segmentations": [mask, mask]}])
    assert (result["APs"], result["APl"]) == (-1, -1)
    assert result["APm"] == pytest.approx(1)


def test_annotation_id_0_is_matched():
    """The official evaluator never matches it, as 0 means unmatched there."""
    ground_truth = truth([LEFT])
    ground_truth["annotations"][0]["id"] = 0
    assert evaluate_ytvis(ground_truth, [guess(LEFT)])["AP"] == pytest.approx(1)


def test_predictions_of_categories_known_only_from_later_videos_are_false_positives():
    first, second = truth([LEFT]), truth([LEFT])
    first["categories"] = [{"id": 1}]
    second["videos"][0]["id"] = second["annotations"][0]["video_id"] = 2
    second["annotations"][0]["category_id"] = 2
    wrong, right = guess(LEFT, category_id=2, score=0.9), guess(LEFT, category_id=2, score=0.1) | {"video_id": 2}
    metric = YtvisMeanAveragePrecision()
    metric.update([wrong], first)
    assert metric.compute()["per_category"].keys() == {1}
    metric.update([right], second)
    assert metric.compute()["per_category"][2]["AP"] == pytest.approx(0.5)


def test_own_thresholds_and_limits():
    metric = YtvisMeanAveragePrecision(truth([LEFT], [RIGHT]), iou_thresholds=[0.6], max_detections=[2, 1])
    metric.update([guess(RIGHT, score=0.1), guess(WIDE, score=0.9)])
    result = metric.compute()
    assert (result["AR1"], result["AR2"], result["AP50"]) == (0.5, 1.0, -1.0)
    assert result["AP"] == pytest.approx(1)


def test_random_masks_have_the_areas_of_pycocotools():
    generator = np.random.default_rng(0)
    for height, width, density in itertools.product((1, 7, 90), (1, 5, 120), (0.0, 0.02, 0.5, 1.0)):
        masks = (generator.random((3, height, width)) < density).astype(np.uint8)
        rles = [mask_utils.encode(np.asfortranarray(mask)) for mask in masks]
        video = {"height": height, "width": width, "length": 3}
        tracks = read_tracks([("a track", {"segmentations": rles})], video)
        assert tracks.areas.tolist() == [masks.sum(axis=(1, 2)).tolist()] == [mask_utils.area(rles).tolist()]


# ------------------------------------------------------------------------------------------------------------ errors


def changed(entry, **changes):
    return {**entry, **changes}


def with_mask(mask):
    return changed(guess(LEFT, LEFT), segmentations=[picture(LEFT), mask])


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (guess(LEFT), r"prediction 1 \(video 1\): segmentations has 1 entries; expected a list of 2"),
        (guess(LEFT, LEFT, LEFT), r"prediction 1 \(video 1\): segmentations has 3 entries; expected a list of 2"),
        (changed(guess(LEFT, LEFT), segmentations=None), "segmentations has type NoneType; expected a list of 2"),
        (with_mask(picture("#### ####")), r"prediction 1 \(video 1\), frame 1: .* size \[2, 4\]; expected .*\[3, 4\]"),
        (with_mask({"size": [3, 4], "counts": [5, 5]}), "frame 1: .* sum to 10; expected height .* = 12"),
        (with_mask({"size": [3, 4], "counts": [5, -5, 12]}), "frame 1: "),
        (with_mask({"size": [3, 4], "counts": "no RLE"}), "frame 1: .* sum to 0; expected height .* = 12"),
        (with_mask({"size": [3, 4], "counts": ""}), "frame 1: .* sum to 0; expected height .* = 12"),
        (with_mask({"counts": [12]}), r"frame 1: the mask has the keys \['counts'\]; expected 'size' and 'counts'"),
        (with_mask({"size": None, "counts": [12]}), r"frame 1: the mask has size None; expected .*\[3, 4\]"),
        (
            with_mask({"size": [3, 4], "counts": None}),
            r"frame 1: the counts of the mask are None .*; expected a string",
        ),
        (with_mask({"size": [3, 4], "counts": [11.5, 0.5]}), r"frame 1: the counts of the mask are \[11.5, 0.5\]"),
        (with_mask([[0, 0, 2, 2]]), "frame 1: the mask is a list, .*; expected null, .* or a list of polygons"),
        # Drawn by pycocotools, either would take all memory.
        (with_mask([[float("nan"), 0, 2, 0, 2, 2]]), r"frame 1: the polygon \[nan, .* far outside .*, or no numbers"),
        (with_mask([[0, 0, 1e12, 0, 2, 2]]), "frame 1: the polygon .* has corners far outside of the frame"),
        (with_mask([["0", 0, 2, 0, 2, 2]]), "frame 1: the polygon .* has corners .*, or no numbers"),
        (with_mask(np.ones((3, 4))), "frame 1: the mask is a ndarray, .*; expected null, .* or a list of polygons"),
        (guess(LEFT, LEFT, score=float("nan")), r"prediction 1 \(video 1\): score is nan; expected a finite number"),
        (guess(LEFT, LEFT, score=None), r"prediction 1 \(video 1\): score is None; expected a finite number"),
        (
            guess(LEFT, LEFT, score=math.inf),
            r"prediction 1 \(video 1\): score is inf; expected a finite number",
        ),
        (guess(LEFT, LEFT, score=True), r"prediction 1 \(video 1\): score is True; expected a finite number"),
        (guess(LEFT, LEFT, score="0.5"), r"prediction 1 \(video 1\): score is '0.5'; expected a finite number"),
        (guess(LEFT, LEFT, score=10**400), r"prediction 1 \(video 1\): score is 1000.*; expected a finite number"),
        (guess(LEFT, LEFT, category_id="1"), r"prediction 1: category_id is '1'; expected one of .*\(1, 2\)"),
        (guess(LEFT, LEFT, category_id=1.5), r"prediction 1: category_id is 1.5; expected one of .*\(1, 2\)"),
        (guess(LEFT, LEFT, category_id=None), r"prediction 1: category_id is None; expected one of .*\(1, 2\)"),
        (changed(guess(LEFT, LEFT), video_id=7), "prediction 1 is for video 7, which the ground truth does not list"),
        (
            changed(guess(LEFT, LEFT), video_id=[1]),
            r"prediction 1: video_id is \[1\]; expected an integer or a string",
        ),
        (changed(guess(LEFT, LEFT), category_id={}), r"prediction 1: category_id is {}; expected an integer"),
        ({"video_id": 1}, "prediction 1 has no category_id, score, segmentations; expected"),
        ("a string", "prediction 1 is a str; expected a dict with video_id"),
    ],
)
def test_bad_predictions(prediction, message):
    metric = YtvisMeanAveragePrecision(truth([LEFT, LEFT]))
    with pytest.raises(ValueError, match=message):
        metric.update([guess(LEFT, LEFT), prediction])
    # The metric is as before, so the next video still counts.
    assert metric.tracks == {}
    metric.update([guess(LEFT, LEFT)])
    assert metric.compute()["AP"] == pytest.approx(1)


def test_predictions_that_are_no_list():
    with pytest.raises(ValueError, match="predictions is a dict; expected a list"):
        evaluate_ytvis(truth([LEFT]), guess(LEFT))


def broken(**changes):
    return {**truth([LEFT, LEFT]), **changes}


def annotated(**changes):
    return broken(annotations=[changed(truth([LEFT, LEFT])["annotations"][0], **changes)])


@pytest.mark.parametrize(
    ("ground_truth", "message"),
    [
        (broken(annotations=None), "has no 'annotations' .*: labels of validation and test splits are not public"),
        (broken(categories=None), "has no 'categories'"),
        ({"videos": []}, "has no 'annotations'"),
        (broken(annotations=truth([LEFT])["annotations"] * 2), "annotation id 1 occurs twice .* expected unique ids"),
        (broken(videos=[video(2), video(2)]), "video id 1 occurs twice .* expected unique ids"),
        (broken(videos=[{"id": 1}]), "a video of the ground truth has no height, width, length"),
        (broken(videos=[changed(video(2), id=[1])]), r"a video of the ground truth: id is \[1\]; expected an integer"),
        (
            broken(videos=[changed(video(2), length="2")]),
            "video 1 of the ground truth: length is '2'; expected its num",
        ),
        (
            broken(videos=[changed(video(2), length=True)]),
            "video 1 .*: length is True; expected its number",
        ),
        (broken(videos=[changed(video(2), width=4.5)]), "video 1 .*: width is 4.5; expected .* of pixels, up to"),
        (broken(videos=[changed(video(2), height=None)]), "video 1 .*: height is None; expected .* of pixels, up to"),
        (
            broken(videos=[changed(video(2), width=2**31)]),
            "video 1 .*: width is 2147483648; expected .* of pixels, up",
        ),
        (
            broken(categories=[{"id": 1}, {"id": "1"}]),
            "category ids of the ground truth have no order .*; expected all",
        ),
        (broken(videos=[video(2), changed(video(2), id="2")]), "video ids of the ground truth have no order"),
        (7, "ground truth is a int; expected a dict of the lists 'videos'"),
        (broken(categories=[{}]), "a category of the ground truth has no id"),
        (broken(annotations=[{"id": 1}]), "an annotation has no video_id, category_id, segmentations"),
        (
            annotated(segmentations=[None]),
            "annotation 1 of video 1: segmentations has 1 entries; expected a list",
        ),
        (annotated(areas=[4.0]), "annotation 1 of video 1: areas has 1 entries; expected a list of 2"),
        (
            annotated(areas=["4", None]),
            "annotation 1 of video 1, frame 0: areas has '4'; expected a number, or null",
        ),
        (annotated(areas=[float("nan"), 4]), "annotation 1 of video 1, frame 0: areas has nan; expected a number"),
        (annotated(areas=[4, -1]), "frame 1: areas has -1; expected .* from 0 to height .* = 12"),
        (annotated(areas=[13, None]), "frame 0: areas has 13; expected .* from 0 to height .* = 12"),
        (annotated(areas=[10**400, None]), "frame 0: areas has 10000.*; expected a number"),
        (annotated(iscrowd=1.5), "annotation 1 of video 1: iscrowd is 1.5; expected 0 or 1"),
        (annotated(iscrowd="abc"), "annotation 1 of video 1: iscrowd is 'abc'; expected 0 or 1"),
        (annotated(iscrowd=[[]]), r"annotation 1 of video 1: iscrowd is \[\[\]\]; expected 0 or 1"),
        (annotated(category_id="1"), r"1 of video 1: category_id is '1'; expected one of the categories .*\(1, 2\)"),
        (annotated(category_id=9), r"1 of video 1: category_id is 9; expected one of the categories .*\(1, 2\)"),
        (annotated(category_id=True), "1 of video 1: category_id is True; expected one of the categories"),
        (annotated(category_id=None), "1 of video 1: category_id is None; expected one of the categories"),
        (broken(categories=7), "ground truth has categories 7; expected a list of dicts"),
        (broken(annotations=1), "ground truth has annotations 1; expected a list of dicts"),
        (broken(videos={"a": 1}), "ground truth has videos {'a': 1}; expected a list of dicts"),
        (annotated(segmentations=[None, picture("#")]), "annotation 1 of video 1, frame 1: .* size"),
    ],
)
def test_bad_ground_truth(ground_truth, message):
    with pytest.raises(ValueError, match=message):
        evaluate_ytvis(ground_truth, [guess(LEFT, LEFT)])


@pytest.mark.parametrize(
    ("occlusion", "message"),
    [
        (None, "occlusion is missing; expected one of .*: evaluate with ovis=False"),
        (["heavy"], r"occlusion is \['heavy'\]; expected one of \['no_occlusion'"),
        ([], "occlusion has 0 entries; expected a list of 1"),
    ],
)
def test_bad_occlusion(occlusion, message):
    ground_truth = truth([LEFT], occlusion=occlusion)
    with pytest.raises(ValueError, match=message):
        evaluate_ytvis(ground_truth, [guess(LEFT)], ovis=True)
    assert evaluate_ytvis(ground_truth, [guess(LEFT)])["AP"] == pytest.approx(1)


def test_update_without_and_with_too_many_references():
    with pytest.raises(ValueError, match="no references and the metric has no ground truth; pass references="):
        YtvisMeanAveragePrecision().update([guess(LEFT)])
    with pytest.raises(ValueError, match="was built with ground_truth; leave one of the two out"):
        YtvisMeanAveragePrecision(truth([LEFT])).update([guess(LEFT)], truth([LEFT]))


def test_a_video_with_two_different_results():
    metric = YtvisMeanAveragePrecision(truth([LEFT]))
    metric.update([guess(LEFT)])
    with pytest.raises(ValueError, match="video 1 was measured twice with different results; expected each"):
        metric.update([guess(WIDE)])
    other = YtvisMeanAveragePrecision(truth([LEFT]))
    other.update([guess(WIDE)])
    with pytest.raises(ValueError, match="video 1 was measured twice"):
        metric.merge(other)


def test_merge_of_different_settings():
    with pytest.raises(ValueError, match="cannot merge metrics of ovis False and True; build both with the same ovis"):
        YtvisMeanAveragePrecision().merge(YtvisMeanAveragePrecision(ovis=True))


def test_nothing_to_evaluate():
    with pytest.raises(ValueError, match=r"compute\(\) has no video to evaluate; call update\(\) first"):
        YtvisMeanAveragePrecision().compute()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iou_thresholds": [50, 75]}, "iou_thresholds is .* divide percent by 100"),
        ({"iou_thresholds": []}, "iou_thresholds is .* expected a sequence of numbers"),
        ({"max_detections": (0, 10)}, "max_detections is .* expected positive numbers"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        YtvisMeanAveragePrecision(**settings)


def test_categories_that_do_not_occur_cost_nothing(monkeypatch):
    ground_truth = truth([LEFT], [RIGHT])
    ground_truth["annotations"][1]["category_id"] = 70_000
    guesses = [guess(LEFT), guess(RIGHT, category_id=70_000)]
    few = evaluate_ytvis({**ground_truth, "categories": [{"id": 1}, {"id": 70_000}]}, guesses)
    full, sizes = np.full, []
    monkeypatch.setattr(np, "full", lambda shape, value: sizes.append(math.prod(shape)) or full(shape, value))
    many = evaluate_ytvis({**ground_truth, "categories": [{"id": i} for i in range(1, 100_001)]}, guesses)
    assert many == few
    assert max(sizes) < 10**5


def test_categories_left_out_are_reported(monkeypatch):
    warnings = []
    monkeypatch.setattr("transformers_msstsvis.metrics.ytvis_map.logger.warning_once", warnings.append)
    assert evaluate_ytvis(truth([LEFT]), [guess(LEFT, category_id=0)])["AP"] == 0
    assert len(warnings) == 1
    assert "[0]" in warnings[0]


# ------------------------------------------------------------------------------------- masks that would never compare


def compress(counts):
    """COCO's compression without its checks: run lengths may be negative or too large."""
    text = ""
    for place, number in enumerate(counts):
        number -= counts[place - 2] if place > 2 else 0
        while True:
            bits, number = number & 31, number >> 5
            more = number != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
            if not more:
                break
    return text


def test_compression_is_that_of_pycocotools():
    rle = picture("##.. ..#. #.##", compressed=False)
    assert compress(rle["counts"]) == mask_utils.frPyObjects(rle, 3, 4)["counts"].decode()


@pytest.mark.parametrize(
    "counts",
    [
        compress([20, 4, -12]),  # sums to 12 all the same
        compress([4, -2, 4, 3, 3]),
        compress([2**31, 2**31, 12]),  # 12 in 32 bits
        "p" * 20 + "0",
        compress([3, 4]),
    ],
)
def test_run_lengths_that_pycocotools_would_never_finish(counts):
    prediction = guess(LEFT, LEFT) | {"segmentations": [picture(LEFT), {"size": [3, 4], "counts": counts}]}
    with pytest.raises(
        ValueError, match=r"prediction 0 \(video 1\), frame 1: the run lengths .* = 12: encode the mask"
    ):
        evaluate_ytvis(truth([LEFT, LEFT]), [prediction])


# --------------------------------------------------------------------------------------------- parts and other sources


def test_compute_of_some_videos_is_as_if_there_were_no_others():
    case = load("b_noisy")
    metric = evaluated(case)
    chosen = metric.video_ids[::3]
    ground_truth = copy.deepcopy(case["ground_truth"])
    ground_truth["videos"] = [video for video in ground_truth["videos"] if video["id"] in chosen]
    predictions = [prediction for prediction in case["predictions"] if prediction["video_id"] in chosen]
    alone = evaluated({"ground_truth": ground_truth, "predictions": predictions})
    assert_same(metric.compute(True, video_ids=chosen), alone.compute(True))


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "results.json").write_text('[{"video_id": 1,')
    with pytest.raises(ValueError, match=r"results.json is not a JSON file: .* line 1 column 17"):
        evaluate_ytvis(truth([LEFT]), tmp_path / "results.json")


def test_a_video_without_frames():
    ground_truth = truth([LEFT])
    ground_truth["videos"].append({**video(0), "id": 2})
    ground_truth["annotations"].append({**ground_truth["annotations"][0], "id": 2, "video_id": 2, "segmentations": []})
    result = evaluate_ytvis(ground_truth, [guess(LEFT), {**guess(), "video_id": 2}])
    assert result["AR100"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"iou_thresholds": "a"}, "iou_thresholds is 'a'; expected a sequence of numbers"),
        ({"iou_thresholds": 0.5}, "iou_thresholds is 0.5; expected a sequence of numbers"),
        ({"max_detections": 0}, "max_detections is 0; expected positive numbers"),
        ({"max_detections": (1.5,)}, r"max_detections is \(1.5,\); expected positive numbers"),
    ],
)
def test_settings_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        YtvisMeanAveragePrecision(**arguments)


def test_what_is_no_metric_and_no_list_of_ids():
    with pytest.raises(TypeError, match="other is of type NoneType; expected another"):
        YtvisMeanAveragePrecision().merge(None)
    with pytest.raises(TypeError, match="video_ids is 5; expected a list of ids"):
        YtvisMeanAveragePrecision().compute(video_ids=5)

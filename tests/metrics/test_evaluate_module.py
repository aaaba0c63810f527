"""`evaluate.load` of the module in `metrics/ytvis_map`, offline."""

import json
from pathlib import Path

import evaluate
import pytest

from tests.metrics.test_ytvis_map import by_video, load, predictions_of
from transformers_msstsvis.metrics.ytvis_map import evaluate_ytvis

MODULE = Path(__file__).parents[2] / "metrics" / "ytvis_map"


@pytest.fixture
def module(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return evaluate.load(str(MODULE), cache_dir=str(tmp_path))


def test_a_whole_dataset(module, tmp_path):
    case = load("b_noisy")
    expected = evaluate_ytvis(case["ground_truth"], case["predictions"])
    assert module.compute(predictions=case["predictions"], references=case["ground_truth"]) == expected
    (tmp_path / "truth.json").write_text(json.dumps(case["ground_truth"]))
    (tmp_path / "results.json").write_text(json.dumps(case["predictions"]))
    paths = {"predictions": str(tmp_path / "results.json"), "references": str(tmp_path / "truth.json")}
    assert module.compute(**paths) == expected


def test_video_by_video(module):
    case = load("b_noisy")
    *singles, last, very_last = by_video(case["ground_truth"])
    for references in singles:
        module.add(prediction=predictions_of(case, references), reference=references)
    pair = [last, very_last]
    module.add_batch(predictions=[predictions_of(case, references) for references in pair], references=pair)
    assert module.compute() == evaluate_ytvis(case["ground_truth"], case["predictions"])


def test_ovis(module):
    case = load("j_ovis_occlusion")
    result = module.compute(predictions=case["predictions"], references=case["ground_truth"], ovis=True)
    assert {name: result[name] for name in case["expected"]["stats"]} == pytest.approx(case["expected"]["stats"])


def test_errors_are_those_of_the_metric(module):
    case = load("b_noisy")
    with pytest.raises(ValueError, match="prediction 0 is for video 'none', which the ground truth does not list"):
        module.compute(predictions=[{**case["predictions"][0], "video_id": "none"}], references=case["ground_truth"])


def test_description(module):
    assert "YouTube-VIS" in module.description
    assert "AP_heavy" in module.inputs_description

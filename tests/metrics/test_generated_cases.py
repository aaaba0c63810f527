"""Larger random cases: the metric equals a plain evaluator that loops over pairs, frames and thresholds."""

import argparse
import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.metrics.plain import benchmark, generate, plain_evaluate
from transformers_msstsvis.metrics.ytvis_map import YtvisMeanAveragePrecision

RTOL = 1e-9
GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden" / "metric"


@pytest.mark.parametrize("name", ["b_noisy", "c_crowd", "d_over_100", "g_ties", "h_areas"])
def test_the_plain_evaluator_has_the_official_numbers(name):
    case = json.loads((GOLDEN / f"{name}.json").read_text())
    result = plain_evaluate(case["ground_truth"], case["predictions"])
    assert result["stats"] == pytest.approx(case["expected"]["stats"], rel=RTOL, abs=0)


def assert_equal_to_plain(ground_truth, predictions):
    metric = YtvisMeanAveragePrecision(ground_truth)
    metric.update(predictions)
    ours = metric.compute(return_arrays=True)
    plain = plain_evaluate(copy.deepcopy(ground_truth), copy.deepcopy(predictions))
    assert {key: ours[key] for key in plain["stats"]} == pytest.approx(plain["stats"], rel=RTOL, abs=0)
    for name in ("precision", "recall"):
        np.testing.assert_allclose(ours[name], plain[name], rtol=RTOL, atol=0)
    return ours


@pytest.mark.parametrize(
    "settings",
    [
        {"videos": 60, "frames": 3, "objects": 4, "predictions": 8, "categories": 6},
        {"videos": 40, "frames": 4, "objects": 5, "predictions": 8, "categories": 3, "crowds": 0.3},
        {"videos": 40, "frames": 3, "objects": 5, "predictions": 10, "categories": 3, "ties": True},
        {"videos": 30, "frames": 5, "objects": 4, "predictions": 8, "categories": 2, "absent": 0.3, "crowds": 0.1},
        # More predictions of a video and category than count, and too many to be compared across categories.
        {"videos": 3, "frames": 2, "objects": 6, "predictions": 230, "categories": 2, "ties": True},
        {"videos": 4, "frames": 2, "objects": 8, "predictions": 60, "categories": 5, "crowds": 0.2},
    ],
)
def test_random_sets(settings):
    ground_truth, predictions = generate(**settings, seed=5)
    result = assert_equal_to_plain(ground_truth, predictions)
    assert 0.05 < result["AP"] < 0.95
    assert min(result[name] for name in ("APs", "APm", "APl")) > -1


def test_areas_of_the_file_on_and_around_the_borders():
    ground_truth, predictions = generate(videos=20, frames=4, objects=4, predictions=6, categories=2, seed=6)
    rng = np.random.default_rng(0)
    choices = [None, 0, 1, 128**2 - 1, 128**2, 128**2 + 1, 256**2, 256**2 + 1]
    for annotation in ground_truth["annotations"]:
        annotation["areas"] = [choices[index] for index in rng.integers(len(choices), size=4)]
        if rng.random() < 0.3:
            annotation["areas"] = [choices[rng.integers(len(choices))]] * 4
    assert_equal_to_plain(ground_truth, predictions)


def test_ids_in_any_order_with_holes():
    ground_truth, predictions = generate(
        videos=15, frames=3, objects=3, predictions=8, categories=3, ties=True, seed=7
    )
    rng = np.random.default_rng(1)
    new_ids = {old: int(new) for old, new in enumerate(rng.permutation(1000)[:15], start=1)}
    for entry in (*ground_truth["annotations"], *predictions):
        entry["video_id"] = new_ids[entry["video_id"]]
    for video in ground_truth["videos"]:
        video["id"] = new_ids[video["id"]]
    rng.shuffle(predictions)
    rng.shuffle(ground_truth["videos"])
    assert_equal_to_plain(ground_truth, predictions)


def test_benchmark():
    parser = argparse.ArgumentParser()
    benchmark.add_arguments(parser)
    report = benchmark.run(parser.parse_args(["--fraction", "0.01", "--repeats", "2"]))
    assert json.loads(json.dumps(report)) == report
    assert "re-statement" in report["baseline"]
    for name, videos in (("A", 3), ("B", 1)):
        assert report[name]["videos"] == videos
        ratio = report[name]["baseline_over_ours"]
        assert 0 < ratio["min"] <= ratio["median"] <= ratio["max"]


GATHER = """
import json, sys
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers_msstsvis.metrics.ytvis_map import YtvisMeanAveragePrecision

state = PartialState(cpu=True)
case = json.load(open(sys.argv[1]))
truth = case["ground_truth"]
metric = YtvisMeanAveragePrecision()
for video in truth["videos"][state.process_index :: state.num_processes]:
    annotations = [a for a in truth["annotations"] if a["video_id"] == video["id"]]
    metric.update(
        [p for p in case["predictions"] if p["video_id"] == video["id"]],
        {"videos": [video], "annotations": annotations, "categories": truth["categories"]},
    )
first, *others = gather_object([metric])
for other in others:
    first.merge(other)
with open(f"{sys.argv[2]}/{state.process_index}.json", "w") as file:
    json.dump([state.num_processes, first.compute()], file)
state.destroy_process_group()
"""


def test_two_processes_that_gather_have_the_numbers_of_one(tmp_path):
    (tmp_path / "gather.py").write_text(GATHER)
    path = GOLDEN / "b_noisy.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([*command, tmp_path / "gather.py", path, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    results = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    case = json.loads(path.read_text())
    alone = YtvisMeanAveragePrecision(case["ground_truth"])
    alone.update(case["predictions"])
    assert results == [[2, json.loads(json.dumps(alone.compute()))]] * 2

"""Two processes on the CPU do what one does with the same videos."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training.training_runs import ROOT, gradients_and_numbers
from transformers_msstsvis.data.synthetic import make_synthetic


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Of one process with a batch of two videos, and of each of two processes with a batch of one."""
    folder = tmp_path_factory.mktemp("distributed")
    sizes = {"height": 96, "width": 96, "min_frames": 3, "max_frames": 4, "min_objects": 1, "max_objects": 2}
    annotations = make_synthetic(folder / "videos", seed=5, num_videos=3, **sizes)
    common = {"annotations": str(annotations), "folder": str(folder / "out")}
    arguments = {**common, "batch_size": 1, "result": str(folder / "two")}
    torchrun = str(Path(sys.executable).with_name("torchrun"))
    command = [torchrun, "--standalone", "--nproc_per_node", "2", "-m", "tests.training.training_runs"]
    command += ["gradients_and_numbers", json.dumps(arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    gradients_and_numbers(**common, batch_size=2, result=str(folder / "one"))
    return [torch.load(folder / f"{name}.pt") for name in ("one-0", "two-0", "two-1")]


def close(a, b, name):
    torch.testing.assert_close(
        b, a, rtol=1e-4, atol=1e-6 + 1e-5 * float(a.abs().max()), msg=lambda message: f"{name}: {message}"
    )


def test_gradients_are_those_of_one_process(results):
    one, *two = results
    assert [result["processes"] for result in results] == [1, 2, 2]
    for process in two:
        for step, gradients in enumerate(one["gradients"]):
            assert gradients.keys() == process["gradients"][step].keys()
            for name, gradient in gradients.items():
                close(gradient, process["gradients"][step][name], f"{name}, step {step}")


def test_the_discriminator_is_that_of_one_process(results):
    one, *two = results
    for process in two:
        for name, weight in one["discriminator"].items():
            close(weight, process["discriminator"][name], name)


def test_logged_terms_are_averaged_over_processes(results):
    one, two, _ = results
    for a, b in zip(one["logged"], two["logged"], strict=True):
        for name in ("loss", "loss_ce", "loss_mask_0", "loss_dice", "loss_adversarial", "loss_discriminator"):
            assert b[name] == pytest.approx(a[name], rel=1e-3, abs=1e-3)


def test_numbers_are_those_of_one_process_to_the_last_digit(results):
    one, *two = results
    assert one["numbers"]["eval_AP"] > 0.3
    assert [process["numbers"] for process in two] == [one["numbers"]] * 2

"""`benchmark gpu`: the whole run on a CPU, what it does with steps that fail, and its checks, which can fail."""

import argparse
import functools
import json
import math
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import torch

from transformers_msstsvis.benchmarks import gpu
from transformers_msstsvis.benchmarks.gpu import checks, device, operator_speed, system_speed
from transformers_msstsvis.benchmarks.gpu.plan import Step, plan
from transformers_msstsvis.benchmarks.gpu.worker import Absent, Worker, outcome_of
from transformers_msstsvis.commands import benchmark
from transformers_msstsvis.ops.multi_scale_deformable_attention import multi_scale_deformable_attention_reference

SMALL = ["--models", "msstsvis-tiny", "--frames", "1", "--height", "48", "--width", "64", "--operator_frames", "1"]
SMALL += ["--queries", "5", "--repeats", "1", "--threads", "1"]
COMPILER = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("g++", "clang++", "c++")), reason="no C++ compiler"
)
FORK = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="Linux has fork, and /proc to look at processes"
)
TESTS = """
import pytest

@pytest.mark.gpu
def test_right():
    pass

@pytest.mark.gpu
def test_wrong():
    assert 1 == 2

def test_of_others():
    assert False
"""


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    benchmark.add_arguments(parser, "gpu")
    return parser.parse_args(["--output", "nowhere", *arguments])


class Here(Worker):
    """In this process: to load everything in another takes longer than the small run."""

    def run(self, function, arguments, limit):
        with mock.patch.dict(os.environ, self.environment):
            return outcome_of(*pickle.loads(pickle.dumps((function, arguments))))


def checkout(folder: Path, tests: str = TESTS) -> Path:
    (folder / "tests" / "ops").mkdir(parents=True)
    (folder / "tests" / "ops" / "test_some.py").write_text(tests)
    (folder / "tests" / "test_others.py").write_text("raise ImportError('not to be read')")
    return folder


@COMPILER
def test_whole_run_on_a_cpu(tmp_path, monkeypatch, capsys):
    def with_faults(arguments):
        steps = plan(arguments)
        for step in steps:
            if step.function is checks.run_tests:
                step.arguments = ((checkout(tmp_path),),)
        place = next(place for place, step in enumerate(steps) if step.section == "inference")
        of = {"model": "broken", "precision": "float32", "compiled": False}
        return [*steps[:place], Step("inference", of, math.sqrt, (-1.0,)), *steps[place:]]

    monkeypatch.setattr(gpu, "plan", with_faults)
    monkeypatch.setattr(gpu, "Worker", Here)
    output = tmp_path / "output"
    status = benchmark.main(["gpu", "--device", "cpu", "--output", str(output), "--no_compile", *SMALL])
    told = capsys.readouterr()
    assert status == 1
    assert told.err.splitlines()[-1] == "error: of the checks failed: checks, tests marked gpu"

    report = json.loads((output / "gpu.json").read_text())
    by_name = {step["name"]: step for step in report["steps"]}
    failed = {name: step["message"] for name, step in by_name.items() if step["status"] == "failed"}
    assert set(failed) == {"checks, tests marked gpu", "inference, broken, float32"}
    assert "1 of 2 tests failed: tests.ops.test_some::test_wrong (assert 1 == 2)" in failed["checks, tests marked gpu"]
    assert failed["inference, broken, float32"] == "math domain error"
    assert by_name["checks, compute-sanitizer"]["status"] == "absent"
    done = [step for step in report["steps"] if step["status"] == "done"]
    sections = [step["section"] for step in done]
    assert {name: sections.count(name) for name in sections} == {
        "checks": 5,
        "operator": 8,
        "inference": 3,
        "training": 3,
    }
    for step in done:
        if step["section"] == "operator":
            sides = step["result"]["sides"]
            assert step["result"]["roofline_s"] > 0
            assert sides["kernel"]["ratio"]["median"] == 1
            assert sides["PyTorch"]["ratio"]["median"] > 0
            assert sides["kernel"]["relative_error"] < (1e-5 if step["dtype"] == "float32" else 1e-2)
            assert ("absent" in sides["transformers"]) == (step["dtype"] == "bfloat16")
        elif step["section"] != "checks":
            assert step["result"]["frames_per_s"] == 1 / step["result"]["seconds"]["median"]
    assert by_name["inference, msstsvis-tiny, float32"]["result"]["relative_error"] == 0
    assert 0 < by_name["inference, msstsvis-tiny, bfloat16"]["result"]["relative_error"] < 0.1
    losses = [by_name[f"training, msstsvis-tiny, {name}"]["result"]["loss"] for name in system_speed.PRECISIONS]
    assert losses[0] == losses[1] == pytest.approx(losses[2], rel=0.05)

    page = (output / "gpu.md").read_text()
    assert told.out.strip() == page.strip()
    assert "| encoder | 1 | bfloat16 | forward + backward | " in page
    assert "| broken | failed |  |  |" in page
    assert "- inference, broken, float32: failed, math domain error" in page
    assert (output / "gpu.png").stat().st_size > 10_000


def test_a_kernel_that_fails_costs_only_itself(tmp_path, monkeypatch):
    def broken(device, reference):
        raise RuntimeError("an illegal memory access")

    monkeypatch.setattr(checks.kernels, "load_and_check", broken)
    monkeypatch.setattr(gpu, "Worker", Here)
    wanted = ("checks, build", "operator, decoder, 1, float32, forward", "inference, msstsvis-tiny, float32")
    monkeypatch.setattr(gpu, "plan", lambda arguments: [step for step in plan(arguments) if step.name in wanted])
    checks._try_kernel.cache_clear()
    try:
        assert benchmark.main(["gpu", "--device", "cpu", "--output", str(tmp_path), "--no_compile", *SMALL]) == 1
    finally:
        checks._try_kernel.cache_clear()
    report = json.loads((tmp_path / "gpu.json").read_text())
    build, operator, inference = report["steps"]
    assert build["message"] == "the kernel can't be used: an illegal memory access"
    assert "switched off" in operator["result"]["sides"]["kernel"]["failed"]
    assert operator["result"]["sides"]["PyTorch"]["seconds"]["median"] > 0
    assert inference["status"] == "done"
    page = (tmp_path / "gpu.md").read_text()
    assert "As it failed (checks, build), all that follows is measured without the kernel." in page
    assert "- operator, decoder, 1, float32, forward, kernel: the kernel is switched off" in page
    assert " µs |" in page


def test_what_is_not_begun_in_time_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # nor is a picture needed
    arguments = ["gpu", "--device", "cpu", "--output", str(tmp_path), "--minutes", "0"]
    assert benchmark.main(arguments) == 0
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert {step["status"] for step in report["steps"]} == {"left out"}
    assert "matplotlib" in report["picture"]
    page = (tmp_path / "gpu.md").read_text()
    for name in ("checks, opcheck", "training, vistr-r50, bfloat16, compiled"):
        assert f"- {name}: left out" in page
    assert not (tmp_path / "gpu.png").exists()


def test_without_a_device_the_way_out_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert benchmark.main(["gpu", "--output", str(tmp_path)]) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("--device cpu does the same steps on the CPU")


def test_most_important_steps_come_first():
    steps = plan(parse())
    eager = [step.section for step in steps if not step.of.get("compiled")]
    assert eager == sorted(eager, key=("checks", "operator", "inference", "training").index)
    assert (eager.count("operator"), eager.count("inference"), eager.count("training")) == (16, 15, 15)
    compiled = [step.of for step in steps[len(eager) :]]
    assert all(of["compiled"] for of in compiled)
    first = compiled[: 8 + 5 + 5]
    assert {of.get("frames", 5) for of in first} == {5}
    assert {of.get("precision", "bfloat16") for of in first} == {"bfloat16"}
    assert len(compiled) == 16 + 15 + 15
    assert not [step for step in plan(parse("--no_compile")) if step.of.get("compiled")]


def test_clips_are_as_published_unless_given():
    sizes = {step.of["model"]: step.arguments[1] for step in plan(parse()) if step.section == "training"}
    assert sizes["vistr-r50"] == (36, 300, 533)
    assert sizes["msstsvis-r50"] == (5, 360, 640)
    assert system_speed.clip_size("vistr-r50", None, 64, 96) == (36, 64, 96)


@FORK
def test_a_step_that_spoils_its_process_costs_no_other(monkeypatch):
    monkeypatch.setattr(Worker, "method", "fork")  # as nothing heavy has to be loaded then
    with Worker() as worker:
        assert worker.run(os._exit, (3,), 60)["message"] == "its process ended: exit status 3"
        assert worker.run(signal.raise_signal, (signal.SIGKILL,), 60)["message"] == "its process ended: signal SIGKILL"
        assert worker.run(math.sqrt, (4.0,), 60)["result"] == 2
        process = worker._process
        failed = worker.run(math.sqrt, (-4.0,), 60)
        assert (failed["status"], failed["message"], failed["spoilt"]) == ("failed", "math domain error", False)
        assert "ValueError" in failed["traceback"]
        assert worker.run(os.getpid, (), 60)["result"] == process.pid  # the same: it is sound
        stopped = worker.run(time.sleep, (60,), 0.2)
        assert stopped["message"] == "stopped, as it was not done after 0 seconds"
        assert stopped["spoilt"]
        assert not process.is_alive()
        worker.environment["MSSTSVIS_KERNELS"] = "off"
        assert worker.run(os.getenv, ("MSSTSVIS_KERNELS",), 60)["result"] == "off"


def leave_asleep(file: str) -> None:
    Worker().run(subprocess.run, (["sh", "-c", f"echo $$ > {file}; sleep 60"],), 60)


@FORK
def test_nothing_is_left_of_a_run_that_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(Worker, "method", "fork")
    file = tmp_path / "pid"
    process = multiprocessing.get_context("fork").Process(target=leave_asleep, args=(str(file),))
    process.start()
    wait_for(lambda: file.exists() and file.read_text())
    asleep = Path("/proc", file.read_text().strip())
    assert not has_ended(asleep)
    process.kill()
    process.join()
    wait_for(lambda: has_ended(asleep))


def has_ended(process: Path) -> bool:
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_for(condition: Callable[[], object]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise TimeoutError("it did not happen within half a minute")


def test_tests_are_those_of_a_checkout(tmp_path):
    with pytest.raises(Absent, match="installed without it"):
        checks.run_tests((tmp_path,))
    right = "import pytest\n@pytest.mark.gpu\ndef test_right():\n    pass\n"
    assert checks.run_tests((tmp_path, checkout(tmp_path / "clone", right))) == {"passed": 1, "skipped": 0}
    (tmp_path / "clone" / "tests" / "ops" / "test_some.py").write_text(f"{right}syntax error")
    with pytest.raises(AssertionError, match="1 of 1 tests failed"):
        checks.run_tests((tmp_path / "clone",))


def test_sanitizer(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(Absent, match="CUDA toolkit"):
        checks.run_sanitizer("cuda")
    program = tmp_path / "compute-sanitizer"
    program.write_text(
        '#!/bin/sh\necho "========= ERROR SUMMARY: 2 errors"\ncase "$*" in *.sanitized) exit 9;; esac\n'
    )
    program.chmod(0o755)
    with pytest.raises(AssertionError, match="exit status 9: ERROR SUMMARY: 2 errors"):
        checks.run_sanitizer("cuda")
    program.write_text('#!/bin/sh\n[ "$PYTORCH_NO_CUDA_MEMORY_CACHING" = 1 ]\n')
    assert checks.run_sanitizer("cuda") == {"errors": 0}


def test_a_wrong_kernel_is_found(monkeypatch):
    def wrong(value, sides, locations, weights):
        shapes = list(zip(sides[::2], sides[1::2], strict=True))
        return 1.001 * multi_scale_deformable_attention_reference(value, shapes, locations, weights)

    monkeypatch.setattr(checks, "compiled_kernel", lambda device: wrong)
    with pytest.raises(ArithmeticError, match="5 channels, 7 queries: the output is off by"):
        checks.check_every_kernel("cpu")


def test_moved_bytes():
    """An encoder layer, 5 frames of 360x640: every pixel is a query with 8 heads, 4 levels and 4 points."""
    pixels = 45 * 80 + 23 * 40 + 12 * 20 + 6 * 10
    places = torch.empty(5, pixels, 8, 4, 4, 2, device="meta")
    for dtype, size in ((torch.float32, 4), (torch.bfloat16, 2)):
        value = torch.empty(5, pixels, 8, 32, device="meta", dtype=dtype)
        features, points = 5 * pixels * 256 * size, 5 * pixels * 8 * 16 * 3 * 4
        inputs = (value, places, places[..., 0].contiguous())
        output = torch.Size([5, pixels, 256])
        assert operator_speed.moved_bytes(inputs, output, False) == 2 * features + points
        # value, points and the output's gradient are read, and the gradients of value and points written
        both = 2 * features + points + 3 * features + 2 * points
        assert operator_speed.moved_bytes(inputs, output, True) == both


@COMPILER
@pytest.mark.slow
def test_whole_run_in_processes_of_their_own(tmp_path):
    """As users have it, with the tests of the checkout."""
    arguments = ["gpu", "--device", "cpu", "--output", str(tmp_path), "--no_compile", *SMALL]
    assert benchmark.main(arguments) == 0
    steps = json.loads((tmp_path / "gpu.json").read_text())["steps"]
    assert [step["name"] for step in steps if step["status"] == "failed"] == []
    tests = next(step for step in steps if step.get("check") == "tests marked gpu")
    assert tests["status"] == "done"
    assert tests["result"]["passed"] + tests["result"]["skipped"] > 100


@COMPILER
@pytest.mark.slow
def test_compiled_sides(monkeypatch):
    """By what traces them; to compile them for a CPU as well takes half an hour."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    result = operator_speed.measure_operator((1, 48, 64), 5, "float32", True, True, "cpu", 1)
    assert set(result["sides"]) == {"kernel", "PyTorch, compiled"}
    assert result["sides"]["PyTorch, compiled"]["relative_error"] < 1e-5
    result = system_speed.measure_inference("msstsvis-tiny", (2, 48, 64), "float32", True, "cpu", 1)
    assert result["relative_error"] < 1e-4
    training = [
        system_speed.measure_training("msstsvis-tiny", (2, 48, 64), "float32", compiled, "cpu", 1)
        for compiled in (False, True)
    ]
    assert training[0]["loss"] == pytest.approx(training[1]["loss"], rel=0.05)  # with dropout


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_steps_on_a_device():
    """Not the run itself, which runs this."""
    assert device.copy_bandwidth("cuda") > 0
    result = operator_speed.measure_operator((1, 48, 64), 5, "bfloat16", True, False, "cuda", 3)
    for side in ("kernel", "PyTorch", "transformers"):
        assert result["sides"][side]["seconds"]["median"] > 0
        assert result["sides"][side]["peak_bytes"] > 0
    for measure in (system_speed.measure_inference, system_speed.measure_training):
        for precision in system_speed.PRECISIONS:
            result = measure("msstsvis-tiny", (2, 48, 64), precision, False, "cuda", 3)
            assert result["frames_per_s"] > 0
            assert result["peak_bytes"] > 0

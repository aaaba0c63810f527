"""From nothing to exported results by the scripts: make videos, train, kill, resume, evaluate, predict, export."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from tests.models.testers import model_of
from transformers_msstsvis import AutoModelForVideoInstanceSegmentation, VideoInstances
from transformers_msstsvis.models.auto import MODELS, video_processor_class
from transformers_msstsvis.pipelines import SAMPLE_MODEL
from transformers_msstsvis.training import last_checkpoint

ROOT = Path(__file__).parents[1]

RECIPE = """
# Few and small steps: the checkpoint stays as good as it is.
num_frames: 2
per_device_train_batch_size: 1
learning_rate: 1e-5
lr_scheduler_type: constant
logging_steps: 1
save_steps: 2
save_total_limit: 2
use_cpu: true
report_to: none
"""


@pytest.fixture(params=sorted(MODELS))
def start(request, tmp_path) -> str:
    """A checkpoint of every model: the one that comes with the package, or one that has learned nothing."""
    if json.loads((SAMPLE_MODEL / "config.json").read_text())["model_type"] == request.param:
        return str(SAMPLE_MODEL)
    names = AutoConfig.from_pretrained(SAMPLE_MODEL).id2label
    model = model_of(request.param, id2label=names, label2id={name: label for label, name in names.items()})
    model.save_pretrained(tmp_path / "start")
    video_processor_class(model.config)(size={"shortest_edge": 96}).save_pretrained(tmp_path / "start")
    return str(tmp_path / "start")


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Start a script of the repository in an empty folder."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)

    def start(script: str, *arguments: str) -> subprocess.Popen:
        command = [sys.executable, str(ROOT / "scripts" / script), *arguments]
        with open(tmp_path / "log.txt", "a") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def run(script: str, *arguments: str) -> None:
        assert start(script, *arguments).wait(300) == 0, Path("log.txt").read_text()[-4000:]

    run.start = start
    return run


def kill_after_a_checkpoint(process: subprocess.Popen, output: str) -> int:
    """Wait for some steps, end the process without warning, and say from which step it can go on."""
    until = time.monotonic() + 300
    while last_checkpoint(output) is None:
        running = process.poll() is None and time.monotonic() < until
        assert running, Path("log.txt").read_text()[-4000:]
        time.sleep(0.02)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    return int(last_checkpoint(output).rsplit("-", 1)[1])


def test_from_videos_to_results(commands, start):
    has_learned = start == str(SAMPLE_MODEL)
    sizes = "--height 96 --width 96 --min-frames 4 --max-frames 5 --min-objects 1 --max-objects 2"
    commands("make_synthetic.py", "--output", "data", "--seed", "5", "--videos", "3", *sizes.split())
    steps, edge = (20, 192) if has_learned else (60, 64)  # a tiny model takes steps while it is being killed
    Path("recipe.yaml").write_text(f"{RECIPE}model: {start}\nmax_steps: {steps}\nshortest_edge: {edge}\n")
    train = ("train.py", "--config", "recipe.yaml", "--dataset", "data/annotations.json", "--output_dir", "run")

    step = kill_after_a_checkpoint(commands.start(*train), "run")
    assert 0 < step < steps
    assert not Path("run/model.safetensors").exists()

    commands(*train, "--resume_from_checkpoint", "last", "--eval_dataset", "data/annotations.json")
    state = json.loads(Path("run/trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "loss_ce" in entry] == list(range(1, steps + 1))
    numbers = json.loads(Path("run/eval_results.json").read_text())
    assert numbers["eval_AP"] > 0.3 if has_learned else 0 <= numbers["eval_AP"] <= 1

    # What was saved is a checkpoint like any other, and has learned.
    model = AutoModelForVideoInstanceSegmentation.from_pretrained("run")
    before = AutoModelForVideoInstanceSegmentation.from_pretrained(start).state_dict()
    assert any(not torch.equal(weight, before[name]) for name, weight in model.state_dict().items())

    commands("evaluate.py", "--model", "run", "--dataset", "data/annotations.json", "--output", "results.json")
    assert f"{100 * numbers['eval_AP']:.1f}" in Path("log.txt").read_text()
    results = json.loads(Path("results.json").read_text())
    assert {entry["video_id"] for entry in results} == {1, 2, 3}

    video = min(Path("data/JPEGImages").iterdir())
    frames = len(list(video.iterdir()))
    threshold = () if has_learned else ("--threshold", "0")
    commands("predict.py", str(video), "--model", "run", "--output", "drawn", "--json", "tracks.json", *threshold)
    assert len(list(Path("drawn").iterdir())) == frames
    instances = VideoInstances.load_json("tracks.json")
    assert len(instances) >= 1
    exported = instances.to_ytvis(video_id=1)
    assert all(len(entry["segmentations"]) == frames for entry in exported)
    evaluated = [entry for entry in results if entry["video_id"] == 1]
    if not has_learned:  # all scores are much the same, and predict.py leaves each object one track
        return
    for entry, same in zip(exported, evaluated, strict=False):  # of which predict.py drops the low scores
        assert entry["category_id"] == same["category_id"]
        assert entry["score"] == pytest.approx(same["score"], abs=1e-4)

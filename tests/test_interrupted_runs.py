"""Runs of predict that are stopped: what they leave, and how they go on."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.test_pipelines import small_processor
from tests.tiny import tiny_model, write_mp4
from transformers_msstsvis import VideoInstances, VideoReader
from transformers_msstsvis.commands import predict as script
from transformers_msstsvis.results.json_lines import read_json_lines
from transformers_msstsvis.results.sinks.tables import CsvSink
from transformers_msstsvis.tracking.clip_record import ClipRecord

FRAMES = 120  # many more than pass until a signal arrives on a busy machine


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A checkpoint, a video, and what an uninterrupted run makes of it."""
    path = tmp_path_factory.mktemp("run")
    tiny_model().save_pretrained(path / "model")
    small_processor().save_pretrained(path / "model")
    write_mp4(path / "clip.mp4", FRAMES)
    (path / "whole").mkdir()
    assert script.main([str(path / "clip.mp4"), *arguments(path, path / "whole")]) == 0
    return path


def arguments(folder: Path, output: Path) -> list[str]:
    outputs = ["--output", f"{output}/a.mp4", "--json", f"{output}/a.jsonl", "--export", "ytvis", f"{output}/a.json"]
    return ["--model", f"{folder}/model", "--threshold", "0", "--max-frames", "6", "--device", "cpu", *outputs]


def lines_of(path: Path) -> list[dict]:
    """Of the frames, but for a line that was being written."""
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines[1:] if line.endswith("\n")]


def started(folder: Path, output: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "transformers_msstsvis", "predict", f"{folder}/clip.mp4"]
    return subprocess.Popen(
        [*command, *arguments(folder, output), *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_lines(output: Path, count: int, process: subprocess.Popen) -> None:
    """Until JSON Lines tell of so many frames."""
    while process.poll() is None:
        names = [path for path in output.glob("a*.jsonl") if "resume" not in path.name]
        if names and len(lines_of(names[0])) >= count:
            return
        time.sleep(0.01)
    raise AssertionError(f"the run ended before it was stopped: {process.stderr.read()}")


@pytest.mark.parametrize(("stop", "after"), [(signal.SIGKILL, 4), (signal.SIGINT, 20)])
def test_nothing_that_is_finished_is_lost(folder, tmp_path, stop, after):
    process = started(folder, tmp_path)
    wait_for_lines(tmp_path, after, process)
    process.send_signal(stop)
    _, told = process.communicate()
    assert process.returncode == (130 if stop == signal.SIGINT else -stop)
    [lines] = [path for path in tmp_path.glob("a*.jsonl") if "resume" not in path.name]
    [video] = tmp_path.glob("a*.mp4")
    finished = lines_of(lines)
    assert after <= len(finished) < FRAMES
    assert finished == lines_of(folder / "whole" / "a.jsonl")[: len(finished)]
    frames = list(VideoReader(video))
    assert len(finished) <= len(frames) < FRAMES
    drawn = list(VideoReader(folder / "whole" / "a.mp4"))
    assert np.abs(frames[after - 1].astype(int) - drawn[after - 1]).mean() < 8
    if stop == signal.SIGINT:
        assert f"stopped after {len(finished)} frames, which are in " in told
        assert "with --resume it goes on" in told
        assert len(json.loads((tmp_path / "a.json").read_text())[0]["segmentations"]) == len(finished)

    assert started(folder, tmp_path, "--resume").wait() == 0
    assert sorted(os.listdir(tmp_path)) == ["a.json", "a.jsonl", "a.mp4"]
    for name in ("a.json", "a.jsonl"):
        assert (tmp_path / name).read_bytes() == (folder / "whole" / name).read_bytes()
    again = np.stack(list(VideoReader(tmp_path / "a.mp4")))
    assert len(again) == FRAMES
    assert np.abs(again.astype(int) - np.stack(drawn)).mean() < 1


@pytest.mark.slow
def test_ten_moments(folder, tmp_path):
    """Killed again and again, at moments that are drawn, a run comes to the same end."""
    draw = random.Random(0)
    done = 0
    for _ in range(10):
        process = started(folder, tmp_path, *(["--resume"] if done else []))
        wait_for_lines(tmp_path, min(FRAMES - 12, done + draw.randrange(0, 4)), process)
        time.sleep(draw.random() / 10)
        process.send_signal(draw.choice([signal.SIGKILL, signal.SIGINT]))
        process.communicate()
        lines = [path for path in tmp_path.glob("a*.jsonl") if "resume" not in path.name]
        done = max(len(lines_of(path)) for path in lines)
        assert list(read_json_lines(max(lines, key=lambda path: path.stat().st_size)))
    assert started(folder, tmp_path, "--resume").wait() == 0
    assert (tmp_path / "a.jsonl").read_bytes() == (folder / "whole" / "a.jsonl").read_bytes()


def test_a_run_that_cannot_go_on_says_why_and_costs_nothing(folder, tmp_path, capsys):
    given = [str(folder / "clip.mp4"), *arguments(folder, tmp_path), "--resume"]
    record = '{"video": "x", "model": "y", "options": {}}\n'
    (tmp_path / "a.resume.jsonl").write_text(record)
    (tmp_path / "a.partial.jsonl").write_text("finished")
    assert script.main([*given[:-1], "--threshold", "7"]) == 1
    assert "threshold is 7.0; expected a score" in capsys.readouterr().err
    assert script.main(given) == 1
    assert (tmp_path / "a.partial.jsonl").read_text() == "finished"
    assert (tmp_path / "a.resume.jsonl").read_text() == record
    assert "can't go on with other settings: video was 'x' and is 'clip (" in capsys.readouterr().err
    assert script.main([*given, "--tracker", "devis"]) == 1
    assert "with the tracker 'devis' can't be resumed, for that needs the soft masks" in capsys.readouterr().err


def test_nothing_to_resume_is_a_run_from_the_start(folder, tmp_path):
    assert script.main([str(folder / "clip.mp4"), *arguments(folder, tmp_path), "--resume"]) == 0
    assert (tmp_path / "a.jsonl").read_bytes() == (folder / "whole" / "a.jsonl").read_bytes()


def test_what_the_outputs_hold(folder):
    joined = VideoInstances.load_json(folder / "whole" / "a.jsonl")
    official = VideoInstances.load_json(folder / "whole" / "a.json")
    assert joined.to_list() == official.to_list()
    assert joined.num_frames == FRAMES


def test_an_interrupt_between_two_outputs(folder, tmp_path, monkeypatch, capsys):
    """Whatever of a stretch was written, all files are closed, and the message is the usual one."""
    append, calls = CsvSink.append, []

    def stopped(self, tracks):
        calls.append(0)
        if len(calls) == 4:
            raise KeyboardInterrupt
        append(self, tracks)

    monkeypatch.setattr(CsvSink, "append", stopped)
    given = [str(folder / "clip.mp4"), *arguments(folder, tmp_path), "--export", "csv", f"{tmp_path}/a.csv"]
    assert script.main(given) == 130
    assert "stopped after 10 frames, which are in " in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["a.csv", "a.json", "a.jsonl", "a.mp4", "a.resume.jsonl"]
    monkeypatch.undo()
    assert script.main([*given, "--resume"]) == 0
    assert (tmp_path / "a.jsonl").read_bytes() == (folder / "whole" / "a.jsonl").read_bytes()


def test_a_record_without_place_costs_no_result(folder, tmp_path, monkeypatch, caplog):
    def full(self, document):
        raise OSError(errno.ENOSPC, "No space left on device")

    write, calls = ClipRecord._write, []
    monkeypatch.setattr(
        ClipRecord,
        "_write",
        lambda self, document: (full if len(calls) > 2 else write)(self, calls.append(0) or document),
    )
    assert script.main([str(folder / "clip.mp4"), *arguments(folder, tmp_path)]) == 0
    assert sorted(os.listdir(tmp_path)) == ["a.json", "a.jsonl", "a.mp4"]
    assert (tmp_path / "a.jsonl").read_bytes() == (folder / "whole" / "a.jsonl").read_bytes()


def test_a_format_that_does_not_fit_costs_no_other(folder, tmp_path, monkeypatch, capsys):
    def refuse(self, tracks):
        raise ValueError("300 tracks do not fit")

    monkeypatch.setattr(CsvSink, "append", refuse)
    given = [str(folder / "clip.mp4"), *arguments(folder, tmp_path), "--export", "csv", f"{tmp_path}/a.csv"]
    assert script.main(given) == 1
    assert "300 tracks do not fit" in capsys.readouterr().err
    assert (tmp_path / "a.jsonl").read_bytes() == (folder / "whole" / "a.jsonl").read_bytes()

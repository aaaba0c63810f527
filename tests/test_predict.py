import json
from pathlib import Path

import numpy as np
import pytest

from tests.test_pipelines import small_processor
from tests.tiny import moving_square, tiny_model, write_mp4
from transformers_msstsvis import VideoInstances, VideoReader, encode_mask, predict
from transformers_msstsvis.commands import predict as script
from transformers_msstsvis.predict import predict_video, track_table


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("checkpoint")
    tiny_model().save_pretrained(path)
    small_processor().save_pretrained(path)
    return str(path)


@pytest.fixture
def clip(tmp_path) -> str:
    return str(write_mp4(tmp_path / "clip.mp4"))


def test_video_and_json_and_table(checkpoint, clip, tmp_path, capsys):
    output, tracks = tmp_path / "new" / "out.mp4", tmp_path / "new" / "out.json"
    arguments = [clip, "--model", checkpoint, "--output", str(output), "--json", str(tracks), "--threshold", "0.0"]
    assert script.main([*arguments, "--device", "cpu", "--max-frames", "3"]) == 0
    drawn = np.stack(list(VideoReader(output)))
    original = np.stack(list(VideoReader(clip)))
    assert drawn.shape == original.shape
    assert np.abs(drawn.astype(int) - original).max() > 50
    assert VideoReader(output).fps == 10
    results = json.loads(tracks.read_text())
    assert set(results[0]) == {"video_id", "category_id", "score", "segmentations", "track_id", "label", "boxes"}
    assert len(results[0]["segmentations"]) == 5
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert lines[0].split() == ["track", "label", "score", "frames"]
    assert len(lines) == 1 + len(results) + 2
    assert lines[-2:] == [f"wrote {output}", f"wrote {tracks}"]


@pytest.mark.parametrize("name", ["out.webm", "out.gif", "folder"])
def test_other_outputs(checkpoint, clip, tmp_path, name):
    predict_video(clip, checkpoint, output=tmp_path / name, threshold=0.0)
    assert len(list(VideoReader(tmp_path / name))) == 5


def test_default_output(checkpoint, clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert script.main([clip, "--model", checkpoint]) == 0
    assert (tmp_path / "out.mp4").is_file()
    assert (tmp_path / "out.json").is_file()


def test_without_arguments_the_sample_is_used(checkpoint, clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(predict, "SAMPLE_MODEL", Path(checkpoint))
    monkeypatch.setattr(predict, "SAMPLE_VIDEO", Path(clip))
    assert script.main([]) == 0
    assert len(list(VideoReader(tmp_path / "out.mp4"))) == 5


def test_nothing_found(checkpoint, clip, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert script.main([clip, "--model", checkpoint, "--json", str(tmp_path / "out.json"), "--threshold", "1"]) == 0
    assert "no track scores 1.0 or more" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.mp4"], "nowhere.mp4 does not exist"),
        (["{clip}", "--output", "out.xyz"], "out.xyz ends in .xyz; expected .mp4"),
        (["{clip}", "--output", "{clip}"], "is the input itself; choose another output"),
        (["{clip}", "--threshold", "2", "--json", "{clip}.json"], "threshold is 2.0; expected a score from 0 to 1"),
        (["{clip}", "--json", "{folder}"], "is a folder; expected the name of a file"),
        (["{clip}", "--model", "{folder}", "--json", "{clip}.json"], ""),
        (["{clip}", "--device", "toaster", "--json", "{clip}.json"], ""),
    ],
)
def test_errors_are_one_line(checkpoint, clip, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    arguments = [argument.format(clip=clip, folder=tmp_path) for argument in arguments]
    if "--model" not in arguments:
        arguments += ["--model", checkpoint]
    before = Path(clip).read_bytes()
    assert script.main(arguments) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert len(lines[0]) > len("error: ")
    assert Path(clip).read_bytes() == before
    assert not (Path.cwd() / "out.xyz").exists()


@pytest.mark.parametrize("arguments", [["--threshold", "high"], ["--dtype", "float7"], ["--unknown"]])
def test_wrong_arguments_exit_with_2(arguments):
    with pytest.raises(SystemExit) as exit_info:
        script.main(arguments)
    assert exit_info.value.code == 2


def test_a_missing_sample_model_is_named(clip, monkeypatch, tmp_path):
    monkeypatch.setattr(predict, "SAMPLE_MODEL", tmp_path / "msstsvis-tiny")
    with pytest.raises(FileNotFoundError, match="msstsvis-tiny is not part of this installation; name a model"):
        predict_video(clip, tmp_path / "msstsvis-tiny")


def test_track_table():
    mask = encode_mask(np.ones((1, 2), dtype=bool))
    instances = VideoInstances(
        scores=[0.987, 0.5],
        labels=[1, 0],
        track_ids=[12, 3],
        masks=[[mask, mask, None], [None, mask, None]],
        boxes=None,
        size=(1, 2),
        num_frames=3,
        id2label={0: "cat", 1: "giraffe"},
    )
    assert track_table(instances).splitlines() == [
        "track  label    score  frames",
        "12     giraffe  0.99   2",
        "3      cat      0.50   1",
    ]


def test_memory_does_not_grow_with_the_video(checkpoint, tmp_path):
    """Frames are never all in memory: of a video five times as long the peak is the same, but for a few masks."""
    import tracemalloc

    peaks = []
    for frames in (12, 60):
        clip = write_mp4(tmp_path / f"{frames}.mp4", frames, 192, 256)
        tracemalloc.start()
        predict_video(clip, checkpoint, output=tmp_path / "out.mp4", threshold=1.0, max_frames=4)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    one_frame = moving_square(1, 192, 256).nbytes
    assert peaks[1] - peaks[0] < 20 * one_frame

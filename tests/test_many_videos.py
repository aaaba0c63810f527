"""Many videos: shares of processes, what is done, and what failed."""

import json
import subprocess
import sys

import pytest

from tests.test_pipelines import small_processor
from tests.tiny import tiny_model, write_mp4
from transformers_msstsvis.predict import list_videos, predict_videos
from transformers_msstsvis.prediction.shards import ErrorFile, Shard


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("checkpoint")
    tiny_model().save_pretrained(path)
    small_processor().save_pretrained(path)
    return str(path)


@pytest.fixture
def videos(tmp_path):
    for number in range(5):
        (tmp_path / "videos").mkdir(exist_ok=True)
        write_mp4(tmp_path / "videos" / f"{number}.mp4", 3)
    (tmp_path / "videos" / "bad.mp4").write_text("no video")
    return tmp_path / "videos"


@pytest.mark.parametrize(
    ("text", "environment", "shard"),
    [
        (None, {}, (1, 1)),
        ("2/8", {"RANK": "0", "WORLD_SIZE": "4"}, (2, 8)),
        (None, {"RANK": "3", "WORLD_SIZE": "4"}, (4, 4)),
        (None, {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "3"}, (1, 3)),
        (
            None,
            {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "4"},
            (2, 3),
        ),
        (None, {"RANK": "3"}, (1, 1)),
    ],
)
def test_the_share_of_a_process(text, environment, shard):
    assert Shard.of(text, environment) == shard


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4"])
def test_shares_that_there_are_not(text):
    with pytest.raises(ValueError, match=f"shard is '{text}'; expected the number of a share"):
        Shard.of(text, {})


def test_shares_are_all():
    items = list(range(11))
    assert sorted(item for index in range(1, 5) for item in Shard(index, 4).take(items)) == items


def test_processes_share_the_videos(checkpoint, videos, tmp_path, monkeypatch):
    """As SLURM starts them; each does its own, and a second run nothing but what failed."""
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    done = []
    for task in "01":
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", task)
        results = list(predict_videos([videos], checkpoint, tmp_path / "out", suffix=None, threshold=0.0))
        done.append([name.rpartition("/")[2] for name, *_ in results])
    assert done == [["0.mp4", "2.mp4", "4.mp4"], ["1.mp4", "3.mp4", "bad.mp4"]]
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [*(f"{number}.json" for number in range(5)), "errors.jsonl"]
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
    again = [result for _, result, _ in predict_videos([videos], checkpoint, tmp_path / "out", suffix=None)]
    assert again[:5] == [None] * 5
    assert isinstance(again[5], ValueError)
    [line] = (tmp_path / "out" / "errors.jsonl").read_text().splitlines()
    assert json.loads(line) == {"video": str(videos / "bad.mp4"), "error": f"ValueError: {again[5]}"}


def test_what_a_kill_left_is_made_anew(checkpoint, videos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "0.partial.json").write_text("half")
    list(predict_videos([videos / "0.mp4", videos / "1.mp4"], checkpoint, tmp_path / "out", threshold=0.0))
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["0.json", "0.mp4", "1.json", "1.mp4"]


def test_lists_of_videos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lists").mkdir()
    for name in ("a.mp4", "lists/b.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "lists" / "all.txt").write_text("a.mp4\n\n# not this\nb.mp4\nhttp://host/c.mp4\nnowhere.mp4\n")
    expected = ["a.mp4", "lists/b.mp4", "http://host/c.mp4", "nowhere.mp4"]
    assert [str(video) for video in list_videos(["lists/all.txt"])] == expected


def test_processes_share_an_error_file(tmp_path):
    files = [ErrorFile(tmp_path / "errors.jsonl", anew=False) for _ in range(2)]
    for number in range(4):
        files[number % 2].add(f"{number}.mp4", ValueError("bad\nworse"))
    lines = [json.loads(line) for line in (tmp_path / "errors.jsonl").read_text().splitlines()]
    assert [line["video"] for line in lines] == [f"{number}.mp4" for number in range(4)]
    assert lines[0]["error"] == "ValueError: bad\nworse"


def test_datatrove_runs_the_step(checkpoint, videos, tmp_path):
    """Two workers of a local executor, a broken file, and a second run that finds all done."""
    script = tmp_path / "run.py"
    script.write_text(
        "from datatrove.executor import LocalPipelineExecutor\n"
        "from transformers_msstsvis.bulk import SegmentVideos\n"
        "if __name__ == '__main__':\n"
        f"    step = SegmentVideos([{str(videos)!r}], {str(tmp_path / 'out')!r}, {checkpoint!r}, suffix=None)\n"
        f"    executor = LocalPipelineExecutor([step], tasks=3, workers=2, logging_dir={str(tmp_path / 'logs')!r})\n"
        "    executor.run()\n"
    )
    for run in range(2):
        done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
        names = sorted(path.name for path in (tmp_path / "out").iterdir())
        assert names == [*(f"{number}.json" for number in range(5)), "errors.jsonl"]
        assert ("all 3 tasks have already been completed" in done.stderr) == (run == 1)
    stats = json.loads((tmp_path / "logs" / "stats.json").read_text())[0]["stats"]
    counts = {name: value["total"] if isinstance(value, dict) else value for name, value in stats.items()}
    assert (counts["videos"], counts["failed"]) == (5, 1)

"""The notebooks run from the first cell to the last, offline, and show what their text says."""

import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


@pytest.fixture
def executed(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))

    def run(name: str) -> list[dict]:
        notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
        nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
        return [cell for cell in notebook.cells if cell.cell_type == "code"]

    return run


def printed(cell: dict) -> str:
    return "".join(
        output.text for output in cell.outputs if output.output_type == "stream" and output.name == "stdout"
    )


def pictures(cell: dict) -> list[str]:
    return [output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]


def test_finetune_own_data(executed):
    _, data, videos, labels, training, evaluation, prediction = executed("finetune_own_data.ipynb")
    assert "['round', 'angular']" in printed(data)
    assert printed(videos).count("frames of 96x96") == 12
    assert len(pictures(labels)) == len(pictures(prediction)) == 1
    assert "mean loss of 120 steps" in printed(training)
    before, after = (line.split() for line in printed(evaluation).splitlines()[1:])
    assert (before[0], after[0]) == ("before", "after")
    assert float(after[2]) > max(float(before[2]), 20)  # AP50 in percent
    assert re.search(r"^1 (round|angular) 0\.\d\d$", printed(prediction), re.M)


def test_quickstart(executed):
    found, look, choice, arrays, exports, stream, training, trained = executed("quickstart.ipynb")
    assert re.search(r"^1 star 0\.8\d in 30 of 30 frames$", printed(found), re.M)
    assert len(pictures(look)) == 1
    assert "3 tracks, 2 of them score 0.6 or more" in printed(choice)
    assert "['star']" in printed(choice)
    assert "(3, 256, 256)" in printed(arrays)
    assert "cvat   annotations.xml" in printed(exports)
    assert "frame,time,track_id,label" in printed(exports)
    assert "to 29 tracks" in printed(stream)
    assert "training msstsvis, 3.3 M parameters" in printed(training)
    assert "VideoInstances(" in printed(trained)


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.name)
def test_no_outputs_are_kept(path):
    assert path.stat().st_size < 100_000
    cells = nbformat.read(path, as_version=4).cells
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]

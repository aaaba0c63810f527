import json
from pathlib import Path

import pytest
import torch
from transformers import pipeline

from tests.adapters.tiny import write_mask2former, write_videomt
from tests.tiny import moving_square, write_mp4
from transformers_msstsvis import VideoReader, evaluate_model, make_synthetic
from transformers_msstsvis.commands import evaluate, predict

TASK = "video-instance-segmentation"
WRITERS = {"videomt": write_videomt, "mask2former": write_mask2former}


@pytest.fixture(scope="module")
def annotations(tmp_path_factory):
    return make_synthetic(tmp_path_factory.mktemp("data"), 3, 2, min_frames=4, max_frames=6)


@pytest.mark.parametrize("name", WRITERS)
def test_evaluation_runs(name, annotations, tmp_path, capsys):
    folder = WRITERS[name](tmp_path / "video-model")
    numbers = evaluate_model(annotations, folder, device="cpu", output=tmp_path / "results.json")
    assert 0 <= numbers["AP"] <= 1
    results = json.loads((tmp_path / "results.json").read_text())
    assert {result["video_id"] for result in results} == {1, 2}
    assert evaluate.main(["--dataset", str(annotations), "--model", str(folder), "--device", "cpu"]) == 0
    assert "AP50" in capsys.readouterr().out


@pytest.mark.parametrize("name", WRITERS)
def test_a_saved_pipeline_gives_the_same(name, tmp_path):
    WRITERS[name](tmp_path / "video-model")
    segmenter = pipeline(TASK, model=str(tmp_path / "video-model"), device="cpu")
    segmenter.save_pretrained(tmp_path / "video-saved")
    again = pipeline(TASK, model=str(tmp_path / "video-saved"), device="cpu")
    assert type(again.model) is type(segmenter.model)
    options = {"threshold": 0.0, "duplicate_iou": 1}
    assert again(moving_square(), **options) == segmenter(moving_square(), **options)


@pytest.mark.parametrize("name", WRITERS)
def test_predict_writes_all(name, tmp_path):
    folder, video = WRITERS[name](tmp_path / "video-model"), write_mp4(tmp_path / "clip.mp4")
    out = tmp_path / "out"
    flags = ["--output", f"{out}/a.mp4", "--json", f"{out}/a.json", "--masks", f"{out}/masks", "--export", "csv"]
    flags += [f"{out}/a.csv", "--model", str(folder), "--threshold", "0", "--device", "cpu", "--max-frames", "3"]
    assert predict.main([str(video), *flags]) == 0
    tracks = json.loads((out / "a.json").read_text())
    assert tracks
    assert all(len(track["segmentations"]) == 5 for track in tracks)
    assert len(list((out / "masks").iterdir())) == 5
    assert VideoReader(out / "a.mp4").num_frames == 5
    assert (out / "a.csv").read_text().count("\n") > 5


@pytest.mark.parametrize("name", WRITERS)
def test_the_page_of_the_demo_shows_them(name, tmp_path):
    pytest.importorskip("gradio", reason="it is the page")
    from transformers_msstsvis.demo import build_page

    folder, video = WRITERS[name](tmp_path / "video-model"), write_mp4(tmp_path / "clip.mp4")
    functions = {block.fn.__name__: block.fn for block in build_page([folder]).fns.values() if block.fn}
    found, _, drawn, rows, files, text = functions["segment"](
        str(video), threshold=0.0, progress=lambda *_, **__: None
    )
    assert VideoReader(drawn).num_frames == found.instances.num_frames == 5
    assert len(rows) == len(json.loads(Path(files[0]).read_text())) > 0
    assert text.startswith(f"{len(rows)} track")


@pytest.mark.parametrize("name", WRITERS)
def test_half_precision(name, tmp_path):
    folder = WRITERS[name](tmp_path / "video-model")
    segmenter = pipeline(TASK, model=str(folder), device="cpu", dtype="bfloat16", threshold=0.0)
    assert segmenter.model.dtype == torch.bfloat16
    assert segmenter(moving_square(3), max_frames=2)


@pytest.mark.parametrize("name", WRITERS)
def test_looks_at_no_points(name, tmp_path, capsys):
    folder, video = WRITERS[name](tmp_path / "video-model"), write_mp4(tmp_path / "clip.mp4")
    flags = ["--model", str(folder), "--attention", "1", "--output", str(tmp_path / "a.png"), "--device", "cpu"]
    assert predict.main([str(video), *flags]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("name", ["tue-mps/videomt-dinov2-small-ytvis2019", "nobody/video-mask2former"])
def test_a_checkpoint_that_is_not_there(name, tmp_path, capsys):
    assert predict.main(["clip.mp4", "--model", name, "--output", str(tmp_path / "out.mp4")]) == 1
    assert f"there is no model folder {name} here, and the Hub can't be reached" in capsys.readouterr().err

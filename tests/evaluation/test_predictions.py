"""Evaluating from the command line, on a tiny model: the way to the numbers, not the numbers."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import pipeline

from tests.test_pipelines import small_processor
from tests.tiny import tiny_model
from transformers_msstsvis.commands import evaluate as script
from transformers_msstsvis.data.synthetic import make_synthetic
from transformers_msstsvis.evaluation import (
    category_ids,
    check_submission,
    evaluate,
    evaluate_model,
    find_frames,
    format_table,
    ground_truth,
    predict_dataset,
    predictions,
    read_ground_truth,
    rich_tables,
)
from transformers_msstsvis.metrics.submission import validate_submission
from transformers_msstsvis.metrics.ytvis_map import YtvisMeanAveragePrecision

SCRIPT = Path(__file__).parents[2] / "scripts" / "evaluate.py"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums of several threads differ in the last bit from those of one, and results are compared by their bytes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint")
    tiny_model().save_pretrained(path)
    small_processor().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def annotations(tmp_path_factory) -> Path:
    sizes = {"height": 64, "width": 80, "min_frames": 3, "max_frames": 4, "min_objects": 1, "max_objects": 2}
    return Path(make_synthetic(tmp_path_factory.mktemp("synthetic"), seed=3, num_videos=6, **sizes))


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    messages = []
    for module in (ground_truth, predictions):
        monkeypatch.setattr(module.logger, "warning", messages.append)
    return messages


def command(checkpoint, annotations, *arguments) -> list[str]:
    return [*map(str, ("--model", checkpoint, "--dataset", annotations, "--device", "cpu", *arguments))]


def run(checkpoint, annotations, *arguments) -> int:
    return script.main(command(checkpoint, annotations, *arguments))


@pytest.fixture(scope="module")
def whole(checkpoint, annotations, tmp_path_factory) -> bytes:
    """The results of a run that nothing stopped."""
    output = tmp_path_factory.mktemp("whole") / "results.json"
    assert run(checkpoint, annotations, "--output", output) == 0
    assert [path.name for path in output.parent.iterdir()] == ["results.json"]
    return output.read_bytes()


def test_trackers(checkpoint, annotations, whole, tmp_path):
    output = tmp_path / "results.json"
    assert run(checkpoint, annotations, "--output", output, "--tracker", "iou") == 0
    assert output.read_bytes() == whole
    arguments = {"output": output, "max_frames": 2, "device": "cpu"}
    found = {}
    for tracker in ("iou", "devis"):
        assert evaluate_model(annotations, checkpoint, tracker=tracker, **arguments)["AP"] >= 0
        found[tracker] = json.loads(output.read_text())
    assert found["iou"] != found["devis"]
    with pytest.raises(ValueError, match="tracker is 'sort'; expected 'iou', 'devis' or 'none'"):
        evaluate_model(annotations, checkpoint, tracker="sort", **arguments)
    with pytest.raises(
        ValueError, match=r"no video could be evaluated; the first one: .* stride is 1 with clips of 1"
    ):
        evaluate_model(annotations, checkpoint, tracker="devis", **{**arguments, "max_frames": 1})


def changed(annotations: Path, name: str, change) -> Path:
    """A copy of the annotation file beside it, after a change."""
    dataset = json.loads(annotations.read_text())
    change(dataset)
    path = annotations.with_name(name)
    path.write_text(json.dumps(dataset))
    return path


# ------------------------------------------------------------------------------------------------- one run to the end


def test_results_submission_and_plot_then_scoring_the_results(checkpoint, annotations, whole, tmp_path, capsys):
    files = {name: tmp_path / "new" / name for name in ("results.json", "results.zip", "curve.svg")}
    arguments = ("--output", "results.json"), ("--submission", "results.zip"), ("--plot", "curve.svg")
    arguments = [value for option, name in arguments for value in (option, files[name])]
    assert run(checkpoint, annotations, *arguments) == 0
    table = capsys.readouterr().out
    assert table.split()[:3] == ["AP", "AP50", "AP75"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(files)
    assert files["results.json"].read_bytes() == whole
    assert validate_submission(files["results.zip"], annotations) == []
    assert "<svg" in files["curve.svg"].read_text()

    assert script.main(["--dataset", str(annotations), "--results", str(files["results.json"])]) == 0
    assert capsys.readouterr().out == table
    assert script.main(["--validate", str(files["results.zip"]), "--dataset", str(annotations)]) == 0
    assert capsys.readouterr().out == f"{files['results.zip']} is a valid submission\n"


def test_a_split_without_labels_gives_a_submission(checkpoint, annotations, tmp_path, capsys):
    unlabelled = changed(annotations, "valid.json", lambda dataset: dataset.update(annotations=None))
    assert run(checkpoint, unlabelled, "--submission", tmp_path / "results.zip") == 0
    assert "has no annotations, so there are no numbers" in capsys.readouterr().out
    assert validate_submission(tmp_path / "results.zip", unlabelled) == []
    assert run(checkpoint, unlabelled) == 1
    assert (
        f"error: {unlabelled} has no annotations; expected a YouTube-VIS file with labels" in capsys.readouterr().err
    )


def test_other_formats(checkpoint, annotations, whole, tmp_path):
    """COCO video: images and per-frame annotations."""
    dataset = json.loads(annotations.read_text())
    images, boxes = [], []
    for video in dataset["videos"]:
        for frame, name in enumerate(video["file_names"]):
            size = {key: video[key] for key in ("height", "width")}
            images.append(
                {"id": len(images) + 1, "video_id": video["id"], "frame_id": frame, "file_name": name, **size}
            )
            for annotation in dataset["annotations"]:
                mask = annotation["segmentations"][frame] if annotation["video_id"] == video["id"] else None
                if mask:
                    entry = {"id": len(boxes) + 1, "image_id": len(images), "instance_id": annotation["id"]}
                    entry |= {"category_id": annotation["category_id"], "segmentation": mask, "iscrowd": 0}
                    boxes.append({**entry, "area": annotation["areas"][frame], "bbox": annotation["bboxes"][frame]})
    videos = [{"id": video["id"], "name": f"video {video['id']}"} for video in dataset["videos"]]
    content = {"videos": videos, "images": images, "annotations": boxes, "categories": dataset["categories"]}
    path = annotations.with_name("coco_video.json")
    path.write_text(json.dumps(content))
    assert run(checkpoint, path, "--output", tmp_path / "results.json") == 0
    assert (tmp_path / "results.json").read_bytes() == whole


def test_a_relative_path_to_another_format(tmp_path, monkeypatch):
    folder = tmp_path / "my" / "own"
    (folder / "frames" / "dog").mkdir(parents=True)
    (folder / "frames" / "dog" / "0.jpg").touch()
    image = {"id": 1, "video_id": 1, "frame_id": 0, "file_name": "dog/0.jpg", "height": 4, "width": 4}
    mask = {"size": [4, 4], "counts": [4, 12]}
    entry = {"id": 1, "image_id": 1, "instance_id": 1, "category_id": 1, "segmentation": mask}
    content = {"images": [image], "annotations": [entry], "categories": [{"id": 1, "name": "dog"}]}
    (folder / "own.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    dataset = read_ground_truth("my/own/own.json", "my/own/frames")
    frames_dir = find_frames("my/own/own.json", dataset, "my/own/frames")
    assert [(frames_dir / name).is_file() for name in dataset["videos"][0]["file_names"]] == [True]


def test_rows_of_a_dataset_as_ground_truth(annotations, whole):
    from transformers_msstsvis.data.loading import load_vis_dataset

    rows, file = YtvisMeanAveragePrecision(load_vis_dataset(annotations)), YtvisMeanAveragePrecision(annotations)
    for metric in (rows, file):
        metric.update(json.loads(whole))
    assert rows.compute() == file.compute()


@pytest.mark.parametrize("embedded", [False, True])
def test_a_dataset_is_evaluated_as_its_file_is(checkpoint, annotations, whole, tmp_path, embedded):
    from transformers_msstsvis.data.loading import categories_of, embed_frames, load_vis_dataset

    dataset = load_vis_dataset(annotations)
    if embedded:
        dataset = embed_frames(dataset)
        dataset = dataset.map(lambda row: {"file_names": [f"gone/{name}" for name in row["file_names"]]})
    segmenter = pipeline("video-instance-segmentation", model=str(checkpoint), device="cpu")
    ids = category_ids(segmenter.model.config.id2label, categories_of(dataset))
    found = zip(dataset["video_id"], predict_dataset(segmenter, dataset), strict=True)
    results = [result for video_id, instances in found for result in instances.to_ytvis(video_id, ids)]
    assert json.loads(json.dumps(results)) == json.loads(whole)


def test_a_file_with_other_names_and_encoding_is_evaluated(checkpoint, annotations, whole, tmp_path, capsys):
    def rename(dataset):
        for video in dataset["videos"]:
            names = [name.replace("/", "\\") for name in video["file_names"]]
            video["file_names"] = [f"C:\\videos\\{name}" for name in names]

    path = changed(annotations, "windows.json", rename)
    path.write_text(path.read_text(), encoding="utf-16")
    assert run(checkpoint, path, "--output", tmp_path / "results.json") == 0
    assert (tmp_path / "results.json").read_bytes() == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"iscrowd": 1.5}, "iscrowd is 1.5; expected 0 or 1"),
        ({"iscrowd": "abc"}, "iscrowd is 'abc'; expected 0 or 1"),
        ({"category_id": "1"}, "category_id is '1'; expected one of the categories of the file"),
        ({"category_id": 77}, "category_id is 77; expected one of the categories of the file"),
    ],
)
def test_wrong_annotations_are_not_scored(annotations, whole, tmp_path, capsys, change, message):
    (tmp_path / "results.json").write_bytes(whole)
    spoiled = changed(annotations, "spoiled.json", lambda dataset: dataset["annotations"][0].update(change))
    assert script.main(["--dataset", str(spoiled), "--results", str(tmp_path / "results.json")]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert "AP" not in captured.out


@pytest.mark.parametrize("area", [-1, 10**10, 1e300])
def test_wrong_areas_are_not_scored(annotations, whole, tmp_path, capsys, area):
    (tmp_path / "results.json").write_bytes(whole)

    def spoil(dataset):
        dataset["annotations"][0]["areas"] = [area] * len(dataset["annotations"][0]["areas"])

    spoiled = changed(annotations, "spoiled.json", spoil)
    assert script.main(["--dataset", str(spoiled), "--results", str(tmp_path / "results.json")]) == 1
    assert "expected a number, or null: pixels, from 0 to height * width" in capsys.readouterr().err


def test_frames_outside_of_their_folder_are_not_evaluated(checkpoint, annotations, tmp_path, capsys):
    (tmp_path / "secret").mkdir()
    shutil.copy(next((annotations.parent / "JPEGImages").rglob("*.jpg")), tmp_path / "secret" / "0.jpg")

    def lead_out(dataset):
        dataset["videos"][1]["file_names"][0] = str(tmp_path / "secret" / "0.jpg")

    path = changed(annotations, "outside.json", lead_out)
    assert run(checkpoint, path) == 1
    assert "leads out of the frames folder" in capsys.readouterr().err


def test_short_and_long_videos(annotations, tmp_path, capsys):
    dataset = json.loads(annotations.read_text())
    first = [{**a, "score": 1.0} for a in dataset["annotations"] if a["video_id"] == dataset["videos"][0]["id"]]
    (tmp_path / "results.json").write_text(json.dumps(first))
    (tmp_path / "long.json").write_text(json.dumps([dataset["videos"][0]["id"]]))
    arguments = [
        "--dataset",
        annotations,
        "--results",
        tmp_path / "results.json",
        "--long_videos",
        tmp_path / "long.json",
    ]
    assert script.main([*map(str, arguments)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[:2] == [["AP", "AP_S", "AP_L"], ["50.0", "0.0", "100.0"]]
    assert lines.index(["short", "videos"]) < lines.index(["long", "videos"])


def test_one_call_evaluates_as_the_command_does(checkpoint, annotations, whole, tmp_path):
    numbers = evaluate_model(annotations, checkpoint, output=tmp_path / "results.json", device="cpu")
    assert (tmp_path / "results.json").read_bytes() == whole
    metric = YtvisMeanAveragePrecision(annotations)
    metric.update(tmp_path / "results.json")
    dataset = json.loads(annotations.read_text())
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    assert numbers == {**metric.compute(), "category_names": names}
    unlabelled = changed(annotations, "nothing.json", lambda dataset: dataset.update(annotations=[]))
    assert evaluate_model(unlabelled, checkpoint, submission=tmp_path / "results.zip", device="cpu") == {}
    assert check_submission(tmp_path / "results.zip", annotations) == []
    (tmp_path / "long.json").write_text(json.dumps([dataset["videos"][0]["id"]]))
    both = evaluate_model(annotations, results=tmp_path / "results.json", long_videos=tmp_path / "long.json")
    assert both["AP"] == (both["short"]["AP"] + both["long"]["AP"]) / 2


# ----------------------------------------------------------------------------------------------- stopped and shared


def start(*arguments) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True)


KILLED_AT_THE_FOURTH_VIDEO = """
import os, runpy, signal, sys
from transformers_msstsvis.evaluation import predictions

predict, calls = predictions._predict_video, []

def predict_or_die(*arguments):
    calls.append(arguments)
    if len(calls) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return predict(*arguments)

predictions._predict_video = predict_or_die
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_killed_run_goes_on_and_gives_the_same_bytes(checkpoint, annotations, whole, tmp_path, monkeypatch, capsys):
    (tmp_path / "driver.py").write_text(KILLED_AT_THE_FOURTH_VIDEO)
    output = tmp_path / "out" / "results.json"
    arguments = command(checkpoint, annotations, "--output", output)
    done = start(tmp_path / "driver.py", SCRIPT, *arguments)
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    assert [path.name for path in output.parent.iterdir()] == ["results.json.part-0.jsonl"]

    # With other arguments it does not go on, and says what to do.
    assert script.main([*arguments, "--top_k", "3"]) == 1
    message = "part-0.jsonl holds unfinished results of another run: top_k was 10 and is 3; delete it to start anew"
    assert message in capsys.readouterr().err

    predicted = []
    predict = predictions._predict_video
    monkeypatch.setattr(predictions, "_predict_video", lambda *a: predicted.append(a[1]["id"]) or predict(*a))
    assert script.main(arguments) == 0
    assert predicted == [video["id"] for video in json.loads(annotations.read_text())["videos"]][3:]
    assert output.read_bytes() == whole
    assert [path.name for path in output.parent.iterdir()] == ["results.json"]


@pytest.mark.parametrize("change", ["weights", "videos", "dataset"])
def test_a_changed_checkpoint_or_dataset_does_not_go_on(checkpoint, annotations, tmp_path, capsys, change):
    model = tmp_path / "model"
    shutil.copytree(checkpoint, model)
    output = tmp_path / "out" / "results.json"
    # A skipped video leaves the file to go on from.
    missing = changed(annotations, "missing.json", lambda d: d["videos"][0].update(file_names=["no.jpg"] * 3))
    assert run(model, missing, "--output", output) == 0
    if change == "weights":
        (model / "model.safetensors").touch()
        message = "the checkpoint's state was"
    elif change == "videos":
        changed(missing, missing.name, lambda dataset: dataset["videos"].pop())
        message = "the dataset's videos was"
    else:
        missing = changed(missing, "another.json", lambda dataset: None)
        message = "dataset was"
    assert run(model, missing, "--output", output) == 1
    assert f"holds unfinished results of another run: {message}" in capsys.readouterr().err


def test_two_processes_share_the_videos(checkpoint, annotations, whole, tmp_path):
    output = tmp_path / "results.json"
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    arguments = ("--model", checkpoint, "--dataset", annotations, "--output", output)  # on the CPU, as nothing else is
    done = start(*launcher, SCRIPT, *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    assert output.read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    assert done.stdout.count("AP75") == 2  # the headings of one table


def test_several_processes_need_a_place_to_share(checkpoint, annotations, monkeypatch, capsys):
    class State:
        process_index, num_processes, device = 1, 2, "cpu"

    monkeypatch.setattr(evaluate, "processes", lambda device: State)
    assert run(checkpoint, annotations) == 1
    assert (
        "several processes share their results through files beside --output: give --output" in capsys.readouterr().err
    )


# ------------------------------------------------------------------------------------------------------- bad videos


def test_bad_videos_are_skipped_and_tried_again(checkpoint, annotations, tmp_path, warnings, monkeypatch):
    dataset = json.loads(annotations.read_text())
    frames = tmp_path / "frames"
    shutil.copytree(find_frames(annotations, dataset), frames)
    names = [video["file_names"][0] for video in dataset["videos"]]
    (frames / names[0]).rename(frames / "kept.jpg")
    (frames / names[1]).write_bytes(b"no image")
    (frames / names[2]).write_bytes((tmp_path / "frames" / names[3]).read_bytes())  # intact: another picture
    output = tmp_path / "results.json"
    settings = ("--output", output, "--frames_dir", frames)
    assert run(checkpoint, annotations, *settings) == 0
    ids = [video["id"] for video in dataset["videos"]]
    assert warnings[0] == f"video {ids[0]} is skipped, 1 frames are missing, e.g. {frames / names[0]}"
    assert warnings[1].startswith(f"video {ids[1]} is skipped")
    assert len(warnings) == 2
    assert {result["video_id"] for result in json.loads(output.read_text())}.isdisjoint(ids[:2])

    # Once they are there, the same command evaluates these two alone.
    for name in names[:3]:
        (frames / name).write_bytes((find_frames(annotations, dataset) / name).read_bytes())
    predicted = []
    predict = predictions._predict_video
    monkeypatch.setattr(predictions, "_predict_video", lambda *a: predicted.append(a[1]["id"]) or predict(*a))
    assert run(checkpoint, annotations, *settings) == 0
    assert predicted == ids[:2]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("results")] == ["results.json"]


def test_a_video_of_another_size_or_one_that_the_model_fails_on_is_skipped(checkpoint, annotations, warnings):
    dataset = json.loads(annotations.read_text())
    dataset["videos"][1]["height"] += 1
    segmenter = pipeline("video-instance-segmentation", model=str(checkpoint), device="cpu")
    forward, calls = segmenter.model.forward, []

    def out_of_memory(**inputs):
        calls.append(inputs)
        if len(calls) == 1:
            raise RuntimeError("out of memory")
        return forward(**inputs)

    segmenter.model.forward = out_of_memory
    results = list(predict_dataset(segmenter, dataset, find_frames(annotations, dataset)))
    assert [bool(result) for result in results] == [False, False, True, True, True, True]
    first, second = (video["id"] for video in dataset["videos"][:2])
    assert warnings[0] == f"video {first} is skipped: out of memory"
    assert warnings[1].startswith(
        f"video {second} is skipped, its frames are (64, 80) (height, width) and not (65, 80)"
    )


def test_no_video_at_all_is_an_error(checkpoint, annotations, tmp_path, capsys):
    def rename(dataset):
        for video in dataset["videos"]:
            video["file_names"] = [*video["file_names"][:-1], "gone.jpg"]

    assert run(checkpoint, changed(annotations, "gone.json", rename)) == 1
    assert "error: no video could be evaluated; the first one: video" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------ errors


def test_wrong_classes_are_found_before_the_work(checkpoint, annotations):
    dataset = json.loads(annotations.read_text())
    dataset["categories"] = [{"id": 1, "name": "cat"}]
    segmenter = pipeline("video-instance-segmentation", model=str(checkpoint), device="cpu")
    with pytest.raises(ValueError, match=r"the model has 3 classes .* and the dataset 1 categories with other names"):
        predict_dataset(segmenter, dataset, "anywhere")


@pytest.mark.parametrize("option", ["--dataset", "--results", "--long_videos"])
def test_broken_json_is_named(annotations, whole, tmp_path, capsys, option):
    (tmp_path / "results.json").write_bytes(whole)
    (tmp_path / "broken.json").write_text('{"videos": [')
    arguments = {"--dataset": annotations, "--results": tmp_path / "results.json", option: tmp_path / "broken.json"}
    assert script.main([str(part) for pair in arguments.items() for part in pair]) == 1
    told = "ends in the middle, at byte 12" if option == "--dataset" else "is not a JSON file: "
    assert f"error: {tmp_path / 'broken.json'} {told}" in capsys.readouterr().err


def test_bad_content_is_named(annotations, tmp_path, capsys):
    (tmp_path / "results.json").write_text('[{"video_id": 1}]')
    assert script.main(["--dataset", str(annotations), "--results", str(tmp_path / "results.json")]) == 1
    assert (
        f"error: {tmp_path / 'results.json'} on {annotations}: prediction 0 has no category_id"
        in capsys.readouterr().err
    )
    twice = changed(annotations, "twice.json", lambda d: d["annotations"].append(d["annotations"][0]))
    assert script.main(["--dataset", str(twice), "--results", str(tmp_path / "results.json")]) == 1
    assert f"error: {twice}: video 1 (00000), annotation 1: another annotation has this id" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--plot", "pr.xyz"], "pr.xyz is of type 'xyz'; expected the name of an image"),
        (["--long_videos", "long.json"], "long.json is neither a list of ids nor a dict with 'videos'"),
        (["--ovis"], "annotation 1 of video 1: occlusion is missing"),
    ],
)
def test_wrong_options_are_told_before_the_work(annotations, tmp_path, monkeypatch, capsys, option, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "long.json").write_text("[[1]]")
    monkeypatch.setattr(evaluate, "_predict", None)  # would fail
    assert script.main(["--dataset", str(annotations), *option]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("content", "kind"), [("null", "NoneType"), ("3", "int"), ('"other.json"', "str")])
def test_results_that_are_no_list(annotations, tmp_path, capsys, content, kind):
    (tmp_path / "results.json").write_text(content)
    assert script.main(["--dataset", str(annotations), "--results", str(tmp_path / "results.json")]) == 1
    assert f"error: {tmp_path / 'results.json'} holds a {kind}; expected a list" in capsys.readouterr().err


def test_videos_without_a_length_have_that_of_their_file_names(annotations, whole, tmp_path, capsys):
    (tmp_path / "results.json").write_bytes(whole)

    def shorten(dataset):
        for video in dataset["videos"]:
            del video["length"]

    tables = []
    for dataset in (annotations, changed(annotations, "lengthless.json", shorten)):
        assert script.main(["--dataset", str(dataset), "--results", str(tmp_path / "results.json")]) == 0
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1]


def test_no_dataset(tmp_path, capsys):
    with pytest.raises(SystemExit):
        script.main([])
    assert "--dataset is missing: the annotation file to evaluate on" in capsys.readouterr().err
    assert script.main(["--dataset", str(tmp_path / "nothing.json")]) == 1
    assert capsys.readouterr().err == f"error: no annotation file at {tmp_path / 'nothing.json'}\n"


def test_bad_submission(annotations, whole, tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "results.zip", "w") as archive:
        archive.writestr("results.json", whole.decode().replace('"video_id": 1,', '"video_id": 77,'))
    assert script.main(["--validate", str(tmp_path / "results.zip")]) == 0
    assert script.main(["--validate", str(tmp_path / "results.zip"), "--dataset", str(annotations)]) == 1
    assert "prediction 0 (video 77): video_id 77 is not in the dataset" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--output", "--submission", "--plot"])
def test_no_output_takes_the_place_of_an_input(annotations, tmp_path, capsys, flag):
    suffix = {"--output": ".json", "--submission": ".zip", "--plot": ".png"}[flag]
    (tmp_path / f"link{suffix}").hardlink_to(annotations)
    before = Path(annotations).read_bytes()
    for output in (annotations, tmp_path / f"link{suffix}"):
        assert script.main(["--dataset", str(annotations), flag, str(output)]) == 1
        assert "is the input itself; choose another output" in capsys.readouterr().err
    assert Path(annotations).read_bytes() == before


def test_no_output_takes_the_place_of_a_frame(annotations, tmp_path, capsys):
    document = json.loads(Path(annotations).read_text())
    frame = find_frames(annotations, document) / document["videos"][-1]["file_names"][-1]
    before = frame.read_bytes()
    (tmp_path / "pr.png").hardlink_to(frame)
    for flag, output in (("--plot", tmp_path / "pr.png"), ("--output", frame), ("--submission", frame)):
        assert script.main(["--dataset", str(annotations), flag, str(output)]) == 1
        assert "is the input itself; choose another output" in capsys.readouterr().err
    assert frame.read_bytes() == before


def test_a_list_is_no_dataset(tmp_path):
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(
        ValueError, match=r"results.json holds a list; expected .* give the annotation file they belong"
    ):
        read_ground_truth(tmp_path / "results.json")


# ------------------------------------------------------------------------------------------------------------ tables

NUMBERS = {"AP": 0.5, "APs": -1.0, "AR1": 1.0}
NUMBERS["per_category"] = {2: {"AP": 0.5, "AP50": 1.0, "AP75": 0.0, "AR1": 1.0, "AR10": 1.0}}


def test_table():
    assert format_table(NUMBERS, {1: "a category without objects", 2: "star"}).splitlines() == [
        "    AP    APs    AR1",
        "  50.0      -  100.0",
        "",
        "category     AP   AP50   AP75",
        "star       50.0  100.0    0.0",
    ]


def test_rich_table():
    console = Console(file=io.StringIO(), width=80)
    console.print(*rich_tables(NUMBERS, {2: "star"}))
    lines = [line.replace("│", " ").replace("┃", " ").split() for line in console.file.getvalue().splitlines()]
    assert ["AP", "APs"] in lines
    assert ["50.0", "-"] in lines
    assert ["star", "50.0", "100.0", "0.0", "100.0", "100.0"] in lines

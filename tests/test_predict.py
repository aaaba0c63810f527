import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.models.testers import model_of
from tests.test_pipelines import small_processor
from tests.tiny import moving_square, tiny_model, write_mp4
from transformers_msstsvis import (
    VideoInstances,
    VideoReader,
    VideoWriter,
    VistrVideoProcessor,
    encode_mask,
    predict,
    write_video,
)
from transformers_msstsvis.attention_maps import attention_of_track
from transformers_msstsvis.commands import predict as script
from transformers_msstsvis.predict import predict_video, track_table
from transformers_msstsvis.prediction import outputs, videos
from transformers_msstsvis.results.sinks.ytvis import YtvisSink


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


def test_attention_of_a_track(checkpoint, clip, tmp_path, capsys):
    options = {"threshold": 0.0, "max_frames": 3, "device": "cpu"}
    found = predict_video(clip, checkpoint, output=tmp_path / "all.mp4", **options)
    track = int(found.track_ids[0])
    again = predict_video(clip, checkpoint, output=tmp_path / "one.mp4", attention=track, **options)
    assert again.to_list() == found.to_list()
    drawn = np.stack(list(VideoReader(tmp_path / "one.mp4")))
    assert drawn.shape == np.stack(list(VideoReader(tmp_path / "all.mp4"))).shape
    arguments = [
        clip,
        "--model",
        checkpoint,
        "--threshold",
        "0",
        "--max-frames",
        "3",
        "--json",
        f"{tmp_path}/one.json",
    ]
    sheet = tmp_path / "one.png"
    assert script.main([*arguments, "--attention", str(track), "--output", str(sheet)]) == 0
    with Image.open(sheet) as picture:
        assert picture.size == (4 * 64 + 3 * 4, 2 * 48 + 4)
    assert f"wrote {sheet}" in capsys.readouterr().out


def test_points_follow_the_query_of_the_track(checkpoint):
    segmenter = predict.load_segmenter(checkpoint, device="cpu")
    frames = moving_square(7)
    found = segmenter(frames, threshold=0.0, max_frames=4, duplicate_iou=1, return_instances=True)
    places = list(attention_of_track(segmenter, frames, found, int(found.track_ids[0]), max_frames=4))
    assert len(places) == 7
    for points, weights in places:
        assert points.shape == (64, 2)
        assert weights.sum() == pytest.approx(1, abs=1e-5)
    nowhere = VideoInstances([0.5], [0], [3], [[None] * 7], None, (48, 64), 7)
    assert all(len(points) == 0 for points, _ in attention_of_track(segmenter, frames, nowhere, 3, max_frames=4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{clip}", "--attention", "99"], "there is no track 99; expected one of 1"),
        (["{clip}", "--attention", "1", "--output", "out.jpg"], "out.jpg ends in .jpg; expected .mp4"),
        (["{clip}", "{clip}", "--attention", "1"], "--attention is for a track of one video, and these are 2"),
        (["{clip}", "--attention", "1", "--model", "{vistr}"], "a vistr model has no deformable attention in its"),
        (["{clip}", "--output", "out.png"], "out.png ends in .png; expected .mp4"),
    ],
)
def test_attention_that_there_is_not(checkpoint, clip, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    vistr = tmp_path / "vistr"
    if "{vistr}" in arguments:
        model_of("vistr").save_pretrained(vistr)
        VistrVideoProcessor(size={"shortest_edge": 32}).save_pretrained(vistr)
    arguments = [argument.format(clip=clip, vistr=vistr) for argument in arguments]
    if "--model" not in arguments:
        arguments += ["--model", checkpoint]
    assert script.main([*arguments, "--threshold", "0"]) == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line
    if "99" in arguments:  # what was found is not lost
        assert json.loads((tmp_path / "out.json").read_text())


def test_tracker_of_the_command(checkpoint, clip, tmp_path):
    arguments = [clip, "--model", checkpoint, "--threshold", "0", "--max-frames", "3", "--output", f"{tmp_path}/a.mp4"]
    assert script.main([*arguments, "--json", f"{tmp_path}/a.json", "--tracker", "devis"]) == 0
    found = json.loads((tmp_path / "a.json").read_text())
    expected = predict_video(clip, checkpoint, threshold=0.0, max_frames=3, tracker="devis")
    assert [row["score"] for row in found] == [track["score"] for track in expected.to_list()]
    with pytest.raises(SystemExit):
        script.main([*arguments, "--tracker", "sort"])


def test_a_model_is_compiled_when_it_is_asked_for(checkpoint, clip, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda model: compiled.append(type(model).__name__))
    arguments = [
        clip,
        "--model",
        checkpoint,
        "--output",
        str(tmp_path / "out.gif"),
        "--json",
        str(tmp_path / "o.json"),
    ]
    assert script.main(arguments) == 0
    assert compiled == []
    assert script.main([*arguments, "--compile"]) == 0
    assert compiled == ["MsstsVisForVideoInstanceSegmentation"]


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


def test_a_long_video_takes_the_memory_of_a_short_one(checkpoint, tmp_path):
    """The whole process, with everything that it writes; and every frame is accounted for."""
    peaks = []
    for frames in (60, 600):
        clip = str(write_mp4(tmp_path / "clip.mp4", frames))
        outputs = ["--output", str(tmp_path / "out.mp4"), "--json", str(tmp_path / "out.jsonl")]
        arguments = [clip, "--model", checkpoint, "--threshold", "0.1", "--max-frames", "12", *outputs, "--quiet"]
        code = (
            "import resource\n"
            "from transformers_msstsvis.commands.predict import main\n"
            f"assert main({arguments}) == 0\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
        assert done.stderr == ""
        assert VideoReader(tmp_path / "out.mp4").num_frames == frames
        lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()[1:]]
        assert [line["frame"] for line in lines] == list(range(frames))
        assert all(line["instances"] for line in lines)
    assert peaks[1] < 1.1 * peaks[0]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "arguments",
    [
        ["frames/*.png", "--output", "frames"],
        ["frames/00000.png", "frames/00001.png", "--output", "frames"],
        ["frames", "--output", "./frames"],
        ["frames", "--masks", "frames"],
        ["clip.mp4", "--json", "clip.mp4"],
        ["clip.mp4", "--output", "hard.mp4"],
        ["clip.mp4", "--json", "soft.mp4"],
        ["clip.mp4", "frames", "--output", "."],
        ["clip.mp4", "--output", "same.json", "--json", "same.json"],
        ["clip.mp4", "--json", "{checkpoint}/config.json"],
        ["clip.mp4", "--output", ""],
        ["clip.mp4", "--json", "frames"],
        ["clip.mp4", "--json", "clip.mp4/x.json"],
        ["", "--output", "new.mp4"],
    ],
)
def test_no_input_is_touched_and_nothing_is_written(checkpoint, clip, tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    write_video("frames", moving_square(2))
    (tmp_path / "hard.mp4").hardlink_to(clip)
    (tmp_path / "soft.mp4").symlink_to(clip)
    before, model = tree(tmp_path), tree(Path(checkpoint))
    monkeypatch.setattr(predict, "pipeline", lambda *_, **__: pytest.fail("the model was loaded"))
    arguments = [argument.format(checkpoint=checkpoint) for argument in arguments]
    assert script.main([*arguments, "--model", checkpoint]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert (tree(tmp_path), tree(Path(checkpoint))) == (before, model)


def test_several_videos_and_folders_of_videos(checkpoint, clip, tmp_path, capsys):
    (tmp_path / "videos" / "deep").mkdir(parents=True)
    write_mp4(tmp_path / "videos" / "clip.mp4", 3)
    write_mp4(tmp_path / "videos" / "10.mp4", 3)
    (tmp_path / "videos" / "bad.mp4").write_text("no video")
    (tmp_path / "videos" / "notes.txt").write_text("no video")
    out = tmp_path / "out"
    arguments = [clip, str(tmp_path / "videos"), "--output", str(out), "--masks", str(tmp_path / "masks")]
    assert script.main([*arguments, "--model", checkpoint, "--threshold", "0"]) == 1
    names = ["clip", "10", "clip-2"]
    expected = ["errors.jsonl", *(f"{name}.{suffix}" for name in names for suffix in ("mp4", "json"))]
    assert sorted(path.name for path in out.iterdir()) == sorted(expected)
    [line] = (out / "errors.jsonl").read_text().splitlines()
    assert json.loads(line)["video"] == str(tmp_path / "videos" / "bad.mp4")
    assert json.loads(line)["error"].startswith("ValueError: ")
    assert [len(list(VideoReader(out / f"{name}.mp4"))) for name in names] == [5, 3, 3]
    assert len(list((tmp_path / "masks" / "10").glob("*.png"))) == 3
    told = capsys.readouterr()
    assert "bad.mp4" in told.err
    assert f"1 of the videos failed, see {out}/errors.jsonl; the results of the others are written" in told.err
    assert f"wrote {out / 'clip-2.json'}" in told.out
    times = {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.name != "errors.jsonl"}
    (out / "10.json").unlink()
    (tmp_path / "videos" / "bad.mp4").unlink()
    assert script.main([*arguments, "--model", checkpoint, "--threshold", "0"]) == 0
    again = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert {name for name in again if again[name] != times[name]} == {"10.json", "10.mp4"}
    assert "2 of the videos were done before" in capsys.readouterr().out
    assert script.main([*arguments, "--model", checkpoint, "--overwrite"]) == 0
    assert all((out / name).stat().st_mtime_ns > times[name] for name in times)


def test_videos_that_are_meant(tmp_path):
    for name in ("b.mp4", "a10.MP4", "a2.mov", "x.txt", "frames/0.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    videos = [tmp_path / name for name in ("a2.mov", "a10.MP4", "b.mp4")]
    assert predict.list_videos([tmp_path]) == videos
    assert predict.list_videos([f"{tmp_path}/a*.*"]) == videos[:2]
    for alone in (tmp_path / "frames", tmp_path / "b.mp4", "http://host/x.mp4", "nowhere.mp4", f"{tmp_path}/frames/*"):
        assert predict.list_videos([alone]) == [alone]
    images = ["frames/10.png", "frames/9.png"]  # as a shell gives a pattern
    assert predict.list_videos(images) == [images[::-1]]
    assert predict.video_name(images) == "frames"
    assert predict.video_name("http://host/a/..%2f..%2fx.mp4?b=c.png") == "x"
    assert predict.video_name("http://host/..") == "video"


def test_animations_are_videos_and_pictures_beside_videos_are_told(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(videos.logger, "warning", told.append)
    frames = [Image.fromarray(frame) for frame in moving_square(2)]
    for name in ("b.webp", "a.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    animations = [tmp_path / "a.webp", tmp_path / "b.webp"]
    assert predict.list_videos([tmp_path]) == predict.list_videos(animations) == animations
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    frames[0].save(mixed / "cover.png")
    (mixed / "v.mp4").touch()
    assert predict.list_videos([mixed]) == [mixed]
    assert "the 1 videos in it are not" in told[0]


def test_a_video_behind_the_classes_is_told(clip, capsys):
    assert script.main(["--classes", "star", clip]) == 1
    assert f"--classes takes {clip} for classes; put the videos before --classes" in capsys.readouterr().err


def test_older_results_in_the_folder_of_frames_are_no_inputs(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video("frames", moving_square(2))
    monkeypatch.chdir("frames")
    for _ in range(2):
        assert script.main([".", "--model", checkpoint, "--output", "../out"]) == 0


def test_classes_masks_and_top_k(checkpoint, clip, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = [clip, "--model", checkpoint, "--threshold", "0", "--duplicate_iou", "1"]
    assert script.main([*arguments, "--top-k", "4", "--classes", "star", "ring", "--masks", "masks"]) == 0
    results = json.loads((tmp_path / "out.json").read_text())
    assert 0 < len(results) <= 4
    assert {result["label"] for result in results} <= {"star", "ring"}
    with Image.open(tmp_path / "masks" / "00000.png") as image:
        assert set(np.unique(image)) <= {0, *(result["track_id"] for result in results)}
    assert script.main([*arguments, "--classes", "cat"]) == 1
    assert "the model has no class cat; expected some of disk, star, ring" in capsys.readouterr().err


def test_nothing_found_says_what_to_try(clip, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert script.main([clip, "--threshold", "1"]) == 0
    told = capsys.readouterr().out
    assert "try a lower one, such as --threshold 0.33" in told
    assert "knows synthetic shapes only (disk, rectangle" in told


@pytest.mark.parametrize("older", [False, True])
def test_ctrl_c_keeps_what_is_finished(checkpoint, tmp_path, monkeypatch, capsys, older):
    monkeypatch.chdir(tmp_path)
    clip = write_mp4(tmp_path / "long.mp4", 20)
    if older:
        for name in ("out.mp4", "out.json"):
            (tmp_path / name).write_text("older")
    segmenter = predict.load_segmenter(checkpoint)
    forward, calls = segmenter.model.forward, []

    def stopped(**inputs):
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return forward(**inputs)

    monkeypatch.setattr(segmenter.model, "forward", stopped)
    monkeypatch.setattr(predict, "load_segmenter", lambda *_: segmenter)
    assert script.main([str(clip), "--model", checkpoint, "--max-frames", "6", "--threshold", "0"]) == 130
    video, tracks = ("out.partial.mp4", "out.partial.json") if older else ("out.mp4", "out.json")
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("stopped")]
    assert told == [f"stopped after 10 frames, which are in {tracks}, {video}; with --resume it goes on"]
    assert len(list(VideoReader(tmp_path / video))) == 10
    assert len(json.loads((tmp_path / tracks).read_text())[0]["segmentations"]) == 10
    assert (tmp_path / "out.resume.jsonl").is_file()
    if older:
        assert (tmp_path / "out.mp4").read_text() == (tmp_path / "out.json").read_text() == "older"


def test_ctrl_c_while_drawing(checkpoint, clip, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    draw = outputs.draw_instances

    def stopped(frame, instances, index):
        if instances.first_frame + index == 4:
            raise KeyboardInterrupt
        return draw(frame, instances, index)

    monkeypatch.setattr(outputs, "draw_instances", stopped)
    assert script.main([clip, "--model", checkpoint, "--max-frames", "3"]) == 130
    assert "stopped after 4 frames, which are in out.json, out.mp4; with --resume" in capsys.readouterr().err
    assert len(list(VideoReader(tmp_path / "out.mp4"))) == 4
    assert (tmp_path / "out.json").is_file()


@pytest.mark.parametrize("broken", ["out.json", "out.mp4"])
def test_one_output_that_fails_does_not_cost_the_other(checkpoint, clip, tmp_path, monkeypatch, capsys, broken):
    monkeypatch.chdir(tmp_path)
    (tmp_path / broken).write_text("older")
    owner, name = {"out.json": (YtvisSink, "append"), "out.mp4": (VideoWriter, "write")}[broken]
    monkeypatch.setattr(owner, name, lambda *_: (_ for _ in ()).throw(OSError(28, "No space left", broken)))
    assert script.main([clip, "--model", checkpoint, "--max-frames", "3"]) == 1
    assert f"No space left: '{broken}'" in capsys.readouterr().err
    other = ({"out.json", "out.mp4"} - {broken}).pop()
    assert (tmp_path / other).is_file()
    assert (tmp_path / broken).read_text() == "older"


@pytest.mark.parametrize("name", ["/nope/x", "./nope", "nope/x", "nope", "a b/c", "nope/x/y"])
def test_a_wrong_model_is_told_at_once(clip, tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: (_ for _ in ()).throw(OSError("unreachable")))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr(predict, "pipeline", lambda *_, **__: pytest.fail("the Hub was asked"))
    assert script.main([clip, "--model", name]) == 1
    told = capsys.readouterr().err
    assert f"there is no model folder {name}" in told

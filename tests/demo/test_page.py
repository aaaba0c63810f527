"""The page of the demo, without a browser; the command that opens it; and the Space that shows it."""

import pickle
import re
from pathlib import Path

import pytest
from huggingface_hub import SpaceCard

from transformers_msstsvis.commands import demo as command
from transformers_msstsvis.predict import SAMPLE_MODEL, SAMPLE_VIDEO

gr = pytest.importorskip("gradio", reason="it is the page")

from transformers_msstsvis.demo import build_page, page  # noqa: E402

SPACE = Path(__file__).parents[2] / "spaces"
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}  # that the Hub knows


@pytest.fixture(scope="module")
def functions():
    """Those of the page by name."""
    return {block.fn.__name__: block.fn for block in build_page().fns.values() if block.fn}


def silent(*_, **__) -> None:
    pass


def test_segment(functions):
    found, folder, video, rows, files, text = functions["segment"](str(SAMPLE_VIDEO), progress=silent)
    assert Path(video).parent == Path(folder.name)
    assert [row[2] for row in rows] == ["star", "rectangle", "ring"]
    assert len(files) == 3
    assert text.startswith("3 tracks")
    other, again, *_ = functions["show_again"](found, 0.6, ["star"], ["masks"], progress=silent)
    assert Path(again).parent == Path(other.name) != Path(folder.name)
    assert Path(again).exists()


def test_folders_of_the_machine_are_not_shown(tmp_path):
    for folder in ("a/best", "b/best", "c/last"):
        (tmp_path / folder).mkdir(parents=True)
    folders = [str(tmp_path / "a/best"), str(tmp_path / "b/best"), str(tmp_path / "c/last"), "owner/name"]
    assert page._named(folders) == dict(zip(["best", "b/best", "last", "owner/name"], folders, strict=True))
    assert str(SAMPLE_MODEL.parent) not in str(build_page().get_config_file()["components"][:]).replace(
        "sample.mp4", ""
    )


def test_nothing_to_show_yet(functions):
    assert functions["show_again"](None, 0.5, [], [], progress=silent) == gr.skip()


def test_a_threshold_can_be_typed():
    """Its first digits are in the range, too, and an empty field changes nothing."""
    page = build_page()
    [slider] = [block for block in page.blocks.values() if isinstance(block, gr.Slider)]
    assert [slider.preprocess(value) for value in (0, 0.6, 1)] == [0, 0.6, 1]
    functions = {block.fn.__name__: block.fn for block in page.fns.values() if block.fn}
    assert functions["show_again"]("anything", None, [], [], progress=silent) == gr.skip()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None,), "there is no video yet; upload one"),
        ((str(SAMPLE_VIDEO), "/etc"), "there is no model '/etc' here; expected one of the list or a Hub name"),
        ((str(SAMPLE_VIDEO), "src/tests"), "there is no model folder src/tests here, and the Hub can't be reached"),
    ],
    ids=["no video", "a folder of the machine", "offline"],
)
def test_errors_are_one_line(functions, monkeypatch, arguments, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(gr.Error) as error:
        functions["segment"](*arguments, progress=silent)
    assert error.value.message.startswith(message)
    assert "\n" not in error.value.message


def test_a_bad_video_is_named_without_its_folder(functions, tmp_path):
    (tmp_path / "holiday.mp4").write_bytes(b"no frames")
    with pytest.raises(gr.Error) as error:
        functions["segment"](str(tmp_path / "holiday.mp4"), progress=silent)
    assert error.value.message.startswith("holiday.mp4 could not be opened as a video")


def test_the_model_runs_where_it_is_told_to():
    ran = []

    def on_gpu(function):
        """As on ZeroGPU, in another process."""

        def elsewhere(*args):
            ran.append(function.__name__)
            return pickle.loads(pickle.dumps(function(*pickle.loads(pickle.dumps(args)))))

        return elsewhere

    functions = {block.fn.__name__: block.fn for block in build_page(on_gpu=on_gpu).fns.values() if block.fn}
    found, *_ = functions["segment"](str(SAMPLE_VIDEO), progress=silent)
    functions["show_again"](found, 0.6, [], [], progress=silent)
    assert ran == ["find"]
    pickle.dumps(gr.Progress())


def test_the_command(monkeypatch, capsys):
    launched = {}
    monkeypatch.setattr("transformers_msstsvis.demo.launch_page", lambda page, **options: launched.update(options))
    assert command.main(["--port", "7999", "--max-seconds", "5"]) == 0
    assert launched == {"server_name": "127.0.0.1", "server_port": 7999, "inbrowser": False, "share": False}
    assert command.main(["--max-seconds", "0"]) == 1
    assert capsys.readouterr().err.endswith("error: --max-seconds is 0; expected more than 0\n")
    assert command.main(["--model", "/no/such/folder"]) == 1
    assert "there is no model folder /no/such/folder" in capsys.readouterr().err


def test_uploads_have_a_limit(monkeypatch):
    launched = {}
    monkeypatch.setattr(gr.Blocks, "launch", lambda _, **options: launched.update(options))
    page.launch_page(build_page([SAMPLE_MODEL]))
    assert launched["max_file_size"] == "500mb"


def test_the_card_of_the_space():
    data = SpaceCard.load(SPACE / "README.md").data
    assert (data.sdk, data.app_file, data.license) == ("gradio", "app.py", "apache-2.0")
    assert {data.colorFrom, data.colorTo} <= COLOURS
    assert len(data.short_description) <= 60  # as the Hub has it
    assert data.sdk_version.split(".")[0] == gr.__version__.split(".")[0]
    assert (SPACE / data.app_file).is_file()


def test_requirements_of_the_space():
    lines = (SPACE / "requirements.txt").read_text().splitlines()
    assert any(re.match(r"transformers[_-]msstsvis", line) for line in lines)

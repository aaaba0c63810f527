"""The page itself, in gradio."""

import re
import tempfile
from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from os import PathLike
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ..commands.command_line import reason
from ..extras import require
from ..pipelines import SAMPLE_MODEL, VideoInstanceSegmentationPipeline
from ..predict import SAMPLE_VIDEO, load_segmenter
from .clips import COLUMNS, MAX_SECONDS, Found, find_tracks, show_tracks

require("gradio")

import gradio as gr  # noqa: E402 (its absence is told first)

logger = logging.get_logger(__name__)

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
TRACKERS = [
    ("as the model has it", ""),
    ("masks in shared frames (iou)", "iou"),
    ("several cues (devis)", "devis"),
    ("none", "none"),
]
PARTS = ["masks", "boxes", "labels"]
MORE_PARTS = ["trails"]
HEIGHT = 400  # pixels of the videos on the page
HOUR = 3600  # seconds that files of visitors are kept
LARGEST_UPLOAD = "500mb"
HEAD = """# Video instance segmentation
Finds every object of the classes that a model knows, segments it in each frame and keeps its identity. The bundled
model knows eight synthetic shapes and is for trying the page; name another one below.
"""
CSS = "#tracks img { height: 56px; width: auto; }"


def build_page(
    models: Sequence[str | PathLike] = (SAMPLE_MODEL,),
    max_seconds: float = MAX_SECONDS,
    on_gpu: Callable[[Callable], Callable] = lambda function: function,
) -> gr.Blocks:
    """
    The page, to be launched.

    Args:
        models: folders or Hub names to choose from, the first one at the start, which is loaded at once. Visitors may
            name others on the Hub.
        max_seconds: of a clip that are segmented.
        on_gpu: decorates the function that runs the model, as `spaces.GPU` does on the Hub.

    Raises:
        ModuleNotFoundError: without gradio.
        FileNotFoundError, OSError, ValueError: if the first model can't be loaded.
    """
    place_of = _named(models)
    names = list(place_of)
    first = _load(place_of[names[0]])

    def load(model: str) -> VideoInstanceSegmentationPipeline:
        if model not in place_of and (not HUB_NAME.fullmatch(model) or Path(model).exists()):
            raise ValueError(f"there is no model {model!r} here; expected one of the list or a Hub name, owner/name")
        return _load(place_of.get(model, model))

    @on_gpu
    def find(video: str, model: str, tracker: str, progress: gr.Progress) -> Found:
        return find_tracks(video, load(model), tracker or None, max_seconds, _told_to(progress, "finding objects"))

    @_in_one_line
    def segment(
        video: str | None,
        model: str = names[0],
        tracker: str = "",
        threshold: float = 0.3,
        classes: Sequence[str] = (),
        parts: Sequence[str] = PARTS,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (gradio finds it there)
    ) -> tuple:
        """Find, segment and track the objects of a video."""
        if not video:
            raise ValueError("there is no video yet; upload one, or take the sample")
        load(model)
        found = find(video, model, tracker, progress)
        return found, *show(found, threshold, classes, parts, progress)

    @_in_one_line
    def show_again(
        found: Found | None,
        threshold: float | None,
        classes: Sequence[str],
        parts: Sequence[str],
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Any:
        """Draw and write once more what was found, with another choice."""
        return gr.skip() if found is None or threshold is None else show(found, threshold, classes, parts, progress)

    def show(found: Found, threshold: float, classes: Sequence[str], parts: Sequence[str], progress: Any) -> tuple:
        known = (found.instances.id2label or {}).values()
        classes = [name for name in classes if name in known]
        folder = tempfile.TemporaryDirectory(prefix="tracks-")
        shown = show_tracks(found, folder.name, threshold, classes, parts, _told_to(progress, "drawing"))
        return folder, str(shown.video), shown.rows, [str(path) for path in shown.files], shown.text

    @_in_one_line
    def classes_of(model: str) -> Any:
        return gr.Dropdown(choices=_class_names(load(model)), value=[])

    with gr.Blocks(title="Video instance segmentation", analytics_enabled=False, delete_cache=(HOUR, HOUR)) as page:
        found, folder = gr.State(), gr.State()
        gr.Markdown(HEAD)
        with gr.Row():
            with gr.Column():
                video = gr.Video(
                    label=f"Video, up to {max_seconds:g} seconds", sources=["upload"], height=HEIGHT, elem_id="video"
                )
                gr.Examples([[str(SAMPLE_VIDEO)]], [video], label="Sample")
                model = gr.Dropdown(
                    names,
                    value=names[0],
                    allow_custom_value=True,
                    label="Model",
                    info="of the list, or any of the Hub for this task, as owner/name",
                )
                tracker = gr.Dropdown(TRACKERS, value="", label="Tracker", info="joins the parts of a long video")
                run = gr.Button("Segment", variant="primary", elem_id="segment")
            with gr.Column():
                result = gr.Video(
                    label="Result", interactive=False, autoplay=True, loop=True, height=HEIGHT, elem_id="result"
                )
                text = gr.Markdown(label="text", elem_id="text")
                threshold = gr.Slider(
                    # Less than is kept, but who types 0.6 begins with 0.
                    0,
                    1,
                    0.3,
                    step=0.01,
                    label="Smallest score of a track",
                    elem_id="threshold",
                )
                classes = gr.Dropdown(
                    _class_names(first), value=[], multiselect=True, label="Classes", info="none chosen: all"
                )
                parts = gr.CheckboxGroup(PARTS + MORE_PARTS, value=PARTS, label="Drawn")
        table = gr.Dataframe(
            headers=list(COLUMNS),
            datatype=["html", "number", "str", "number", "number", "str"],
            label="Tracks",
            interactive=False,
            elem_id="tracks",
        )
        files = gr.File(label="Tracks (JSON, CSV) and masks (PNG)", file_count="multiple", elem_id="files")

        choice, shown = [threshold, classes, parts], [folder, result, table, files, text]
        run.click(segment, [video, model, tracker, *choice], [found, *shown], api_name="segment")
        for control in choice:
            control.change(
                show_again,
                [found, *choice],
                shown,
                trigger_mode="always_last",
                api_name=False,
                show_progress="minimal",
            )
        model.change(classes_of, [model], [classes], api_name=False)
    return page


def launch_page(page: gr.Blocks, **options) -> None:
    """
    Serve the page until it is stopped.

    Args:
        page: of [`build_page`].
        **options: of `launch` of gradio, such as `server_name`, `server_port`, `share`, `inbrowser`.
    """
    page.launch(css=CSS, max_file_size=LARGEST_UPLOAD, ssr_mode=False, **options)


def _named(models: Sequence[str | PathLike]) -> dict[str, str]:
    """Folders and Hub names by what visitors see: of a folder its name, with as much before it as tells it apart."""
    place_of: dict[str, str] = {}
    for model in map(str, models):
        path = Path(model).expanduser()
        parts = path.resolve().parts if path.is_dir() else (model,)
        names = ("/".join(parts[-length:]) for length in range(1, len(parts) + 1))
        place_of[next(name for name in names if place_of.get(name, model) == model)] = model
    return place_of


@lru_cache(maxsize=2)
def _load(model: str) -> VideoInstanceSegmentationPipeline:
    return load_segmenter(model)


def _class_names(segmenter: VideoInstanceSegmentationPipeline) -> list[str]:
    return [str(name) for name in segmenter.model.config.id2label.values()]


def _told_to(progress: Any, what: str) -> Callable[[int, int], object]:
    return lambda done, total: progress((done, max(done, total)), desc=what, unit="frames")


def _in_one_line(function: Callable) -> Callable:
    """What goes wrong is told to the visitor in one line, without the folders of this machine."""

    @wraps(function)
    def told(*args, **kwargs) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            logger.warning(f"{function.__name__}: {reason(error)}")
            text = reason(error)
            for folder in {str(Path(arg).parent) for arg in args if isinstance(arg, str) and Path(arg).is_file()}:
                text = text.replace(f"{folder}/", "")
            raise gr.Error(text, print_exception=False) from error

    return told

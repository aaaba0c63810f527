"""Official numbers of a checkpoint on an annotated set of videos."""

import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.utils import logging

from ..data.frames import OutsideError, frame_path, turned_note
from ..files import written_aside
from ..metrics.ytvis_map import read_json
from ..pipelines import VideoInstanceSegmentationPipeline
from ..video.images import ImageError, read_image

if TYPE_CHECKING:
    from datasets import Dataset
    from rich.table import Table

    from .result_files import ResultFiles

logger = logging.get_logger(__name__)


# ---------------------------------------------------------------------------------------------------------- datasets


def read_ground_truth(
    path: str | Path,
    frames_dir: str | Path | None = None,
    require_labels: bool = True,
    *,
    allow_outside: bool = False,
    tracks: bool | None = None,
) -> dict[str, Any]:
    """
    Videos, categories and annotations as in a YouTube-VIS file, refused for the same errors and in the same words as
    by [`load_vis_dataset`], except that annotations of videos that are not listed are left out.

    Args:
        path: a YouTube-VIS or OVIS file, or anything else that [`load_vis_dataset`] reads.
        frames_dir, allow_outside, tracks: as of [`load_vis_dataset`].
        require_labels: refuse a file without annotations, as validation and test splits are published.

    Returns:
        `videos`, `annotations`, `categories`. If the frames are found, the videos have their folder as `frames_dir`.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: when it is not JSON, has an error, or holds no videos, categories or annotations; the message names
            the file.
    """
    from ..data.formats import open_source
    from ..data.loading import ytvis_entries
    from ..data.validation import CheckedRows

    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no annotation file at {path}")
    source = open_source(path, frames_dir, allow_outside=allow_outside, tracks=tracks)
    if source.frames_dir is None:
        source.problems.pop()  # results are scored without frames; [`find_frames`] asks for them
    checked = CheckedRows(source)
    dataset: dict[str, Any] = {"videos": [], "annotations": [], "categories": checked.categories}
    for row, problems in checked:
        for problem in problems:
            if problem.is_error and not (problem.video is None and problem.annotation is not None):
                raise ValueError(str(problem))
        if row is not None:
            video, annotations = ytvis_entries(row)
            if row["frames_dir"] is not None:
                video["frames_dir"] = row["frames_dir"]
            dataset["videos"].append(video)
            dataset["annotations"] += annotations
    if source.unused:
        # As the official evaluator does.
        logger.warning(f"{path}: left out {source.unused} annotations of videos or images that the file does not list")
    for key in ("videos", "categories", "annotations")[: None if require_labels else 2]:
        if not dataset[key]:
            labels = " with labels" if require_labels else ""
            raise ValueError(f"{path} has no {key}; expected a YouTube-VIS file{labels}")
    return dataset


def read_results(path: str | Path) -> list[Any]:
    """
    The list in a results file; what its entries hold is for the metric to check.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: when it is not JSON, or holds no list.
    """
    results = read_json(path)
    if not isinstance(results, list):
        raise ValueError(
            f"{path} holds a {type(results).__name__}; expected a list of predictions with video_id, category_id, "
            "score and segmentations"
        )
    return results


def find_frames(path: str | Path, dataset: dict[str, Any], frames_dir: str | Path | None = None) -> Path:
    """
    The folder that the `file_names` of a dataset are relative to: that which [`read_ground_truth`] found, or else the
    given one or a folder in it, or one around the annotation file, in any layout that has been in use.

    Raises:
        FileNotFoundError: when the given folder does not exist, or none has the first frame of any of 50 videos.
    """
    from ..data.layouts import find_frames as find

    known = next((video["frames_dir"] for video in dataset["videos"] if video.get("frames_dir")), None)
    if known is not None:
        return Path(known)
    first_frames = [video["file_names"][0] for video in dataset["videos"][:50] if video.get("file_names")]
    return find(Path(path), first_frames, frames_dir).frames_dir


def category_ids(id2label: dict[int, str], categories: list[dict[str, Any]]) -> dict[int, int]:
    """
    The dataset's category id of every label of a model: by name, or else in ascending order of the ids.

    Raises:
        ValueError: when the names differ and the numbers of classes, too.
    """
    by_name = {category["name"]: category["id"] for category in categories}
    if set(id2label.values()) <= set(by_name):
        return {label: by_name[name] for label, name in id2label.items()}
    missing = [name for name in id2label.values() if name not in by_name]
    if set(by_name) <= set(id2label.values()):
        raise ValueError(
            f"the dataset lists only {len(by_name)} of the {len(id2label)} classes of the model; expected all of "
            f"them: add {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''} to its categories"
        )
    if len(id2label) != len(categories):
        raise ValueError(
            f"the model has {len(id2label)} classes ({', '.join(list(id2label.values())[:5])}, ...) and the dataset "
            f"{len(categories)} categories with other names; choose a model that was trained on these categories"
        )
    logger.warning("The model's class names are not those of the dataset; classes are taken in the order of the ids.")
    return dict(zip(sorted(id2label), sorted(category["id"] for category in categories), strict=True))


# ------------------------------------------------------------------------------------------------------- predictions


class SkippedVideo(ValueError):
    """A video that can't be evaluated; the message says which and why."""


def predict_dataset(
    segmenter: VideoInstanceSegmentationPipeline,
    dataset: "dict[str, Any] | Dataset",
    frames_dir: str | Path | None = None,
    top_k: int = 10,
    max_frames: int = 36,
) -> Iterator[list[dict[str, Any]]]:
    """
    Results of every video in YouTube-VIS results format, video by video.

    Args:
        segmenter: the pipeline.
        dataset: YouTube-VIS ground truth with `videos` and `categories`, see [`category_ids`]; or a data set of
            [`load_vis_dataset`], with embedded frames or without.
        frames_dir: folder that `file_names` are relative to, for the videos that have no `frames_dir` of their own.
        top_k: results per clip, 10 as published.
        max_frames: longest clip that the model sees at once.

    Returns:
        One list per video, when it is asked for. A video that can't be evaluated gives an empty one, with a warning
        that names it.

    Raises:
        ValueError: at once, when the classes of the model are not those of the dataset.
    """
    videos, categories = _listed(dataset)
    ids = category_ids(segmenter.model.config.id2label, categories)

    def predict() -> Iterator[list[dict[str, Any]]]:
        for video in logging.tqdm(videos, desc="videos", unit="video"):
            try:
                yield _predict_video(segmenter, video, frames_dir, ids, top_k, max_frames)
            except SkippedVideo as reason:
                logger.warning(str(reason))
                yield []

    return predict()


def _listed(dataset: "dict[str, Any] | Dataset") -> tuple[Iterable[dict[str, Any]], list[dict[str, Any]]]:
    """The videos of a dataset, one at a time, and its categories."""
    if isinstance(dataset, dict):
        return dataset["videos"], dataset["categories"]
    from ..data.loading import categories_of

    class Videos:
        def __len__(self) -> int:
            return len(dataset)

        def __iter__(self) -> Iterator[dict[str, Any]]:
            rows = dataset.select_columns([name for name in dataset.column_names if name != "annotations"])
            return ({**row, "id": row["video_id"]} for row in rows)

    return Videos(), categories_of(dataset)


def predict_to_files(
    segmenter: VideoInstanceSegmentationPipeline,
    dataset: dict[str, Any],
    frames_dir: str | Path,
    files: "ResultFiles",
    top_k: int = 10,
    max_frames: int = 36,
    rank: int = 0,
    num_processes: int = 1,
) -> None:
    """
    As [`predict_dataset`], for the videos of one of several processes that `files` has no results of; each video's
    results are kept there as soon as they are known.
    """
    ids = category_ids(segmenter.model.config.id2label, dataset["categories"])
    share = range(rank, len(dataset["videos"]), num_processes)
    remaining = [position for position in share if position not in files.done]
    with logging.tqdm(
        total=len(share), initial=len(share) - len(remaining), desc="videos", unit="video", disable=rank > 0
    ) as progress:
        for position in remaining:
            try:
                video = dataset["videos"][position]
                files.add(position, _predict_video(segmenter, video, frames_dir, ids, top_k, max_frames))
            except SkippedVideo as reason:
                logger.warning(str(reason))
                files.add(position, None, str(reason))
            progress.update()


def _predict_video(
    segmenter: VideoInstanceSegmentationPipeline,
    video: dict[str, Any],
    frames_dir: str | Path,
    ids: dict[int, int],
    top_k: int,
    max_frames: int,
) -> list[dict[str, Any]]:
    name = f"video {video['id']}"
    frames = _frames_of(video, frames_dir, name)
    try:
        instances = segmenter(
            [frames],
            threshold=0.0,
            top_k=top_k,
            max_frames=max_frames,
            duplicate_iou=1,  # as published
            return_instances=True,
            on_error="raise",
        )[0]
    except Exception as error:
        # Decoders and accelerators raise of every kind, and no video may cost the results of the others.
        raise SkippedVideo(f"{name} is skipped: {error}") from error
    if instances.num_frames != len(frames):
        raise SkippedVideo(f"{name} is skipped, not all of its {len(frames)} frames can be read")
    size = (video["height"], video["width"])
    if instances.size != size:
        note = turned_note(frames[0], instances.size, size) if isinstance(frames[0], str) else ""
        raise SkippedVideo(
            f"{name} is skipped, its frames are {instances.size} (height, width) and not {size} as the dataset says"
            f"{note}"
        )
    return instances.to_ytvis(video["id"], ids)


def _frames_of(video: dict[str, Any], frames_dir: str | Path | None, name: str) -> list[Any]:
    """The frames of a video for the pipeline: their files, or the pictures of those that are embedded."""
    from PIL import Image

    folder = video.get("frames_dir") or frames_dir
    if folder is None:
        if not video.get("frames"):
            raise SkippedVideo(f"{name} is skipped, neither frames nor their folder are given; pass frames_dir")
        try:
            return [Image.fromarray(read_image(io.BytesIO(frame["bytes"]))) for frame in video["frames"]]
        except ImageError as error:
            raise SkippedVideo(f"{name} is skipped, a frame cannot be read: {error}") from error
    # A folder without a name stands for names that are complete.
    try:
        frames = [str(frame_path(folder, name) if str(folder) else name) for name in video["file_names"]]
    except OutsideError as error:
        raise SkippedVideo(f"{name} is skipped: {error}") from error
    missing = [frame for frame in frames if not os.path.isfile(frame)]
    if missing:
        raise SkippedVideo(f"{name} is skipped, {len(missing)} frames are missing, e.g. {missing[0]}")
    return frames


def run_settings(
    model: str | Path, dataset_path: str | Path, dataset: dict[str, Any], **arguments: Any
) -> dict[str, Any]:
    """What results depend on, for [`ResultFiles`]: the checkpoint's files, the dataset's videos, and `arguments`."""
    from .. import __version__

    folder = Path(model)
    files = sorted(path for path in folder.glob("*") if path.suffix in (".json", ".safetensors"))
    states = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    asked = json.dumps([dataset["videos"], dataset["categories"]]).encode()
    return {
        "model": str(folder.resolve()) if folder.exists() else str(model),
        "the checkpoint's state": hashlib.sha256(json.dumps(states).encode()).hexdigest()[:16],
        "dataset": str(Path(dataset_path).resolve()),
        "the dataset's videos": hashlib.sha256(asked).hexdigest()[:16],
        **arguments,
        "version": __version__,
    }


def write_results(path: str | Path, results: list[dict[str, Any]]) -> None:
    """Results as JSON, a line each; the file is complete or as before."""
    with written_aside(path) as unfinished:
        unfinished.write_text("[" + ",\n".join(json.dumps(result) for result in results) + "]\n")


# ------------------------------------------------------------------------------------------------------------ tables


def format_table(numbers: dict[str, Any], names: dict[Any, str]) -> str:
    """The official numbers and AP by category as text, in percent; `-` where there is no ground truth."""
    overall = _overall(numbers)
    lines = [
        " ".join(f"{key:>6}" for key in overall),
        " ".join(f"{_percent(value):>6}" for value in overall.values()),
        "",
    ]
    per_category = numbers.get("per_category", {})
    width = max((len(names[category]) for category in per_category), default=8)
    width = max(width, len("category"))
    if per_category:
        lines.append(f"{'category':<{width}}     AP   AP50   AP75")
    for category, values in per_category.items():
        columns = " ".join(f"{_percent(values[key]):>6}" for key in ("AP", "AP50", "AP75"))
        lines.append(f"{names[category]:<{width}} {columns}")
    return "\n".join(lines)


def rich_tables(numbers: dict[str, Any], names: dict[Any, str]) -> list["Table"]:
    """As [`format_table`], for the terminal: tables of `rich`, for precision, recall and categories."""
    from rich.table import Table

    tables = []
    for kind in ("AP", "AR"):
        overall = {key: value for key, value in _overall(numbers).items() if key.startswith(kind)}
        if overall:
            table = Table(*overall)
            table.add_row(*map(_percent, overall.values()))
            tables.append(table)
    if numbers.get("per_category"):
        table = Table("category", "AP", "AP50", "AP75", "AR1", "AR10")
        for column in table.columns[1:]:
            column.justify = "right"
        for category, values in numbers["per_category"].items():
            table.add_row(names[category], *(_percent(values[key]) for key in ("AP", "AP50", "AP75", "AR1", "AR10")))
        tables.append(table)
    return tables


def _overall(numbers: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in numbers.items() if isinstance(value, float)}


def _percent(value: float) -> str:
    return "-" if value < 0 else f"{100 * value:.1f}"

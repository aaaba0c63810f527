"""Official numbers of a checkpoint on an annotated set of videos."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.utils import logging

from .metrics.ytvis_map import read_json
from .pipelines import VideoInstanceSegmentationPipeline

if TYPE_CHECKING:
    from rich.table import Table

    from .result_files import ResultFiles

logger = logging.get_logger(__name__)


# ---------------------------------------------------------------------------------------------------------- datasets


def read_ground_truth(
    path: str | Path, frames_dir: str | Path | None = None, require_labels: bool = True
) -> dict[str, Any]:
    """
    Videos, categories and annotations as in a YouTube-VIS file.

    Args:
        path: a YouTube-VIS or OVIS file, or anything else that [`load_vis_dataset`] reads; the `file_names` of the
            latter become complete paths.
        frames_dir: folder of the frames, for [`load_vis_dataset`].
        require_labels: refuse a file without annotations, as validation and test splits are published.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: when it is not JSON, or holds no videos, categories or annotations; the message names the file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no annotation file at {path}")
    dataset = None if path.is_dir() else read_json(path)
    if dataset is None or (isinstance(dataset, dict) and "images" in dataset):
        from .data.loading import dataset_to_ytvis, load_vis_dataset

        loaded = load_vis_dataset(path, frames_dir)
        folders = loaded.select_columns(["video_id", "frames_dir"])
        folders = {row["video_id"]: row["frames_dir"] for row in folders}
        dataset = dataset_to_ytvis(loaded)
        for video in dataset["videos"]:
            video["file_names"] = [str(Path(folders[video["id"]], name)) for name in video["file_names"]]
    for key in ("videos", "categories", "annotations")[: None if require_labels else 2]:
        if not isinstance(dataset, dict) or not isinstance(dataset.get(key), list) or not dataset[key]:
            labels = " with labels" if require_labels else ""
            raise ValueError(f"{path} has no {key}; expected a YouTube-VIS file{labels}")
    for video in dataset["videos"]:
        if isinstance(video, dict) and isinstance(video.get("file_names"), list):
            video.setdefault("length", len(video["file_names"]))
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
    The folder that the `file_names` of a dataset are relative to: the given one or a folder in it, or else one around
    the annotation file, in any layout that has been in use.

    Raises:
        FileNotFoundError: when the given folder does not exist, or none has the first frame of any of 50 videos.
    """
    from .data.layouts import find_frames_dir

    first_frames = [video["file_names"][0] for video in dataset["videos"][:50] if video.get("file_names")]
    return find_frames_dir(Path(path), first_frames, frames_dir)


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
    dataset: dict[str, Any],
    frames_dir: str | Path,
    top_k: int = 10,
    max_frames: int = 36,
) -> Iterator[list[dict[str, Any]]]:
    """
    Results of every video in YouTube-VIS results format, video by video.

    Args:
        segmenter: the pipeline.
        dataset: YouTube-VIS ground truth with `videos` and `categories`; see [`category_ids`].
        frames_dir: folder that `file_names` are relative to.
        top_k: results per clip, 10 as published.
        max_frames: longest clip that the model sees at once.

    Returns:
        One list per video, when it is asked for. A video that can't be evaluated gives an empty one, with a warning
        that names it.

    Raises:
        ValueError: at once, when the classes of the model are not those of the dataset.
    """
    ids = category_ids(segmenter.model.config.id2label, dataset["categories"])

    def predict() -> Iterator[list[dict[str, Any]]]:
        for video in logging.tqdm(dataset["videos"], desc="videos", unit="video"):
            try:
                yield _predict_video(segmenter, video, frames_dir, ids, top_k, max_frames)
            except SkippedVideo as reason:
                logger.warning(str(reason))
                yield []

    return predict()


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
    frames = [str(Path(frames_dir) / file_name) for file_name in video["file_names"]]
    missing = [frame for frame in frames if not Path(frame).is_file()]
    if missing:
        raise SkippedVideo(f"{name} is skipped, {len(missing)} frames are missing, e.g. {missing[0]}")
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
    if instances.size != (video["height"], video["width"]):
        raise SkippedVideo(
            f"{name} is skipped, its frames are {instances.size} (height, width) and not "
            f"{(video['height'], video['width'])} as the dataset says"
        )
    return instances.to_ytvis(video["id"], ids)


def run_settings(
    model: str | Path, dataset_path: str | Path, dataset: dict[str, Any], **arguments: Any
) -> dict[str, Any]:
    """What results depend on, for [`ResultFiles`]: the checkpoint's files, the dataset's videos, and `arguments`."""
    from . import __version__

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
    path = Path(path)
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_text("[" + ",\n".join(json.dumps(result) for result in results) + "]\n")
    os.replace(unfinished, path)


def check_writable(*paths: str | Path | None) -> None:
    """
    Make the folders of files that are to be written, before the work and not after it.

    Raises:
        OSError: when a file can't be written there; the message names the path.
    """
    for path in (Path(path) for path in paths if path is not None):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder; expected the name of a file")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise PermissionError(f"{path} can't be written; choose another place")


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

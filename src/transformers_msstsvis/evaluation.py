"""Official numbers of a checkpoint on an annotated set of videos."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.utils import logging

from .pipelines import VideoInstanceSegmentationPipeline

logger = logging.get_logger(__name__)


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

    Yields:
        One list per video. A video that can't be read gives an empty one, with a warning that names it.

    Raises:
        ValueError: when the classes of the model are not those of the dataset.
    """
    ids = category_ids(segmenter.model.config.id2label, dataset["categories"])
    for video in logging.tqdm(dataset["videos"], desc="videos", unit="video"):
        frames = [str(Path(frames_dir) / name) for name in video["file_names"]]
        missing = [frame for frame in frames if not Path(frame).is_file()]
        if missing:
            logger.warning(f"video {video['id']} is skipped, {len(missing)} frames are missing, e.g. {missing[0]}")
            yield []
            continue
        instances = segmenter(
            [frames], threshold=0.0, top_k=top_k, max_frames=max_frames, return_instances=True, on_error="skip"
        )[0]
        if instances is None or instances.num_frames != len(frames):
            logger.warning(f"video {video['id']} is skipped, not all of its {len(frames)} frames can be read")
            yield []
            continue
        yield instances.to_ytvis(video["id"], ids)


def category_ids(id2label: dict[int, str], categories: list[dict[str, Any]]) -> dict[int, int]:
    """
    The dataset's category id of every label of a model: by name, or else in ascending order of the ids.

    Raises:
        ValueError: when the names differ and the numbers of classes, too.
    """
    by_name = {category["name"]: category["id"] for category in categories}
    if set(id2label.values()) <= set(by_name):
        return {label: by_name[name] for label, name in id2label.items()}
    if len(id2label) != len(categories):
        raise ValueError(
            f"the model has {len(id2label)} classes ({', '.join(list(id2label.values())[:5])}, ...) and the dataset "
            f"{len(categories)} categories with other names; choose a model that was trained on these categories"
        )
    logger.warning("The model's class names are not those of the dataset; classes are taken in the order of the ids.")
    return dict(zip(sorted(id2label), sorted(category["id"] for category in categories), strict=True))


def read_ground_truth(path: str | Path) -> dict[str, Any]:
    """
    A YouTube-VIS annotation file.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: when it holds no videos or no annotations.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no annotation file at {path}")
    dataset = json.loads(path.read_text())
    for key in ("videos", "categories", "annotations"):
        if not isinstance(dataset, dict) or not dataset.get(key):
            raise ValueError(f"{path} has no {key}; expected a YouTube-VIS file with labels")
    return dataset


def format_table(numbers: dict[str, Any], names: dict[Any, str]) -> str:
    """The official numbers and AP by category as text, in percent; `-` where there is no ground truth."""

    def percent(value: float) -> str:
        return "-" if value < 0 else f"{100 * value:.1f}"

    overall = {key: value for key, value in numbers.items() if isinstance(value, float)}
    lines = [
        " ".join(f"{key:>6}" for key in overall),
        " ".join(f"{percent(value):>6}" for value in overall.values()),
        "",
    ]
    width = max(len(name) for name in names.values())
    lines.append(f"{'category':<{width}}     AP   AP50   AP75")
    for category, values in numbers["per_category"].items():
        columns = " ".join(f"{percent(values[key]):>6}" for key in ("AP", "AP50", "AP75"))
        lines.append(f"{names[category]:<{width}} {columns}")
    return "\n".join(lines)

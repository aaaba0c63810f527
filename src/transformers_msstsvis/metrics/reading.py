"""Reading of ground truth and predictions in YouTube-VIS format, each entry checked."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers.utils import logging

from ..data.fields import category_problem, iscrowd_problem
from ..data.json_index import decode, open_json
from ..results.rle import MAX_SIDE, excerpt

logger = logging.get_logger(__name__)


class Reference(NamedTuple):
    """A video entry of a ground-truth file and its annotations, in file order."""

    video: dict[str, Any]
    annotations: list[dict[str, Any]]


def read_references(references: dict[str, Any] | Sequence[dict[str, Any]] | str | Path) -> tuple[dict, set]:
    """Reads ground truth in YouTube-VIS format.

    Annotations of videos that are not listed are left out, as in the official evaluator.

    Args:
        references (`dict`, `list[dict]`, path, or `datasets.Dataset` of `load_vis_dataset`):
            `videos`, `annotations`, `categories`.

    Returns:
        `tuple[dict[video id, Reference], set[category id]]`

    Raises:
        ValueError: if one of the three lists is missing or null, or a video or annotation id occurs twice.
    """
    if hasattr(references, "column_names"):
        from ..data.loading import dataset_to_ytvis

        references = dataset_to_ytvis(references)
    references = content_of(references)
    if not isinstance(references, dict) and not isinstance(references, Sequence):
        raise ValueError(
            f"ground truth is a {type(references).__name__}; expected a dict of the lists 'videos', 'annotations' and "
            "'categories'"
        )
    parts = [references] if isinstance(references, dict) else references
    videos: dict[Any, Reference] = {}
    category_ids: set = set()
    listed: list[dict] = []
    stray = 0
    for part in parts:
        for key in ("videos", "annotations", "categories"):
            if isinstance(part, dict) and not isinstance(part.get(key), list | tuple | None):
                raise ValueError(f"ground truth has {key} {excerpt(part[key])}; expected a list of dicts")
            if not isinstance(part, dict) or part.get(key) is None:
                hint = "labels of validation and test splits are not public; evaluate on a split with annotations"
                raise ValueError(
                    f"ground truth has no {key!r} (missing or null); expected a dict of the lists 'videos', "
                    f"'annotations' and 'categories'" + (f": {hint}" if key == "annotations" else "")
                )
        for video in part["videos"]:
            _require(video, ("id", "height", "width", "length"), "a video of the ground truth")
            video_id = identifier(video["id"])
            _check_video(video, f"video {video_id!r} of the ground truth")
            if video_id in videos:
                raise ValueError(f"video id {video_id!r} occurs twice in the ground truth; expected unique ids")
            videos[video_id] = Reference(video, [])
        for category in part["categories"]:
            _require(category, ("id",), "a category of the ground truth")
            category_ids.add(identifier(category["id"]))

        annotation_ids = set()
        for annotation in part["annotations"]:
            _require(annotation, ("id", "video_id", "category_id", "segmentations"), "an annotation")
            annotation_id, video_id = identifier(annotation["id"]), identifier(annotation["video_id"])
            if annotation_id in annotation_ids:
                raise ValueError(
                    f"annotation id {annotation_id!r} occurs twice in the ground truth; expected unique ids: renumber "
                    "the annotations"
                )
            annotation_ids.add(annotation_id)
            if video_id in videos:
                videos[video_id].annotations.append(annotation)
                listed.append(annotation)
            else:
                stray += 1
    if stray:
        logger.warning_once(f"Left out {stray} annotations of videos that the ground truth does not list.")
    for kind, ids in (("video", videos), ("category", category_ids)):
        try:
            sorted(ids)
        except TypeError as error:
            raise ValueError(
                f"{kind} ids of the ground truth have no order ({error}); expected all integers, or all strings"
            ) from error
    for annotation in listed:
        problem = category_problem(identifier(annotation["category_id"]), category_ids)
        problem = problem or iscrowd_problem(identifier(annotation.get("iscrowd")))
        if problem is not None:
            raise ValueError(f"annotation {annotation['id']!r} of video {annotation['video_id']!r}: {problem}")
    return videos, category_ids


def content_of(source: Any) -> Any:
    """What the file holds, where `source` is the path of one, or `source` itself."""
    return read_json(source) if isinstance(source, (str, Path)) else source


def read_json(path: str | Path) -> Any:
    """The content of a JSON file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not JSON; the message names the file and the place.
    """
    with open_json(path) as file:
        content = file.read()
    try:
        return json.loads(decode(content))
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply; expected annotations or results in JSON") from None
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file: {error}; expected annotations or results in JSON") from error


def group_predictions(
    predictions: Any, known: dict[Any, Reference], categories: set
) -> dict[Any, list[tuple[int, dict]]]:
    """By video id, the predictions with their position in the list, for error messages."""
    if isinstance(predictions, dict) or not hasattr(predictions, "__iter__"):
        raise ValueError(
            f"predictions is a {type(predictions).__name__}; expected a list of dicts with video_id, category_id, "
            "score and segmentations, or the path of a results.json"
        )
    grouped: dict[Any, list[tuple[int, dict]]] = {}
    for position, prediction in enumerate(predictions):
        _require(prediction, ("video_id", "category_id", "score", "segmentations"), f"prediction {position}")
        video_id = identifier(prediction["video_id"])
        if video_id not in known:
            raise ValueError(
                f"prediction {position} is for video {video_id!r}, which the ground truth does not list (it has "
                f"{len(known)} videos, e.g. {list(known)[:3]}); check that both are of the same data set and split"
            )
        # Other integers are of categories that the ground truth lacks, and are left out.
        category_id = identifier(prediction["category_id"])
        problem = category_problem(category_id, categories)
        if problem is not None and not (type(category_id) is int and all(type(known) is int for known in categories)):
            raise ValueError(f"prediction {position}: {problem}")
        grouped.setdefault(video_id, []).append((position, prediction))
    return grouped


def _require(entry: Any, keys: tuple[str, ...], name: str) -> None:
    if not isinstance(entry, dict):
        raise ValueError(f"{name} is a {type(entry).__name__}; expected a dict with {', '.join(keys)}")
    missing = [key for key in keys if key not in entry]
    if missing:
        raise ValueError(f"{name} has no {', '.join(missing)}; expected {', '.join(keys)} (given: {sorted(entry)})")
    for key in keys:
        if key.endswith("id") and isinstance(entry[key], (list, dict)):
            raise ValueError(f"{name}: {key} is {excerpt(entry[key])}; expected an integer or a string")


def _check_video(video: dict[str, Any], name: str) -> None:
    for key, lowest, highest in (("height", 1, MAX_SIDE), ("width", 1, MAX_SIDE), ("length", 0, math.inf)):
        value = identifier(video[key])
        whole = isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0
        if not whole or not lowest <= value <= highest:
            unit = "number of frames" if key == "length" else f"number of pixels, up to {MAX_SIDE}"
            raise ValueError(f"{name}: {key} is {value!r}; expected its {unit}")


def identifier(value: Any) -> Any:
    """An id as a number or a string, whatever library holds it."""
    # Tensors of one element hash by identity, so they would never be found.
    return value.item() if hasattr(value, "item") else value

"""Ground truth to evaluate on: videos, categories and annotations as in a YouTube-VIS file, and their frames."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.utils import logging

from ..data.formats import locate, open_source
from ..data.layouts import find_frames as find_frames_of_file
from ..data.loading import categories_of, ytvis_entries
from ..data.validation import CheckedRows

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.get_logger(__name__)


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
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no annotation file at {path}")
    source = open_source(locate(path, frames_dir), allow_outside, tracks)
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


def find_frames(path: str | Path, dataset: dict[str, Any], frames_dir: str | Path | None = None) -> Path:
    """
    The folder that the `file_names` of a dataset are relative to: that which [`read_ground_truth`] found, or else the
    given one or a folder in it, or one around the annotation file, in any layout that has been in use.

    Raises:
        FileNotFoundError: when the given folder does not exist, or none has the first frame of any of 50 videos.
    """
    known = next((video["frames_dir"] for video in dataset["videos"] if video.get("frames_dir")), None)
    if known is not None:
        return Path(known)
    first_frames = [video["file_names"][0] for video in dataset["videos"][:50] if video.get("file_names")]
    return find_frames_of_file(Path(path), first_frames, frames_dir).frames_dir


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


def listed_videos(dataset: "dict[str, Any] | Dataset") -> tuple[Iterable[dict[str, Any]], list[dict[str, Any]]]:
    """The videos of a dataset, one at a time, and its categories."""
    if isinstance(dataset, dict):
        return dataset["videos"], dataset["categories"]

    class Videos:
        def __len__(self) -> int:
            return len(dataset)

        def __iter__(self) -> Iterator[dict[str, Any]]:
            rows = dataset.select_columns([name for name in dataset.column_names if name != "annotations"])
            return ({**row, "id": row["video_id"]} for row in rows)

    return Videos(), categories_of(dataset)

"""Videos with instance masks as a `datasets.Dataset`, from the formats in which they are published.

The dataset is an Arrow file that is mapped into memory: opening it again takes no time, and a row is read when it is
asked for. Masks stay compressed, frames stay image files until [`embed_frames`].
"""

import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.utils import logging

from ..extras import require
from ..video.images import ImageError, read_image
from .formats import Location, locate, open_source
from .frames import OutsideError, frame_path
from .problems import place_of
from .validation import CheckedRows, frame_problems

if TYPE_CHECKING:
    from datasets import Dataset, Features

logger = logging.get_logger(__name__)

# Part of the name of prepared files: count up with every change of what is in them.
_VERSION = 4
_ROWS_AT_ONCE = 64  # videos; bounds the memory of preparation
_EMBEDDED_AT_ONCE = 8  # videos with all their frames
_WAYS_OUT = (
    "Run `python -m transformers_msstsvis.data.validate` to see every problem and to repair what can be, or load with "
    'on_error="skip" to leave such entries out.'
)


def load_vis_dataset(
    annotations: str | Path,
    frames_dir: str | Path | None = None,
    split: str | None = None,
    on_error: str = "raise",
    *,
    check_frames: bool = False,
    allow_outside: bool = False,
    tracks: bool | None = None,
    cache_dir: str | Path | None = None,
) -> "Dataset":
    """
    Load videos with instance masks. The format is told from the data:

    - YouTube-VIS 2019, 2021 and 2022, and OVIS: a JSON file of videos and annotations of whole videos;
    - COCO stills: every image becomes a video of one frame;
    - COCO video: images with `video_id` and `frame_id`, annotations with `instance_id` (or `track_id`, `object_id`, or
      one of these in `attributes`, as CVAT writes it); without `video_id`, see `tracks`;
    - mask PNGs: the folder of DAVIS, YouTube-VOS or MOTS, any folder of videos with frames (jpg) and masks (palette
      png) side by side, or one such video, also with a folder of masks for each object. Only the frames that have a
      mask form the video;
    - CVAT: `annotations.xml` of "CVAT for video 1.1" (polygons and masks; frames are the images of a folder beside it)
      or "CVAT for images 1.1" (every image becomes a video of one frame), or the folder that holds it;
    - MOTS text: a file of `frame id category height width counts`, with the frames in a folder beside it.

    The result is prepared once, in the cache of `datasets`, and opened from there until one of the files changes.

    Args:
        annotations: the JSON, XML or text file, the folder of masks, or the folder of a dataset in one of its known
            layouts.
        frames_dir: the folder that file names are relative to. By default it is found around the annotations, in any
            layout that has been in use; the log says where. Names of another machine, with backslashes, or with
            folders that are not here are found by their last parts.
        split: `"train"`, `"validation"` or `"test"`: which file of a folder, which list of DAVIS (`ImageSets`), and
            which frames are tried first. By default the file's name tells.
        on_error: `"raise"` refuses data with an error in the words of `python -m transformers_msstsvis.data.validate`;
            `"skip"` leaves out the annotations and videos that have one, and logs how many.
        check_frames: open every frame: it must be there, readable, and of the size the file says.
        allow_outside: take frames from anywhere, for annotation files that you trust: complete paths, `..`, and links
            out of `frames_dir`. The `frames_dir` of such a video is the folder that holds all its frames. Otherwise
            no frame is read that is not below `frames_dir`, here and wherever the dataset is used.
        tracks: whether the images of a COCO file without `video_id`, but with identities of objects, are frames of
            videos, one for each folder, in the order of the numbers in their names. By default they are if the
            identities recur and the order is plain; the log says so either way.
        cache_dir: for prepared files; the cache of `datasets` by default.

    Returns:
        One row per video: `video_id`, `height`, `width` (pixels), `length` (frames), `file_names` relative to
        `frames_dir`, and `annotations`: `id`, `category_id` (as in the file), `label` (from 0, by ascending category
        id), `iscrowd`, and for each frame, null where there is none, `segmentations` (compressed RLE), `bboxes` (x, y,
        width, height in pixels), `areas` (pixels) and, in OVIS, `occlusion`. Boxes and areas that the file lacks are
        those of the masks. `categories` are the labels that occur in the video; see [`categories_of`].

    Raises:
        FileNotFoundError: when the annotations or the folder of frames are not found.
        ValueError: when the data is in none of the formats, or has an error and `on_error` is `"raise"`.
    """
    require("datasets")
    import datasets
    from datasets.exceptions import DatasetGenerationError

    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error is {on_error!r}; expected 'raise' or 'skip'")
    if tracks not in (None, True, False):
        raise ValueError(f"tracks is {tracks!r}; expected True, False or None")
    location = locate(annotations, frames_dir, split)
    path = location.path
    cache = Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / "transformers_msstsvis"
    files = location.files()
    given = None if frames_dir is None else str(Path(frames_dir).absolute())
    key = _fingerprint(files, str(path.absolute()), given, split, on_error, str((allow_outside, tracks)))
    summary = cache / f"{key}.json"
    # The file itself is read only if there is no summary from when it was prepared.
    checked = None
    known = _read_summary(summary)
    if known is None:
        checked = _open(location, allow_outside, tracks)
        known = _summary_of(checked)
    try:
        dataset = datasets.Dataset.from_generator(
            lambda: _rows(checked or _open(location, allow_outside, tracks), on_error, summary),
            features=_features(known["categories"]),
            cache_dir=str(cache),
            split=datasets.Split(known["split"] or "train"),
            fingerprint=_fingerprint(files, key, known["frames_dir"]),
            writer_batch_size=_ROWS_AT_ONCE,
        )
    except DatasetGenerationError as error:
        raise error.__cause__ or error from None
    logger.info(f"Frames of {path} are read from {known['frames_dir']}.")
    for remark in (_read_summary(summary) or {}).get("remarks", []):
        logger.warning(remark)
    return _with_usable_frames(dataset, path, on_error) if check_frames else dataset


def _open(location: Location, allow_outside: bool, tracks: bool | None) -> CheckedRows:
    source = open_source(location, allow_outside, tracks)
    if source.frames_dir is None:
        raise FileNotFoundError(source.problems[-1].message)
    return CheckedRows(source)


def _rows(checked: CheckedRows, on_error: str, summary: Path) -> Iterator[dict[str, Any]]:
    remarks, videos = [], 0
    for row, problems in checked:
        for problem in problems:
            if problem.is_error and on_error == "raise":
                raise ValueError(f"{problem}\n{_WAYS_OUT}")
            if not problem.is_error and problem.annotation is None:
                remarks.append(str(problem))
        if row is not None:
            videos += 1
            labels = sorted({annotation["label"] for annotation in row["annotations"]})
            yield {**row, "categories": labels}
    if not videos:
        raise ValueError(
            f"{checked.source.path} has {len(checked.source)} videos, none of them without errors; expected one at "
            f"least\n{_WAYS_OUT}"
        )
    left_out = ", ".join(f"{count} {kind}" for kind, count in sorted(checked.left_out.items()) if count)
    if left_out:
        remarks.append(f"{checked.source.path}: left out {left_out} with errors")
    unfinished = summary.with_suffix(".tmp")
    unfinished.write_text(json.dumps({**_summary_of(checked), "remarks": remarks}), encoding="utf-8")
    unfinished.replace(summary)


def _summary_of(checked: CheckedRows) -> dict[str, Any]:
    source = checked.source
    # Complete, so that a dataset that was saved is of use from any working directory.
    frames_dir = str(source.frames_dir.absolute())
    return {"frames_dir": frames_dir, "split": source.split, "categories": checked.categories}


def _read_summary(path: Path) -> dict[str, Any] | None:
    """What is known of a prepared file, if it is there and the frames are where they were."""
    if not path.is_file():
        return None
    summary = json.loads(path.read_text(encoding="utf-8"))
    return summary if Path(summary["frames_dir"]).is_dir() else None


def _fingerprint(files: Iterable[Path], *arguments: str | None) -> str:
    digest = hashlib.sha256(repr((_VERSION, *arguments)).encode())
    for path in files:
        state = path.stat()
        digest.update(repr((str(path.resolve()), state.st_size, state.st_mtime_ns)).encode())
    return digest.hexdigest()[:32]


def _with_usable_frames(dataset: "Dataset", file: Path, on_error: str) -> "Dataset":
    usable = []
    columns = dataset.select_columns(["video_id", "height", "width", "file_names", "frames_dir"])
    for position, row in enumerate(columns):
        place = place_of({"id": row["video_id"], **row}, position)
        problems = frame_problems(row, Path(row["frames_dir"]), file, place)
        if problems and on_error == "raise":
            raise ValueError(f"{next(iter(problems.values()))}\n{_WAYS_OUT}")
        if not problems:
            usable.append(position)
    if len(usable) < len(dataset):
        logger.warning(f"{file}: left out {len(dataset) - len(usable)} videos with frames that cannot be used")
        return dataset.select(usable)
    return dataset


def _features(categories: list[dict[str, Any]]) -> "Features":
    from datasets import ClassLabel, Features, List, Value

    annotation = {
        "id": Value("int64"),
        "category_id": Value("int64"),
        "label": ClassLabel(names=[category["name"] for category in categories]),
        "iscrowd": Value("bool"),
        "segmentations": List({"size": List(Value("int32")), "counts": Value("string")}),
        "bboxes": List(List(Value("float64"))),
        "areas": List(Value("float64")),
        "occlusion": List(Value("string")),
    }
    return Features(
        {
            "video_id": Value("int64"),
            "height": Value("int32"),
            "width": Value("int32"),
            "length": Value("int32"),
            "file_names": List(Value("string")),
            "frames_dir": Value("string"),
            "annotations": List(annotation),
            # The table of categories goes wherever the features go: to disk, to Parquet, to the Hub.
            "categories": List(ClassLabel(names=[json.dumps(category) for category in categories])),
        }
    )


def categories_of(dataset: "Dataset") -> list[dict[str, Any]]:
    """
    The categories of a dataset of [`load_vis_dataset`], by ascending id: `id`, `name` and, where the file had it,
    `supercategory`. A label is a position in this list.

    Raises:
        ValueError: when the dataset has no column `categories` of this kind.
    """
    names = getattr(getattr(dataset.features.get("categories"), "feature", None), "names", None)
    if names is None:
        raise ValueError(
            f"the dataset has no categories (columns: {', '.join(dataset.column_names)}); expected one of "
            "load_vis_dataset with its column `categories`"
        )
    return [json.loads(name) for name in names]


def id2label_of(dataset: "Dataset") -> dict[int, str]:
    """The class name of each label, from 0, of a dataset of [`load_vis_dataset`]; see [`categories_of`]."""
    return {label: category["name"] for label, category in enumerate(categories_of(dataset))}


def dataset_to_ytvis(dataset: "Dataset") -> dict[str, Any]:
    """
    A dataset of [`load_vis_dataset`] as the content of a YouTube-VIS file: `videos`, `annotations` and `categories`.
    Loading it again gives the same dataset.

    Raises:
        ValueError: when the dataset has no column `categories`.
    """
    columns = [name for name in dataset.column_names if name != "frames"]
    entries = [ytvis_entries(row) for row in dataset.select_columns(columns)]
    return {
        "videos": [video for video, _ in entries],
        "annotations": list(chain.from_iterable(annotations for _, annotations in entries)),
        "categories": categories_of(dataset),
    }


def ytvis_entries(row: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The video and the annotations of a row as they are in a YouTube-VIS file."""
    video = {"id": row["video_id"], **{key: row[key] for key in ("height", "width", "length", "file_names")}}
    annotations = []
    for annotation in row["annotations"]:
        entry = {"id": annotation["id"], "video_id": row["video_id"]}
        entry |= {key: annotation[key] for key in ("category_id", "segmentations", "bboxes", "areas")}
        entry["iscrowd"] = int(annotation["iscrowd"])
        if annotation["occlusion"] is not None:
            entry["occlusion"] = annotation["occlusion"]
        annotations.append(entry)
    return video, annotations


def embed_frames(dataset: "Dataset") -> "Dataset":
    """
    The dataset with its frames in it, to be moved or uploaded as a whole: a column `frames` has the bytes of the image
    files, as they are, and `frames_dir` is null.

    Raises:
        FileNotFoundError: when a frame is missing.
        ValueError: when a frame is not below `frames_dir` (see [`load_vis_dataset`]), or is no image that can be read.
    """
    from datasets import Features, Image, List

    features = Features({**dataset.features, "frames": List(Image(decode=False))})
    return dataset.map(
        _with_frames,
        features=features,
        writer_batch_size=_EMBEDDED_AT_ONCE,
        load_from_cache_file=False,  # which would not see that an image has changed
        desc="Embedding frames",
    )


def _with_frames(row: dict[str, Any]) -> dict[str, Any]:
    if row["frames_dir"] is None:
        return {"frames": row["frames"]}
    frames = []
    for frame, name in enumerate(row["file_names"]):
        place = f"video {place_of({'id': row['video_id'], **row}, 0)}, frame {frame} ({name})"
        try:
            path = frame_path(row["frames_dir"], name)
            if not os.path.isfile(path):
                raise FileNotFoundError(f"{place}: the frame is missing; expected {path}")
            content = path.read_bytes()
            read_image(io.BytesIO(content))
        except OutsideError as error:
            raise ValueError(f"{place}: {error}") from error
        except ImageError as error:
            raise ValueError(f"{place}: {path} cannot be read: {error}") from error
        frames.append({"bytes": content, "path": name})
    return {"frames": frames, "frames_dir": None}

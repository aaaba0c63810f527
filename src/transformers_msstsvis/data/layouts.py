"""Where the published datasets, and the code written for them, keep annotation files and frames."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from transformers.utils import logging

from ..results.rle import excerpt
from .frames import OutsideError, below, frame_path, last_parts, parts_of

logger = logging.get_logger(__name__)

CVAT_FILE = "annotations.xml"  # in an export of CVAT
SPLITS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


def split_of(text: str) -> str | None:
    """`"train"`, `"validation"` or `"test"` if a name such as `valid` or `instances_val_sub.json` tells, else None."""
    words = re.findall("[a-z]+", text.lower())
    return next((split for split, names in SPLITS.items() if any(name in words for name in names)), None)


def split_of_file(path: Path) -> str | None:
    """As [`split_of`], from the file's name, or from its folder's if that is nothing but the name of a split."""
    folder = path.parent.name.lower()
    return split_of(path.stem) or next((split for split, names in SPLITS.items() if folder in names), None)


def find_annotation_file(folder: Path, split: str | None = None) -> Path:
    """
    The annotation file of a split, in a dataset's folder or one folder below.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: when there are several.
    """
    files = sorted(path for depth in ("*.json", "*/*.json") for path in folder.glob(depth))
    files = files or sorted(folder.glob(f"*/{CVAT_FILE}"))
    found = [path for path in files if split is None or split_of_file(path) == (split_of(split) or split)]
    found = [path for path in found if "instances" in path.name] or found
    if not found:
        wanted = "" if split is None else f" for split {split!r}"
        raise FileNotFoundError(
            f"{folder} holds no palette PNG masks and no JSON file{wanted} (JSON files: "
            f"{', '.join(path.name for path in files[:5]) or 'none'}); pass the annotation file itself"
        )
    if len(found) > 1:
        raise ValueError(
            f"{folder} holds {len(found)} annotation files that fit, e.g. {', '.join(map(str, found[:3]))}; pass one "
            'of them, or split="train", "validation" or "test"'
        )
    return found[0]


def existing_frames_dir(frames_dir: str | Path) -> Path:
    """The folder that was given; FileNotFoundError when it is none."""
    if not Path(frames_dir).is_dir():
        raise FileNotFoundError(f"no frames folder at {frames_dir}")
    return Path(frames_dir)


class FoundFrames(NamedTuple):
    """Where the frames of an annotation file are.

    Attributes:
        frames_dir: the folder.
        dropped: how many folders at the beginning of every name are not there; None where names are relative to
            `frames_dir` as they are.
    """

    frames_dir: Path
    dropped: int | None = None


def find_frames(
    annotations: Path,
    file_names: Sequence[str],
    frames_dir: str | Path | None = None,
    split: str | None = None,
    allow_outside: bool = False,
) -> FoundFrames:
    """
    The folder that `file_names` are relative to, for an annotation file. Names of another machine, or with folders
    that are not here, are found by their last parts.

    Args:
        annotations: the JSON file.
        file_names: a few frames of the file; the first folder that has one of them is the one.
        frames_dir: where to look; around the file by default.
        split: tried before the others; told by the file's name by default.
        allow_outside: whether names may lead out of the folder.

    Raises:
        FileNotFoundError: when `frames_dir` does not exist, or no known layout has the frames.
    """
    hint = split or split_of_file(annotations)
    if frames_dir is not None:
        roots = [existing_frames_dir(frames_dir)]
    else:
        roots = [annotations.parent, annotations.parent.parent]
    candidates = list(dict.fromkeys(place for root in roots for place in _below(root, hint)))
    found = _first_with([place for place in candidates if place.is_dir()], file_names, allow_outside)
    if found is not None:
        return found
    if not file_names:
        return FoundFrames(roots[0])
    parts = parts_of(file_names[0])
    shorter = ["/".join(parts[start:]) for start in range(len(parts))]
    shorter = ", ".join(excerpt(name) for name in shorter if name != file_names[0])
    tried = f", nor what it ends with, {shorter}" if shorter else ""
    if frames_dir is not None:
        logger.warning(
            f"{frames_dir} does not have {excerpt(file_names[0])}, the first frame of {annotations}{tried}: correct "
            "the names, or pass another frames_dir."
        )
        return FoundFrames(roots[0])
    raise FileNotFoundError(
        f"the frames of {annotations} were not found: no folder around it has {excerpt(file_names[0])} (looked in "
        f"{', '.join(map(str, candidates[:4]))}, ...){tried}; pass frames_dir, the folder that this name is relative "
        "to"
    )


def _below(root: Path, split: str | None) -> Iterator[Path]:
    split = split_of(split) if split else None
    splits = sorted(SPLITS, key=lambda name: name != split)
    yield root / "JPEGImages"
    for folder in (name for key in splits for name in SPLITS[key]):
        yield root / folder / "JPEGImages"
        yield root / folder
        yield root / f"{folder}2017"
        yield root / "images" / f"{folder}2017"
        yield root / "images" / folder
    yield root / "images"
    yield root


def _first_with(candidates: Sequence[Path], file_names: Sequence[str], allow_outside: bool) -> FoundFrames | None:
    def is_there(place: Path, name: str) -> bool:
        try:
            return os.path.isfile(frame_path(place, below(place, name)))
        except OutsideError:
            return allow_outside and os.path.isfile(os.path.join(place, name))

    for place in candidates:
        if any(is_there(place, name) for name in file_names):
            return FoundFrames(place)
    for dropped in range(max((len(parts_of(name)) for name in file_names), default=0)):
        names = [last_parts(name, dropped) for name in file_names]
        if len(set(names)) < len(set(file_names)):  # different frames would become one
            break
        for place in candidates:
            if 2 * sum(is_there(place, name) for name in names) > len(names):
                return FoundFrames(place, dropped)
    return None

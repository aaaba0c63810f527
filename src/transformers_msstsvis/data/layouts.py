"""Where the published datasets, and the code written for them, keep annotation files, masks and frames."""

import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from transformers.utils import logging

from ..results.rle import excerpt
from ..video.images import IMAGE_SUFFIXES
from ..video.reader import natural_key
from .frames import OutsideError, below, frame_path, last_parts, parts_of

logger = logging.get_logger(__name__)

SPLITS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}

# Folders of masks and of frames below one root: DAVIS and YouTube-VOS, MOTSChallenge, KITTI MOTS.
_MASK_FOLDERS = (
    ("Annotations_unsupervised", "JPEGImages"),
    ("Annotations", "JPEGImages"),
    ("instances", "images"),
    ("instances", "image_02"),
    ("instances", "training/image_02"),
)
_RESOLUTIONS = ("480p", "Full-Resolution", "1080p")


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


class MaskFolders(NamedTuple):
    """Videos of mask PNGs: the folder of masks and the folder of frames of each, the latter below `frames_dir`."""

    frames_dir: Path
    videos: list[tuple[Path, Path]]

    def files(self) -> list[Path]:
        """All masks and frames."""
        folders = dict.fromkeys(folder for video in self.videos for folder in video)
        return [path for folder in folders for path in images_of(folder)]


def find_mask_folders(
    folder: Path, frames_dir: str | Path | None = None, split: str | None = None
) -> MaskFolders | None:
    """
    The videos of a folder of mask PNGs, or None when it holds none.

    The folder is the root of DAVIS, YouTube-VOS or MOTS; a folder of videos, with frames and masks side by side or,
    with the frames elsewhere, masks alone; or one video with frames and masks side by side.

    Raises:
        FileNotFoundError: when there are masks, but no frames, or no list of the split in `ImageSets`.
    """
    given = None if frames_dir is None else Path(frames_dir)
    if any(path.suffix.lower() == ".png" for path in images_of(folder)):
        frames = given or folder
        if not any(path.suffix.lower() != ".png" for path in images_of(frames)):
            raise FileNotFoundError(
                f"{frames} holds no frames (.jpg) for the masks of {folder}; put them beside the masks, or pass "
                "frames_dir"
            )
        return MaskFolders(frames.parent, [(folder, frames)])
    for root in [folder, *(folder / name for name in SPLITS.get(split_of(split or ""), ()))]:
        for mask_name, frames_name in _MASK_FOLDERS:
            masks = _folder_of_videos(root / mask_name)
            frames = given or _folder_of_videos(root / frames_name)
            if masks is not None and frames is not None:
                return MaskFolders(frames, _pairs(masks, frames, root, split))
    masks = _folder_of_videos(folder)
    if masks is None or not _holds(masks, (".png",)):
        return None
    frames = given
    if frames is None and _holds(masks, set(IMAGE_SUFFIXES) - {".png"}):
        frames = masks
    if frames is None:
        # DAVIS/Annotations/480p stands for DAVIS/JPEGImages/480p.
        frames = Path(*("JPEGImages" if part.startswith("Annotations") else part for part in masks.parts))
        if frames == masks or not frames.is_dir():
            raise FileNotFoundError(f"there are no frames (.jpg) beside the masks of {masks}; pass frames_dir")
    return MaskFolders(frames, _pairs(masks, frames, folder, split))


def images_of(folder: Path) -> list[Path]:
    """The images of a folder, frame 2 before frame 10, without hidden files; none where there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(
        (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")),
        key=natural_key,
    )


def _folder_of_videos(folder: Path) -> Path | None:
    """`folder`, or the one of its resolutions that is used, if it holds folders of images."""
    places = (*(folder / name for name in _RESOLUTIONS), folder)
    return next((place for place in places if _holds(place, IMAGE_SUFFIXES)), None)


def _holds(folder: Path, suffixes: Collection[str]) -> bool:
    """Whether any folder in it has an image of these types."""
    return folder.is_dir() and any(
        image.suffix.lower() in suffixes for path in sorted(folder.iterdir()) for image in images_of(path)
    )


def _pairs(masks: Path, frames: Path, root: Path, split: str | None) -> list[tuple[Path, Path]]:
    names = {path.name for folder in (masks, frames) for path in folder.iterdir() if images_of(path)}
    if split is not None and (root / "ImageSets").is_dir():
        synonyms = dict.fromkeys((split, *SPLITS.get(split_of(split), ())))
        lists = [path for name in synonyms for path in root.glob(f"ImageSets/*/{name}.txt")]
        if not lists:
            raise FileNotFoundError(
                f"{root / 'ImageSets'} has no list of split {split!r}, as ImageSets/2017/train.txt"
            )
        # The newest year; DAVIS keeps lists by resolution next to those by year.
        newest = max(lists, key=lambda path: (path.parent.name.isdigit(), path.parent.name))
        names &= set(newest.read_text(encoding="utf-8").split())
    return [(masks / name, frames / name) for name in sorted(names)]

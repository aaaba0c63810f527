"""Masks as PNG files, a folder of them for each video: DAVIS, YouTube-VOS and MOTS."""

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps
from pycocotools import mask as rle_codec

from ..video.images import IMAGE_SUFFIXES, ImageError, image_size
from ..video.reader import natural_key
from .frames import turned_note
from .layouts import SPLITS, split_of
from .problems import IMAGE_ERRORS, Problem
from .source import Record, Source

_MOTS_CATEGORIES = [{"id": 1, "name": "car"}, {"id": 2, "name": "pedestrian"}]
_MOTS_VOID, _PALETTE_VOID = 10_000, 255
_VOID = -1  # instead of the latter
_SMALL = 64  # numbers of objects, beside which 255 is none
_BRIGHT = 128  # object numbers stay below, masks of one object in black and white do not

# Folders of masks and of frames below one root: DAVIS and YouTube-VOS, MOTSChallenge, KITTI MOTS.
_MASK_FOLDERS = (
    ("Annotations_unsupervised", "JPEGImages"),
    ("Annotations", "JPEGImages"),
    ("instances", "images"),
    ("instances", "image_02"),
    ("instances", "training/image_02"),
)
_RESOLUTIONS = ("480p", "Full-Resolution", "1080p")


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


class MaskFolderSource(Source):
    """DAVIS, YouTube-VOS and MOTS: a PNG per annotated frame whose values are the objects, 0 the background.

    Only the frames that have a mask form the video: the others are not labelled, which is not the same as empty. A
    video without any mask has all its frames and no annotations. In a palette PNG 255 is void, as in DAVIS, and no
    object, unless it is the only value of the video; so it is beside small numbers in a grey PNG. In the 16-bit PNGs
    of MOTS a value is 1000 times the category (1 car, 2 pedestrian) plus the object, and 10000 is void. Other masks
    tell no classes: all objects are of category 1, "object". Videos and objects are numbered from 1.
    """

    format = "mask PNGs"

    @classmethod
    def open(cls, path: Path, folders: MaskFolders, split: str | None) -> "MaskFolderSource":
        source = cls(path, frames_dir=folders.frames_dir, split=split)
        source.folders = folders.videos
        source.is_mots = _are_mots(png for folder, _ in folders.videos for png in _pngs(folder))
        source.categories = _MOTS_CATEGORIES if source.is_mots else [{"id": 1, "name": "object"}]
        source.labelled = any(_pngs(folder) for folder, _ in folders.videos)
        unlabelled = sum(len(_frames(frames, masks)) for masks, frames in folders.videos if _pngs(masks)) - sum(
            len(_pngs(masks)) for masks, _ in folders.videos
        )
        if unlabelled > 0:
            message = f"{unlabelled} frames have no mask; only the frames that have one form the videos"
            source.problems.append(Problem(message, path, is_error=False))
        return source

    def __len__(self) -> int:
        return len(self.folders)

    def records(self) -> Iterator[Record]:
        number, only_void, grey_void = 0, [], []
        for video_id, (masks_dir, frames_dir) in enumerate(self.folders, start=1):
            problems: list[Problem] = []
            frames = {image.stem: image for image in _frames(frames_dir, masks_dir)}
            objects: dict[str, dict[int, Any]] = {}
            for png in _pngs(masks_dir):
                try:
                    if png.stem not in frames:
                        raise ValueError(f"the mask has no frame {png.stem} in {frames_dir}")
                    objects[png.stem] = _read_objects(png, frames[png.stem], self.is_mots)
                except IMAGE_ERRORS as error:
                    problems.append(Problem(str(error), self.path, f"{video_id} ({masks_dir.name})", frame=png.name))
            void, values = _VOID, set().union(*objects.values())
            if values == {_VOID}:
                void = None
                only_void.append(masks_dir.name)
            elif (
                _PALETTE_VOID in values and 0 < max(values - {_PALETTE_VOID}, default=0) < _SMALL and not self.is_mots
            ):
                void = _PALETTE_VOID
                grey_void.append(masks_dir.name)
            objects = {stem: {v: mask for v, mask in of.items() if v != void} for stem, of in objects.items()}
            chosen = list(objects) if _pngs(masks_dir) else list(frames)
            video = {
                "id": video_id,
                "length": len(chosen),
                "file_names": [frames[stem].relative_to(self.frames_dir).as_posix() for stem in chosen],
                **_size(frames[stem] for stem in chosen),
            }
            annotations = []
            for track in _tracks_of(list(objects.values()), self.is_mots):
                number += 1
                annotations.append((number, {"id": number, **track}))
            yield Record(video, annotations, problems)
        if only_void:
            message = (
                f"the palette masks of {len(only_void)} videos, as {only_void[0]}, have no other value than 255; it "
                "is taken for an object, not for the void of DAVIS"
            )
            self.problems.append(Problem(message, self.path, is_error=False))
        if grey_void:
            message = (
                f"the grey masks of {len(grey_void)} videos, as {grey_void[0]}, have small numbers and 255, which is "
                "taken for void, not for an object"
            )
            self.problems.append(Problem(message, self.path, is_error=False))


def _pngs(folder: Path) -> list[Path]:
    return [path for path in images_of(folder) if path.suffix.lower() == ".png"]


def _frames(folder: Path, masks: Path) -> list[Path]:
    """The frames of a video; PNG files are frames only where neither masks nor other images are."""
    images = images_of(folder)
    return [path for path in images if path.suffix.lower() != ".png"] or ([] if folder == masks else images)


def _size(frames: Iterable[Path]) -> dict[str, int]:
    """Height and width of the first frame that can be read."""
    for path in frames:
        try:
            return dict(zip(("height", "width"), image_size(path), strict=True))
        except ImageError:
            pass  # for the check of frames to tell
    return {}


def _are_mots(masks: Iterable[Path]) -> bool:
    """Whether the first of the masks that has an object is of MOTS."""
    for png in masks:
        try:
            with Image.open(png) as image:
                if not image.mode.startswith("I"):
                    return False
                values = set(np.unique(image).tolist()) - {0}
        except IMAGE_ERRORS:
            continue
        if values:
            known = [category["id"] for category in _MOTS_CATEGORIES]
            return all(value // 1000 in known or value == _MOTS_VOID for value in values)
    return False


def _read_objects(png: Path, frame: Path, is_mots: bool) -> dict[int, dict[str, Any]]:
    """The compressed mask of each value of a PNG that stands for an object, or is 255 in a palette: `_VOID`."""
    with Image.open(png) as image:
        if image.mode not in ("P", "L", "1") and not image.mode.startswith("I"):
            raise ValueError(
                f"the mask has colours ({image.mode}); expected a palette or grey PNG whose values are the objects: "
                "save it so, with 0 as the background"
            )
        has_palette = image.mode == "P"
        values = np.asarray(ImageOps.exif_transpose(image)).astype(np.int64)
    size = _size([frame])
    expected = [size.get("height"), size.get("width")]
    if size and list(values.shape) != expected:
        raise ValueError(
            f"the mask has size {list(values.shape)}; expected [height, width] = {expected} of its frame"
            f"{turned_note(frame, expected, values.shape)}"
        )
    objects = sorted(set(np.unique(values).tolist()) - {0})
    if is_mots:
        objects = [value for value in objects if value != _MOTS_VOID]
        strange = [value for value in objects if value < 1000]
        if strange:
            raise ValueError(f"the mask has the value {strange[0]}; expected 1000 * category + object, as of MOTS")
    else:
        _refuse_interpolation(values, objects, has_palette)
    masks = {value: np.asfortranarray(values == value, dtype=np.uint8) for value in objects}
    return {
        _VOID if has_palette and value == _PALETTE_VOID else value: rle_codec.encode(mask)
        for value, mask in masks.items()
    }


def _refuse_interpolation(values: np.ndarray, objects: list[int], has_palette: bool) -> None:
    """Refuse grey levels that come from resizing or blurring: rims between 0 and the brightest, without an inside."""
    others = [value for value in objects if value != _PALETTE_VOID]
    levels = others if has_palette else objects
    if len(levels) < 2 or levels[-1] < _BRIGHT:
        return
    padded = np.pad(values, 1)
    around = [np.roll(padded, step, axis)[1:-1, 1:-1] for axis in (0, 1) for step in (1, -1)]
    inside = np.unique(values[np.logical_and.reduce([side == values for side in around])])
    if others[-1] < _SMALL and np.isin(others, inside).any():
        return  # numbers of objects, and 255 is void
    touching = np.logical_or.reduce([(side != values) & (side != 0) for side in around])
    rims = np.setdiff1d(levels, inside)
    if 2 * len(rims) >= len(levels) and touching[np.isin(values, rims)].mean() > 0.5:
        raise ValueError(
            f"the mask has {len(levels)} grey levels, {len(rims)} of them only as rims of others, as after resizing "
            "or blurring; expected one value for each object: make it anew with the nearest value (Image.NEAREST), or "
            "at the size of the frame"
        )


def _tracks_of(frames: list[dict[int, dict[str, Any]]], is_mots: bool) -> Iterator[dict[str, Any]]:
    """The annotations, without ids, of the masks of all frames."""
    for value in sorted(set().union(*frames)):
        yield {
            "category_id": value // 1000 if is_mots else 1,
            "iscrowd": False,
            "segmentations": [objects.get(value) for objects in frames],
        }

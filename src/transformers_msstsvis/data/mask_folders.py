"""Masks as PNG files, a folder of them for each video: DAVIS, YouTube-VOS and MOTS; or one for each object."""

import json
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps
from pycocotools import mask as rle_codec

from ..results.rle import excerpt
from ..video.images import IMAGE_SUFFIXES, ImageError, image_size
from ..video.reader import natural_key
from .frames import turned_note
from .layouts import SPLITS, split_of
from .problems import IMAGE_ERRORS, Problem, integer
from .source import Record, Source

MOTS_CATEGORIES = [{"id": 1, "name": "car"}, {"id": 2, "name": "pedestrian"}]
CATEGORIES_FILE = "categories.json"
MOTS_VOID, _PALETTE_VOID = 10_000, 255
MOTS_STEP = 1000  # values of a category begin at 1000 times its id
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
        """All masks and frames, and the categories."""
        folders = dict.fromkeys(
            folder for masks, frames in self.videos for folder in (masks, *_folders_of_objects(masks), frames)
        )
        tables = {masks / CATEGORIES_FILE for masks, _ in self.videos}
        return [
            *(path for folder in folders for path in images_of(folder)),
            *sorted(path for path in tables if path.is_file()),
        ]


def find_mask_folders(
    folder: Path, frames_dir: str | Path | None = None, split: str | None = None
) -> MaskFolders | None:
    """
    The videos of a folder of mask PNGs, or None when it holds none.

    The folder is the root of DAVIS, YouTube-VOS or MOTS; a folder of videos, with frames and masks side by side or,
    with the frames elsewhere, masks alone; or one video with frames and masks side by side. Masks of one video may lie
    in a folder for each object, whose name is its number, as in SA-V.

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
    if _folders_of_objects(folder) and images_of(given or folder):
        return MaskFolders((given or folder).parent, [(folder, given or folder)])
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


def _folders_of_objects(folder: Path) -> list[Path]:
    """The folders with the PNGs of each object of one video, by their numbers."""
    if not folder.is_dir() or _pngs(folder):
        return []
    return sorted((path for path in folder.iterdir() if path.name.isdecimal() and _pngs(path)), key=natural_key)


def _mask_files(folder: Path) -> list[Path]:
    """The masks of a video: a PNG for each frame, or for each object and frame."""
    return _pngs(folder) or [png for path in _folders_of_objects(folder) for png in _pngs(path)]


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
    of MOTS a value is 1000 times the category plus the object, and 10000 is void; the categories are 1 car and
    2 pedestrian, or those of a file `categories.json` beside the masks: a list of `id` and `name`. Other masks tell no
    classes: all objects are of category 1, "object". In a folder for each object, every value but 0 is the object.

    Videos are numbered from 1, and so are objects, but those of a single video keep their numbers in it.
    """

    format = "mask PNGs"

    @classmethod
    def open(cls, path: Path, folders: MaskFolders, split: str | None) -> "MaskFolderSource":
        source = cls(path, frames_dir=folders.frames_dir, split=split)
        source.folders = folders.videos
        categories = _read_categories(folders.videos)
        source.is_mots = _are_mots((png for folder, _ in folders.videos for png in _pngs(folder)), categories)
        source.categories = categories if source.is_mots else [{"id": 1, "name": "object"}]
        stems = {masks: {png.stem for png in _mask_files(masks)} for masks, _ in folders.videos}
        source.labelled = any(stems.values())
        unlabelled = sum(
            len(_frames(frames, masks)) - len(stems[masks]) for masks, frames in folders.videos if stems[masks]
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
            for png in _mask_files(masks_dir):
                try:
                    if png.stem not in frames:
                        raise ValueError(f"the mask has no frame {png.stem} in {frames_dir}")
                    if png.parent == masks_dir:
                        objects[png.stem] = _read_objects(png, frames[png.stem], self.is_mots)
                    else:
                        objects.setdefault(png.stem, {}).update(_read_object(png, frames[png.stem]))
                except IMAGE_ERRORS as error:
                    problems.append(Problem(str(error), self.path, f"{video_id} ({masks_dir.name})", frame=png.name))
            objects = {stem: objects[stem] for stem in frames if stem in objects}
            void, values = _VOID, set().union(*objects.values())
            if values == {_VOID}:
                void = None
                only_void.append(masks_dir.name)
            elif (
                _PALETTE_VOID in values
                and 0 < max(values - {_PALETTE_VOID}, default=0) < _SMALL
                and not self.is_mots
                and _pngs(masks_dir)  # and no folders of objects
            ):
                void = _PALETTE_VOID
                grey_void.append(masks_dir.name)
            objects = {stem: {v: mask for v, mask in of.items() if v != void} for stem, of in objects.items()}
            chosen = list(objects) if _mask_files(masks_dir) else list(frames)
            video = {
                "id": video_id,
                "length": len(chosen),
                "file_names": [frames[stem].relative_to(self.frames_dir).as_posix() for stem in chosen],
                **_size(frames[stem] for stem in chosen),
            }
            annotations = []
            values = sorted(set().union(*objects.values()))
            identities = [value % MOTS_STEP if self.is_mots else value for value in values]
            is_kept = len(self.folders) == 1 and len({*identities, 0, _VOID}) == len(identities) + 2
            for value, identity in zip(values, identities, strict=True):
                number += 1
                track = {
                    "category_id": value // MOTS_STEP if self.is_mots else 1,
                    "iscrowd": False,
                    "segmentations": [of_frame.get(value) for of_frame in objects.values()],
                }
                annotations.append((number, {"id": identity if is_kept else number, **track}))
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


def _read_categories(videos: list[tuple[Path, Path]]) -> list[dict[str, Any]]:
    """Those of MOTS: of the first file beside masks that lists them, or the published ones."""
    path = next((masks / CATEGORIES_FILE for masks, _ in videos if (masks / CATEGORIES_FILE).is_file()), None)
    if path is None:
        return MOTS_CATEGORIES
    try:
        categories = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); expected a list of categories with id and name") from error
    if not isinstance(categories, list) or not all(
        isinstance(entry, dict) and integer(entry.get("id")) is not None for entry in categories
    ):
        raise ValueError(f"{path} holds {excerpt(categories)}; expected a list of categories with id and name")
    return categories


def _are_mots(masks: Iterable[Path], categories: list[dict[str, Any]]) -> bool:
    """Whether the first of the masks that has an object is of MOTS."""
    known = [category.get("id") for category in categories]
    for png in masks:
        try:
            with Image.open(png) as image:
                if not image.mode.startswith("I"):
                    return False
                values = set(np.unique(image).tolist()) - {0}
        except IMAGE_ERRORS:
            continue
        if values:
            return all(value // MOTS_STEP in known or value == MOTS_VOID for value in values)
    return False


def _read_values(png: Path, frame: Path) -> tuple[np.ndarray, bool]:
    """The values of a mask of the size of its frame, and whether they are of a palette."""
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
    return values, has_palette


def _read_object(png: Path, frame: Path) -> dict[int, dict[str, Any]]:
    """The compressed mask of the one object of a PNG, whose number is the name of its folder; none without a pixel."""
    values, has_palette = _read_values(png, frame)
    _refuse_interpolation(values, sorted(set(np.unique(values).tolist()) - {0}), has_palette)
    mask = np.asfortranarray(values != 0, dtype=np.uint8)
    return {int(png.parent.name): rle_codec.encode(mask)} if mask.any() else {}


def _read_objects(png: Path, frame: Path, is_mots: bool) -> dict[int, dict[str, Any]]:
    """The compressed mask of each value of a PNG that stands for an object, or is 255 in a palette: `_VOID`."""
    values, has_palette = _read_values(png, frame)
    objects = sorted(set(np.unique(values).tolist()) - {0})
    if is_mots:
        objects = [value for value in objects if value != MOTS_VOID]
        strange = [value for value in objects if value < MOTS_STEP]
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

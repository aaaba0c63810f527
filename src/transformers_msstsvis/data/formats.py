"""Annotation formats of video instance segmentation, each read as the records of YouTube-VIS.

A source yields one [`Record`] per video: the entries that a YouTube-VIS file would have for it, as they are given.
Whether they are right is for `validation` to say; a source reports only what its own format can get wrong.
"""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps
from pycocotools import mask as rle_codec

from ..results.rle import excerpt
from ..video.images import ImageError, image_size
from .frames import below, last_parts, turned_note
from .json_index import open_json, read_element, scan_json
from .layouts import (
    MaskFolders,
    existing_frames_dir,
    find_annotation_file,
    find_frames,
    find_mask_folders,
    images_of,
    split_of_file,
)
from .sequences import Sequences, find_sequences

_NO_ID = -(2**63)  # in place of an id that is missing or no integer
_TEXT_IDS = 2**62  # identities that are no integers are numbered from here on
_IDENTITIES = ("instance_id", "track_id", "object_id")  # of objects over frames, in the annotation or its `attributes`
_MOTS_CATEGORIES = [{"id": 1, "name": "car"}, {"id": 2, "name": "pedestrian"}]
_MOTS_VOID, _PALETTE_VOID = 10_000, 255
_VOID = -1  # instead of the latter
_SMALL = 64  # numbers of objects, beside which 255 is none
_BRIGHT = 128  # object numbers stay below, masks of one object in black and white do not
# What Pillow raises on damaged files.
IMAGE_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Problem:
    """Something wrong with a dataset, and where.

    Attributes:
        message: what was given, and what was expected.
        file: the annotation file or folder.
        video, annotation: which one, as `7` (its id) or `at position 3` (in its list, from 0).
        frame: which one, as `2` (from 0) or `2 (dog/00010.jpg)`.
        is_error: whether the dataset is refused for it; otherwise a remark, and everything is kept.
        remedy: what was done about it, when repairing.
        is_part: whether the entry is good without what is wrong with it, which is left out alone.
    """

    message: str
    file: Path
    video: str | None = None
    annotation: str | None = None
    frame: str | None = None
    is_error: bool = True
    remedy: str | None = None
    is_part: bool = False

    def __str__(self) -> str:
        places = [("video", self.video), ("annotation", self.annotation), ("frame", self.frame)]
        place = ", ".join(f"{kind} {name}" for kind, name in places if name is not None)
        text = ": ".join(part for part in (str(self.file), place, self.message) if part)
        return text if self.remedy is None else f"{text} -> {self.remedy}"


class Record(NamedTuple):
    """One video.

    Attributes:
        video: `id`, `height`, `width`, `length`, `file_names`; None if `problems` leave nothing of it.
        annotations: position in the file and entry: `id`, `category_id`, `iscrowd`, `segmentations`, `bboxes`,
            `areas`, `occlusion`.
        problems: of the format itself; what they are about is not in `video` and `annotations`.
    """

    video: dict[str, Any] | None
    annotations: list[tuple[int, Any]]
    problems: list[Problem] = []


@dataclass
class Source:
    """A dataset on disk; subclasses are formats and define `__len__`, the number of videos, and `records`.

    Attributes:
        path: annotation file, or folder of masks.
        categories: entries as they are in the file.
        frames_dir: folder that file names are relative to; None when it was not found.
        split: `"train"`, `"validation"`, `"test"`, or None when nothing tells.
        labelled: whether there is a list of annotations.
        annotated: whether it has any.
        problems: those that are known before any record is read.
        unused: how many annotations `problems` are about.
        max_annotation_id: the largest id in use.
        dropped: as of [`~transformers_msstsvis.data.layouts.FoundFrames`].
        allow_outside: whether file names may lead out of `frames_dir`.
    """

    path: Path
    categories: list[Any] = field(default_factory=list)
    frames_dir: Path | None = None
    split: str | None = None
    labelled: bool = True
    annotated: bool = True
    problems: list[Problem] = field(default_factory=list)
    unused: int = 0
    max_annotation_id: int = 0
    dropped: int | None = None
    allow_outside: bool = False

    format = ""

    def frame_name(self, name: str) -> str:
        """
        The name of a frame relative to `frames_dir`.

        Raises:
            OutsideError: when it is not below it.
        """
        if self.frames_dir is None:
            return name
        return below(self.frames_dir, name if self.dropped is None else last_parts(name, self.dropped))

    def __len__(self) -> int:
        raise NotImplementedError

    def records(self) -> Iterator[Record]:
        raise NotImplementedError


def name_of(entry: Any, position: int) -> str:
    """An entry of the file in messages: its id, or its position when it has none."""
    identifier = entry.get("id") if isinstance(entry, dict) else None
    return f"at position {position}" if integer(identifier) is None else str(integer(identifier))


def place_of(video: Any, position: int) -> str:
    """A video in messages: its id and the folder of its frames."""
    names = video.get("file_names") if isinstance(video, dict) else None
    first = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
    folder = first.rpartition("/")[0].rpartition("/")[2]
    return f"{name_of(video, position)} ({folder[:100]})" if folder else name_of(video, position)


def integer(value: Any) -> int | None:
    """`value` if it is a whole number of 64 bits, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if abs(value) < 2**63 and value == int(value) else None


def locate(
    path: str | Path, frames_dir: str | Path | None = None, split: str | None = None
) -> tuple[Path, MaskFolders | None]:
    """
    The annotation file, or the folder with its videos of mask PNGs, that `path` stands for.

    Raises:
        FileNotFoundError, ValueError: as [`open_source`], but for the content of the file.
    """
    path = Path(path)
    if frames_dir is not None:
        existing_frames_dir(frames_dir)
    if path.is_dir():
        folders = find_mask_folders(path, frames_dir, split)
        if folders is not None:
            return path, folders
        path = find_annotation_file(path, split)
    if not path.is_file():
        raise FileNotFoundError(f"no annotation file or folder of masks at {path}")
    return path, None


def open_source(
    path: str | Path,
    frames_dir: str | Path | None = None,
    split: str | None = None,
    allow_outside: bool = False,
    tracks: bool | None = None,
) -> Source:
    """
    The source of an annotation file or a folder, in the format it turns out to have.

    Frames that are not found are the last of the source's `problems`; its `frames_dir` is None then.

    Raises:
        FileNotFoundError: when `path`, or the `frames_dir` that was given, does not exist.
        ValueError: when the file is not JSON or in none of the formats, or several files of a folder fit.
    """
    path, folders = locate(path, frames_dir, split)
    if folders is not None:
        source = MaskFolderSource.open(path, folders, split)
        source.allow_outside = allow_outside
        return source
    contents = _JsonContents.read(path)
    found = contents.find_videos(tracks) if contents.source_class() is CocoSource else None
    source = contents.source_class()(path, contents)
    if found is not None:
        source.problems.append(Problem(found, path, is_error=False))
    source.split = split or split_of_file(path)
    source.allow_outside = allow_outside
    names = source.first_file_names()
    try:
        source.frames_dir, source.dropped = find_frames(path, names, frames_dir, source.split, allow_outside)
    except FileNotFoundError as error:
        source.problems.append(Problem(str(error), path, remedy="not repaired"))
    if source.dropped is not None:
        message = (
            f"no folder has {excerpt(names[0])}; it is read as {excerpt(last_parts(names[0], source.dropped))} below "
            f"{source.frames_dir}, and every name like that"
        )
        source.problems.append(Problem(message, path, is_error=False))
    return source


# ---------------------------------------------------------------------------------------------------------------- JSON


@dataclass
class _JsonContents:
    """What one pass over a file keeps: everything but the annotations, of which it keeps the places."""

    path: Path
    sections: set[str] = field(default_factory=set)
    videos: list[Any] = field(default_factory=list)
    images: list[Any] = field(default_factory=list)
    categories: list[Any] = field(default_factory=list)
    labelled: bool = False
    # One entry per annotation.
    start: array = field(default_factory=lambda: array("q"))
    stop: array = field(default_factory=lambda: array("q"))
    video_id: array = field(default_factory=lambda: array("q"))
    image_id: array = field(default_factory=lambda: array("q"))
    instance_id: array = field(default_factory=lambda: array("q"))
    category_id: array = field(default_factory=lambda: array("q"))
    identity: str = ""  # the key that the last of these came from
    texts: dict[str, int] = field(default_factory=dict)
    max_annotation_id: int = 0

    _KEPT = {
        "videos": ("id", "height", "width", "length", "file_names"),
        "images": ("id", "height", "width", "file_name", "video_id", "frame_id"),
        "categories": ("id", "name", "supercategory"),
    }

    @classmethod
    def read(cls, path: Path) -> "_JsonContents":
        contents = cls(path)
        with open_json(path) as file:
            for section, position, value, start, stop in scan_json(path):
                contents.sections.add(section)
                if position is None:
                    contents.labelled |= section == "annotations" and value is not None
                elif section in cls._KEPT:
                    try:
                        entry = read_element(file, start, stop)
                    except ValueError as error:
                        raise ValueError(f"{path}: {error}") from error
                    if isinstance(entry, dict):
                        entry = {key: entry[key] for key in cls._KEPT[section] if key in entry}
                    getattr(contents, section).append(entry)
                elif section == "annotations":
                    contents._add_annotation(value if isinstance(value, dict) else {}, start, stop)
        return contents

    def _add_annotation(self, entry: dict[str, Any], start: int, stop: int) -> None:
        def identifier(key: str) -> int:
            value = integer(entry.get(key))
            return _NO_ID if value is None else value

        self.start.append(start)
        self.stop.append(stop)
        self.video_id.append(identifier("video_id"))
        self.image_id.append(identifier("image_id"))
        self.category_id.append(identifier("category_id"))
        self.instance_id.append(self._identity(entry))
        used = [value for value in (identifier("id"), self.instance_id[-1]) if value < _TEXT_IDS]
        self.max_annotation_id = max(self.max_annotation_id, *used, 0)

    def _identity(self, entry: dict[str, Any]) -> int:
        attributes = entry.get("attributes")
        for prefix, values in (("", entry), ("attributes.", attributes if isinstance(attributes, dict) else {})):
            for key in _IDENTITIES:
                value = values.get(key)
                if isinstance(value, str) and value:
                    self.identity = prefix + key
                    return self.texts.setdefault(value, _TEXT_IDS + len(self.texts))
                if integer(value) is not None:
                    self.identity = prefix + key
                    return integer(value)
        return _NO_ID

    def source_class(self) -> type["_JsonSource"]:
        if "images" in self.sections:
            of_videos = any(isinstance(image, dict) and image.get("video_id") is not None for image in self.images)
            return CocoVideoSource if of_videos else CocoSource
        if "videos" in self.sections:
            return YtvisSource
        raise ValueError(
            f"{self.path} has the keys {excerpt(sorted(self.sections))}; expected YouTube-VIS or OVIS (videos, "
            "annotations, categories), COCO (images, annotations, categories) or COCO video (images with video_id and "
            "frame_id, annotations with instance_id)"
        )

    def find_videos(self, tracks: bool | None) -> str | None:
        """
        Give the images of a COCO file the `video_id` and `frame_id` that they lack, if annotations have identities and
        the order of the frames is plain, or `tracks` is True.

        Returns:
            What was found, if anything was.

        Raises:
            ValueError: if `tracks` is True and there are no identities, or images have no name.
        """
        if tracks is False:
            return None
        identified = sum(instance != _NO_ID for instance in self.instance_id)
        if tracks and (not identified or not all(map(_has_file_name, self.images))):
            raise ValueError(
                f"{self.path} has {identified} annotations with {', '.join(_IDENTITIES)} (there or in attributes) and "
                f"{len(self.images)} images; expected such annotations, and images with a file_name, for tracks=True"
            )
        frames_of: dict[int, set[int]] = {}
        for image, instance in zip(self.image_id, self.instance_id, strict=True):
            if instance != _NO_ID:
                frames_of.setdefault(instance, set()).add(image)
        if not tracks and all(len(frames) == 1 for frames in frames_of.values()):
            return None  # numbers of annotations, not of objects over time
        found = Sequences([], "not all images have a file_name")
        if all(map(_has_file_name, self.images)):
            found = find_sequences(self.images)
        doubt = found.doubt or self._doubt_of_tracks(found.videos)
        what = f"the annotations have {self.identity}, but the images no video_id"
        if doubt is not None and not tracks:
            return (
                f"{what}, and {doubt}: every image is a video of one frame; pass tracks=True (--tracks yes) to read "
                "the images of each folder as a video, ordered by the numbers in their names, or tracks=False "
                "(--tracks no) if they are stills"
            )
        self.videos = []
        for video_id, positions in enumerate(found.videos, start=1):
            for frame, position in enumerate(positions):
                self.images[position] |= {"video_id": video_id, "frame_id": frame}
        return (
            f"{what}: read as {len(found.videos)} videos, by folder and by the numbers in the names of the images; "
            "pass tracks=False (--tracks no) if they are stills"
        )

    def _doubt_of_tracks(self, videos: list[list[int]]) -> str | None:
        """Why the annotations are not those of tracks in these videos, or None."""
        video_of = {
            integer(self.images[position].get("id")): video
            for video, positions in enumerate(videos)
            for position in positions
        }
        frames: dict[tuple[int, int], set[int]] = {}
        categories: dict[tuple[int, int], int] = {}
        for image, instance, category in zip(self.image_id, self.instance_id, self.category_id, strict=True):
            if image not in video_of:
                continue
            if instance == _NO_ID:
                return "not all annotations have it"
            track = video_of[image], instance
            if image in frames.setdefault(track, set()):
                return f"image {image} has several annotations of the same"
            if categories.setdefault(track, category) != category:
                return "the category of the same changes"
            frames[track].add(image)
        return None if any(len(seen) > 1 for seen in frames.values()) else "none recurs within a folder"


class _JsonSource(Source):
    def __init__(self, path: Path, contents: _JsonContents):
        super().__init__(path, contents.categories)
        self.contents = contents
        self.labelled, self.annotated = contents.labelled, len(contents.start) > 0
        self.max_annotation_id = contents.max_annotation_id
        self._group()

    def _group(self) -> None:
        """Sort the annotations by their owner; those of none become problems."""
        key, ids = self._owners()
        given = np.asarray(getattr(self.contents, key), dtype=np.int64)
        known = np.fromiter(ids, dtype=np.int64, count=len(ids))
        self._order = np.argsort(given, kind="stable")
        self._sorted = given[self._order]
        strays = np.flatnonzero(~np.isin(given, known)).tolist()
        self.unused = len(strays)
        with open_json(self.path) as file:
            for position in strays:
                entry = self._read(file, position)
                owner = key.removesuffix("_id")
                value = f"has {key} {excerpt(entry.get(key))}" if isinstance(entry, dict) else f"is {excerpt(entry)}"
                self.problems.append(
                    Problem(
                        f"the annotation {value}; expected the id of one of the {len(ids)} {owner}s of the file",
                        self.path,
                        annotation=name_of(entry, position),
                    )
                )

    def _owners(self) -> tuple[str, set[int]]:
        """The key of an annotation that says where it belongs, and the ids there are."""
        raise NotImplementedError

    def _read(self, file, position: int) -> Any:
        try:
            return read_element(file, self.contents.start[position], self.contents.stop[position])
        except ValueError as error:
            return str(error)

    def _annotations_of(self, file, owner: int | None) -> list[tuple[int, Any]]:
        if owner is None:
            return []
        first, last = np.searchsorted(self._sorted, [owner, owner + 1])
        return [(position, self._read(file, position)) for position in self._order[first:last].tolist()]

    def first_file_names(self) -> list[str]:
        """A few frames, to look for."""
        raise NotImplementedError


class YtvisSource(_JsonSource):
    """YouTube-VIS 2019, 2021 and 2022, OVIS: `videos`, and annotations of whole videos."""

    format = "YouTube-VIS"

    def _owners(self) -> tuple[str, set[int]]:
        return "video_id", _ids(self.contents.videos)

    def __len__(self) -> int:
        return len(self.contents.videos)

    def first_file_names(self) -> list[str]:
        entries = [video.get("file_names") for video in self.contents.videos[:20] if isinstance(video, dict)]
        return [names[0] for names in entries if isinstance(names, list) and names and isinstance(names[0], str)]

    def records(self) -> Iterator[Record]:
        seen: set[int] = set()
        with open_json(self.path) as file:
            for video in self.contents.videos:
                owner = integer(video.get("id")) if isinstance(video, dict) else None
                # Of two videos with the same id, the annotations go to the first.
                yield Record(video, [] if owner in seen else self._annotations_of(file, owner))
                seen.add(owner)


class CocoSource(_JsonSource):
    """COCO stills: every image is a video of one frame."""

    format = "COCO"

    def _owners(self) -> tuple[str, set[int]]:
        return "image_id", _ids(self.contents.images)

    def __len__(self) -> int:
        return len(self.contents.images)

    def first_file_names(self) -> list[str]:
        return [image["file_name"] for image in self.contents.images[:20] if _has_file_name(image)]

    def records(self) -> Iterator[Record]:
        seen: set[int] = set()
        with open_json(self.path) as file:
            for image in self.contents.images:
                owner = integer(image.get("id")) if isinstance(image, dict) else None
                video = image
                if isinstance(image, dict):
                    video = {key: image[key] for key in ("id", "height", "width") if key in image}
                    video |= {"length": 1, "file_names": [image.get("file_name")]}
                annotations = [] if owner in seen else self._annotations_of(file, owner)
                yield Record(video, [(position, _as_track([entry], 1, [0])) for position, entry in annotations])
                seen.add(owner)


class CocoVideoSource(_JsonSource):
    """COCO video: images with `video_id` and `frame_id`, an annotation per image and object with `instance_id`.

    The annotations of an instance become one, whose id is the `instance_id` (or `track_id`, `object_id`, or one of
    these in `attributes`) where these are integers and unique in the dataset; otherwise they are numbered from 1.
    """

    format = "COCO video"

    def __init__(self, path: Path, contents: _JsonContents):
        self._videos: dict[Any, dict[str, Any]] = {}
        self._images: dict[Any, list[dict[str, Any]]] = {}
        owner_of: dict[int, int] = {}
        super().__init__(path, contents)
        for video in contents.videos:
            if isinstance(video, dict) and integer(video.get("id")) is not None:
                self._videos.setdefault(integer(video["id"]), video)
        for position, image in enumerate(contents.images):
            problem = self._image_problem(image, owner_of)
            if problem is not None:
                self.problems.append(Problem(f"the image {name_of(image, position)} {problem}", path))
                continue
            owner_of[integer(image["id"])] = integer(image["video_id"])
            self._videos.setdefault(integer(image["video_id"]), {"id": integer(image["video_id"])})
            self._images.setdefault(integer(image["video_id"]), []).append(image)
        pairs = {
            (owner_of[image], instance)
            for image, instance in zip(contents.image_id, contents.instance_id, strict=True)
            if image in owner_of and instance != _NO_ID
        }
        instances = {instance for _, instance in pairs}
        # The official evaluation never matches an id of 0.
        self._unique = len(instances) == len(pairs) and not contents.texts and 0 not in instances

    def _image_problem(self, image: Any, known: dict[int, int]) -> str | None:
        if not isinstance(image, dict):
            return f"is {excerpt(image)}; expected an object with id, video_id, frame_id and file_name"
        for key in ("id", "video_id", "frame_id"):
            if integer(image.get(key)) is None:
                return f"has {key} {excerpt(image.get(key))}; expected an integer"
        if integer(image["id"]) in known:
            return "has the id of another image; expected unique ids"
        return None

    def _owners(self) -> tuple[str, set[int]]:
        return "image_id", _ids(self.contents.images)

    def __len__(self) -> int:
        return len(self._videos)

    def first_file_names(self) -> list[str]:
        return [image["file_name"] for image in self.contents.images[:20] if _has_file_name(image)]

    def records(self) -> Iterator[Record]:
        number = 0
        with open_json(self.path) as file:
            for video_id, video in self._videos.items():
                images = sorted(self._images.get(video_id, []), key=lambda image: image["frame_id"])
                problems = [
                    Problem(
                        f"two images have frame_id {image['frame_id']}; expected unique ones", self.path, str(video_id)
                    )
                    for image, following in pairwise(images)
                    if image["frame_id"] == following["frame_id"]
                ]
                size = images[0] if images else {}
                for frame, image in enumerate(images):
                    if any(image.get(key) != size.get(key) for key in ("height", "width")):
                        problems.append(
                            Problem(
                                f"the image has height {image.get('height')} and width {image.get('width')}; expected "
                                f"{size.get('height')} and {size.get('width')} as in the first frame",
                                self.path,
                                str(video_id),
                                frame=f"{frame} ({image.get('file_name')})",
                            )
                        )
                entry = {
                    "id": video_id,
                    "height": size.get("height", video.get("height")),
                    "width": size.get("width", video.get("width")),
                    "length": len(images),
                    "file_names": [image.get("file_name") for image in images],
                }
                if problems:
                    # Frames that are in doubt put the whole video in doubt.
                    yield Record(None, [], problems)
                    continue
                tracks, problems = self._tracks(file, images, str(video_id))
                annotations = []
                for instance, (position, track) in tracks.items():
                    number += 1
                    annotations.append((position, {**track, "id": instance if self._unique else number}))
                yield Record(entry, annotations, problems)

    def _tracks(
        self, file, images: list[dict[str, Any]], video: str
    ) -> tuple[dict[int, tuple[int, dict[str, Any]]], list[Problem]]:
        """By instance, the position of its first annotation and all of them as one."""
        problems: list[Problem] = []
        frames: dict[int, dict[int, Any]] = {}
        positions: dict[int, int] = {}
        for frame, image in enumerate(images):
            for position, entry in self._annotations_of(file, integer(image["id"])):
                instance = (
                    None if self.contents.instance_id[position] == _NO_ID else self.contents.instance_id[position]
                )
                message = None
                if instance is None:
                    message = (
                        "the annotation has no instance_id; expected the integer that all frames of an object share"
                    )
                elif frame in frames.get(instance, {}):
                    message = f"instance {instance} has another annotation in this frame; expected one per frame"
                if message is not None:
                    place = {"video": video, "annotation": name_of(entry, position), "frame": _place(frame, image)}
                    problems.append(Problem(message, self.path, **place))
                    continue
                frames.setdefault(instance, {})[frame] = entry
                positions.setdefault(instance, position)
        tracks = {}
        for instance, entries in frames.items():
            classes = list(dict.fromkeys(str(entry.get("category_id")) for entry in entries.values()))
            if len(classes) > 1:
                message = f"its frames have the category ids {', '.join(classes)}; expected one"
                problems.append(Problem(message, self.path, video, f"of instance {instance}"))
                continue
            tracks[instance] = positions[instance], _as_track(list(entries.values()), len(images), list(entries))
        return tracks, problems


def _as_track(entries: list[Any], length: int, frames: list[int]) -> Any:
    """Annotations of single images as one of a video of `length` frames."""
    if not all(isinstance(entry, dict) for entry in entries):
        return entries[0]
    track = {key: entries[0][key] for key in ("id", "category_id") if key in entries[0]}
    track["iscrowd"] = any(entry.get("iscrowd") for entry in entries)
    for plural, single in (("segmentations", "segmentation"), ("bboxes", "bbox"), ("areas", "area")):
        if all(single in entry for entry in entries):
            track[plural] = [None] * length
            for frame, entry in zip(frames, entries, strict=True):
                track[plural][frame] = entry[single]
    return track


def _has_file_name(image: Any) -> bool:
    return isinstance(image, dict) and isinstance(image.get("file_name"), str)


def _place(frame: int, image: dict[str, Any]) -> str:
    return f"{frame} ({image['file_name']})" if _has_file_name(image) else str(frame)


def _ids(entries: list[Any]) -> set[int]:
    return {integer(entry.get("id")) for entry in entries if isinstance(entry, dict)} - {None}


# ----------------------------------------------------------------------------------------------------------- mask PNGs


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

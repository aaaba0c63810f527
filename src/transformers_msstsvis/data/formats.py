"""Annotation formats of video instance segmentation, each read as the records of YouTube-VIS.

A source yields one [`Record`] per video: the entries that a YouTube-VIS file would have for it, as they are given.
Whether they are right is for `validation` to say; a source reports only what its own format can get wrong.
"""

import zipfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..results.rle import excerpt
from .cvat import CvatSource
from .cvat_xml import is_xml
from .frames import last_parts
from .json_index import open_json, read_element, scan_json
from .layouts import CVAT_FILE, existing_frames_dir, find_annotation_file, find_frames, split_of_file
from .mask_folders import MaskFolders, MaskFolderSource, find_mask_folders
from .mots_text import MotsTextSource, is_mots_text
from .problems import Problem, integer, name_of
from .sequences import Sequences, find_sequences
from .source import Record, Source

_NO_ID = -(2**63)  # in place of an id that is missing or no integer
_TEXT_IDS = 2**62  # identities that are no integers are numbered from here on
_IDENTITIES = ("instance_id", "track_id", "object_id")  # of objects over frames, in the annotation or its `attributes`


class Location(NamedTuple):
    """
    Where a dataset is.

    Attributes:
        path: the annotation file, or the folder with videos of mask PNGs.
        folders: the videos, if it is the latter.
        frames_dir, split: as they were given.
    """

    path: Path
    folders: MaskFolders | None
    frames_dir: str | Path | None
    split: str | None

    def files(self) -> list[Path]:
        """What the dataset is read from, without the frames of an annotation file."""
        return [self.path] if self.folders is None else self.folders.files()


def locate(path: str | Path, frames_dir: str | Path | None = None, split: str | None = None) -> Location:
    """
    The annotation file, or the folder with its videos of mask PNGs, that `path` stands for.

    Raises:
        FileNotFoundError: when `path`, or the `frames_dir` that was given, does not exist.
        ValueError: when several files of a folder fit.
    """
    path = Path(path)
    if frames_dir is not None:
        existing_frames_dir(frames_dir)
    if path.is_dir() and (path / CVAT_FILE).is_file():
        path = path / CVAT_FILE
    elif path.is_dir():
        folders = find_mask_folders(path, frames_dir, split)
        if folders is not None:
            return Location(path, folders, frames_dir, split)
        path = find_annotation_file(path, split)
    if not path.is_file():
        raise FileNotFoundError(f"no annotation file or folder of masks at {path}")
    return Location(path, None, frames_dir, split)


def open_source(location: Location, allow_outside: bool = False, tracks: bool | None = None) -> Source:
    """
    The source at a location, in the format it turns out to have.

    Frames that are not found are the last of the source's `problems`; its `frames_dir` is None then.

    Raises:
        ValueError: when the file is not JSON or in none of the formats.
    """
    path, folders, frames_dir, split = location
    if folders is not None:
        source = MaskFolderSource.open(path, folders, split)
        source.allow_outside = allow_outside
        return source
    if zipfile.is_zipfile(path):
        raise ValueError(f"{path} is a ZIP archive, as annotation tools export it: unpack it, and pass its folder")
    if is_xml(path):
        return CvatSource.open(path, frames_dir, split or split_of_file(path), allow_outside)
    if is_mots_text(path):
        return MotsTextSource.open(path, frames_dir, split or split_of_file(path))
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

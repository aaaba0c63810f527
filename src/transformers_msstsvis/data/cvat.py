"""The XML files of CVAT: tracks of a video ("CVAT for video 1.1"), or single images ("CVAT for images 1.1").

The documentation is "XML annotation format" of CVAT. Parsing stops at the first document type: without one there are
no entities that could grow, or name other files.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np

from ..results.rle import MAX_SIDE, excerpt, read_mask
from ..video.images import ImageError, image_size
from .fields import listed
from .layouts import find_frames
from .numbered_frames import find_numbered_frames
from .problems import Problem
from .source import Record, Source

_SHAPES = ("polygon", "mask", "box")
_OTHER_SHAPES = ("polyline", "points", "cuboid", "ellipse", "skeleton")
_CHUNK = 1 << 20  # bytes
_MOST_FRAMES = 10**9
_MOST_PIXELS = 2**28  # that are held at once; eight times an image of 8K


@dataclass
class _Shape:
    """One element of a track or an image."""

    kind: str
    attributes: dict[str, str]
    line: int


@dataclass
class _Owner:
    """A track or an image."""

    attributes: dict[str, str]
    line: int
    shapes: list[_Shape] = field(default_factory=list)
    has_others: bool = False


class _Contents:
    """What a file holds, read in one pass."""

    def __init__(self, path: Path):
        self.path = path
        self.labels: list[str] = []
        self.meta: dict[str, str] = {}  # of the task, and of the frames' original size
        self.tracks: list[_Owner] = []
        self.images: list[_Owner] = []
        self.others: Counter[str] = Counter()  # shapes of kinds that are not read
        self._stack: list[str] = []
        self._owner: _Owner | None = None
        self._text: list[str] = []
        self._is_part = False  # whether the label belongs to another one, of a skeleton
        self._tasks = 0
        self._parser = expat.ParserCreate()
        self._parser.StartDoctypeDeclHandler = self._refuse
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text.append
        self._parser.buffer_text = True
        with open(path, "rb") as file:
            try:
                while content := file.read(_CHUNK):
                    self._parser.Parse(content, False)
                self._parser.Parse(b"", True)
            except expat.ExpatError as error:
                raise ValueError(
                    f"{path} is not XML that can be read ({error}): was it written, or copied, completely?"
                ) from error
        self.tracks = [track for track in self.tracks if track.shapes or not track.has_others]
        if self._tasks > 1:
            raise ValueError(f"{path} holds {self._tasks} tasks of a project; expected one: export each for itself")

    def _refuse(self, *_: Any) -> None:
        raise ValueError(
            f"{self.path} has a document type (<!DOCTYPE), which may make it grow or read other files; expected the "
            "XML of CVAT, which has none"
        )

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        inside = self._stack[-1] if self._stack else None
        if inside is None and name != "annotations":
            raise ValueError(f"{self.path} is XML of <{name}>; expected <annotations>, as CVAT exports them")
        if len(self._stack) == 1 and name in ("track", "image"):
            self._owner = _Owner(attributes, self._parser.CurrentLineNumber)
            (self.tracks if name == "track" else self.images).append(self._owner)
        elif len(self._stack) == 2 and inside in ("track", "image") and name in _SHAPES:
            self._owner.shapes.append(_Shape(name, attributes, self._parser.CurrentLineNumber))
        elif len(self._stack) == 2 and inside in ("track", "image") and name in _OTHER_SHAPES:
            self.others[name] += 1
            self._owner.has_others = True
        elif name in ("task", "job") and inside in ("meta", "tasks"):
            self._tasks += 1
        elif name == "label":
            self._is_part = False
        self._stack.append(name)
        self._text.clear()

    def _end(self, name: str) -> None:
        self._stack.pop()
        inside = self._stack[-1] if self._stack else None
        text = "".join(self._text).strip()
        self._text.clear()
        if inside in ("task", "job", "original_size"):
            self.meta[name] = text
        elif inside == "label" and name == "parent" and text and self.labels:
            self.labels.pop()
        elif inside == "label" and name == "name":
            self.labels.append(text)


def is_xml(path: Path) -> bool:
    """Whether a file begins as XML does, in any encoding."""
    with open(path, "rb") as file:
        beginning = file.read(256)
    return beginning.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<") or beginning[:4] in (
        b"\xff\xfe<\x00",
        b"\xfe\xff\x00<",
    )


class CvatSource(Source):
    """
    CVAT: the tracks of a video, or single images, with polygons and masks.

    A track is visible in a frame that it has a polygon or a mask for, unless that is `outside`. The id of an
    annotation is that of its track where all are different and above 0; otherwise, and in images, annotations are
    numbered from 1. Categories are the labels of the task, from 1. Boxes are kept as boxes without masks.

    Frames of a video are the images of a folder: in order if there are as many as the task has frames, otherwise by
    the last number in their names. Single images become videos of one frame.
    """

    format = "CVAT"
    _suffix = ""  # of the names of images, which lack it

    @classmethod
    def open(
        cls, path: Path, frames_dir: str | Path | None = None, split: str | None = None, allow_outside: bool = False
    ) -> "CvatSource":
        """
        Raises:
            ValueError: when the file is no XML of CVAT, or of several tasks.
        """
        contents = _Contents(path)
        if contents.tracks and contents.images:
            raise ValueError(
                f"{path} has tracks and images; expected one of them: export it as CVAT for video 1.1, or as CVAT for "
                "images 1.1"
            )
        found = [track.attributes.get("label") for track in contents.tracks]
        found += [shape.attributes.get("label") for image in contents.images for shape in image.shapes]
        names = dict.fromkeys(contents.labels or [name for name in found if name])
        source = cls(path, [{"id": number, "name": name} for number, name in enumerate(names, start=1)])
        source.split, source.allow_outside, source.contents = split, allow_outside, contents
        source.annotated = any(owner.shapes for owner in (*contents.tracks, *contents.images))
        source.max_annotation_id = max(source._numbers(), default=0)
        if contents.others:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(contents.others.items()))
            source._remark(f"shapes that are no polygons, masks or boxes are left out: {kinds}")
        try:
            if contents.tracks or not contents.images:
                source._find_frames(frames_dir)
            else:
                source._find_images(frames_dir)
        except FileNotFoundError as error:
            source.problems.append(Problem(str(error), path, remedy="not repaired"))
        return source

    def __len__(self) -> int:
        return len(self.contents.images) or 1

    def records(self) -> Iterator[Record]:
        yield from self._images() if self.contents.images else [self._video()]

    # A video

    def _task_frames(self) -> range | None:
        """The numbers of the frames of the task, as far as the file tells."""
        meta = self.contents.meta
        size, start = _integer(meta.get("size")), _integer(meta.get("start_frame")) or 0
        step = re.search(r"step=(\d{1,9})", meta.get("frame_filter", ""))
        step = max(int(step[1]), 1) if step else 1
        if size is None or not 0 <= size <= _MOST_FRAMES or start < 0:
            return None
        return range(start, start + size * step, step)

    def _find_frames(self, frames_dir: str | Path | None) -> None:
        """Set `frames_dir`, and the numbers and the names of the frames."""
        frames = self._task_frames()
        numbers = {
            _integer(shape.attributes.get("frame"))
            for track in self.contents.tracks
            for shape in track.shapes
            if shape.attributes.get("outside") != "1"
        } - {None}
        visible = sorted(number for number in numbers if number >= 0 and (frames is None or number in frames))
        found = find_numbered_frames(self.path, frames_dir, frames, visible)
        self.frames_dir, self._frames = found.folder, found.names
        if self.frames_dir is None:
            raise FileNotFoundError(found.message)

    def _size(self) -> dict[str, int | None]:
        size = {key: _integer(self.contents.meta.get(key)) for key in ("height", "width")}
        if None in size.values() and self.frames_dir is not None:
            try:
                size = dict(zip(size, image_size(self.frames_dir / next(iter(self._frames.values()))), strict=True))
            except ImageError:
                pass  # for the check of frames to tell
        return size

    def _video(self) -> Record:
        size = self._size()
        video = {"id": 1, **size, "length": len(self._frames), "file_names": list(self._frames.values())}
        if not self._frames or not _is_size(size):
            return Record(video, [])
        places = {number: place for place, number in enumerate(self._frames)}
        annotations, problems, gaps = [], [], []
        for position, (number, track) in enumerate(zip(self._numbers(), self.contents.tracks, strict=True)):
            name = track.attributes.get("id", f"at position {position}")
            try:
                category = self._category(track.attributes.get("label"), track.line)
                shapes, gap = self._shapes_of(track, places)
                entry = self._annotation(shapes, size, len(places))
            except _ShapeError as error:
                place = places.get(error.number)
                frame = None if place is None else f"{place} ({self._frames[error.number]})"
                problems.append(Problem(str(error), self.path, "1", name, frame))
                continue
            gaps += [(name, gap)] if gap else []
            annotations.append((position, {"id": number, "category_id": category, "iscrowd": 0, **entry}))
        if gaps:
            name, (first, last) = gaps[0]
            self._remark(
                f"{len(gaps)} tracks have no shape in frames before which none is outside, as track {name} in frames "
                f"{first} to {last}; they are read as absent there: CVAT exports every frame of a track"
            )
        return Record(video, annotations, problems)

    def _numbers(self) -> list[int]:
        """The ids of the tracks, if all are different and above 0; otherwise they are numbered from 1."""
        numbers = [_integer(track.attributes.get("id")) for track in self.contents.tracks]
        if len(set(numbers)) == len(numbers) and all(number and number > 0 for number in numbers):
            return numbers
        return list(range(1, len(numbers) + 1))

    def _shapes_of(
        self, track: _Owner, places: dict[int, int]
    ) -> tuple[dict[int, tuple[int, _Shape]], tuple[int, int] | None]:
        """By place in the video, the number of the frame and the shape; and the first gap, if frames are missing."""
        shapes: dict[int, tuple[int, _Shape]] = {}
        seen: set[int] = set()
        order: list[tuple[int, bool]] = []
        for shape in track.shapes:
            number, outside = _integer(shape.attributes.get("frame")), shape.attributes.get("outside", "0")
            if number is None or outside not in ("0", "1"):
                given = {key: shape.attributes.get(key) for key in ("frame", "outside")}
                raise _ShapeError(f"{given}; expected a whole number, and 0 or 1", shape)
            if number in seen:
                raise _ShapeError("another shape of the track is in this frame; expected one", shape, number)
            seen.add(number)
            order.append((number, outside == "1"))
            if outside == "1":
                continue
            if number not in places:
                raise _ShapeError(
                    f"frame is {number}; expected one of the {len(places)} frames of the video, {min(places)} to "
                    f"{max(places)}",
                    shape,
                )
            shapes[places[number]] = number, shape
        return shapes, _first_gap(sorted(order), places)

    # Images

    def _find_images(self, frames_dir: str | Path | None) -> None:
        names = [name for image in self.contents.images[:20] if (name := image.attributes.get("name"))]
        try:
            self.frames_dir, self.dropped = find_frames(self.path, names, frames_dir, self.split, self.allow_outside)
        except FileNotFoundError:
            # Frames of videos have names without a suffix, and are exported with this one.
            self._suffix = ".PNG"
            names = [name + self._suffix for name in names]
            self.frames_dir, self.dropped = find_frames(self.path, names, frames_dir, self.split, self.allow_outside)

    def _images(self) -> Iterator[Record]:
        number = 0
        for position, image in enumerate(self.contents.images, start=1):
            size = {key: _integer(image.attributes.get(key)) for key in ("height", "width")}
            name = image.attributes.get("name")
            video = {"id": position, **size, "length": 1, "file_names": [name and name + self._suffix]}
            annotations, problems = [], []
            for shape in image.shapes:
                number += 1
                try:
                    category = self._category(shape.attributes.get("label"), shape.line)
                    entry = self._annotation({0: (0, shape)}, size, 1) if _is_size(size) else {}
                except _ShapeError as error:
                    problems.append(Problem(str(error), self.path, f"{position} ({name})", str(number)))
                    continue
                annotations.append((number, {"id": number, "category_id": category, "iscrowd": 0, **entry}))
            yield Record(video, annotations, problems)

    # Both

    def _remark(self, message: str) -> None:
        self.problems.append(Problem(message, self.path, is_error=False))

    def _category(self, label: str | None, line: int) -> int:
        for category in self.categories:
            if category["name"] == label:
                return category["id"]
        names = listed([category["name"] for category in self.categories])
        raise _ShapeError(f"label is {excerpt(label)}; expected one of the labels of the task ({names})", line=line)

    def _annotation(
        self, shapes: dict[int, tuple[int, _Shape]], size: dict[str, int], length: int
    ) -> dict[str, list[Any]]:
        """Masks, or boxes if there are no others, in `length` frames, of the frame's number and the shape by place."""
        height, width = size["height"], size["width"]
        kinds = {shape.kind for _, shape in shapes.values()}
        masks: list[Any] = [None] * length
        boxes: list[Any] = [None] * length
        for place, (number, shape) in shapes.items():
            try:
                if shape.kind == "polygon":
                    masks[place] = read_mask([_points(shape)], height, width)
                elif shape.kind == "mask":
                    masks[place] = _read_mask(shape, height, width)
                elif shape.kind == "box" and kinds == {"box"}:
                    boxes[place] = _box(shape)
                else:
                    raise ValueError("the track has boxes and masks; expected one of them")
            except (ValueError, KeyError, OverflowError) as error:
                reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
                raise _ShapeError(reason, shape, number) from error
        return {"segmentations": masks, **({"bboxes": boxes} if kinds == {"box"} else {})}


class _ShapeError(ValueError):
    """What is wrong with a shape, and where: its line, and the number of its frame where that is right."""

    def __init__(self, message: str, shape: _Shape | None = None, number: int | None = None, line: int | None = None):
        what = "" if shape is None else f", {shape.kind}"
        super().__init__(f"line {shape.line if shape else line}{what}: {message}")
        self.number = number


def _first_gap(order: list[tuple[int, bool]], places: dict[int, int]) -> tuple[int, int] | None:
    """The first and the last of frames of which nothing says that the track is outside; of shapes by frame."""
    for (number, is_outside), (following, _) in pairwise(order):
        if not is_outside and number in places and following in places and places[following] > places[number] + 1:
            return number + 1, following - 1
    return None


def _points(shape: _Shape) -> list[float]:
    """x, y, x, y, ... of `x,y;x,y`."""
    text = shape.attributes["points"]
    try:
        points = [tuple(map(float, point.split(","))) for point in text.split(";")]
    except ValueError:
        points = [()]
    if any(len(point) != 2 for point in points):
        raise ValueError(f"points is {excerpt(text)}; expected x,y;x,y;... in pixels")
    return [value for point in points for value in point]


def _read_mask(shape: _Shape, height: int, width: int) -> dict[str, Any]:
    """Run lengths, row by row of a box and beginning with what is not the object, as a compressed mask."""
    box = [_integer(shape.attributes[key]) for key in ("left", "top", "width", "height")]
    if None in box or min(box) < 0 or box[0] + box[2] > width or box[1] + box[3] > height:
        raise ValueError(f"left, top, width and height are {box}; expected a box within the frame, {width} x {height}")
    text = shape.attributes["rle"]
    runs = [_integer(run) for run in text.split(",")]
    left, top, columns, rows = box
    if None in runs or min(runs) < 0 or sum(runs) != rows * columns:
        raise ValueError(f"rle is {excerpt(text)}; expected run lengths that sum to width * height = {rows * columns}")
    if height * columns > _MOST_PIXELS:
        raise ValueError(
            f"the mask is {columns} wide in a frame of height {height}; expected {_MOST_PIXELS} pixels at most"
        )
    pixels = np.zeros((columns, height), dtype=np.uint8)
    values = np.repeat(np.arange(len(runs), dtype=np.uint8) % 2, runs)
    pixels[:, top : top + rows] = values.reshape(rows, columns).T
    # Run lengths of the whole frame, column by column.
    edges = np.flatnonzero(np.diff(pixels.ravel(), prepend=0, append=0)) + left * height
    counts = np.diff(edges, prepend=0, append=height * width).tolist()
    return read_mask({"size": [height, width], "counts": counts}, height, width)


def _box(shape: _Shape) -> list[float]:
    """x, y, width, height."""
    x1, y1, x2, y2 = (float(shape.attributes[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
    return [x1, y1, x2 - x1, y2 - y1]


def _is_size(size: dict[str, int | None]) -> bool:
    return all(side is not None and 0 < side <= MAX_SIDE for side in size.values())


def _integer(text: str | None) -> int | None:
    """A whole number of 18 digits at most, also written as `3.0`."""
    match = re.fullmatch(r"\s*(-?\d{1,18})(?:\.0*)?\s*", text or "")
    return int(match[1]) if match else None

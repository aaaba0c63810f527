"""What is in an XML file of CVAT, as its documentation describes it ("XML annotation format", version 1.1).

Parsing stops at a document type: without one there are no entities that could grow, or name other files.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np

from ..results.rle import excerpt, read_mask

SHAPES = ("polygon", "mask", "box")
OTHER_SHAPES = ("polyline", "points", "cuboid", "ellipse", "skeleton")
_CHUNK = 1 << 20  # bytes
_MOST_PIXELS = 2**28  # that are held at once; eight times an image of 8K


@dataclass
class Shape:
    """One element of a track or an image."""

    kind: str
    attributes: dict[str, str]
    line: int


@dataclass
class Owner:
    """A track or an image."""

    attributes: dict[str, str]
    line: int
    shapes: list[Shape] = field(default_factory=list)
    has_others: bool = False


class CvatContents:
    """What a file holds, read in one pass."""

    def __init__(self, path: Path):
        self.path = path
        self.labels: list[str] = []
        self.meta: dict[str, str] = {}  # of the task, and of the frames' original size
        self.tracks: list[Owner] = []
        self.images: list[Owner] = []
        self.others: Counter[str] = Counter()  # shapes of kinds that are not read
        self._stack: list[str] = []
        self._owner: Owner | None = None
        self._text: list[str] = []
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
            self._owner = Owner(attributes, self._parser.CurrentLineNumber)
            (self.tracks if name == "track" else self.images).append(self._owner)
        elif len(self._stack) == 2 and inside in ("track", "image") and name in SHAPES:
            self._owner.shapes.append(Shape(name, attributes, self._parser.CurrentLineNumber))
        elif len(self._stack) == 2 and inside in ("track", "image") and name in OTHER_SHAPES:
            self.others[name] += 1
            self._owner.has_others = True
        elif name in ("task", "job") and inside in ("meta", "tasks"):
            self._tasks += 1
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
            self.labels.pop()  # a part of another one, of a skeleton
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


def read_points(shape: Shape) -> list[float]:
    """x, y, x, y, ... of `x,y;x,y`."""
    text = shape.attributes["points"]
    try:
        points = [tuple(map(float, point.split(","))) for point in text.split(";")]
    except ValueError:
        points = [()]
    if any(len(point) != 2 for point in points):
        raise ValueError(f"points is {excerpt(text)}; expected x,y;x,y;... in pixels")
    return [value for point in points for value in point]


def read_runs(shape: Shape, height: int, width: int) -> dict[str, Any]:
    """Run lengths, row by row of a box and beginning with what is not the object, as a compressed mask."""
    box = [whole_number(shape.attributes[key]) for key in ("left", "top", "width", "height")]
    if None in box or min(box) < 0 or box[0] + box[2] > width or box[1] + box[3] > height:
        raise ValueError(f"left, top, width and height are {box}; expected a box within the frame, {width} x {height}")
    text = shape.attributes["rle"]
    runs = [whole_number(run) for run in text.split(",")]
    left, top, columns, rows = box
    if None in runs or min(runs) < 0 or sum(runs) != rows * columns:
        raise ValueError(f"rle is {excerpt(text)}; expected run lengths that sum to width * height = {rows * columns}")
    if height * columns > _MOST_PIXELS:
        raise ValueError(
            f"the mask is {columns} wide in a frame of height {height}; expected {_MOST_PIXELS} pixels at most"
        )
    pixels = np.zeros((columns, height), dtype=np.uint8)
    values = np.repeat((np.arange(len(runs)) % 2).astype(np.uint8), runs)
    pixels[:, top : top + rows] = values.reshape(rows, columns).T
    # Run lengths of the whole frame, column by column.
    edges = np.flatnonzero(np.diff(pixels.ravel(), prepend=0, append=0)) + left * height
    counts = np.diff(edges, prepend=0, append=height * width).tolist()
    return read_mask({"size": [height, width], "counts": counts}, height, width)


def read_box(shape: Shape) -> list[float]:
    """x, y, width, height."""
    x1, y1, x2, y2 = (float(shape.attributes[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
    return [x1, y1, x2 - x1, y2 - y1]


def whole_number(text: str | None) -> int | None:
    """A whole number of 18 digits at most, also written as `3.0`."""
    match = re.fullmatch(r"\s*(-?\d{1,18})(?:\.0*)?\s*", text or "")
    return int(match[1]) if match else None

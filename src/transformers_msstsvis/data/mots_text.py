"""The text files of MOTS: a line `frame id category height width counts` for each mask."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..results.rle import excerpt
from .mask_folders import MOTS_CATEGORIES, MOTS_STEP, MOTS_VOID
from .numbered_frames import find_numbered_frames
from .problems import Problem
from .source import Record, Source

_LINE = re.compile(rb"(\d{1,9}) +(\d{1,9}) +(\d{1,9}) +(\d{1,9}) +(\d{1,9}) +(\S+)\s*")
_LONGEST_LINE = 1 << 20  # bytes


def is_mots_text(path: Path) -> bool:
    """Whether the first line of a file is one of MOTS."""
    with open(path, "rb") as file:
        return _LINE.fullmatch(file.readline(_LONGEST_LINE)) is not None


class MotsTextSource(Source):
    """
    MOTS as text: one video, whose frames are the images of a folder, by the last number in their names. Ids are those
    of the objects in their category where these are unique, otherwise objects are numbered from 1. Categories are 1
    car, 2 pedestrian, and others by their numbers; 10 with object 0 is void.
    """

    format = "MOTS text"

    @classmethod
    def open(cls, path: Path, frames_dir: str | Path | None = None, split: str | None = None) -> "MotsTextSource":
        source = cls(path, split=split)
        source._objects: dict[int, dict[int, Any]] = {}  # masks by value and frame
        source._size: tuple[int, int] | None = None
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    source._add(number, line)
        names = {category["id"]: category["name"] for category in MOTS_CATEGORIES}
        used = sorted({value // MOTS_STEP for value in source._objects})
        source.categories = [{"id": number, "name": names.get(number, f"category {number}")} for number in used]
        source.annotated = bool(source._objects)
        visible = sorted({frame for of_object in source._objects.values() for frame in of_object})
        found = find_numbered_frames(path, frames_dir, None, visible)
        source.frames_dir, source._frames = found.folder, found.names
        if found.folder is None:
            source.problems.append(Problem(found.message, path, remedy="not repaired"))
        return source

    def _add(self, number: int, line: bytes) -> None:
        match = _LINE.fullmatch(line)
        if match is None:
            message = (
                f"line {number} is {excerpt(line.decode('latin-1'))}; expected `frame id category height width counts`"
            )
            self.problems.append(Problem(message, self.path))
            return
        frame, value, category, height, width = map(int, match.groups()[:-1])
        if value == MOTS_VOID:
            return
        message = None
        if value // MOTS_STEP != category:
            message = (
                f"line {number} has id {value} and category {category}; expected 1000 * category + object as the id"
            )
        elif frame in self._objects.get(value, {}):
            message = f"line {number} is another mask of object {value} in frame {frame}; expected one"
        if message is not None:
            self.problems.append(Problem(message, self.path))
            return
        self._size = self._size or (height, width)
        mask = {"size": [height, width], "counts": match[6].decode("latin-1")}
        self._objects.setdefault(value, {})[frame] = mask

    def __len__(self) -> int:
        return 1

    def records(self) -> Iterator[Record]:
        size = dict(zip(("height", "width"), self._size or (None, None), strict=True))
        video: dict[str, Any] = {"id": 1, **size, "length": len(self._frames)}
        video["file_names"] = list(self._frames.values())
        identities = [value % MOTS_STEP for value in self._objects]
        is_unique = len({0, *identities}) == len(identities) + 1
        annotations = []
        for number, (value, masks) in enumerate(self._objects.items(), start=1):
            track = {
                "id": value % MOTS_STEP if is_unique else number,
                "category_id": value // MOTS_STEP,
                "iscrowd": 0,
                "segmentations": [masks.get(frame) for frame in self._frames],
            }
            annotations.append((number, track))
        yield Record(video, annotations)

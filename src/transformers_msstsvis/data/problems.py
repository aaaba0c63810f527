"""What is wrong with a dataset and where, and how its entries are named in messages."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

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

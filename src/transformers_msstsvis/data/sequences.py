"""Images without video ids as the frames of videos, where their names tell."""

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from .frames import parts_of

_NUMBERED = re.compile(r"(.*?)(\d+)(\D*)", re.DOTALL)
_LARGEST_GAP = 10  # steps on average from one frame to the next: labelled frames may be few, photos lie far apart


class Sequences(NamedTuple):
    """Images as the frames of videos.

    Attributes:
        videos: positions of the images of each video, in the order of their numbers.
        doubt: why this order is not plain, or None.
    """

    videos: list[list[int]]
    doubt: str | None = None


def find_sequences(images: Sequence[dict[str, Any]]) -> Sequences:
    """
    Group images, which have a `file_name`, by folder and by what their names begin and end with; the last number in a
    name counts the frames. The order is plain if these numbers are different and run on, in images of one size.
    """
    groups: dict[tuple, list[tuple[int, int]]] = {}
    for position, image in enumerate(images):
        *folders, name = parts_of(image["file_name"])
        match = _NUMBERED.fullmatch(name.rpartition(".")[0] or name)
        if match is None:
            return _by_folder(images, f"{image['file_name']!r} has no number")
        groups.setdefault((*folders, match[1], match[3]), []).append((int(match[2][-18:]), position))
    doubt = None
    for group in groups.values():
        group.sort()
        doubt = doubt or _doubt([(number, images[position]) for number, position in group])
    return Sequences([[position for _, position in group] for group in groups.values()], doubt)


def _by_folder(images: Sequence[dict[str, Any]], doubt: str) -> Sequences:
    def natural(position: int) -> list:
        return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", images[position]["file_name"])]

    groups: dict[tuple, list[int]] = {}
    for position, image in enumerate(images):
        groups.setdefault(tuple(parts_of(image["file_name"])[:-1]), []).append(position)
    return Sequences([sorted(group, key=natural) for group in groups.values()], doubt)


def _doubt(numbered: list[tuple[int, dict[str, Any]]]) -> str | None:
    first = numbered[0][1]
    for (number, image), (following, other) in pairwise(numbered):
        if number == following:
            return f"{image['file_name']!r} and {other['file_name']!r} have the same number"
        if any(image.get(side) != other.get(side) for side in ("height", "width")):
            return f"{image['file_name']!r} and {other['file_name']!r} have different sizes"
    numbers = [number for number, _ in numbered]
    step = math.gcd(*(following - number for number, following in pairwise(numbers)))
    if len(numbers) > 1 and numbers[-1] - numbers[0] > _LARGEST_GAP * step * (len(numbers) - 1):
        return f"the numbers of {first['file_name']!r} and the images beside it do not run on"
    return None

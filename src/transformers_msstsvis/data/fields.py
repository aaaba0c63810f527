"""What the fields of annotations and results may be: one check for loading, validation and evaluation alike.

Each function returns what is wrong with a value, in words that follow its place, or None.
"""

import math
from collections.abc import Collection
from typing import Any

from ..results.rle import excerpt

_MAX_LISTED = 5  # ids in one message


def iscrowd_problem(value: Any) -> str | None:
    """Of `iscrowd`, which may be missing (None)."""
    if value is None or (isinstance(value, bool | int | float) and value in (0, 1)):
        return None
    return f"iscrowd is {excerpt(value)}; expected 0 or 1"


def category_problem(value: Any, known: Collection) -> str | None:
    """Of `category_id`, which is one of the ids of the file's categories."""
    if isinstance(value, int | float | str) and not isinstance(value, bool) and value in known:
        return None
    return f"category_id is {excerpt(value)}; expected one of the categories of the file ({listed(sorted(known))})"


def area_problem(value: Any, height: int, width: int) -> str | None:
    """Of an area in a frame, or None where there is none."""
    if value is None or (is_number(value) and 0 <= value <= height * width):
        return None
    return (
        f"areas has {excerpt(value)}; expected a number, or null: pixels, from 0 to height * width = {height * width}"
    )


def score_problem(value: Any) -> str | None:
    """Of a `score`."""
    if is_number(value):
        return None
    return f"score is {excerpt(value)}; expected a finite number: leave out or rescore the prediction"


def is_number(value: Any) -> bool:
    """Whether it is a finite number, as a float of 64 bits holds it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False


def is_text(value: Any) -> bool:
    """Whether it is a text that can be stored; JSON may hold halves of characters."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def listed(values: list) -> str:
    """The first of a list of ids."""
    text = ", ".join(excerpt(value) for value in values[:_MAX_LISTED])
    return text if len(values) <= _MAX_LISTED else f"{text}, ... ({len(values)} in all)"

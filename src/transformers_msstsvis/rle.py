"""Masks as run lengths (COCO's RLE): read in every form that files have, and counted without decoding."""

import re
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

# Numbers of compressed RLE: characters that say that more follow, and a last one.
_MAX_CHARACTERS = 7
_COMPRESSED_COUNTS = re.compile(rb"(?:[P-o]{0,6}[0-O])+")
MAX_SIDE = 2**16 - 1  # pixels of a frame's side: pycocotools counts the pixels of a frame in 32 bits
_FARTHEST = 10  # corners of polygons at most so many sides away: drawing them could take all memory otherwise


def read_mask(segmentation: Any, height: int, width: int) -> dict[str, Any] | None:
    """Polygons, uncompressed or compressed RLE -> compressed RLE; null and `[]` -> `None`."""
    if segmentation is None or (isinstance(segmentation, list) and not segmentation):
        return None
    if not isinstance(segmentation, dict):
        return _read_polygons(segmentation, height, width)
    if "size" not in segmentation or "counts" not in segmentation:
        raise ValueError(f"the mask has the keys {sorted(segmentation)}; expected 'size' and 'counts'")
    size, counts = segmentation["size"], segmentation["counts"]
    if not isinstance(size, list):
        size = list(size) if isinstance(size, Iterable) else size
    if size != [height, width]:
        raise ValueError(
            f"the mask has size {excerpt(size)}; expected [height, width] = {[height, width]} of the video: resize "
            "it before encoding"
        )
    if isinstance(counts, (str, bytes)):
        return segmentation
    try:
        # pycocotools reads an array faster than a list.
        counts = array("I", counts)
    except (TypeError, OverflowError) as error:
        raise ValueError(
            f"the counts of the mask are {excerpt(counts)} ({error}); expected a string, or a list of run lengths, "
            "integers from 0 on: encode the mask again"
        ) from error
    return mask_utils.frPyObjects({"size": [height, width], "counts": counts}, height, width)


def _read_polygons(polygons: Any, height: int, width: int) -> dict[str, Any]:
    # pycocotools would take lists of 4 numbers as boxes.
    valid = isinstance(polygons, list) and all(
        isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in polygons
    )
    if not valid:
        raise ValueError(
            f"the mask is a {type(polygons).__name__}, {str(polygons)[:60]!r}; expected null, a dict {{'size': "
            "[height, width], 'counts': ...} or a list of polygons [x1, y1, x2, y2, x3, y3, ...]"
        )
    farthest = _FARTHEST * max(height, width)
    for polygon in polygons:
        try:
            near = all(-farthest <= value <= farthest for value in polygon)
        except TypeError:
            near = False
        if not near:
            raise ValueError(
                f"the polygon {excerpt(polygon)} has corners far outside of the frame, or no numbers; expected x and "
                "y in pixels"
            )
    return mask_utils.merge(mask_utils.frPyObjects(polygons, height, width))


def excerpt(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def count_pixels(counts: Sequence[str | bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Foreground pixels and all pixels of compressed RLE masks, each of shape `(len(counts),)`.

    COCO's compression writes a number as characters from code 48 on, 5 bits each from the lowest, bit 5 meaning that
    more follow, bit 4 of the last one being the sign. From the fourth number on, the number is the difference to the
    run length two places before. `pycocotools.mask.area` gives the first result alone. Strings that are not of this
    kind, or have a run length below 0 or beyond 31 bits, count as 0.
    """
    strings = [string.encode() if isinstance(string, str) else string for string in counts]
    lengths = np.array([len(string) for string in strings])
    codes = np.frombuffer(b"".join(strings), dtype=np.uint8) - 48
    is_last = codes < 32
    more = np.flatnonzero(~is_last)  # few characters: most numbers have one
    number = more - np.arange(len(more))  # the place of each one's number among all numbers
    starts, sizes = np.unique(number, return_index=True, return_counts=True)[1:]
    if (
        not lengths.all()
        or codes.max() > 63
        or not is_last[np.cumsum(lengths) - 1].all()
        or sizes.max(initial=0) >= _MAX_CHARACTERS
    ):
        return count_pixels([string if _COMPRESSED_COUNTS.fullmatch(string) else b"0" for string in strings])

    # All in 32 bits, as in pycocotools: sums that overflow give the same run lengths.
    numbers = ((codes[is_last].view(np.int8) ^ 16) - 16).astype(np.int32)
    if len(more):
        shifts = 5 * (np.arange(len(more), dtype=np.int32) - np.repeat(starts, sizes).astype(np.int32))
        lower = np.add.reduceat((codes[more] & 31).astype(np.int32) << shifts, starts)
        numbers[number[starts]] = (numbers[number[starts]] << (5 * sizes).astype(np.int32)) + lower

    # A run length is the sum over every second number up to its own, less what belongs to the masks before.
    stops = np.cumsum(lengths) - np.searchsorted(more, np.cumsum(lengths))
    starts = np.concatenate([[0], stops[:-1]])
    padded = np.concatenate([np.zeros(2, dtype=np.int32), numbers])
    background = np.zeros(len(strings), dtype=np.int64)
    foreground = background.copy()
    valid = np.ones(len(strings), dtype=bool)
    for parity in (0, 1):  # numbers at even and at odd places
        sums = np.cumsum(np.ascontiguousarray(padded[parity::2]), dtype=np.int32)
        first, stop = (starts - parity + 1) // 2, (stops - parity + 1) // 2
        # These are the first, third, fifth ... runs of some masks, and the second, fourth ... of the others.
        is_background = starts % 2 == parity
        before = sums[(starts + 1 + is_background) // 2]
        runs = sums[1:] - np.repeat(before, stop - first)
        # The third number is no difference to the first.
        runs[first[is_background]] = numbers[starts[is_background]]
        if runs.min(initial=0) < 0:
            valid[np.searchsorted(stop, np.flatnonzero(runs < 0), side="right")] = False
        totals = np.zeros(len(runs) + 1, dtype=np.int64)
        np.cumsum(runs, out=totals[1:])
        pixels = totals[stop] - totals[first]
        background += np.where(is_background, pixels, 0)
        foreground += np.where(is_background, 0, pixels)
    return foreground * valid, (background + foreground) * valid

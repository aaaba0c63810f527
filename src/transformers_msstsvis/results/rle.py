"""Masks as run lengths (COCO's RLE): read in every form that files have, and counted without decoding."""

import re
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

RLE = dict[str, Any]

# Numbers of compressed RLE: characters that say that more follow, and a last one.
_MAX_CHARACTERS = 7
_COMPRESSED_COUNTS = re.compile(rb"(?:[P-o]{0,6}[0-O])+")
MAX_SIDE = 2**16 - 1  # pixels of a frame's side: pycocotools counts the pixels of a frame in 32 bits
_FEWEST_NUMBERS = 6  # of a polygon: three corners
_LONGEST_OUTLINE = 2**21  # fifths of pixels, of the polygons that pycocotools draws in a moment
_EDGES_AT_ONCE = 200  # bounds the memory of drawing
_CHECKED_AT_ONCE = 256  # masks; the counting takes some forty times the bytes of their runs
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
    expected = (
        "expected null, a dict {'size': [height, width], 'counts': ...} or a list of polygons [x1, y1, x2, y2, x3, "
        "y3, ...] of three corners or more"
    )
    if not isinstance(polygons, list):
        raise ValueError(f"the mask is a {type(polygons).__name__}, {excerpt(polygons)}; {expected}")
    farthest = _FARTHEST * max(height, width)
    for polygon in polygons:
        # pycocotools would take lists of 4 numbers as boxes.
        if not isinstance(polygon, list) or len(polygon) < _FEWEST_NUMBERS or len(polygon) % 2:
            raise ValueError(f"the mask is a list, in which {excerpt(polygon)} is no polygon; {expected}")
        try:
            near = all(-farthest <= value <= farthest for value in polygon)
        except TypeError:
            near = False
        if not near:
            raise ValueError(
                f"the polygon {excerpt(polygon)} has corners far outside of the frame, or no numbers; expected x and "
                "y in pixels"
            )
    return mask_utils.merge([_draw_polygon(polygon, height, width) for polygon in polygons])


def split_fragments(segmentation: Any) -> tuple[Any, list[list]]:
    """
    A mask without the polygons that have no area, which clicks leave behind, and these.

    Those of one or two corners are taken out beside a polygon of three; alone, only those of less than two are: two
    corners may be meant as a box.
    """
    if not isinstance(segmentation, list) or not all(isinstance(part, list) for part in segmentation):
        return segmentation, []
    whole = any(len(part) >= _FEWEST_NUMBERS for part in segmentation)
    longest = _FEWEST_NUMBERS - 1 if whole else 2
    fragments = [part for part in segmentation if len(part) <= longest and all(map(_is_number, part))]
    return [part for part in segmentation if part not in fragments], fragments


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _draw_polygon(polygon: list[float], height: int, width: int) -> dict[str, Any]:
    """
    As pycocotools draws it, which walks along the outline in fifths of pixels: with ten thousand corners all over the
    frame that takes minutes and gigabytes. Here it is only asked where the outline crosses columns.
    """
    if 2.5 * len(polygon) * (max(polygon) - min(polygon)) <= _LONGEST_OUTLINE:  # as nearly all
        return mask_utils.frPyObjects([polygon], height, width)[0]
    corners = (5 * np.array(polygon, dtype=np.float64).reshape(-1, 2) + 0.5).astype(np.int64)  # fifths of pixels
    outline = np.abs(corners - np.roll(corners, -1, axis=0)).max(axis=1).sum()
    if outline <= _LONGEST_OUTLINE:
        return mask_utils.frPyObjects([polygon], height, width)[0]
    # Where the outline crosses the middle of a column, inside begins or ends: at flat positions, column by column.
    flips = np.zeros(height * width + 1, dtype=np.uint8)
    edges = np.concatenate((corners, np.roll(corners, -1, axis=0)), axis=1)
    for start in range(0, len(edges), _EDGES_AT_ONCE):
        np.bitwise_xor.at(flips, _crossings(edges[start : start + _EDGES_AT_ONCE], height, width), 1)
    inside = np.bitwise_xor.accumulate(flips[:-1])
    return mask_utils.encode(inside.reshape(width, height).T)


def _crossings(edges: np.ndarray, height: int, width: int) -> np.ndarray:
    """
    The flat positions, column by column, where edges `(E, 4)` x y x y in fifths of pixels cross columns. Rounding is
    that of `rleFrPoly` of pycocotools, to the pixel.
    """
    dx, dy = np.abs(edges[:, 2] - edges[:, 0]), np.abs(edges[:, 3] - edges[:, 1])
    flat = dx >= dy
    flipped = np.where(flat, edges[:, 0] > edges[:, 2], edges[:, 1] > edges[:, 3])
    edges = np.where(flipped[:, None], edges[:, [2, 3, 0, 1]], edges)
    left, right = np.minimum(edges[:, 0], edges[:, 2]), np.maximum(edges[:, 0], edges[:, 2])
    # Column k lies at 5k + 2, and is crossed by a step from there to 5k + 3.
    first, stop = np.maximum(-(-(left - 2) // 5), 0), np.minimum((right - 3) // 5 + 1, width)
    counts = np.maximum(stop - first, 0)
    edge = np.repeat(np.arange(len(edges)), counts)
    column = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts - first, counts)
    x = 5 * column + 2
    x0, y0, x1, y1 = edges[edge].T
    y = np.empty_like(x)

    at = flat[edge]
    slope = (y1[at] - y0[at]) / (x1[at] - x0[at])
    steps = x[at] - x0[at]
    rows = [(y0[at] + slope * (steps + further) + 0.5).astype(np.int64) for further in (0, 1)]
    y[at] = np.minimum(*rows)

    at = ~at
    slope = (x1[at] - x0[at]) / (y1[at] - y0[at])
    rising = slope > 0
    # The first step that is beyond; the division tells it but for one.
    guess = np.ceil((x[at] + 0.5 - x0[at]) / slope).astype(np.int64)
    steps = guess + 1
    for earlier in (guess, guess - 1):
        reached = (x0[at] + slope * earlier + 0.5).astype(np.int64)
        steps = np.where(np.where(rising, reached > x[at], reached <= x[at]), earlier, steps)
    y[at] = y0[at] + steps - 1
    return column * height + np.ceil(np.clip((y + 0.5) / 5 - 0.5, 0, height)).astype(np.int64)


def excerpt(value: Any) -> str:
    """The beginning of a value, for messages."""
    try:
        text = " ".join(repr(value).split())
    except (RecursionError, ValueError):  # nested too deeply, or an integer of thousands of digits
        return f"a {type(value).__name__} too large to be shown"
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_counts(counts: str | bytes, height: int, width: int) -> None:
    """
    Check that the run lengths of a compressed RLE fill its frame: pycocotools never returns from comparing masks that
    don't, and decodes memory that nobody has written.

    Raises:
        ValueError: when they sum to another number of pixels, or are no run lengths.
    """
    _, totals = count_pixels([counts])
    if totals[0] != height * width:
        raise ValueError(counts_message(int(totals[0]), height, width))


def counts_message(total: int, height: int, width: int) -> str:
    """What is wrong with run lengths that sum to `total`, as of [`count_pixels`]."""
    return (
        f"the run lengths in the counts of the mask sum to {total}; expected height * width = {height * width}: "
        "encode the mask of the whole frame again"
    )


def count_pixels(counts: Sequence[str | bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Foreground pixels and all pixels of compressed RLE masks, each of shape `(len(counts),)`.

    COCO's compression writes a number as characters from code 48 on, 5 bits each from the lowest, bit 5 meaning that
    more follow, bit 4 of the last one being the sign. From the fourth number on, the number is the difference to the
    run length two places before. `pycocotools.mask.area` gives the first result alone. Strings that are not of this
    kind, or have a run length below 0 or beyond 31 bits, count as 0.
    """
    strings = [string.encode(errors="surrogatepass") if isinstance(string, str) else string for string in counts]
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


def encode_mask(mask: np.ndarray) -> RLE | None:
    """Compress one binary mask.

    Args:
        mask: `(H, W)`, bool or integer, non-zero = object. A probability map has to be thresholded first.

    Returns:
        Compressed COCO RLE `{"size": [H, W], "counts": str}`, which JSON can hold, or None for a mask without a pixel.

    Raises:
        ValueError: if the mask is not two-dimensional or holds floats.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or not (mask.dtype == bool or np.issubdtype(mask.dtype, np.integer)):
        raise ValueError(
            f"mask has shape {mask.shape} and type {mask.dtype}; expected (height, width) of bool or integers: "
            "pass one frame, and threshold probabilities, for example with `mask > 0.5`"
        )
    mask = mask != 0
    if not mask.any():
        return None
    rle = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def encode_part(mask: np.ndarray, top: int, left: int, size: tuple[int, int]) -> RLE | None:
    """
    Compress a mask that is empty but for a part of the frame.

    Args:
        mask: `(columns, rows)` bool, the part transposed.
        top, left: the row and the column of the frame at which it begins.
        size: `(H, W)` of the frame.

    Returns:
        What [`encode_mask`] makes of the whole frame.
    """
    height, width = size
    flips = np.zeros((mask.shape[0], mask.shape[1] + 1), dtype=bool)
    flips[:, :-1] = mask
    flips[:, 1:] ^= mask
    column, row = flips.nonzero()
    if not len(column):
        return None
    edges = (left + column) * height + top + row
    if mask.shape[1] == height:  # where one column ends set and the next one begins so, nothing changes
        again = np.flatnonzero(edges[1:] == edges[:-1])
        edges = np.delete(edges, np.concatenate((again, again + 1)))
    if edges[-1] < height * width:
        edges = np.append(edges, height * width)
    counts = np.diff(edges, prepend=0)
    rle = mask_utils.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


def decode_mask(rle: RLE) -> np.ndarray:
    """
    Decompress one COCO RLE (counts as str, bytes or an uncompressed list of run lengths) to bool `(H, W)`.

    Raises:
        ValueError: if it is no RLE, or its runs do not add up to its pixels.
    """
    rle = normalised_rle(rle)
    check_counts(rle["counts"], *rle["size"])
    return mask_utils.decode(rle).astype(bool)


def pixels_of(masks: list[RLE]) -> list[int]:
    """
    The pixels of masks whose run lengths add up to the frame; others let pycocotools read memory that nothing has
    written, and are refused.
    """
    areas = []
    for start in range(0, len(masks), _CHECKED_AT_ONCE):
        part = masks[start : start + _CHECKED_AT_ONCE]
        pixels, totals = count_pixels([rle["counts"] for rle in part])
        areas += pixels.tolist()
        for rle, total in zip(part, totals.tolist(), strict=True):
            height, width = rle["size"]
            if total != height * width:
                raise ValueError(counts_message(total, height, width))
    return areas


def normalised_rle(rle: RLE) -> RLE:
    """The same RLE with compressed `counts` as str, given as str, as bytes or as a list of run lengths."""
    if (
        not isinstance(rle, dict)
        or not isinstance(rle.get("counts"), str | bytes | list)
        or not isinstance(rle.get("size"), Sequence)
        or len(rle["size"]) != 2
        or not all(isinstance(side, int | np.integer) and 0 <= side <= MAX_SIDE for side in rle["size"])
    ):
        raise ValueError(
            f"a mask is {excerpt(rle)}; expected a COCO RLE {{'size': [height, width], 'counts': str}}: "
            "use encode_mask for a binary array"
        )
    counts = rle["counts"]
    if isinstance(counts, str):
        return rle
    if isinstance(counts, list):
        counts = read_mask({"size": list(rle["size"]), "counts": counts}, *rle["size"])["counts"]
    return {"size": list(rle["size"]), "counts": counts.decode("ascii")}

"""Masks as polygons that cover exactly their pixels."""

import numpy as np
from pycocotools import mask as coco_mask

from .rle import RLE


def exact_polygon(rle: RLE) -> list[tuple[int, int]]:
    """
    One polygon around the pixels of a mask, along their edges, as formats have it that allow one for an object.

    Parts and holes are joined by lines that lead there and back, which enclose nothing. Holes are run around the other
    way than parts, so that the even-odd and the non-zero rule fill the same pixels. Who reads polygons as COCO does
    gets the very same mask back.

    Returns:
        Corners x, y in pixels, whole numbers; none for a mask without a pixel.
    """
    outlines = _outlines(rle)
    if not outlines:
        return []
    polygon = [*outlines[0]]
    start = polygon[0]
    if len(outlines) > 1:
        polygon.append(start)
    for outline in outlines[1:]:
        polygon += [*outline, outline[0], start]
    return polygon


def _outlines(rle: RLE) -> list[list[tuple[int, int]]]:
    """The outlines of parts and holes, each a list of corners, with the object at the right of each step."""
    left, top, width, height = map(int, coco_mask.toBbox(rle))
    inside = coco_mask.decode(rle)[top : top + height, left : left + width]
    pixels = np.zeros((inside.shape[0] + 2, inside.shape[1] + 2), dtype=np.uint8)
    pixels[1:-1, 1:-1] = inside
    # Of the four pixels that meet in each corner of the grid, those that are set.
    first, second, third, fourth = pixels[:-1, :-1], pixels[:-1, 1:], pixels[1:, :-1], pixels[1:, 1:]
    count = first + second + third + fourth
    diagonal = (count == 2) & (first == fourth)  # two corners of outlines are there
    rows, columns = np.nonzero((count % 2 == 1) | diagonal)
    twice = 1 + diagonal[rows, columns]
    rows, columns = np.repeat(rows, twice), np.repeat(columns, twice)
    # Along a row, edges go from every second corner to the next, and so they do along a column.
    down = np.lexsort((rows, columns))
    across = np.empty_like(down)
    across[down[::2]], across[down[1::2]] = down[1::2], down[::2]
    is_below = fourth[rows, columns]  # whether the object is below the edge to the right
    corners = list(zip((columns + left).tolist(), (rows + top).tolist(), strict=True))

    outlines, used, across = [], bytearray(len(corners)), across.tolist()
    for corner in range(0, len(corners), 2):
        if used[corner]:
            continue
        outline, at = [], corner if is_below[corner] else corner + 1
        while not used[at]:
            other = at ^ 1
            used[at] = used[other] = True
            outline += [corners[at], corners[other]]
            at = across[other]
        outlines.append(outline)
    return outlines

"""Masks that lie in boxes, pasted into the frame.

Letters: r c rows and columns of a mask in its box, H W height and width of the frame in pixels.
"""

import torch
from torch.nn import functional as F

from .rle import RLE, encode_part

CLOSE = 1e-5  # to the threshold: where the order of a sum could decide


def _grid(start: torch.Tensor, stop: torch.Tensor, length: int) -> torch.Tensor:
    """Pixel centres of an axis in boxes from `start` to `stop (...)`, -1..1 within the box: `(..., length)`."""
    centres = torch.arange(length, dtype=torch.float32) + 0.5
    return (centres - start[..., None]) / (stop - start)[..., None] * 2 - 1


def _weights(grid: torch.Tensor, cells: int) -> torch.Tensor:
    """Of every cell of a mask in every pixel, `(..., length)` to `(..., length, cells)`; zero outside of the box."""
    place = ((grid + 1) * cells - 1) / 2
    weights = (1 - (place[..., None] - torch.arange(cells)).abs()).clamp(min=0)
    return weights.nan_to_num(nan=0.0)  # boxes without extent have no pixel


def paste(probability: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """
    Whole frames: masks `(..., r, c)` float32 in their boxes `(..., 4)`, corners in pixels, to `(..., H, W)`, bilinear
    between the centres of pixels, zero outside of the boxes.
    """
    (rows, columns), (height, width) = probability.shape[-2:], size
    from_rows = _weights(_grid(boxes[..., 1], boxes[..., 3], height), rows)
    from_columns = _weights(_grid(boxes[..., 0], boxes[..., 2], width), columns)
    return from_rows @ probability @ from_columns.mT


def pasted_mask(
    probability: torch.Tensor, box: torch.Tensor, size: tuple[int, int], mask_threshold: float = 0.5
) -> RLE | None:
    """
    One mask as RLE, of which only the pixels of its box are ever computed.

    Args:
        probability: `(r, c)` float32 in `[0, 1]`, on the CPU.
        box: `(4,)` float32 corners in pixels; it may be partly or all outside, and have sides of any sign.
        size: `(H, W)` of the frame in pixels.
        mask_threshold: probability from which on a pixel is set.

    Returns:
        Compressed COCO RLE of `F.grid_sample` of the mask at the centres of all pixels of the frame (bilinear, zero
        outside, `align_corners=False`) `>= mask_threshold`, to the byte, or None for a mask without a pixel.
    """
    grids = [_grid(box[axis], box[axis + 2], size[1 - axis]) for axis in (0, 1)]
    weights, first = [], []
    for grid, cells in zip(grids, (probability.shape[1], probability.shape[0]), strict=True):
        near = (grid.abs() < 1 + 1 / cells).nonzero()
        if not len(near):
            return None
        start, stop = int(near[0]), int(near[-1]) + 1
        weights.append(_weights(grid[start:stop], cells))
        first.append(start)
    # Transposed, because RLE runs along columns.
    pasted = (weights[0] @ probability.nan_to_num(nan=0.0).T) @ weights[1].T  # (columns, rows)
    mask = pasted >= mask_threshold
    column, row = ((pasted - mask_threshold).abs() <= CLOSE).nonzero(as_tuple=True)
    if len(column):
        places = torch.stack((grids[0][first[0] + column], grids[1][first[1] + row]), dim=-1)[None, None]
        sampled = F.grid_sample(probability[None, None], places, align_corners=False)[0, 0, 0]
        mask[column, row] = sampled >= mask_threshold
    return encode_part(mask.numpy(), first[1], first[0], size)

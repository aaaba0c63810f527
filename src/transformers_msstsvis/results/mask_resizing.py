"""Mask logits of a model to masks of the size of the frame.

Letters: R and C rows and columns of the mask logits, H and W height and width of the result.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from torch.nn import functional as F

from .rle import RLE, encode_mask, encode_part


@lru_cache(maxsize=16)
def _interpolation(size: int, target: int) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Bilinear weights `(size, target)` along one axis, and the first and last source of every target `(target,)`."""
    weights = F.interpolate(torch.eye(size)[None], size=target, mode="linear", align_corners=False)[0]
    used = weights.numpy() > 0
    return weights, used.argmax(0), size - 1 - used[::-1].argmax(0)


def _reach(positive: torch.Tensor, target: int) -> tuple[slice, slice, torch.Tensor]:
    """The part of an axis that can become positive, as sources and as targets, and the weights between them."""
    weights, first, last = _interpolation(len(positive), target)
    places = positive.nonzero()
    start = int(np.searchsorted(last, int(places[0]), side="left"))
    stop = int(np.searchsorted(first, int(places[-1]), side="right"))
    targets = slice(start, stop)
    # An enlarged map has a target for every source; a reduced one may step over it.
    sources = slice(int(first[start]), int(last[stop - 1]) + 1) if start < stop else slice(0, 0)
    return sources, targets, weights[sources, targets]


def resized_mask(logits: torch.Tensor, size: tuple[int, int], mask_threshold: float = 0.5) -> RLE | None:
    """
    One mask as RLE: bilinear resize, comparison, compression.

    Args:
        logits: `(R, C)` float32 on the CPU.
        size: `(H, W)` of the result in pixels.
        mask_threshold: probability above which a pixel is set.

    Returns:
        Compressed COCO RLE of `F.interpolate(logits, size, mode="bilinear", align_corners=False).sigmoid() >
        mask_threshold`, to the byte, or None for a mask without a pixel.
    """
    level = math.log(mask_threshold / (1 - mask_threshold))
    positive = logits > level
    if not positive.any():
        return None
    # A weighted mean exceeds the level only where a source does; the rest of the frame is not computed.
    rows, bottom_to_top, row_weights = _reach(positive.any(1), size[0])
    columns, left_to_right, column_weights = _reach(positive.any(0), size[1])
    part = logits[rows, columns].nan_to_num(nan=-1e4)
    # Transposed, because RLE runs along columns.
    resized = (column_weights.T @ part.T) @ row_weights
    if _rounding_decides(resized - level, part, row_weights, column_weights):
        whole = logits.nan_to_num(nan=-1e4)[None, None]
        whole = F.interpolate(whole, size=size, mode="bilinear", align_corners=False)[0, 0]
        return encode_mask((whole.sigmoid() > mask_threshold).numpy())
    return encode_part((resized > level).numpy(), bottom_to_top.start, left_to_right.start, size)


def _rounding_decides(
    margin: torch.Tensor, part: torch.Tensor, row_weights: torch.Tensor, column_weights: torch.Tensor
) -> bool:
    """Whether a pixel is so close to the level that the order of the sum or the sigmoid could change it."""
    if not margin.numel():
        return False
    tolerance = 8 * torch.finfo(part.dtype).eps
    magnitude = part.abs()
    close = (margin.abs() <= tolerance * (magnitude.max() + 1)).nonzero()
    if not len(close):
        return False
    sums = 1 + ((column_weights[:, close[:, 0]].T @ magnitude.T) * row_weights[:, close[:, 1]].T).sum(1)
    return bool((margin[close[:, 0], close[:, 1]].abs() <= tolerance * sums).any())

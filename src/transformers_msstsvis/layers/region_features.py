"""Features of boxes: RoIAlign of all levels of a feature pyramid at once.

torchvision's `roi_align` reads one level at a time, and on a CPU one channel after the other. Here a place of any
level is a row of one table, of which every cell of a box is a weighted sum.

Letters: N frames, S pixels over all L levels, C channels, R boxes, P cells of a side of a box.
"""

import torch
from torch.nn import functional as F

SAMPLES = 2  # of a side of a cell


def level_of(boxes: torch.Tensor, num_levels: int, finest_scale: float = 56.0) -> torch.Tensor:
    """
    The level that a box is read from, by the root of its area: `(R, 4)` corners in pixels to `(R,)` float32, NaN for
    boxes with one negative side, which have no level.
    """
    scale = (boxes[:, 2:] - boxes[:, :2]).prod(-1).sqrt()
    return (scale / finest_scale + 1e-6).log2().floor().clamp(0, num_levels - 1)


def region_features(
    features: torch.Tensor,
    spatial_shapes: list[tuple[int, int]],
    boxes: torch.Tensor,
    frames: torch.Tensor,
    side: int,
    finest_stride: int = 4,
) -> torch.Tensor:
    """
    The features of boxes, as `roi_align(level, boxes, side, 1 / stride, sampling_ratio=2, aligned=True)` of the level
    of each box gives them.

    Args:
        features: `(N, S, C)`, levels finest first.
        spatial_shapes: `(height, width)` of every level.
        boxes: `(R, 4)` corners in pixels; they may be partly or all outside, and have sides of any sign.
        frames: `(R,)` int64, the frame of each.
        side: P.
        finest_stride: pixels of a cell of the finest level; those of the others are twice the ones before.

    Returns:
        `(R, P * P, C)`, row by row; zero for boxes without a level.
    """
    _, S, C = features.shape
    level = level_of(boxes, len(spatial_shapes))
    known, level = ~level.isnan(), level.nan_to_num().long()
    shapes = torch.tensor(spatial_shapes, device=boxes.device)  # (L, 2)
    starts = shapes.prod(-1).cumsum(0) - shapes.prod(-1)
    boxes = boxes / (finest_stride * 2.0**level)[:, None] - 0.5
    height, width = shapes[level].unbind(-1)
    rows, row_weights = _places(boxes[:, 1], boxes[:, 3], height, side)  # (R, P, 2 * SAMPLES)
    columns, column_weights = _places(boxes[:, 0], boxes[:, 2], width, side)
    first = frames * S + starts[level]
    index = (first[:, None, None] + rows * width[:, None, None])[:, :, None, :, None] + columns[:, None, :, None]
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None]  # (R, P, P, 4, 4)
    weights = weights * known[:, None, None, None, None]
    summed = F.embedding_bag(
        index.flatten(0, 2).flatten(1),
        features.flatten(0, 1),
        per_sample_weights=weights.flatten(0, 2).flatten(1).to(features.dtype),
        mode="sum",
    )
    return summed.view(boxes.shape[0], side * side, C)


def _places(
    start: torch.Tensor, stop: torch.Tensor, length: torch.Tensor, side: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Along one axis of boxes from `start (R,)` to `stop (R,)` in cells of maps of `length (R,)`: the two neighbours of
    every sample, and their weights, both `(R, P, 2 * SAMPLES)`. Samples more than a cell outside weigh nothing.
    """
    steps = (torch.arange(side * SAMPLES, device=start.device) + 0.5) / SAMPLES
    place = start[:, None] + steps * ((stop - start) / side)[:, None]  # (R, P * SAMPLES)
    last = (length - 1)[:, None]
    inside = (place >= -1) & (place <= length[:, None])
    place = place.nan_to_num().clamp(min=0).minimum(last.to(place.dtype))
    low = place.long()
    high = (low + 1).minimum(last)
    part = place - low
    weights = torch.stack((1 - part, part), dim=-1) * (inside / SAMPLES)[..., None]
    return tuple(x.unflatten(1, (side, SAMPLES)).flatten(2) for x in (torch.stack((low, high), dim=-1), weights))

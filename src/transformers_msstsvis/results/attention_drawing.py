"""Draws where a track was looked for: sampling points, each as large and as warm as the attention that it got."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

# From little attention to much, RGB.
_COLOURS = np.array([(40, 60, 160), (60, 190, 220), (250, 220, 60), (230, 40, 40)], dtype=np.float32)


def draw_attention(
    frames: Iterable[np.ndarray],
    points: Sequence[np.ndarray],
    weights: Sequence[np.ndarray],
    *,
    opacity: float = 0.6,
    max_radius: float = 0.02,
) -> Iterator[np.ndarray]:
    """
    Draw sampling points on a video, frame by frame, so that memory stays flat.

    A point is a disc whose area and colour, from blue to red, tell its weight as a part of the largest one of the
    frame; larger weights lie in front. Points outside of the frame are not drawn.

    Args:
        frames: uint8 `(H, W, 3)` RGB, from the video's first frame on.
        points: for every frame `(k, 2)` x y in pixels, the left and upper edges of the frame being 0.
        weights: for every frame `(k,)` attention to each point, not negative.
        opacity: of the frame, 0..1; the rest is black.
        max_radius: of the point of the largest weight, as a part of the shorter side; none is smaller than a pixel.

    Yields:
        One drawn frame for each given one; those after the last of `points` come back as they are.

    Raises:
        ValueError: for frames that are not RGB uint8, points and weights of other shapes, or weights that are negative
            or no numbers.
    """
    if len(points) != len(weights):
        raise ValueError(f"there are points of {len(points)} frames and weights of {len(weights)}; expected as many")
    for index, frame in enumerate(frames):
        if index >= len(points):
            yield frame
            continue
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(
                f"frame {index} has shape {frame.shape} and type {frame.dtype}; expected uint8 (height, width, 3) RGB"
            )
        places, amounts = (np.asarray(values[index], dtype=np.float32) for values in (points, weights))
        if places.shape != (len(amounts), 2) or amounts.ndim != 1:
            raise ValueError(
                f"frame {index} has points of shape {places.shape} and weights of shape {amounts.shape}; expected "
                "(k, 2) and (k,)"
            )
        if not (np.isfinite(amounts).all() and (amounts >= 0).all()):
            raise ValueError(f"the weights of frame {index} are not all numbers from 0 on; expected attention weights")
        yield _draw_points(frame, places, amounts, opacity, max_radius)


def _draw_points(
    frame: np.ndarray, points: np.ndarray, weights: np.ndarray, opacity: float, max_radius: float
) -> np.ndarray:
    from PIL import Image, ImageDraw

    image = Image.fromarray(np.round(frame * np.float32(opacity)).astype(np.uint8))
    height, width = frame.shape[:2]
    shown = np.isfinite(points).all(1) & (points >= 0).all(1) & (points < (width, height)).all(1)
    points, parts = points[shown], weights[shown] / max(weights.max(initial=0.0), 1e-12)
    draw = ImageDraw.Draw(image)
    colours = np.stack([np.interp(parts, np.linspace(0, 1, len(_COLOURS)), channel) for channel in _COLOURS.T], axis=1)
    radii = np.maximum(np.sqrt(parts) * max_radius * min(height, width), 1.0)
    for index in np.argsort(parts, kind="stable"):
        (x, y), radius = points[index].tolist(), float(radii[index])
        colour = tuple(np.round(colours[index]).astype(int).tolist())
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return np.asarray(image)

"""Synthetic videos for video instance segmentation, in YouTube-VIS 2019 format, reproducible from a seed.

Textured shapes of eight classes move, turn, grow, stretch, hide each other, leave the frame and return in front of a
slowly panning textured background with distractors. Colours and textures are drawn independently of the class, so a
model has to look at the shape, and has to use time where a shape is hidden.

The same seed and library versions give the same bytes: every video has its own generator, and nothing depends on
global state or on the number of workers.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as rle_codec
from tqdm.auto import tqdm
from transformers.utils import logging

from ..results.rle import normalised_rle

logger = logging.get_logger(__name__)

# Letters: n objects, T frames, H W frame size, h w size of a crop.

CLASSES = ("disk", "rectangle", "triangle", "star", "cross", "ring", "crescent", "arrow")

MIN_VISIBLE_AREA = 16  # pixels; an object that shows less in a frame counts as absent there
MAX_OBJECTS = 12  # with more, most would hide behind each other
MIN_SIZE = 64  # pixels; below it the smallest shapes can't be told apart

_BASE_RADIUS = 0.14  # of the shorter side
_SHAPE_EXTENT = 1.25  # no shape reaches further from its centre, in radii
_TEXTURE_SIZE = 80  # texels over 2 * _SHAPE_EXTENT radii
_MIN_COLOUR_DISTANCE = 75.0  # between the mean colours of an object and the background, RGB in 0..255
_LOOK_ALIKE_SPREAD = 0.25  # of the room that objects are spread over otherwise: close ones hide each other
_MARGIN = 0.15  # of the frame size: room for the background to pan, on every side


@dataclass(frozen=True)
class SyntheticVideo:
    """One video with its ground truth.

    Attributes:
        frames: `(T, H, W, 3)` uint8, RGB.
        masks: `(n, T, H, W)` bool, the visible pixels; disjoint, and empty in frames where the object is absent.
        labels: `(n,)` int64, indices into [`CLASSES`].
    """

    frames: np.ndarray
    masks: np.ndarray
    labels: np.ndarray


# Shapes: signed distances, negative inside, in units of the radius. Inputs `u` and `v` are local coordinates `(h, w)`.


def _half_planes(u: np.ndarray, v: np.ndarray, count: int, offset: float) -> np.ndarray:
    """Signed distances `(count, h, w)` to the sides of a regular polygon with inner radius `offset`."""
    angles = 2 * np.pi * np.arange(count, dtype=np.float32)[:, None, None] / count
    return np.cos(angles) * u + np.sin(angles) * v - offset


def _box(u: np.ndarray, v: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
    return np.maximum(np.abs(u) - half_width, np.abs(v) - half_height)


def _disk(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.hypot(u, v) - 0.95


def _rectangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _box(u, v, 0.85, 0.85)


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _half_planes(u, v, 3, 0.6).max(axis=0)


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    # A pentagram is every point inside at least four of five half planes.
    return np.partition(_half_planes(u, v, 5, 0.38), 3, axis=0)[3]


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.minimum(_box(u, v, 1.1, 0.33), _box(u, v, 0.33, 1.1))


def _ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(u, v) - 0.8) - 0.25


def _crescent(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.hypot(u + 0.2, v) - 1.05, 0.85 - np.hypot(u - 0.35, v))


def _arrow(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    head = np.maximum(-u, (u + np.abs(v) - 1.05) * np.float32(np.sqrt(0.5)))
    shaft = _box(u + 0.5, v, 0.65, 0.32)
    return np.minimum(head, shaft)


_SHAPES: tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], ...] = (
    _disk,
    _rectangle,
    _triangle,
    _star,
    _cross,
    _ring,
    _crescent,
    _arrow,
)


# Textures: scalar fields in 0..1, coloured by a random palette.


def _noise(rng: np.random.Generator, height: int, width: int, cells: float, octaves: int = 1) -> np.ndarray:
    """Smooth noise `(height, width)` stretched to 0..1, about `cells` cells across, each octave twice as fine."""
    field = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        step = max(height, width) / (cells * 2**octave)
        grid = rng.random((int(height / step) + 2, int(width / step) + 2), dtype=np.float32)
        grown = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
        field += np.asarray(grown) * np.float32(0.5**octave)
    field -= field.min()
    return field / max(field.max(), 1e-6)


def _palette(rng: np.random.Generator, field: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Colours a field `(h, w)` in 0..1 with `(k, 3)` colours at random stops: `(h, w, 3)` float32."""
    inner = np.sort(rng.uniform(0.25, 0.75, len(colours) - 2))
    stops = np.concatenate([[0.0], inner, [1.0]])
    table = np.stack([np.interp(np.linspace(0, 1, 256), stops, channel) for channel in colours.T], axis=-1)
    return table.astype(np.float32)[(field * 255).astype(np.uint8)]


def _pattern(rng: np.random.Generator, size: int) -> np.ndarray:
    """One random pattern `(size, size)` in 0..1: stripes, checker, gradient, noise or blobs."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    frequency, phase = rng.uniform(2.0, 5.0), rng.uniform(0, 2 * np.pi)
    kind = rng.integers(5)
    if kind == 0:
        bend = rng.uniform(0, 1.5) * _noise(rng, size, size, 2)
        field = 0.5 + rng.uniform(0.5, 2.0) * np.sin(np.pi * frequency * along + phase + bend)
    elif kind == 1:
        field = 0.5 + 3 * np.sin(np.pi * frequency * along + phase) * np.sin(np.pi * frequency * across)
    elif kind == 2:
        field = 0.5 + 0.5 * along
    elif kind == 3:
        field = _noise(rng, size, size, rng.uniform(4, 10), octaves=3)
    else:
        field = 0.5 + 6 * (_noise(rng, size, size, rng.uniform(4, 8)) - 0.5)
    grain = rng.uniform(0, 0.3) * (_noise(rng, size, size, 16) - 0.5)
    return np.clip(field + grain, 0, 1).astype(np.float32)


def _object_texture(rng: np.random.Generator, background: np.ndarray) -> np.ndarray:
    """A texture `(_TEXTURE_SIZE, _TEXTURE_SIZE, 3)` float32 whose mean colour is not the background's `(3,)`."""
    field = _pattern(rng, _TEXTURE_SIZE)
    while True:
        colours = rng.uniform(0, 255, (int(rng.integers(2, 4)), 3))
        texture = _palette(rng, field, colours)
        if np.linalg.norm(texture.mean(axis=(0, 1)) - background) >= _MIN_COLOUR_DISTANCE:
            return texture


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A background canvas `(height, width, 3)` float32: noise of several scales, a gradient and distractors."""
    field = _noise(rng, height, width, rng.uniform(2, 6), octaves=int(rng.integers(3, 6)))
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    angle = np.float32(rng.uniform(0, 2 * np.pi))
    slope = np.float32(rng.uniform(0, 0.4))
    field = np.clip(field + slope * (x * np.cos(angle) + y * np.sin(angle)), 0, 1)
    # Colours stay near a common one: the scene has a tone, and objects can differ from it.
    colours = np.clip(rng.uniform(40, 215, 3) + rng.uniform(-70, 70, (int(rng.integers(3, 6)), 3)), 0, 255)
    canvas = _palette(rng, field, colours)
    for _ in range(rng.integers(3, 9)):
        _draw_distractor(rng, canvas)
    return canvas


def _draw_distractor(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """Draws an irregular blob, a line or a soft smear onto the canvas `(height, width, 3)`: none of the classes."""
    height, width = canvas.shape[:2]
    unit = np.float32(_BASE_RADIUS * min(height, width))
    reach = int(2.5 * unit)
    cy, cx = rng.uniform(0, height), rng.uniform(0, width)
    rows = slice(max(int(cy) - reach, 0), min(int(cy) + reach, height))
    columns = slice(max(int(cx) - reach, 0), min(int(cx) + reach, width))
    y = (np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - np.float32(cy)) / unit
    x = (np.arange(columns.start, columns.stop, dtype=np.float32) - np.float32(cx)) / unit
    angle = np.float32(rng.uniform(0, np.pi))
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    kind = rng.integers(3)
    if kind == 0:
        polar = np.arctan2(v, u)
        radius = np.float32(rng.uniform(0.4, 0.8))
        for order in (2, 3, 5):
            amplitude, phase = np.float32(rng.uniform(0.1, 0.3)), np.float32(rng.uniform(0, 2 * np.pi))
            radius = radius + amplitude * np.cos(order * polar + phase)
        alpha = np.clip(0.5 - (np.hypot(u, v) - radius) * unit, 0, 1)
    elif kind == 1:
        bend = np.float32(rng.uniform(-0.25, 0.25))
        alpha = np.clip(0.5 - _box(u, v - bend * u * u, rng.uniform(1, 2), rng.uniform(0.05, 0.12)) * unit, 0, 1)
    else:
        alpha = np.exp(-np.square(u / np.float32(rng.uniform(0.6, 1.0))) - np.square(v / np.float32(0.25)))
    texture = _palette(rng, _noise(rng, *alpha.shape, 6, octaves=2), rng.uniform(0, 255, (2, 3)))
    crop = canvas[rows, columns]
    crop += (alpha * np.float32(rng.uniform(0.6, 1.0)))[..., None] * (texture - crop)


# Motion: every quantity is a smooth function of the frame index.


def _wave(rng: np.random.Generator, time: np.ndarray, amplitude: float) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * (time / rng.uniform(8, 28) + rng.random()))


def _smooth_step(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _absence(rng: np.random.Generator, length: int) -> np.ndarray | None:
    """How far `(T,)` an object is on its way out, 0 = at its place, 1 = out of the frame; None if it always stays."""
    behaviour = rng.choice(["stay", "return", "late", "exit"], p=[0.55, 0.25, 0.1, 0.1])
    if behaviour == "stay" or length < 8:  # a shorter video has no time to leave and come back smoothly
        return None
    time = np.arange(length)
    travel = np.clip(length / 5, 2, 5)  # frames
    if behaviour == "return":
        slack = length - 2 - 2 * travel
        leaves = 0.5 + 0.4 * slack * rng.random()
        returns = leaves + travel + 1 + 0.4 * slack * rng.random()
        return _smooth_step((time - leaves) / travel) - _smooth_step((time - returns) / travel)
    if behaviour == "late":
        return 1 - _smooth_step((time - rng.uniform(0.1, 0.35) * length) / travel)
    return _smooth_step((time - rng.uniform(0.5, 0.8) * length) / travel)


@dataclass(frozen=True)
class _Track:
    """One object's geometry, each `(T,)`: centre and half axes in pixels, rotation in radians."""

    label: int
    x: np.ndarray
    y: np.ndarray
    angle: np.ndarray
    half_width: np.ndarray
    half_height: np.ndarray


def _sample_track(rng: np.random.Generator, length: int, height: int, width: int, spread: float = 1.0) -> _Track:
    time = np.arange(length, dtype=np.float64)
    # In log2: the scale stays in 0.5..2 and the aspect in 0.7..1.4.
    scale = rng.uniform(-0.5, 0.5) + _wave(rng, time, rng.uniform(0, 0.5))
    aspect = rng.uniform(-0.2, 0.2) + _wave(rng, time, rng.uniform(0.05, 0.28))
    radius = _BASE_RADIUS * min(height, width) * 2**scale
    half_width, half_height = radius * 2 ** (aspect / 2), radius * 2 ** (-aspect / 2)
    angle = rng.uniform(0, 2 * np.pi) + rng.uniform(-0.1, 0.1) * time + _wave(rng, time, rng.uniform(0, 0.5))

    size = np.array([[width], [height]], np.float64)
    path = np.stack(
        [
            rng.uniform(-0.02, 0.02) * time + sum(_wave(rng, time, rng.uniform(0.02, 0.1)) for _ in range(2))
            for _ in "xy"
        ]
    )
    path -= (path.max(axis=1, keepdims=True) + path.min(axis=1, keepdims=True)) / 2
    # The centre keeps to the inner part of the frame: a path that is too long is shortened, then placed where it fits.
    path *= np.minimum(1, 0.36 / np.maximum(np.abs(path).max(axis=1, keepdims=True), 1e-9))
    room = 0.4 - np.abs(path).max(axis=1, keepdims=True)
    centre = (0.5 + rng.uniform(-1, 1, (2, 1)) * room * spread + path) * size

    absence = _absence(rng, length)
    if absence is not None:
        axis = rng.integers(2)
        forward = centre[axis].mean() > size[axis] / 2
        centre[axis] = centre[axis].mean() + 0.4 * (centre[axis] - centre[axis].mean())
        # It lives near the side through which it leaves: crossing the whole frame in a few frames would be a jump.
        centre[axis] += 0.9 * size[axis] - centre[axis].max() if forward else 0.1 * size[axis] - centre[axis].min()
        reach = _SHAPE_EXTENT * np.maximum(half_width, half_height) + 2
        outside = size[axis] + reach if forward else -reach
        centre[axis] += absence * (outside - centre[axis])
    return _Track(int(rng.integers(len(CLASSES))), *centre, angle, half_width, half_height)


# Rendering.


@dataclass(frozen=True)
class _Patch:
    """One object in one frame: where it lies, its coverage in 0..1 `(h, w)` and its local coordinates `(h, w)`."""

    window: tuple[slice, slice]
    coverage: np.ndarray
    distance: np.ndarray
    u: np.ndarray
    v: np.ndarray


def _rasterise(track: _Track, frame: int, height: int, width: int) -> _Patch | None:
    """The object without its occluders, antialiased; None when it is out of the frame."""
    x, y = track.x[frame], track.y[frame]
    a, b = track.half_width[frame], track.half_height[frame]
    reach = _SHAPE_EXTENT * max(a, b) + 1
    left, right = max(int(x - reach), 0), min(int(x + reach) + 1, width)
    top, bottom = max(int(y - reach), 0), min(int(y + reach) + 1, height)
    if left >= right or top >= bottom:
        return None
    dx = np.arange(left, right) + 0.5 - x
    dy = (np.arange(top, bottom) + 0.5 - y)[:, None]
    cos, sin = np.cos(track.angle[frame]), np.sin(track.angle[frame])
    u = (dx * (cos / a)).astype(np.float32) + (dy * (sin / a)).astype(np.float32)
    v = (dy * (cos / b)).astype(np.float32) - (dx * (sin / b)).astype(np.float32)
    distance = _SHAPES[track.label](u, v)
    coverage = np.clip(0.5 - distance * np.float32(min(a, b)), 0, 1)
    return _Patch((slice(top, bottom), slice(left, right)), coverage, distance, u, v)


def _visible_masks(patches: list[list[_Patch | None]], height: int, width: int) -> np.ndarray:
    """Masks `(n, T, H, W)` bool of `patches[object][frame]`; later objects lie in front of earlier ones."""
    length = len(patches[0])
    masks = np.zeros((len(patches), length, height, width), bool)
    taken = np.zeros((length, height, width), bool)
    for index in reversed(range(len(patches))):
        for frame, patch in enumerate(patches[index]):
            if patch is None:
                continue
            hidden = taken[frame][patch.window]
            visible = (patch.coverage > 0.5) & ~hidden
            hidden |= visible
            if np.count_nonzero(visible) >= MIN_VISIBLE_AREA:
                masks[index, frame][patch.window] = visible
    return masks


def _paint(frame: np.ndarray, patch: _Patch, texture: np.ndarray, rim: np.float32) -> None:
    """Blends one object into a frame `(H, W, 3)` uint8; `rim` darkens (< 0) or lightens (> 0) its edge slightly."""
    texels = np.float32((_TEXTURE_SIZE - 1) / (2 * _SHAPE_EXTENT))
    rows = np.clip((patch.v + np.float32(_SHAPE_EXTENT)) * texels, 0, _TEXTURE_SIZE - 1).astype(np.intp)
    columns = np.clip((patch.u + np.float32(_SHAPE_EXTENT)) * texels, 0, _TEXTURE_SIZE - 1).astype(np.intp)
    colour = texture.reshape(-1, 3).take(rows * _TEXTURE_SIZE + columns, axis=0)
    colour += (rim * np.clip(1 + patch.distance * 8, 0, 1))[..., None]
    crop = frame[patch.window]
    blended = crop + patch.coverage[..., None] * (np.clip(colour, 0, 255) - crop)
    crop[...] = np.clip(blended, 0, 255).astype(np.uint8)


def video_seed(seed: int, index: int) -> int:
    """The seed of video `index` of the set with seed `seed`, for [`synthetic_video`]."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0])


def synthetic_video(
    seed: int,
    *,
    height: int = 128,
    width: int = 128,
    min_frames: int = 8,
    max_frames: int = 24,
    min_objects: int = 1,
    max_objects: int = 5,
    look_alikes: bool = False,
) -> SyntheticVideo:
    """Makes one synthetic video in memory.

    Every object is visible in at least one frame, most of them in most frames.

    Args:
        seed: non-negative; decides everything, together with the other arguments.
        height, width: frame size in pixels, at least 64.
        min_frames, max_frames: range of the video's length, both included. Objects leave the frame only in videos of
            8 frames or more.
        min_objects, max_objects: range of the number of objects, both included, at most 12.
        look_alikes: give the objects of the video one class and one texture, and keep them close together, so that
            they are told apart by where they were before; orientations, sizes and proportions still differ.

    Returns:
        The frames `(T, H, W, 3)`, masks `(n, T, H, W)` and labels `(n,)` as a [`SyntheticVideo`].

    Raises:
        ValueError: for a negative seed, a frame that is too small or an empty range.
    """
    _check_arguments(seed, height, width, min_frames, max_frames, min_objects, max_objects)
    rng = np.random.Generator(np.random.PCG64(seed))
    length = int(rng.integers(min_frames, max_frames + 1))
    count = int(rng.integers(min_objects, max_objects + 1))

    # A scene in which an object is never seen is drawn anew: rare, and decided by the seed like all the rest.
    visible = False
    while not visible:
        spread = _LOOK_ALIKE_SPREAD if look_alikes else 1.0
        tracks = [_sample_track(rng, length, height, width, spread) for _ in range(count)]
        if look_alikes:
            tracks = [replace(track, label=tracks[0].label) for track in tracks]
        patches = [[_rasterise(track, frame, height, width) for frame in range(length)] for track in tracks]
        masks = _visible_masks(patches, height, width)
        visible = masks.any(axis=(1, 2, 3)).all()

    margin_y, margin_x = round(_MARGIN * height), round(_MARGIN * width)
    canvas = _background(rng, height + 2 * margin_y, width + 2 * margin_x)
    mean = canvas.mean(axis=(0, 1))
    canvas = canvas.astype(np.uint8)
    time = np.arange(length)
    pan_y = np.rint(margin_y * (1 + _wave(rng, time / 3, rng.uniform(0, 1)))).astype(int)
    pan_x = np.rint(margin_x * (1 + _wave(rng, time / 3, rng.uniform(0, 1)))).astype(int)
    frames = np.stack([canvas[y : y + height, x : x + width] for y, x in zip(pan_y, pan_x, strict=True)])

    for index, object_patches in enumerate(patches):
        if index == 0 or not look_alikes:
            texture, rim = _object_texture(rng, mean), np.float32(rng.uniform(-60, 60))
        for frame, patch in enumerate(object_patches):
            if patch is not None:
                _paint(frames[frame], patch, texture, rim)

    order = rng.permutation(count)  # an object's index must not tell its depth
    labels = np.array([track.label for track in tracks], np.int64)
    return SyntheticVideo(frames=frames, masks=masks[order], labels=labels[order])


def make_synthetic(
    output: str | Path,
    seed: int = 0,
    num_videos: int = 100,
    *,
    height: int = 128,
    width: int = 128,
    min_frames: int = 8,
    max_frames: int = 24,
    min_objects: int = 1,
    max_objects: int = 5,
    look_alikes: bool = False,
    image_format: str = "jpg",
    num_workers: int = 0,
    overwrite: bool = False,
    progress: bool = False,
) -> Path:
    """Writes a set of synthetic videos in YouTube-VIS 2019 format.

    Frames go to `<output>/JPEGImages/<video>/<frame>.<image_format>`. The annotations go to
    `<output>/annotations.json`, written last and at once, so a folder that has it is complete. Video `i` of the set
    equals `synthetic_video(video_seed(seed, i), ...)` with the same sizes and ranges.

    Args:
        output: folder to write to, made if needed; must be empty unless `overwrite`.
        seed: non-negative seed of the set.
        num_videos: number of videos, at least 1.
        height, width, min_frames, max_frames, min_objects, max_objects, look_alikes: as in [`synthetic_video`].
        image_format: `"jpg"` (quality 95), or `"png"`, which keeps every pixel exactly.
        num_workers: processes that make the videos; 0 makes them in this one. The result is the same.
        overwrite: replace the videos of the same name and the annotations in `output`; other files there are kept.
        progress: show a progress bar.

    Returns:
        The path of `annotations.json`.

    Raises:
        ValueError: for an argument out of range, or if `output` is not empty and `overwrite` is False.
    """
    _check_arguments(seed, height, width, min_frames, max_frames, min_objects, max_objects)
    if num_videos < 1:
        raise ValueError(f"num_videos is {num_videos}; expected at least 1")
    if num_workers < 0:
        raise ValueError(f"num_workers is {num_workers}; expected 0 (no extra process) or more")
    if image_format not in ("jpg", "png"):
        raise ValueError(f"image_format is {image_format!r}; expected 'jpg' or 'png'")
    output = Path(output)
    if output.exists() and not output.is_dir():
        raise ValueError(f"output {output} is a file; expected a folder, or a path that doesn't exist yet")
    if output.exists() and any(output.iterdir()) and not overwrite:
        raise ValueError(
            f"output {output} is not empty; expected an empty folder: choose another, or allow it with overwrite=True "
            "(--overwrite)"
        )

    annotation_path = output / "annotations.json"
    annotation_path.unlink(missing_ok=True)
    sizes = {
        "height": height,
        "width": width,
        "min_frames": min_frames,
        "max_frames": max_frames,
        "min_objects": min_objects,
        "max_objects": max_objects,
    }
    if look_alikes:
        sizes["look_alikes"] = True
    write = partial(_write_video, output=output, seed=seed, image_format=image_format, sizes=sizes)
    bar = partial(tqdm, total=num_videos, unit="video", disable=not progress)
    if num_workers == 0:
        records = list(bar(map(write, range(num_videos))))
    else:
        with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
            with _deaf_to_interrupts():
                found = pool.map(write, range(num_videos), chunksize=4)
            records = list(bar(found))

    annotations = [annotation for _, video_annotations in records for annotation in video_annotations]
    document = {
        "info": {"description": "synthetic videos of textured shapes", "seed": seed, **sizes},
        "videos": [video for video, _ in records],
        "categories": [
            {"id": number, "name": name, "supercategory": "shape"} for number, name in enumerate(CLASSES, start=1)
        ],
        "annotations": [{"id": number, **annotation} for number, annotation in enumerate(annotations, start=1)],
    }
    unfinished = annotation_path.with_suffix(".json.part")
    unfinished.write_text(json.dumps(document), encoding="utf-8")
    os.replace(unfinished, annotation_path)
    logger.info(f"wrote {num_videos} videos with {len(annotations)} objects to {output}")
    return annotation_path


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Let processes that start inside never hear Ctrl-C, which a terminal sends to all: the first one tells it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # and they inherit it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _write_video(
    index: int, output: Path, seed: int, image_format: str, sizes: dict[str, int]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Writes the frames of video `index` and returns its YouTube-VIS video entry and annotations (without ids)."""
    video = synthetic_video(video_seed(seed, index), **sizes)
    name = f"{index:05d}"
    folder = output / "JPEGImages" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    file_names = [f"{name}/{frame:05d}.{image_format}" for frame in range(len(video.frames))]
    options = {"quality": 95} if image_format == "jpg" else {"compress_level": 1}
    for file_name, frame in zip(file_names, video.frames, strict=True):
        Image.fromarray(frame).save(output / "JPEGImages" / file_name, **options)

    shape = {"height": sizes["height"], "width": sizes["width"], "length": len(file_names)}
    entry = {"id": index + 1, **shape, "file_names": file_names}
    annotations = [
        {
            "video_id": index + 1,
            "category_id": int(label) + 1,
            "iscrowd": 0,
            **shape,
            **_encode_masks(masks),
        }
        for label, masks in zip(video.labels, video.masks, strict=True)
    ]
    return entry, annotations


def _encode_masks(masks: np.ndarray) -> dict[str, list]:
    """Per-frame compressed RLE, area in pixels and box `x y w h` of masks `(T, H, W)`; None where a mask is empty."""
    rles = rle_codec.encode(np.asfortranarray(masks.transpose(1, 2, 0), dtype=np.uint8))
    areas = [int(area) for area in rle_codec.area(rles)]
    boxes = rle_codec.toBbox(rles).tolist()
    return {
        "segmentations": [normalised_rle(rle) if area else None for rle, area in zip(rles, areas, strict=True)],
        "areas": [area or None for area in areas],
        "bboxes": [box if area else None for box, area in zip(boxes, areas, strict=True)],
    }


def _check_arguments(
    seed: int, height: int, width: int, min_frames: int, max_frames: int, min_objects: int, max_objects: int
) -> None:
    if seed < 0:
        raise ValueError(f"seed is {seed}; expected 0 or more")
    for name, value in (("height", height), ("width", width)):
        if value < MIN_SIZE:
            raise ValueError(f"{name} is {value}; expected at least {MIN_SIZE} pixels, smaller shapes look alike")
    for name, low, high in (("frames", min_frames, max_frames), ("objects", min_objects, max_objects)):
        if not 1 <= low <= high:
            raise ValueError(f"min_{name} is {low} and max_{name} is {high}; expected 1 <= min_{name} <= max_{name}")
    if max_objects > MAX_OBJECTS:
        raise ValueError(f"max_objects is {max_objects}; expected at most {MAX_OBJECTS}, more would hide each other")

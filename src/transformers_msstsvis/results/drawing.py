"""Draws `VideoInstances` on frames, with the annotators of `supervision` and labels that keep out of each other's way.

Frames are RGB, uint8 `(H, W, 3)`.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from transformers.utils import logging

from .palette import load_supervision, track_palette

if TYPE_CHECKING:
    from PIL import ImageFont

    from .video_instances import VideoInstances

logger = logging.get_logger(__name__)


@lru_cache(maxsize=16)
def _annotators(size: tuple[int, int], opacity: float) -> tuple:
    supervision = load_supervision()
    height, width = size
    # Annotators paint in BGR; the palette is handed over reversed instead of every frame.
    palette = supervision.ColorPalette([supervision.Color(*map(int, rgb[::-1])) for rgb in track_palette()])
    thickness = supervision.calculate_optimal_line_thickness((width, height))
    return (
        supervision.MaskAnnotator(color=palette, opacity=opacity),
        supervision.BoxAnnotator(color=palette, thickness=max(1, thickness // 2)),
    )


@lru_cache(maxsize=16)
def _font(size: tuple[int, int]) -> "ImageFont.FreeTypeFont":
    from PIL import ImageFont

    return ImageFont.load_default(max(10, round(min(size) / 28)))


def draw_instances(
    frame: np.ndarray,
    instances: "VideoInstances",
    frame_index: int,
    *,
    masks: bool = True,
    boxes: bool = True,
    labels: bool = True,
    opacity: float = 0.5,
    outlines: bool = True,
    trails: int = 0,
) -> np.ndarray:
    """Draw the instances visible in one frame; every track keeps its colour over the video.

    No label covers another: the better track's is placed first, at its box, and the others at the next free place. One
    that finds none is left out.

    Args:
        frame: uint8 `(H, W, 3)` RGB; not changed.
        instances: what was found in the video.
        frame_index: which frame of the video this is, from 0.
        masks, boxes, labels: what to draw; a label reads "name #track 0.87".
        opacity: of the masks, 0..1.
        outlines: a white line along the inner edge of the masks.
        trails: frames back to which the way of the middle of each box is drawn, with gaps where the track is absent.

    Returns:
        A new frame of the same shape.

    Raises:
        ValueError: if the frame is not RGB uint8 or has another size than the masks.
        IndexError: if the video has no such frame.
    """
    if frame.dtype != np.uint8 or frame.shape != (*instances.size, 3):
        raise ValueError(
            f"frame {frame_index} has shape {frame.shape} and type {frame.dtype}; expected uint8 "
            f"{(*instances.size, 3)}, the size of the masks: draw on the frames that the instances were found in"
        )
    drawn = np.ascontiguousarray(frame).copy()
    detections = instances.to_supervision(frame_index)
    if not len(detections):
        return drawn

    colours = np.where(detections.tracker_id > 0, 1 + (detections.tracker_id - 1) % 255, 0)
    mask_annotator, box_annotator = _annotators(instances.size, opacity)
    if masks:
        drawn = mask_annotator.annotate(drawn, detections, custom_color_lookup=colours)
        if outlines:
            thickness = max(1, round(min(instances.size) / 360))
            for mask in detections.mask:
                drawn[_inner_edge(mask, thickness)] = 255
    if boxes:
        drawn = box_annotator.annotate(drawn, detections, custom_color_lookup=colours)
    if trails:
        for index, colour in zip(instances.present(frame_index), track_palette()[colours], strict=True):
            _draw_trail(drawn, instances, index, range(max(0, frame_index - trails), frame_index + 1), colour)
    if labels:
        texts = [
            f"{name} #{track}  {score:.2f}"
            for name, track, score in zip(
                detections.data["class_name"], detections.tracker_id, detections.confidence, strict=True
            )
        ]
        _draw_labels(drawn, texts, detections.xyxy, detections.confidence, track_palette()[colours])
    return drawn


def _draw_trail(frame: np.ndarray, instances: "VideoInstances", index: int, frames: range, colour: np.ndarray) -> None:
    """Join the middles of an instance's boxes in successive frames by lines, in place."""
    from PIL import Image, ImageDraw

    masks, boxes = instances.masks[index], instances.boxes_of(index)
    visible = [place for place in frames if masks[place] is not None]
    centres = {place: tuple(boxes[place - masks.start].reshape(2, 2).mean(0).tolist()) for place in visible}
    image = Image.fromarray(frame)
    draw = ImageDraw.Draw(image)
    width = max(2, round(min(instances.size) / 180))
    for place, centre in centres.items():
        if place - 1 in centres:
            draw.line([centres[place - 1], centre], fill=tuple(map(int, colour)), width=width)
    frame[:] = np.asarray(image)


def _inner_edge(mask: np.ndarray, thickness: int) -> np.ndarray:
    """The outermost pixels of a mask `(H, W)`; the border of the frame is no edge."""
    inside = mask
    for _ in range(thickness):
        around = np.pad(inside, 1, constant_values=True)
        inside = inside & around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    return mask & ~inside


def _draw_labels(
    frame: np.ndarray, texts: list[str], boxes: np.ndarray, scores: np.ndarray, colours: np.ndarray
) -> None:
    """Write a label at each box x1 y1 x2 y2, in place."""
    from PIL import Image, ImageDraw

    font = _font(frame.shape[:2])
    image = Image.fromarray(frame)
    draw = ImageDraw.Draw(image)
    padding = max(1, round(font.size / 6))
    order = np.argsort(-scores, kind="stable")
    sizes = np.array([draw.textbbox((0, 0), text, font=font)[2] for text in texts]) + 2 * padding
    height = sum(font.getmetrics()) + 2 * padding
    places = place_labels(boxes[order], [(int(width), height) for width in sizes[order]], frame.shape[:2])
    for index, place in zip(order, places, strict=True):
        if place is not None:
            x, y = place
            draw.rectangle((x, y, x + sizes[index] - 1, y + height - 1), fill=tuple(map(int, colours[index])))
            draw.text((x + padding, y + padding), texts[index], fill=(0, 0, 0), font=font)
    frame[:] = np.asarray(image)


def place_labels(
    boxes: np.ndarray, sizes: list[tuple[int, int]], frame_size: tuple[int, int]
) -> list[tuple[int, int] | None]:
    """
    Where to write labels so that none covers another.

    Args:
        boxes: `(n, 4)` x1 y1 x2 y2 in pixels, the most important first.
        sizes: width and height of each label in pixels.
        frame_size: `(H, W)` in pixels.

    Returns:
        Left and top of each label: above its box, below it, inside, or the nearest free place; None where there is no
        place in the frame.
    """
    frame_height, frame_width = frame_size
    taken: list[tuple[int, int, int, int]] = []
    places: list[tuple[int, int] | None] = []
    for (x1, y1, x2, y2), (width, height) in zip(np.round(boxes).astype(int).tolist(), sizes, strict=True):
        right, bottom = max(0, frame_width - width), max(0, frame_height - height)
        preferred = [
            (min(max(x, 0), right), min(max(y, 0), bottom)) for y in (y1 - height, y2, y1) for x in (x1, x2 - width)
        ]
        home = preferred[0]
        others = [
            (x, y) for y in {*range(0, bottom + 1, height), bottom} for x in {*range(0, right + 1, height), right}
        ]
        # A step sideways costs less to the eye than one up or down.
        others.sort(key=lambda place: abs(place[0] - home[0]) + 2 * abs(place[1] - home[1]))
        free = (
            (x, y)
            for x, y in (*preferred, *others)
            if all(x >= b or x + width <= a or y >= d or y + height <= c for a, c, b, d in taken)
        )
        place = next(free, None)
        places.append(place)
        if place is not None:
            taken.append((place[0], place[1], place[0] + width, place[1] + height))
    return places


def draw_video(frames: Iterable[np.ndarray], instances: "VideoInstances", **options) -> Iterator[np.ndarray]:
    """Draw the instances on a video, frame by frame, so that memory stays flat.

    Args:
        frames: uint8 `(H, W, 3)` RGB, from the video's first frame on, for example a `VideoReader`.
        instances: what was found in the video.
        **options: of `draw_instances`.

    Yields:
        One drawn frame for each given one. Frames after the last one of `instances` come back as they are, with one
        warning.
    """
    for index, frame in enumerate(frames):
        if index < instances.num_frames:
            yield draw_instances(frame, instances, index, **options)
            continue
        if index == instances.num_frames:
            logger.warning(
                f"The instances cover {instances.num_frames} frames, but the video goes on: the rest stays undrawn."
            )
        yield frame


def contact_sheet(frames: Iterable[np.ndarray], columns: int = 4, gap: int = 4) -> np.ndarray:
    """Put frames side by side, row after row, on white.

    Args:
        frames: at least one, uint8 `(H, W, 3)`, all of the same size.
        columns: frames in a row.
        gap: white pixels between frames.

    Returns:
        uint8 `(rows * H + (rows - 1) * gap, columns * W + (columns - 1) * gap, 3)`, with no more columns than frames.

    Raises:
        ValueError: if there is no frame, the sizes differ or `columns` is not positive.
    """
    frames = list(frames)
    if not frames or columns < 1:
        raise ValueError(f"{len(frames)} frames in {columns} columns were asked for: give at least one of both")
    sizes = sorted({frame.shape for frame in frames})
    if len(sizes) > 1:
        raise ValueError(f"frames have shapes {sizes}; expected one shape: resize them first")
    height, width, _ = sizes[0]
    columns = min(columns, len(frames))
    rows = -(-len(frames) // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, dtype=np.uint8)
    for index, frame in enumerate(frames):
        top, left = (height + gap) * (index // columns), (width + gap) * (index % columns)
        sheet[top : top + height, left : left + width] = frame
    return sheet

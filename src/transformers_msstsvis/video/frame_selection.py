"""Some frames of a video: a stretch, every n-th, a lower rate, a smaller size."""

from collections.abc import Iterator
from numbers import Integral, Real
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .reader import VideoReader


class SelectedFrames:
    """
    Frames of a video, read as they are needed; as [`VideoReader`] it can be iterated over again and again.

    Args:
        reader: the video.
        frames: `"100:400"`, a slice or `(100, 400)`: frames 100 to 399, counted from 0; either may be left out.
        stride: every how many of these.
        fps: frames per second that are left, by leaving out others; more than there are change nothing.
        max_side: longest side in pixels; larger frames are made smaller.

    Attributes:
        fps, num_frames, name, problems: as of [`VideoReader`], of what is left.

    Raises:
        ValueError: for values out of range, both `stride` and `fps`, or `fps` of a source without a rate. While
            iterating: if no frame is left.
    """

    def __init__(
        self,
        reader: "VideoReader",
        frames: str | slice | tuple[int | None, int | None] | None = None,
        stride: int | None = None,
        fps: float | None = None,
        max_side: int | None = None,
    ):
        self.start, self.stop = check_selection(frames, stride, fps, max_side)
        if fps is not None and reader.fps is None:
            raise ValueError(f"fps is {fps}, and {reader.name} has no frame rate; use a stride, as every 2nd frame")
        self.reader, self.max_side = reader, max_side
        self.step = stride or (max(1.0, reader.fps / fps) if fps else 1)
        self.fps = reader.fps and reader.fps / self.step

    @property
    def name(self) -> str:
        return self.reader.name

    @property
    def problems(self) -> list[str]:
        return self.reader.problems

    @property
    def num_frames(self) -> int | None:
        total = self.reader.num_frames
        if total is None:
            return None
        length = max(0, min(total, total if self.stop is None else self.stop) - self.start)
        return int(np.ceil(length / self.step))

    def __iter__(self) -> Iterator[np.ndarray]:
        chosen, total = 0, 0
        for index, frame in enumerate(self.reader):
            total = index + 1
            if self.stop is not None and index >= self.stop:
                break
            # The first frame at or after the time of the next.
            if index - self.start >= chosen * self.step:
                chosen += 1
                yield self._resized(frame)
        if chosen == 0:
            raise ValueError(f"{self.name} has {total} frames and none from {self.start} on; choose others")

    def _resized(self, frame: np.ndarray) -> np.ndarray:
        if self.max_side is None or max(frame.shape[:2]) <= self.max_side:
            return frame
        from PIL import Image

        factor = self.max_side / max(frame.shape[:2])
        height, width = (max(1, round(side * factor)) for side in frame.shape[:2])
        return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))


def check_selection(
    frames: str | slice | tuple[int | None, int | None] | None = None,
    stride: int | None = None,
    fps: float | None = None,
    max_side: int | None = None,
) -> tuple[int, int | None]:
    """
    The first frame that is wanted and the one after the last, from what [`SelectedFrames`] takes.

    Raises:
        ValueError: for values out of range.
    """
    for name, value in (("frame_stride", stride), ("max_side", max_side)):
        if value is not None and not (isinstance(value, Integral) and value >= 1 and not isinstance(value, bool)):
            raise ValueError(f"{name} is {value!r}; expected a whole number from 1 on")
    if fps is not None and not (isinstance(fps, Real) and 0 < fps < np.inf):
        raise ValueError(f"fps is {fps!r}; expected a positive number of frames per second")
    if fps is not None and stride is not None:
        raise ValueError(f"frame_stride is {stride} and fps {fps:g}; give one of them")
    if frames is None:
        return 0, None
    start, stop = _bounds(frames)
    if start < 0 or (stop is not None and stop <= start):
        raise ValueError(f"frames is {frames!r}; expected a first frame from 0 on and a later end, such as '100:400'")
    return start, stop


def _bounds(frames: str | slice | tuple[int | None, int | None]) -> tuple[int, int | None]:
    try:
        if isinstance(frames, str):
            first, colon, last = frames.partition(":")
            if not colon:
                raise ValueError
            bounds = (int(first) if first.strip() else 0, int(last) if last.strip() else None)
        elif isinstance(frames, slice):
            if frames.step not in (None, 1):
                raise ValueError
            bounds = (frames.start or 0, frames.stop)
        else:
            first, last = frames
            bounds = (first or 0, last)
        if not all(value is None or isinstance(value, Integral) for value in bounds):
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(f"frames is {frames!r}; expected the first and the end, such as '100:400'") from None
    return bounds

"""What all have in common that join the clips of a long video to tracks."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np

from ..results.track_masks import TrackMasks
from ..results.video_instances import VideoInstances


def lived(frames: Mapping[int, Any], start: int, stop: int) -> tuple[TrackMasks, list[Any]]:
    """
    A track in the frames from `start` to `stop`: its masks, and what is known of it from the first to the last of
    them, None for the frames in between in which nothing is.

    Args:
        frames: what is known, with a `mask`, by frame.
    """
    visible = [frame for frame, seen in frames.items() if start <= frame < stop and seen.mask is not None]
    first, last = min(visible), max(visible)
    known = [frames.get(frame) for frame in range(first, last + 1)]
    masks = [None if seen is None else seen.mask for seen in known]
    return TrackMasks(masks, first - start, stop - start), known


class Stitcher(ABC):
    """
    Takes the clips of a video one after the other, and hands out its tracks.

    Attributes:
        num_frames: of the video so far.
    """

    def __init__(self):
        self.num_frames = 0
        self._released = 0
        self._first_clip: Any = None

    @abstractmethod
    def add(self, clip: Any, start: int) -> np.ndarray | None:
        """Add the next clip, whose first frame is the video's frame `start`, from 0."""

    def release(self, stop: int) -> VideoInstances:
        """Hand out the frames before `stop` that were not handed out yet, and forget their masks.

        For streams: release what no later clip overlaps, and memory stays flat. Scores and labels are those known so
        far; only tracks that are there in these frames are listed.

        Raises:
            ValueError: if no clip was added, or `stop` lies outside the frames that are left.
        """
        if self._first_clip is None:
            raise ValueError("no clip was added, so the frame size is unknown: call add first")
        if not isinstance(stop, Integral) or not self._released <= stop <= self.num_frames:
            raise ValueError(
                f"stop is {stop!r}; expected {self._released} to {self.num_frames}: these frames are left"
            )
        result = self._collect(self._released, stop)
        result.first_frame = self._released
        self._forget(stop)
        self._released = stop
        return result

    def finish(self) -> VideoInstances:
        """The tracks of the whole video, in order of their ids; after `release`, of the frames that are left.

        Raises:
            ValueError: if no clip was added.
        """
        return self.release(self.num_frames)

    @property
    @abstractmethod
    def alive(self) -> set[int]:
        """Ids of the tracks that frames may have that are not released."""

    @abstractmethod
    def _collect(self, start: int, stop: int) -> VideoInstances:
        """The tracks in the frames from `start` to `stop`."""

    @abstractmethod
    def _forget(self, stop: int) -> None:
        """Drop what is kept of the frames before `stop`."""

"""The tracker of DeVIS for long videos: from the outputs of a model for each clip to tracks."""

from typing import Any

from ..results.candidates import check_count
from .clip_tracks import clip_tracks
from .multi_cue import MultiCueStitcher


class DevisTracker(MultiCueStitcher):
    """
    [`MultiCueStitcher`] that takes the outputs of a model, of whatever architecture.

    Args:
        num_frames, stride: how the video is cut, as of [`MultiCueStitcher`].
        num_out: pairs of a query and a class that are kept of every clip.
        *arguments, **options: further ones of [`MultiCueStitcher`]: `mask_cost`, `class_cost`, ...

    Raises:
        ValueError: for an argument out of range.

    Example:

    ```python
    >>> tracker = DevisTracker(num_frames=6, stride=4)
    >>> for frames, start_idx in tracker.plan(len(video)):
    ...     outputs = model(video[frames][None])
    ...     tracker.add(outputs, size=(720, 1280), start_idx=start_idx)
    >>> tracks = tracker.finish()
    ```
    """

    def __init__(self, num_frames: int = 6, stride: int = 4, num_out: int = 20, *arguments, **options):
        super().__init__(num_frames, stride, *arguments, **options)
        check_count("num_out", num_out)
        self.num_out = num_out

    def plan(self, length: int) -> list[tuple[list[int], int]]:
        """
        The clips of a video of `length` frames: the frames of each, and its `start_idx`, how many of them lie before
        those that it has to share. A video shorter than a clip is filled up forward and backward in turns.

        Raises:
            ValueError: for a `length` below 1.
        """
        check_count("length", length)
        T, last = self.clip_length, length - self.clip_length
        if last <= 0:
            turn = [*range(length), *range(length - 2, 0, -1)]  # forward and back, without the turning frames
            return [([turn[index % len(turn)] for index in range(T)], 0)]
        starts = [*range(0, last, self.stride), last]
        return [(list(range(start, start + T)), clip * self.stride - start) for clip, start in enumerate(starts)]

    def add(self, outputs: Any, size: tuple[int, int], start_idx: int = 0) -> None:
        """
        Add the next clip.

        Args:
            outputs: of the model for this clip alone, see [`clip_tracks`]; real frames only.
            size: height and width of the video in pixels.
            start_idx: as of [`~DevisTracker.plan`].

        Raises:
            TypeError, ValueError: as of [`clip_tracks`] and [`MultiCueStitcher.add`].
        """
        start = max(0, self.num_frames - self.overlap - start_idx)
        super().add(clip_tracks(outputs, size, self.num_out), start)

"""Long videos as clips that overlap, what a model finds in them, and their results as tracks of the video."""

import inspect
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ..results.video_instances import VideoInstances
from .clip_tracks import ClipTracks, clip_tracks
from .multi_cue import MultiCueStitcher
from .query_tracks import QueryClip, QueryTracks, query_clip
from .series import ClipSeries
from .stitching import TrackStitcher
from .track_selection import TrackSelection

TRACKERS = {"iou": TrackStitcher, "devis": MultiCueStitcher, "none": ClipSeries}
# Of models that carry their queries through the video; nothing to choose.
STITCHERS = {**TRACKERS, "query": QueryTracks}

# Kept from every clip of a long video, so that a track survives the clips in which its object is hard to see.
CLIP_THRESHOLD = 0.05


class Clip(NamedTuple):
    """
    Attributes:
        start: frame of the video, from 0, that is the clip's first.
        frames: of the clip.
    """

    start: int
    frames: list[np.ndarray]


class ClipWindow:
    """
    Cuts a video into clips that overlap, frame by frame, holding one clip at a time.

    Args:
        num_frames: of a clip.
        stride: frames from the start of a clip to that of the next, at most `num_frames`.
        full: let the last clip begin earlier, so that it has `num_frames` frames unless the video is shorter;
            otherwise it may be shorter than the others.
    """

    def __init__(self, num_frames: int, stride: int, full: bool = False):
        self.num_frames, self.stride, self.full = num_frames, stride, full
        self._frames: list[np.ndarray] = []
        self._start = self._next = self._stop = 0  # of the frames held; the next clip; after the last clip

    @property
    def latency(self) -> int:
        """Frames that may come after a frame before the last clip that it can be in is complete."""
        return self.num_frames - 1 + (self.stride - 1 if self.full else 0)

    def push(self, frame: np.ndarray) -> Clip | None:
        """The clip that the frame completes, if it does."""
        self._frames.append(frame)
        if self._start + len(self._frames) < self._next + self.num_frames:
            return None
        clip = Clip(self._next, self._frames[self._next - self._start :])
        self._next += self.stride
        self._stop = clip.start + self.num_frames
        # The last clip may begin right after this one.
        keep = min(self._next, clip.start + 1) if self.full else self._next
        self._frames, self._start = self._frames[keep - self._start :], keep
        return clip

    def flush(self) -> Clip | None:
        """At the end of the video: the clip with the frames that no clip has, if there are any."""
        total = self._start + len(self._frames)
        if total == self._stop:
            return None
        start = max(0, total - self.num_frames) if self.full else self._next
        return Clip(start, self._frames[start - self._start :])


def split_clips(
    frames: Iterable[np.ndarray], num_frames: int, stride: int, full: bool = False
) -> Iterator[tuple[int, list[np.ndarray], bool]]:
    """
    Cut a whole video, as [`ClipWindow`].

    Yields:
        Index of the clip's first frame, the frames, and whether it is the last clip.
    """
    window, clip = ClipWindow(num_frames, stride, full), None
    for frame in frames:
        if clip is not None:
            yield (*clip, False)
        clip = window.push(frame)
    clip = clip or window.flush()
    if clip is not None:
        yield (*clip, True)


def found_in_clips(
    outputs: Any,
    sizes: Sequence[tuple[int, int]],
    processor: Any,
    tracker: str,
    threshold: float,
    top_k: int,
    mask_threshold: float,
    boxes: str,
    labels: Collection[int] | None = None,
) -> list[VideoInstances | ClipTracks | QueryClip]:
    """
    What a model found in clips, as the tracker takes it.

    Args:
        outputs: of the model, one row for each clip.
        sizes: `(H, W)` in pixels of the videos.
        processor: of the model.
        tracker: that joins the clips.
        threshold, top_k, mask_threshold, boxes: as of the pipeline.
        labels: of the instances that are wanted, from those of all classes.
    """
    if tracker == "devis":
        return [
            clip_tracks(processor.unpadded(outputs, row), size, top_k, mask_threshold, boxes)
            for row, size in enumerate(sizes)
        ]
    if tracker == "query":
        return [
            query_clip(outputs, row, size, processor, threshold, top_k, mask_threshold, boxes)
            for row, size in enumerate(sizes)
        ]
    found = processor.post_process_video_instance_segmentation(
        outputs, sizes, threshold=threshold, top_k=top_k, mask_threshold=mask_threshold, boxes=boxes
    )
    if labels is not None:
        found = [instances[np.isin(instances.labels, list(labels))] for instances in found]
    return found


def check_numbers(logits: torch.Tensor, name: str, dtype: torch.dtype) -> None:
    """
    Raises:
        ValueError: if not one of the logits of a clip is a number.
    """
    if not logits.isfinite().any():
        raise ValueError(
            f"{name}: not one score of the model is a number; its weights are damaged, or too large for {dtype}: load "
            "the checkpoint anew, or in float32"
        )


class ClipJoiner:
    """
    Joins the clips of one video, as they come, to its tracks.

    Args:
        tracker: `"iou"`, by the IoU of their masks, `"devis"`, by several cues, or `"none"`, not at all: every clip
            has tracks of its own; `"query"`, by the query that shows them.
        num_frames, stride, full: how the video is cut, as of [`ClipWindow`].
        **options: of [`TrackStitcher`] or [`MultiCueStitcher`].

    Raises:
        ValueError: for a tracker or an option that there is not, or that is out of range.
    """

    def __init__(self, tracker: str, num_frames: int, stride: int, full: bool = False, **options):
        stitcher = STITCHERS[check_tracker(tracker, STITCHERS)]
        plan = {"num_frames": num_frames, "stride": stride}
        known = inspect.signature(stitcher).parameters
        unknown = [name for name in options if name not in known or name in plan]
        if unknown:
            raise ValueError(
                f"tracker {tracker!r} has no option {', '.join(unknown)}; expected some of "
                f"{', '.join(name for name in known if name not in plan) or 'none'}"
            )
        self._stitcher = stitcher(**{name: value for name, value in plan.items() if name in known}, **options)
        self._step = 1 if full else stride
        self._only: VideoInstances | None = None
        self._num_clips = self._last_start = 0

    def add(self, clip: VideoInstances | ClipTracks | QueryClip, start: int) -> None:
        """Add the next clip, of what the tracker takes, whose first frame is `start`."""
        self._num_clips += 1
        self._last_start = start
        self._only = clip if self._num_clips == 1 and isinstance(clip, VideoInstances) else None
        self._stitcher.add(clip, start)

    def release(self, selection: TrackSelection, finished: bool = False) -> VideoInstances:
        """
        The tracks in the frames that no later clip has, or in all that are left of a `finished` video, from those that
        were released before on, as the selection chooses them. Their masks are forgotten.
        """
        stop = self._stitcher.num_frames
        if not finished:
            stop = min(stop, self._last_start + self._step)
        return selection(self._stitcher.release(stop), self._stitcher.alive)

    def finish(
        self, threshold: float = 0.0, duplicate_iou: float = 1.0, labels: Collection[int] | None = None
    ) -> VideoInstances:
        """
        The tracks of the whole video that score at least `threshold`, are visible somewhere, of these `labels`, and
        not [duplicates][TrackSelection], best first; track ids are 1, 2, ... in order of appearance, or of the score
        if there is only one clip.
        """
        tracks = self._stitcher.finish() if self._only is None else self._only
        return TrackSelection(threshold, duplicate_iou, labels)(tracks)


def check_tracker(tracker: str, known: Collection[str] = TRACKERS) -> str:
    """
    Raises:
        ValueError: if there is no such tracker.
    """
    if tracker not in known:
        *others, last = map(repr, TRACKERS)
        raise ValueError(f"tracker is {tracker!r}; expected {', '.join(others)} or {last}")
    return tracker

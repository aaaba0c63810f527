"""Long videos as clips that overlap, and the results of clips as tracks of the video."""

import inspect
from collections.abc import Collection, Iterable, Iterator

import numpy as np

from ..results.video_instances import VideoInstances
from .clip_tracks import ClipTracks
from .multi_cue import MultiCueStitcher
from .stitching import TrackStitcher
from .suppression import suppress_duplicates

TRACKERS = {"iou": TrackStitcher, "devis": MultiCueStitcher}


def split_clips(
    frames: Iterable[np.ndarray], num_frames: int, stride: int, full: bool = False
) -> Iterator[tuple[int, list[np.ndarray], bool]]:
    """
    Cut a video into clips that overlap, holding one clip at a time.

    Args:
        frames: of the video.
        num_frames: of a clip.
        stride: frames from the start of a clip to that of the next, at most `num_frames`.
        full: let the last clip begin earlier, so that it has `num_frames` frames unless the video is shorter;
            otherwise it may be shorter than the others.

    Yields:
        Index of the clip's first frame, the frames, and whether it is the last clip.
    """
    start, clip, before = 0, [], []
    for frame in frames:
        if len(clip) == num_frames:
            yield start, clip, False
            start += stride
            before, clip = clip[:stride], clip[stride:]
        clip.append(frame)
    if full and before:
        missing = num_frames - len(clip)
        start, clip = start - missing, [*before[len(before) - missing :], *clip]
    yield start, clip, True


class ClipJoiner:
    """
    Joins the clips of one video, as they come, to its tracks.

    Args:
        tracker: `"iou"`, by the IoU of their masks, or `"devis"`, by several cues.
        num_frames, stride: how the video is cut, as of [`split_clips`].
        **options: of [`TrackStitcher`] or [`MultiCueStitcher`].

    Raises:
        ValueError: for a tracker or an option that there is not, or that is out of range.
    """

    def __init__(self, tracker: str, num_frames: int, stride: int, **options):
        stitcher = TRACKERS[check_tracker(tracker)]
        plan = {"num_frames": num_frames, "stride": stride}
        known = inspect.signature(stitcher).parameters
        unknown = [name for name in options if name not in known or name in plan]
        if unknown:
            raise ValueError(
                f"tracker {tracker!r} has no option {', '.join(unknown)}; expected some of "
                f"{', '.join(name for name in known if name not in plan)}"
            )
        self._stitcher = stitcher(**{name: value for name, value in plan.items() if name in known}, **options)
        self._only: VideoInstances | None = None
        self._num_clips = 0

    def add(self, clip: VideoInstances | ClipTracks, start: int) -> None:
        """Add the next clip, of what the tracker takes, whose first frame is `start`."""
        self._num_clips += 1
        self._only = clip if self._num_clips == 1 and isinstance(clip, VideoInstances) else None
        self._stitcher.add(clip, start)

    def finish(
        self, threshold: float = 0.0, duplicate_iou: float = 1.0, labels: Collection[int] | None = None
    ) -> VideoInstances:
        """
        The tracks that score at least `threshold`, are visible somewhere, of these `labels`, and not [duplicates]
        [suppress_duplicates], best first; track ids are 1, 2, ... in order of appearance, or of the score if there is
        only one clip.
        """
        tracks = self._stitcher.finish() if self._only is None else self._only
        tracks = tracks[[any(mask is not None for mask in masks) for masks in tracks.masks]].filter(threshold)
        if labels is not None:
            tracks = tracks[np.isin(tracks.labels, list(labels))]
        tracks = suppress_duplicates(tracks, duplicate_iou)
        tracks.track_ids = np.arange(1, len(tracks) + 1)
        return tracks[np.argsort(-tracks.scores, kind="stable")]


def check_tracker(tracker: str) -> str:
    """
    Raises:
        ValueError: if there is no such tracker.
    """
    if tracker not in TRACKERS:
        raise ValueError(f"tracker is {tracker!r}; expected {' or '.join(map(repr, TRACKERS))}")
    return tracker

"""Long videos as clips that overlap, and the results of clips as tracks of the video."""

from collections.abc import Iterable, Iterator

import numpy as np

from ..results.video_instances import VideoInstances
from .stitching import TrackStitcher
from .suppression import suppress_duplicates


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


def join_clips(
    clips: list[tuple[int, VideoInstances]], threshold: float = 0.0, duplicate_iou: float = 1.0
) -> VideoInstances:
    """
    Join the results of overlapping clips, given with their first frames, to the tracks of the video.

    Returns:
        The tracks that score at least `threshold` and are not [duplicates][suppress_duplicates], best first; track ids
        are 1, 2, ... in order of appearance, or of the score if there is only one clip.
    """
    if len(clips) == 1:
        tracks = clips[0][1]
    else:
        stitcher = TrackStitcher()
        for start, instances in clips:
            stitcher.add(instances, start)
        tracks = stitcher.finish()
    tracks = suppress_duplicates(tracks.filter(threshold), duplicate_iou)
    tracks.track_ids = np.arange(1, len(tracks) + 1)
    return tracks[np.argsort(-tracks.scores, kind="stable")]

"""The clips of a long video one after the other, with tracks of their own: for those who join them otherwise."""

import numpy as np

from ..results.video_instances import VideoInstances
from .stitcher import Stitcher


class ClipSeries(Stitcher):
    """Gives the instances of every clip new ids. Frames that clips share are those of the earlier clip."""

    def __init__(self):
        super().__init__()
        self._clips: list[VideoInstances] = []
        self._num_tracks = 0

    def add(self, clip: VideoInstances, start: int) -> np.ndarray:
        """
        Add the next clip.

        Args:
            clip: its instances; their own track ids are not used.
            start: the frame of the video, from 0, that is the clip's first.

        Returns:
            The track id of every instance, int64 `(n,)`.

        Raises:
            ValueError: if the clip does not begin where the video so far ends, or before.
        """
        if not start <= self.num_frames < start + clip.num_frames:
            raise ValueError(
                f"clip has the frames {start} to {start + clip.num_frames - 1} after {self.num_frames} frames; "
                "expected it to go on there: add clips in order of their start"
            )
        if self._first_clip is None:
            self._first_clip = clip[:0]
        track_ids = np.arange(self._num_tracks + 1, self._num_tracks + 1 + len(clip))
        self._num_tracks += len(clip)
        clip = clip[:]
        clip.track_ids, clip.first_frame = track_ids, start
        self._clips.append(clip.frames(self.num_frames - start, clip.num_frames))
        self.num_frames = start + clip.num_frames
        return track_ids

    @property
    def alive(self) -> set[int]:
        return {track for clip in self._clips for track in clip.track_ids.tolist()}

    def _collect(self, start: int, stop: int) -> VideoInstances:
        there = [clip for clip in self._clips if clip.first_frame < stop]
        if not there:
            return self._first_clip.frames(0, 0)
        return VideoInstances.join([clip.frames(0, min(clip.num_frames, stop - clip.first_frame)) for clip in there])

    def _forget(self, stop: int) -> None:
        left = [clip for clip in self._clips if clip.first_frame + clip.num_frames > stop]
        self._clips = [clip.frames(max(0, stop - clip.first_frame), clip.num_frames) for clip in left]

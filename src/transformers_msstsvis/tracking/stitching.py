"""Joins the results of consecutive clips of one long video into tracks over the whole video.

Letters: `m` tracks, `n` instances of a clip, `T` frames of a clip.
"""

from dataclasses import dataclass, field
from numbers import Integral, Real

import numpy as np
from pycocotools import mask as coco_mask
from scipy.optimize import linear_sum_assignment

from ..results.rle import RLE
from ..results.video_instances import VideoInstances
from .stitcher import Stitcher, lived

NOWHERE = np.full(4, np.nan, dtype=np.float32)


@dataclass(slots=True)
class _Observation:
    """What one clip says about one track in one frame; `mask` is None where the clip does not see it."""

    score: float
    mask: RLE | None
    box: np.ndarray | None = None
    frame_score: float = 0.0


@dataclass
class _Track:
    track_id: int
    frames: dict[int, _Observation] = field(default_factory=dict)  # ascending, by frame of the video
    last_frame: int = -1
    last_mask: RLE | None = None
    class_scores: dict[int, float] = field(default_factory=dict)
    weight: int = 0

    @property
    def label(self) -> int:
        return max(self.class_scores, key=self.class_scores.get)

    @property
    def score(self) -> float:
        return sum(self.class_scores.values()) / self.weight

    def extend(self, clip: VideoInstances, index: int, start: int) -> None:
        score, label, masks = float(clip.scores[index]), int(clip.labels[index]), clip.masks[index]
        visible = sum(mask is not None for mask in masks)
        self.class_scores[label] = self.class_scores.get(label, 0.0) + score * visible
        self.weight += visible
        boxes, of_frames = clip.boxes_of(index), clip.frame_scores_of(index)
        for frame, mask in enumerate(masks):
            if start + frame in self.frames and score <= self.frames[start + frame].score:
                continue
            seen = _Observation(score, mask)
            if mask is not None:
                seen.box = boxes[frame - masks.start]
                seen.frame_score = score if of_frames is None else of_frames[frame - masks.start]
            self.frames[start + frame] = seen
        for frame in reversed(self.frames):
            if self.frames[frame].mask is not None:
                self.last_frame, self.last_mask = frame, self.frames[frame].mask
                break


class TrackStitcher(Stitcher):
    """Gives the instances of consecutive clips, which may overlap, ids that hold over the whole video.

    Every new clip is matched to the tracks so far, one to one, by the largest total mask IoU (Hungarian assignment).
    The IoU of a track and an instance is the summed intersection over the summed union of the frames that both the
    clip and the video so far cover. Where one of the two is not visible in any such frame (it had left, or the clips
    share no frame), the last visible mask of the track is compared with the first one of the instance. A pair below
    `iou_threshold` is not matched: the instance starts a new track.

    In a shared frame the clip with the higher score decides, the earlier one at equal scores. A track's score is the
    mean of its clips' scores weighted by the frames in which they see it, its label the class with the largest such
    sum of scores. Track ids are 1, 2, ... in order of appearance. Instances without any visible frame are left out.

    Args:
        iou_threshold: smallest IoU, 0..1, at which an instance continues a track.
        match_labels: only an instance of the track's class continues it.
        max_absence: a track unseen for more than this many frames is not continued; the effort per clip then depends
            on what is visible and not on the length of the video. None keeps every track open.
    """

    def __init__(self, iou_threshold: float = 0.3, match_labels: bool = True, max_absence: int | None = 60):
        if not isinstance(iou_threshold, Real) or not 0 < iou_threshold <= 1:
            raise ValueError(f"iou_threshold is {iou_threshold!r}; expected a value above 0 and at most 1")
        if max_absence is not None and not (isinstance(max_absence, Integral) and max_absence >= 0):
            raise ValueError(f"max_absence is {max_absence!r}; expected a whole number of frames, or None")
        self.iou_threshold = iou_threshold
        self.match_labels = match_labels
        self.max_absence = max_absence
        super().__init__()
        self._open: list[_Track] = []
        self._closed: list[_Track] = []
        self._next_id = 1
        self._last_start = 0

    def add(self, clip: VideoInstances, start: int) -> np.ndarray:
        """Add the next clip.

        Args:
            clip: its instances; their own track ids are not used.
            start: the frame of the video, from 0, that is the clip's first. May not decrease from clip to clip.

        Returns:
            The track id of every instance, int64 `(n,)`; -1 for those that are visible nowhere.

        Raises:
            TypeError: if the clip is no [`VideoInstances`].
            ValueError: if the clip starts before the previous one or before a released frame, or its frames have
                another size.
        """
        # Not by its class: of a checkpoint that brings its code, processor and pipeline have a copy of it each.
        if not hasattr(clip, "track_ids"):
            raise TypeError(f"clip is of type {type(clip).__name__}; expected VideoInstances")
        if not isinstance(start, Integral):
            raise ValueError(f"start is {start!r}; expected the number of a frame of the video, from 0")
        if start < max(self._last_start, self._released):
            raise ValueError(
                f"clip starts at frame {start}, the previous one at {self._last_start}, and frames before "
                f"{self._released} are released: add clips in order of their start"
            )
        if self._first_clip is None:
            self._first_clip = clip[:0]
        if clip.size != self._first_clip.size:
            raise ValueError(
                f"clip has frames of size {clip.size}; expected {self._first_clip.size} (height, width), that of the "
                "first clip: resize the masks to one size"
            )
        self._last_start = start
        self._close_lost(start)

        track_ids = np.full(len(clip), -1, dtype=np.int64)
        first_visible = [
            next((frame for frame, mask in enumerate(masks) if mask is not None), None) for masks in clip.masks
        ]
        visible = [index for index in range(len(clip)) if first_visible[index] is not None]
        # New tracks are numbered in order of appearance.
        visible.sort(key=lambda index: first_visible[index])
        matches = self._match(clip[visible], [first_visible[index] for index in visible], start)
        for index, track in zip(visible, matches, strict=True):
            if track is None:
                track = _Track(self._next_id)
                self._next_id += 1
                self._open.append(track)
            track.extend(clip, index, start)
            track_ids[index] = track.track_id
        self.num_frames = max(self.num_frames, start + clip.num_frames)
        return track_ids

    @property
    def alive(self) -> set[int]:
        return {track.track_id for track in (*self._open, *self._closed)}

    def _forget(self, stop: int) -> None:
        for track in (*self._open, *self._closed):
            track.frames = {frame: seen for frame, seen in track.frames.items() if frame >= stop}
        self._closed = [track for track in self._closed if track.frames]

    def _close_lost(self, start: int) -> None:
        if self.max_absence is None:
            return
        lost = [track for track in self._open if start - track.last_frame > self.max_absence]
        self._open = [track for track in self._open if start - track.last_frame <= self.max_absence]
        # A track whose frames are all released leaves nothing to report.
        self._closed += [track for track in lost if track.frames]

    def _match(self, clip: VideoInstances, first_visible: list[int], start: int) -> list[_Track | None]:
        """The track that each instance continues, or None."""
        matches: list[_Track | None] = [None] * len(clip)
        if not self._open or not len(clip):
            return matches
        iou = self._iou(clip, first_visible, start)
        allowed = iou >= self.iou_threshold
        if self.match_labels:
            allowed &= np.array([track.label for track in self._open])[:, None] == clip.labels[None, :]
        for row, column in zip(*linear_sum_assignment(np.where(allowed, iou, 0.0), maximize=True), strict=True):
            if allowed[row, column]:
                matches[column] = self._open[row]
        return matches

    def _iou(self, clip: VideoInstances, first_visible: list[int], start: int) -> np.ndarray:
        """`(m, n)` IoU of open tracks and instances."""
        intersection = np.zeros((len(self._open), len(clip)))
        track_area, clip_area = np.zeros((len(self._open), 1)), np.zeros((1, len(clip)))
        for frame in range(start, min(self.num_frames, start + clip.num_frames)):
            seen = [track.frames[frame].mask if frame in track.frames else None for track in self._open]
            overlap, areas, other_areas = mask_overlap(seen, [masks[frame - start] for masks in clip.masks])
            intersection += overlap
            track_area += areas
            clip_area += other_areas
        union = track_area + clip_area - intersection

        overlap, areas, other_areas = mask_overlap(
            [track.last_mask for track in self._open],
            [masks[first] for masks, first in zip(clip.masks, first_visible, strict=True)],
        )
        nearest = overlap / (areas + other_areas - overlap)
        return np.where((track_area > 0) & (clip_area > 0), intersection / np.maximum(union, 1), nearest)

    def _collect(self, start: int, stop: int) -> VideoInstances:
        tracks = [
            track
            for track in sorted((*self._open, *self._closed), key=lambda track: track.track_id)
            if any(start <= frame < stop and seen.mask is not None for frame, seen in track.frames.items())
        ]
        absent = _Observation(0.0, None)
        rows = [lived(track.frames, start, stop) for track in tracks]
        known = [[seen or absent for seen in row] for _, row in rows]
        of_frames = None
        if self._first_clip.scores_frames:
            of_frames = [np.array([seen.frame_score for seen in row]) for row in known]
        return VideoInstances(
            scores=[track.score for track in tracks],
            labels=[track.label for track in tracks],
            track_ids=[track.track_id for track in tracks],
            masks=[masks for masks, _ in rows],
            boxes=[np.array([NOWHERE if seen.box is None else seen.box for seen in row]) for row in known],
            size=self._first_clip.size,
            num_frames=stop - start,
            fps=self._first_clip.fps,
            id2label=self._first_clip.id2label,
            frame_scores=of_frames,
        )


def mask_overlap(tracks: list[RLE | None], instances: list[RLE | None]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Intersections `(m, n)` and areas `(m, 1)`, `(1, n)` in pixels; a missing mask has no area."""
    areas = np.array([0.0 if mask is None else float(coco_mask.area(mask)) for mask in tracks])[:, None]
    other_areas = np.array([0.0 if mask is None else float(coco_mask.area(mask)) for mask in instances])[None]
    intersection = np.zeros((len(tracks), len(instances)))
    rows = [row for row, mask in enumerate(tracks) if mask is not None]
    columns = [column for column, mask in enumerate(instances) if mask is not None]
    if rows and columns:
        instances = [instances[column] for column in columns]
        iou = coco_mask.iou([tracks[row] for row in rows], instances, [0] * len(instances))
        total = areas[rows] + other_areas[:, columns]
        # IoU = i / (total - i), solved for the intersection i, which is a whole number.
        intersection[np.ix_(rows, columns)] = np.round(iou * total / (1 + iou))
    return intersection, areas, other_areas

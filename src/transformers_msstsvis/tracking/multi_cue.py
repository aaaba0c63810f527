"""Joins the clips of one long video by several cues: masks, classes, scores and places (DeVIS, section 3.4).

Letters: `m` tracks, `n` pairs of a clip, `T` frames of a clip, `w` frames that a clip shares with the video so far.
"""

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from numbers import Real
from statistics import fmean, median

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F

from ..results.candidates import check_count
from ..results.rle import RLE
from ..results.video_instances import VideoInstances
from .clip_tracks import ClipTracks
from .stitcher import Stitcher, lived

FINAL_CLASSES = ("most_common", "score_weighting")
FINAL_SCORES = {"mean": fmean, "median": median}


@dataclass(slots=True)
class _Frame:
    """What is known of a track in one frame."""

    score: float
    label: int
    centre: np.ndarray | None
    mask: RLE | None
    box: np.ndarray | None
    logits: torch.Tensor | None

    def forget_cues(self) -> None:
        """No later clip shares the frame."""
        self.centre = self.logits = None


@dataclass(eq=False)
class _Track:
    track_id: int
    frames: dict[int, _Frame] = field(default_factory=dict)  # by frame of the video, without those released
    past_scores: array = field(default_factory=lambda: array("d"))  # of the released frames in which it is there
    past_votes: Counter = field(default_factory=Counter)  # for its label, of these


class MultiCueStitcher(Stitcher):
    """
    Joins the pairs of a query and a class that consecutive clips show to tracks of the video, as DeVIS does.

    Every new clip is matched to the tracks so far, one to one, at the lowest cost (Hungarian assignment) over the
    frames that all clips share with the next: `- mask_cost * IoU - class_cost * same + score_cost * ds + center_cost *
    dc`. IoU is that of the soft masks in the size of the video, summed over all these frames; `same` is the share of
    the frames in which both have one class, `ds` the mean difference of their scores, `dc` that of the coordinates of
    their boxes' centres, and the weights are the published ones. All that can be matched are, however far apart; what
    is left over ends, or starts a track. In a shared frame the higher score decides, the earlier clip at equal scores.

    At the end a track is absent from frames in which it scores below `min_frame_score`.

    Only the masks of the frames that the next clip shares are kept soft, in the size of the model's; all others are
    compressed, until they are released.

    Args:
        num_frames: of a clip.
        stride: frames from the start of a clip to that of the next, less than `num_frames`.
        mask_cost, class_cost, score_cost, center_cost: weights of the cues; the last is 1 for OVIS.
        per_class_matching: match within a class only.
        binary_mask_iou: IoU of the masks themselves instead of the soft ones.
        frame_average_iou: mean of the IoUs of the frames instead of that of all frames together.
        final_class: `"most_common"` over the frames, or `"score_weighting"`, that with the largest sum of scores.
        final_score: `"mean"` or `"median"` over the frames.
        min_frame_score: below it a track is absent from a frame.
        min_track_score: tracks score more.
        min_detections: frames in which a track has to be there.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        num_frames: int = 6,
        stride: int = 4,
        mask_cost: float = 1,
        class_cost: float = 1,
        score_cost: float = 1,
        center_cost: float = 0,
        per_class_matching: bool = False,
        binary_mask_iou: bool = False,
        frame_average_iou: bool = False,
        final_class: str = "most_common",
        final_score: str = "mean",
        min_frame_score: float = 0.001,
        min_track_score: float = 0.002,
        min_detections: int = 1,
    ):
        for name, count in (("num_frames", num_frames), ("stride", stride), ("min_detections", min_detections)):
            check_count(name, count)
        if stride >= num_frames:
            raise ValueError(
                f"stride is {stride} with clips of {num_frames} frames; expected a smaller one, or longer clips: they "
                "are joined by the frames that they share"
            )
        costs = {
            "mask_cost": mask_cost,
            "class_cost": class_cost,
            "score_cost": score_cost,
            "center_cost": center_cost,
        }
        for name, value in {**costs, "min_frame_score": min_frame_score, "min_track_score": min_track_score}.items():
            if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= value < np.inf:
                raise ValueError(f"{name} is {value!r}; expected a number from 0 on")
        for name, value, choices in (
            ("final_class", final_class, FINAL_CLASSES),
            ("final_score", final_score, tuple(FINAL_SCORES)),
        ):
            if value not in choices:
                raise ValueError(f"{name} is {value!r}; expected {' or '.join(map(repr, choices))}")
        self.clip_length, self.stride = num_frames, stride
        self.mask_cost, self.class_cost, self.score_cost, self.center_cost = costs.values()
        self.per_class_matching = per_class_matching
        self.binary_mask_iou, self.frame_average_iou = binary_mask_iou, frame_average_iou
        self.final_class, self.final_score = final_class, final_score
        self.min_frame_score, self.min_track_score = min_frame_score, min_track_score
        self.min_detections = min_detections
        super().__init__()
        self.costs: list[np.ndarray] = []
        self._num_tracks = 0
        self._tracks: list[_Track] = []
        self._open: list[_Track] = []

    @property
    def overlap(self) -> int:
        """Frames that every clip shares with the one before; the last one, begun earlier, may share more."""
        return self.clip_length - self.stride

    def add(self, clip: ClipTracks, start: int) -> None:
        """
        Add the next clip.

        Args:
            clip: what it shows.
            start: the frame of the video, from 0, that is the clip's first.

        Raises:
            TypeError: if the clip is no [`ClipTracks`].
            ValueError: if its frames have another size, or it does not share the last frames so far and go on.
        """
        if not isinstance(clip, ClipTracks):
            raise TypeError(f"clip is of type {type(clip).__name__}; expected ClipTracks")
        shared = self.num_frames - start
        if self._first_clip is None:
            if start != 0:
                raise ValueError(f"the first clip starts at frame {start}; expected 0")
            self._first_clip = replace(clip, masks=[], logits=None)
        elif not self.overlap <= shared < clip.num_frames or start < self._released:
            raise ValueError(
                f"clip has the frames {start} to {start + clip.num_frames - 1} after {self.num_frames} frames, of "
                f"which {self._released} are released; expected it to share the last {self.overlap} and go on: add "
                "clips in order of their start"
            )
        elif clip.size != self._first_clip.size:
            raise ValueError(
                f"clip has frames of size {clip.size}; expected {self._first_clip.size} (height, width), that of the "
                "first clip"
            )
        self._extend(clip, start, self._match(clip, shared - self.overlap))
        self.num_frames = start + clip.num_frames
        for track in self._tracks:
            for frame in range(start, self.num_frames - self.overlap):
                if frame in track.frames:
                    track.frames[frame].forget_cues()

    @property
    def alive(self) -> set[int]:
        return {track.track_id for track in self._tracks}

    def _forget(self, stop: int) -> None:
        for track in self._tracks:
            past = [track.frames.pop(index) for index in range(self._released, stop) if index in track.frames]
            past = [frame for frame in past if frame.score >= self.min_frame_score]
            track.past_scores.extend(frame.score for frame in past)
            self._vote(track.past_votes, past)
        self._tracks = [track for track in self._tracks if track.frames]

    def _match(self, clip: ClipTracks, first: int) -> dict[int, _Track]:
        """The track that each pair of the clip continues; the shared frames begin at the clip's frame `first`."""
        groups = [(range(len(self._open)), range(len(clip)))]
        if self.per_class_matching:
            labels = np.array([track.frames[self.num_frames - 1].label for track in self._open])
            common = sorted({*labels.tolist()} & {*clip.labels.tolist()})
            groups = [[np.flatnonzero(side == label) for side in (labels, clip.labels)] for label in common]
        matches = {}
        if self._open and len(clip):
            cost = self._cost(clip, first)
            for tracks, pairs in groups:
                self.costs.append(cost[np.ix_(tracks, pairs)])
                for row, column in zip(*linear_sum_assignment(self.costs[-1]), strict=True):
                    matches[int(pairs[column])] = self._open[tracks[row]]
        return matches

    def _cost(self, clip: ClipTracks, first: int) -> np.ndarray:
        """`(m, n)` of open tracks and pairs."""
        stop = first + self.overlap
        shared = range(self.num_frames - self.overlap, self.num_frames)
        seen = [[track.frames[frame] for frame in shared] for track in self._open]
        scores = np.array([[frame.score for frame in frames] for frames in seen])  # (m, w)
        labels = np.array([[frame.label for frame in frames] for frames in seen])  # (m, w)
        centres = np.array([[frame.centre for frame in frames] for frames in seen])  # (m, w, 2)
        same = (labels[:, None] == clip.labels[:, None]).mean(-1)
        score_difference = np.abs(scores[:, None] - clip.scores[:, first:stop]).mean(-1)
        center_difference = np.abs(centres[:, None] - clip.centres[:, first:stop]).mean((-2, -1))
        return (
            -self.mask_cost * self._iou(seen, clip, first)
            - self.class_cost * same
            + self.score_cost * score_difference
            + self.center_cost * center_difference
        )

    def _iou(self, seen: list[list[_Frame]], clip: ClipTracks, first: int) -> np.ndarray:
        """`(m, n)` IoU of soft masks over the shared frames."""
        intersection, union = [], []
        for frame in range(self.overlap):
            masks, rows = self._soft_masks([frames[frame].logits for frames in seen])
            others, _ = self._soft_masks(list(clip.logits[:, first + frame]))
            common = masks @ others.T
            total = masks.sum(1)[:, None] + others.sum(1) - common
            intersection.append(common.double().numpy()[np.ix_(rows, clip.rows)])
            union.append(total.double().numpy()[np.ix_(rows, clip.rows)])
        if self.frame_average_iou:
            return np.mean([i / np.maximum(u, 1e-6) for i, u in zip(intersection, union, strict=True)], axis=0)
        return sum(intersection) / np.maximum(sum(union), 1e-6)

    def _soft_masks(self, logits: list[torch.Tensor]) -> tuple[torch.Tensor, list[int]]:
        """Different ones of these masks in the size of the video, `(p, H W)`, and which of them each is."""
        places = {values.data_ptr(): index for index, values in reversed(list(enumerate(logits)))}
        distinct = sorted(places.values())
        maps = torch.stack([logits[index] for index in distinct])[:, None]
        soft = F.interpolate(maps, size=self._first_clip.size, mode="bilinear", align_corners=False).sigmoid()
        if self.binary_mask_iou:
            soft = (soft > 0.5).float()
        return soft.flatten(1), [distinct.index(places[values.data_ptr()]) for values in logits]

    def _extend(self, clip: ClipTracks, start: int, matches: dict[int, _Track]) -> None:
        """Tracks with what the clip shows of them, and those that it starts; all others have ended."""
        kept = clip.num_frames - self.overlap
        logits = clip.logits[:, kept:].clone() if kept > 0 else clip.logits  # without those of the other frames
        continued, started = {*matches.values()}, []
        for track in self._open:
            for frame in () if track in continued else track.frames.values():
                frame.forget_cues()
        for pair in range(len(clip)):
            if (track := matches.get(pair)) is None:
                self._num_tracks += 1
                track = _Track(self._num_tracks)
                self._tracks.append(track)
                started.append(track)
            for index in range(clip.num_frames):
                score, stored = float(clip.scores[pair, index]), track.frames.get(start + index)
                if stored is None or score > stored.score:
                    track.frames[start + index] = _Frame(
                        score,
                        int(clip.labels[pair]),
                        clip.centres[pair, index],
                        clip.masks[pair][index],
                        None if clip.boxes is None else clip.boxes[pair, index],
                        logits[clip.rows[pair], index - max(kept, 0)] if index >= kept else None,
                    )
        self._open = [track for track in self._open if track in continued] + started

    def _collect(self, start: int, stop: int) -> VideoInstances:
        found = []
        for track in self._tracks:
            valid = {index: frame for index, frame in track.frames.items() if frame.score >= self.min_frame_score}
            scores = [*track.past_scores, *(frame.score for frame in valid.values())]
            if (
                not any(start <= index < stop and frame.mask is not None for index, frame in valid.items())
                or len(scores) < self.min_detections
            ):
                continue
            score = FINAL_SCORES[self.final_score](scores)
            if score > self.min_track_score:
                votes = self._vote(track.past_votes.copy(), valid.values())
                found.append((track.track_id, score, self._winner(votes), valid))
        absent = _Frame(0.0, 0, None, None, np.full(4, np.nan, dtype=np.float32), None)
        rows = [lived(valid, start, stop) for *_, valid in found]
        known = [[frame or absent for frame in row] for _, row in rows]
        first = self._first_clip
        return VideoInstances(
            scores=[score for _, score, *_ in found],
            labels=[label for *_, label, _ in found],
            track_ids=[track_id for track_id, *_ in found],
            masks=[masks for masks, _ in rows],
            boxes=None if first.boxes is None else [np.array([frame.box for frame in row]) for row in known],
            size=first.size,
            num_frames=stop - start,
            fps=first.fps,
            id2label=first.id2label,
            frame_scores=[np.array([f.score for f in row]) for row in known] if first.scores_frames else None,
        )

    def _vote(self, votes: Counter, frames: Iterable[_Frame]) -> Counter:
        for frame in frames:
            votes[frame.label] += 1 if self.final_class == "most_common" else frame.score
        return votes

    def _winner(self, votes: Counter) -> int:
        if self.final_class == "most_common":
            return min(votes, key=lambda label: (-votes[label], label))
        return max(votes, key=votes.get)  # the first of several

"""`VideoInstances`, the one result type: what was found in one video, and its exporters.

Letters: `n` instances, `T` frames, `H`, `W` frame height and width in pixels.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from itertools import repeat
from numbers import Real
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from .exporters import export, to_coco_video, to_mots, to_supervision, to_ytvis
from .json_files import load_json, save_json, save_ytvis_json
from .rle import RLE, decode_mask, excerpt, normalised_rle, pixels_of
from .track_masks import Sighting, TrackMasks
from .values import plain_number


class VideoInstances:
    """The instances found in one video, or in a stretch of one.

    An instance is absent from a frame exactly where its mask is None; its box is NaN there. Masks stay compressed,
    and of each instance only the frames from its first mask to its last are held, so memory grows with the objects
    and not with pixels x frames.

    Args:
        scores: `(n,)`, kept as float32, any finite value (usually a probability).
        labels: `(n,)`, kept as int64, class indices of the model (keys of `id2label`).
        track_ids: `(n,)`, kept as int64, identity over the frames, unique within a video.
        masks: `n` lists of `T` COCO RLE dicts `{"size": [H, W], "counts": str}` or None where the instance is absent;
            a `TrackMasks` takes the frames in which it lives alone. Kept as `TrackMasks`.
        boxes: `(n, T, 4)`, float32, corners x1 y1 x2 y2 in pixels (x2 and y2 are the far edges of the last pixels:
            one pixel at the origin is 0 0 1 1). None computes them from the masks, as does a NaN row whose mask is
            present. Of an instance also `(stop - start, 4)`, for the frames from its first mask to its last.
        size: `(H, W)` of the frames in pixels.
        num_frames: `T`.
        fps: frames per second, if known.
        id2label: class names by label, if known.
        frame_scores: `(n, T)`, float32, the score in every frame, of models that score frames, 0 where the instance is
            absent; None otherwise. Of an instance also `(stop - start,)`, as for boxes.
        first_frame: index in the video of the first frame, of a stretch of a video: frame t here is its frame
            `first_frame + t`.

    `boxes` and `frame_scores` are made anew whenever they are asked for, and are read-only; `boxes_at` gives the boxes
    of one frame without that.

    Raises:
        ValueError: if lengths or sizes contradict each other, or a score is not finite.
    """

    def __init__(
        self,
        scores: np.ndarray,
        labels: np.ndarray,
        track_ids: np.ndarray,
        masks: Sequence[Sequence[RLE | None]],
        boxes: np.ndarray | Sequence[np.ndarray] | None,
        size: tuple[int, int],
        num_frames: int,
        fps: float | None = None,
        id2label: Mapping[int, str] | None = None,
        frame_scores: np.ndarray | Sequence[np.ndarray] | None = None,
        first_frame: int = 0,
    ):
        self.size = _whole_numbers("size", size, 2, "(height, width) in pixels")
        [self.num_frames] = _whole_numbers("num_frames", [num_frames], 1, "the number of frames")
        [self.first_frame] = _whole_numbers("first_frame", [first_frame], 1, "the number of a frame of the video")
        if min(*self.size, self.num_frames, self.first_frame) < 0:
            raise ValueError(
                f"size is {self.size}, num_frames {self.num_frames} and first_frame {self.first_frame}; expected no "
                "negative number"
            )
        if fps is not None and not (isinstance(fps, Real) and 0 < fps < math.inf):
            raise ValueError(f"fps is {excerpt(fps)}; expected a positive number of frames per second, or None")
        self.fps, self.id2label = None if fps is None else float(fps), None
        if id2label is not None:
            try:
                self.id2label = {int(label): str(name) for label, name in id2label.items()}
            except (AttributeError, TypeError, ValueError) as error:
                raise ValueError(
                    f"id2label is {excerpt(id2label)}; expected a dict of class names by label, a whole number"
                ) from error
        if not isinstance(masks, Sequence) or isinstance(masks, str):
            raise ValueError(
                f"masks is {excerpt(masks)}; expected a list with the masks of each instance, one for each frame"
            )

        number = len(masks)
        self.labels = np.array(_whole_numbers("labels", labels, number, "a class index for each instance"), int)
        self.track_ids = np.array(_whole_numbers("track_ids", track_ids, number, "an identity for each instance"), int)
        if len(np.unique(self.track_ids)) < number:
            raise ValueError(
                f"track_ids are {excerpt(self.track_ids.tolist())}; expected a different one for each instance"
            )
        try:
            with np.errstate(over="ignore"):  # infinite then, and refused
                self.scores = np.asarray(scores, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise ValueError(f"scores are {excerpt(scores)}; expected numbers") from error
        if self.scores.shape != (number,):
            raise ValueError(
                f"scores has shape {self.scores.shape}; expected ({number},), one value for each of the instances in "
                "masks"
            )
        if not np.isfinite(self.scores).all():
            raise ValueError(
                f"scores of instances {np.flatnonzero(~np.isfinite(self.scores)).tolist()} are not finite: "
                "leave these instances out, and look for NaN in the model's logits"
            )
        given = [self._checked_masks(index, of_track) for index, of_track in enumerate(masks)]
        areas = iter(pixels_of([rle for of_track in given for _, rle in of_track.visible()]))
        # A mask without a pixel is none.
        self.masks = [
            TrackMasks(
                (rle if rle is not None and next(areas) else None for rle in of_track.stretch()),
                of_track.start,
                self.num_frames,
            )
            for of_track in given
        ]
        self._boxes = self._checked_boxes(boxes, given)
        self._frame_scores = None if frame_scores is None else self._checked_frame_scores(frame_scores, given)
        self._stretches = self._find_stretches()

    def _checked_masks(self, index: int, masks: Sequence[RLE | None]) -> TrackMasks:
        if not isinstance(masks, Sequence) or isinstance(masks, str):
            raise ValueError(
                f"masks of instance {index} are {excerpt(masks)}; expected a list with an RLE or None for each frame"
            )
        if len(masks) != self.num_frames:
            raise ValueError(
                f"masks of instance {index} cover {len(masks)} frames; expected num_frames = {self.num_frames}: "
                "use None for the frames in which it is absent"
            )
        masks = masks if isinstance(masks, TrackMasks) else TrackMasks(masks)
        checked = [None if rle is None else normalised_rle(rle) for rle in masks.stretch()]
        for frame, rle in enumerate(checked, start=masks.start):
            if rle is not None and tuple(rle["size"]) != self.size:
                raise ValueError(
                    f"mask of instance {index} in frame {frame} has size {tuple(rle['size'])}; expected {self.size} "
                    "(height, width): resize masks to the frame before encoding them"
                )
        return TrackMasks(checked, masks.start, self.num_frames)

    def _checked_boxes(self, boxes: Any, given: list[TrackMasks]) -> list[np.ndarray]:
        if boxes is None:
            boxes = (np.full((masks.stop - masks.start, 4), np.nan) for masks in given)
        checked = []
        for masks, of_track in zip(self.masks, self._rows("boxes", boxes, given, 4), strict=True):
            stretch = masks.stretch()
            of_track[[rle is None for rle in stretch]] = np.nan
            missing = [
                index for index, rle in enumerate(stretch) if rle is not None and np.isnan(of_track[index]).any()
            ]
            if missing:
                of_track[missing] = self._boxes_of([stretch[index] for index in missing])
            checked.append(of_track)
        return checked

    def _boxes_of(self, masks: list[RLE]) -> np.ndarray:
        boxes = coco_mask.toBbox(masks)
        boxes[:, 2:] += boxes[:, :2]
        for index in np.flatnonzero((boxes[:, 2] > self.size[1]) | (boxes[:, 3] > self.size[0])):
            # Misled by runs of no length.
            x, y, width, height = coco_mask.toBbox(coco_mask.encode(coco_mask.decode(masks[index])))
            boxes[index] = x, y, x + width, y + height
        return boxes

    def _checked_frame_scores(self, frame_scores: Any, given: list[TrackMasks]) -> list[np.ndarray]:
        checked = self._rows("frame_scores", frame_scores, given)
        for masks, of_track in zip(self.masks, checked, strict=True):
            of_track[[rle is None for rle in masks.stretch()]] = 0
            if not np.isfinite(of_track).all():
                raise ValueError(f"frame_scores are {excerpt(of_track.tolist())}; expected finite numbers")
        return checked

    def _rows(self, name: str, values: Any, given: list[TrackMasks], *last: int) -> list[np.ndarray]:
        """Copies of the values in the stretch of each instance, given for all frames or for the stretch of `given`."""
        shape = (len(self), self.num_frames, *last)
        try:
            rows = [np.asarray(row, dtype=np.float32) for row in values]
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} are {excerpt(values)}; expected numbers of shape {shape}") from error
        if len(rows) != len(self):
            raise ValueError(f"{name} has shape {(len(rows), *rows[0].shape) if rows else (0,)}; expected {shape}")
        cut = []
        for row, masks, kept in zip(rows, given, self.masks, strict=True):
            if row.shape not in (shape[1:], (masks.stop - masks.start, *last)):
                raise ValueError(f"{name} has shape {(len(rows), *row.shape)}; expected {shape}")
            start = 0 if row.shape == shape[1:] else masks.start
            cut.append(row[kept.start - start : kept.stop - start].copy())
        return cut

    def _find_stretches(self) -> np.ndarray:
        """`(2, n)`: the first frame of each instance, and the one behind its last."""
        return np.array([[masks.start for masks in self.masks], [masks.stop for masks in self.masks]], dtype=np.int64)

    def _with(self, **values: Any) -> "VideoInstances":
        """A copy with other values; what was checked once is not checked again."""
        changed = copy(self)
        vars(changed).update(values)
        changed._stretches = changed._find_stretches()
        return changed

    @property
    def boxes(self) -> np.ndarray:
        return self._dense(self._boxes, np.nan, 4)

    @property
    def frame_scores(self) -> np.ndarray | None:
        return None if self._frame_scores is None else self._dense(self._frame_scores, 0)

    @property
    def scores_frames(self) -> bool:
        """Whether `frame_scores` are known."""
        return self._frame_scores is not None

    def _dense(self, rows: list[np.ndarray], absent: float, *last: int) -> np.ndarray:
        dense = np.full((len(self), self.num_frames, *last), absent, dtype=np.float32)
        for index, (row, start, stop) in enumerate(zip(rows, *self._stretches, strict=True)):
            dense[index, start:stop] = row
        dense.flags.writeable = False
        return dense

    def __len__(self) -> int:
        return len(self.masks)

    def __repr__(self) -> str:
        found = ", ".join(
            f"{self.label_name(label)} #{track} {score:.2f}"
            for label, track, score in zip(self.labels[:5], self.track_ids[:5], self.scores[:5], strict=True)
        )
        more = ", ..." if len(self) > 5 else ""
        frames = f"{self.num_frames} frames of {self.size[1]}x{self.size[0]}"
        if self.first_frame:
            frames += f" from frame {self.first_frame} on"
        return f"VideoInstances({len(self)} instances in {frames}: [{found}{more}])"

    def __getitem__(self, index) -> "VideoInstances":
        """Chosen instances, by bool or integer array, list, slice or one integer; iterating gives them singly."""
        chosen = np.atleast_1d(np.arange(len(self))[index])
        return self._with(
            scores=self.scores[chosen],
            labels=self.labels[chosen],
            track_ids=self.track_ids[chosen],
            masks=[self.masks[i] for i in chosen],
            _boxes=[self._boxes[i] for i in chosen],
            _frame_scores=None if self._frame_scores is None else [self._frame_scores[i] for i in chosen],
        )

    def frames(self, start: int, stop: int) -> "VideoInstances":
        """
        The frames from `start` up to, but not including, `stop`, and the instances that are visible there.

        Raises:
            ValueError: if there are no such frames.
        """
        [start, stop] = _whole_numbers("start and stop", [start, stop], 2, "frames of the result, from 0")
        if not 0 <= start <= stop <= self.num_frames:
            raise ValueError(f"frames {start} to {stop} were asked for; expected some of 0 to {self.num_frames}")
        first, behind = self._stretches
        alive = np.flatnonzero((first < stop) & (behind > start))
        masks = {index: self.masks[index][start:stop] for index in alive.tolist()}
        masks = {index: cut for index, cut in masks.items() if cut.start < cut.stop}

        def cut(rows: list[np.ndarray]) -> list[np.ndarray]:
            offsets = {index: start - int(first[index]) for index in masks}
            return [
                rows[index][offset + masks[index].start : offset + masks[index].stop].copy()
                for index, offset in offsets.items()
            ]

        return self[list(masks)]._with(
            masks=list(masks.values()),
            _boxes=cut(self._boxes),
            _frame_scores=None if self._frame_scores is None else cut(self._frame_scores),
            num_frames=stop - start,
            first_frame=self.first_frame + start,
        )

    @classmethod
    def join(cls, chunks: Iterable["VideoInstances"]) -> "VideoInstances":
        """
        One result of consecutive stretches of a video, in which the same id is the same instance.

        Args:
            chunks: the stretches, from the first on, each beginning where the one before it ends.

        Returns:
            The instances that are visible somewhere, best score first, then by id. Score and label are those of the
            last stretch in which an instance is visible: they are known best there. Scores of frames are kept if all
            have them.

        Raises:
            ValueError: if stretches do not follow each other, have frames of different sizes, or there is none.
        """
        parts: dict[int, _Parts] = {}
        first, stop, scored = None, 0, True
        for chunk in chunks:
            if not hasattr(chunk, "track_ids"):  # also of another copy of this code, of a checkpoint that brings it
                raise TypeError(f"a stretch is of type {type(chunk).__name__}; expected VideoInstances")
            first, stop = (chunk, chunk.first_frame) if first is None else (first, stop)
            chunk.check_follows(first.size, stop)
            stop += chunk.num_frames
            scored = scored and (chunk._frame_scores is not None or not len(chunk))
            for index in np.flatnonzero(chunk._stretches[1] > chunk._stretches[0]).tolist():
                part = parts.setdefault(int(chunk.track_ids[index]), _Parts())
                part.add(chunk, index, chunk.first_frame - first.first_frame)
        if first is None:
            raise ValueError("no stretch of a video was given to be joined; expected at least one")
        found = sorted(parts.items(), key=lambda entry: (-entry[1].score, entry[0]))
        scored = scored and (bool(found) or first._frame_scores is not None)
        return first._with(
            scores=np.array([part.score for _, part in found], dtype=np.float32),
            labels=np.array([part.label for _, part in found], dtype=np.int64),
            track_ids=np.array([track for track, _ in found], dtype=np.int64),
            masks=[TrackMasks(part.masks, part.start, stop - first.first_frame) for _, part in found],
            _boxes=[np.concatenate(part.boxes) for _, part in found],
            _frame_scores=[np.concatenate(part.frame_scores) for _, part in found] if scored else None,
            num_frames=stop - first.first_frame,
        )

    def check_follows(self, size: tuple[int, int], frame: int) -> None:
        """
        Raises:
            ValueError: if this stretch of a video does not begin at its frame `frame`, or has frames of another size.
        """
        if self.first_frame != frame:
            raise ValueError(
                f"a stretch of the video begins at frame {self.first_frame}; expected frame {frame}, where the one "
                "before it ends: give all stretches, in order"
            )
        if self.size != size:
            raise ValueError(
                f"the frames of a stretch have size {self.size}; expected {size} (height, width), as in the first one"
            )

    def filter(self, threshold: float) -> "VideoInstances":
        """
        The instances whose score is at least `threshold`.

        Raises:
            ValueError: if `threshold` is no number.
        """
        if not isinstance(threshold, Real):
            raise ValueError(f"threshold is {threshold!r}; expected a number")
        return self[self.scores >= np.float32(threshold)]

    def label_name(self, label: int) -> str | int:
        """The class name of a label, or the label itself where no name is known."""
        return (self.id2label or {}).get(int(label), int(label))

    def present(self, frame: int) -> np.ndarray:
        """Indices `(k,)` of the instances visible in a frame (0 is the first).

        Raises:
            IndexError: if there is no such frame.
        """
        if not 0 <= frame < self.num_frames:
            raise IndexError(f"frame {frame} does not exist: expected 0 to {self.num_frames - 1}")
        first, behind = self._stretches
        alive = np.flatnonzero((first <= frame) & (frame < behind))
        return alive[[self.masks[index][frame] is not None for index in alive]]

    def boxes_at(self, frame: int) -> np.ndarray:
        """The boxes `(k, 4)` of the instances visible in a frame, those of `present(frame)`.

        Raises:
            IndexError: if there is no such frame.
        """
        boxes = [self._boxes[index][frame - self.masks[index].start] for index in self.present(frame)]
        return np.array(boxes, dtype=np.float32).reshape(-1, 4)

    def boxes_of(self, index: int) -> np.ndarray:
        """A copy of the boxes of an instance, `(stop - start, 4)` from its first mask to its last."""
        return self._boxes[index].copy()

    def frame_scores_of(self, index: int) -> np.ndarray | None:
        """As `boxes_of`, the scores of frames `(stop - start,)`; None where they are not known."""
        return None if self._frame_scores is None else self._frame_scores[index].copy()

    def sighting(self, index: int, frame: int) -> Sighting:
        """How an instance is visible in a frame; only for frames in which it is."""
        place = frame - self.masks[index].start
        box = [plain_number(value) for value in self._boxes[index][place]]
        score = None if self._frame_scores is None else plain_number(self._frame_scores[index][place])
        return Sighting(frame, self.masks[index][frame], box, score)

    def sightings(self, index: int) -> Iterator[Sighting]:
        """Where and how an instance is visible, frame by frame."""
        return (self.sighting(index, frame) for frame, _ in self.masks[index].visible())

    def decode(self, frame: int) -> np.ndarray:
        """Dense masks of one frame, bool `(n, H, W)`, all False where an instance is absent."""
        dense = np.zeros((len(self), *self.size), dtype=bool)
        for index in self.present(frame):
            dense[index] = decode_mask(self.masks[index][frame])
        return dense

    def to_list(self) -> list[dict[str, Any]]:
        """One dict per instance, ready for JSON.

        Returns:
            `{"score": float, "label": name or int, "track_id": int, "boxes": T of [x1, y1, x2, y2] or None,
            "masks": T of RLE or None}`.
        """
        return [
            {
                "score": plain_number(self.scores[index]),
                "label": self.label_name(self.labels[index]),
                "track_id": int(self.track_ids[index]),
                "boxes": self._plain_boxes(index),
                "masks": list(self.masks[index]),
            }
            for index in range(len(self))
        ]

    def _plain_boxes(self, index: int) -> list[list[float] | None]:
        boxes: list[list[float] | None] = [None] * self.num_frames
        for sighting in self.sightings(index):
            boxes[sighting.frame] = sighting.box
        return boxes

    export = export
    to_ytvis = to_ytvis
    to_coco_video = to_coco_video
    to_mots = to_mots
    to_supervision = to_supervision
    save_json = save_json
    save_ytvis_json = save_ytvis_json
    load_json = classmethod(load_json)


class _Parts:
    """What stretches of a video say about one instance."""

    def __init__(self):
        self.masks: list[RLE | None] = []
        self.boxes: list[np.ndarray] = []
        self.frame_scores: list[np.ndarray] = []

    def add(self, chunk: VideoInstances, index: int, offset: int) -> None:
        masks = chunk.masks[index]
        start = offset + masks.start
        if not self.masks:
            self.start = start
        absent = start - self.start - len(self.masks)
        self.masks += [*repeat(None, absent), *masks.stretch()]
        self.boxes += [np.full((absent, 4), np.nan, dtype=np.float32), chunk._boxes[index]]
        if chunk._frame_scores is not None:
            self.frame_scores += [np.zeros(absent, dtype=np.float32), chunk._frame_scores[index]]
        self.score, self.label = chunk.scores[index], chunk.labels[index]


def _whole_numbers(name: str, values: Any, number: int, meaning: str) -> tuple[int, ...]:
    """`number` integers of 64 bits."""
    try:
        given = np.asarray(values)
        whole = given.astype(np.int64)
        valid = given.dtype.kind in "iuf" and bool((whole == given).all())
    except (TypeError, ValueError, OverflowError):
        valid = False
    if not valid and number + len(np.atleast_1d(np.asarray(values, dtype=object))):
        raise ValueError(f"{name} is {excerpt(values)}; expected whole numbers: {meaning}")
    if given.shape != (number,):
        raise ValueError(f"{name} has shape {given.shape}; expected ({number},): {meaning}")
    return tuple(whole.tolist())

"""`VideoInstances`, the one result type: what was found in one video, and its exporters.

Letters: `n` instances, `T` frames, `H`, `W` frame height and width in pixels.
"""

import json
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from ..files import written_aside
from .exporters import category_id, plain_number, to_coco_video, to_mots, to_supervision, to_ytvis
from .rle import RLE, decode_mask, excerpt, normalised_rle, pixels_of, visible


@dataclass(repr=False, eq=False)
class VideoInstances:
    """The instances found in one video.

    An instance is absent from a frame exactly where its mask is None; its box is NaN there. Masks stay compressed,
    so memory grows with the objects and not with pixels x frames.

    Args:
        scores: `(n,)`, kept as float32, any finite value (usually a probability).
        labels: `(n,)`, kept as int64, class indices of the model (keys of `id2label`).
        track_ids: `(n,)`, kept as int64, identity over the frames, unique within a video.
        masks: `n` lists of `T` COCO RLE dicts `{"size": [H, W], "counts": str}` or None where the instance is absent.
        boxes: `(n, T, 4)`, kept as float32, corners x1 y1 x2 y2 in pixels (x2 and y2 are the far edges of the last
            pixels: one pixel at the origin is 0 0 1 1). None computes them from the masks, as does a NaN row whose
            mask is present.
        size: `(H, W)` of the frames in pixels.
        num_frames: `T`.
        fps: frames per second, if known.
        id2label: class names by label, if known.
        frame_scores: `(n, T)`, kept as float32, the score in every frame, of models that score frames; None otherwise.

    Raises:
        ValueError: if lengths or sizes contradict each other, or a score is not finite.
    """

    scores: np.ndarray
    labels: np.ndarray
    track_ids: np.ndarray
    masks: list[list[RLE | None]]
    boxes: np.ndarray | None
    size: tuple[int, int]
    num_frames: int
    fps: float | None = None
    id2label: dict[int, str] | None = None
    frame_scores: np.ndarray | None = None

    def __post_init__(self):
        self.size = _whole_numbers("size", self.size, 2, "(height, width) in pixels")
        [self.num_frames] = _whole_numbers("num_frames", [self.num_frames], 1, "the number of frames")
        if min(*self.size, self.num_frames) < 0:
            raise ValueError(f"size is {self.size} and num_frames {self.num_frames}; expected no negative number")
        if self.fps is not None and not (isinstance(self.fps, Real) and self.fps > 0):
            raise ValueError(f"fps is {excerpt(self.fps)}; expected a positive number of frames per second, or None")
        if self.id2label is not None:
            try:
                self.id2label = {int(label): str(name) for label, name in self.id2label.items()}
            except (AttributeError, TypeError, ValueError) as error:
                raise ValueError(
                    f"id2label is {excerpt(self.id2label)}; expected a dict of class names by label, a whole number"
                ) from error
        if not isinstance(self.masks, Sequence) or isinstance(self.masks, str):
            raise ValueError(
                f"masks is {excerpt(self.masks)}; expected a list with the masks of each instance, one for each frame"
            )

        number = len(self.masks)
        self.labels = np.array(_whole_numbers("labels", self.labels, number, "a class index for each instance"), int)
        self.track_ids = np.array(
            _whole_numbers("track_ids", self.track_ids, number, "an identity for each instance"), int
        )
        if len(np.unique(self.track_ids)) < number:
            raise ValueError(
                f"track_ids are {excerpt(self.track_ids.tolist())}; expected a different one for each instance"
            )
        try:
            with np.errstate(over="ignore"):  # infinite then, and refused
                self.scores = np.asarray(self.scores, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise ValueError(f"scores are {excerpt(self.scores)}; expected numbers") from error
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
        self.masks = [self._checked_masks(index, masks) for index, masks in enumerate(self.masks)]
        areas = iter(pixels_of([rle for masks in self.masks for rle in masks if rle is not None]))
        # A mask without a pixel is none.
        self.masks = [[rle if rle is not None and next(areas) else None for rle in masks] for masks in self.masks]
        self.boxes = self._checked_boxes(self.boxes)
        if self.frame_scores is not None:
            self.frame_scores = self._checked_frame_scores(self.frame_scores)

    def _checked_masks(self, index: int, masks: list[RLE | None]) -> list[RLE | None]:
        if not isinstance(masks, Sequence) or isinstance(masks, str):
            raise ValueError(
                f"masks of instance {index} are {excerpt(masks)}; expected a list with an RLE or None for each frame"
            )
        if len(masks) != self.num_frames:
            raise ValueError(
                f"masks of instance {index} cover {len(masks)} frames; expected num_frames = {self.num_frames}: "
                "use None for the frames in which it is absent"
            )
        masks = [None if rle is None else normalised_rle(rle) for rle in masks]
        for frame, rle in enumerate(masks):
            if rle is not None and tuple(rle["size"]) != self.size:
                raise ValueError(
                    f"mask of instance {index} in frame {frame} has size {tuple(rle['size'])}; expected {self.size} "
                    "(height, width): resize masks to the frame before encoding them"
                )
        return masks

    def _checked_boxes(self, boxes: np.ndarray | None) -> np.ndarray:
        shape = (len(self), self.num_frames, 4)
        # A copy: absent frames are overwritten, and the caller's array is not ours.
        try:
            boxes = np.full(shape, np.nan, dtype=np.float32) if boxes is None else np.array(boxes, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise ValueError(f"boxes are {excerpt(boxes)}; expected numbers of shape {shape}") from error
        if boxes.shape != shape and not boxes.size == len(self) == 0:
            raise ValueError(f"boxes has shape {boxes.shape}; expected {shape} (instances, frames, x1 y1 x2 y2)")
        boxes = boxes.reshape(shape)
        for index, masks in enumerate(self.masks):
            for frame, rle in enumerate(masks):
                if rle is None:
                    boxes[index, frame] = np.nan
                elif np.isnan(boxes[index, frame]).any():
                    x, y, width, height = coco_mask.toBbox(rle)
                    if x + width > self.size[1] or y + height > self.size[0]:  # misled by runs of no length
                        x, y, width, height = coco_mask.toBbox(coco_mask.encode(coco_mask.decode(rle)))
                    boxes[index, frame] = x, y, x + width, y + height
        return boxes

    def _checked_frame_scores(self, frame_scores: np.ndarray) -> np.ndarray:
        shape = (len(self), self.num_frames)
        try:
            frame_scores = np.array(frame_scores, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise ValueError(f"frame_scores are {excerpt(frame_scores)}; expected numbers of shape {shape}") from error
        if frame_scores.size == len(self) == 0:
            frame_scores = frame_scores.reshape(shape)
        if frame_scores.shape != shape or not np.isfinite(frame_scores).all():
            raise ValueError(f"frame_scores has shape {frame_scores.shape}; expected finite numbers of shape {shape}")
        return frame_scores

    def __len__(self) -> int:
        return len(self.masks)

    def __repr__(self) -> str:
        found = ", ".join(
            f"{self.label_name(label)} #{track} {score:.2f}"
            for label, track, score in zip(self.labels[:5], self.track_ids[:5], self.scores[:5], strict=True)
        )
        more = ", ..." if len(self) > 5 else ""
        frames = f"{self.num_frames} frames of {self.size[1]}x{self.size[0]}"
        return f"VideoInstances({len(self)} instances in {frames}: [{found}{more}])"

    def __getitem__(self, index) -> "VideoInstances":
        """Chosen instances, by bool or integer array, list, slice or one integer; iterating gives them singly."""
        chosen = np.atleast_1d(np.arange(len(self))[index])
        selection = copy(self)  # what was checked once is not checked again
        selection.scores, selection.labels = self.scores[chosen], self.labels[chosen]
        selection.track_ids, selection.boxes = self.track_ids[chosen], self.boxes[chosen]
        selection.masks = [self.masks[i] for i in chosen]
        if self.frame_scores is not None:
            selection.frame_scores = self.frame_scores[chosen]
        return selection

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
        return np.array([index for index, masks in enumerate(self.masks) if masks[frame] is not None], dtype=np.int64)

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
                "masks": self.masks[index],
            }
            for index in range(len(self))
        ]

    def _plain_boxes(self, index: int) -> list[list[float] | None]:
        return [
            None if rle is None else [plain_number(value) for value in box]
            for rle, box in zip(self.masks[index], self.boxes[index], strict=True)
        ]

    to_ytvis = to_ytvis
    to_coco_video = to_coco_video
    to_mots = to_mots
    to_supervision = to_supervision

    def save_json(
        self, path: str | PathLike, video_id: int | str = 1, category_ids: Mapping[int, int] | None = None
    ) -> None:
        """Write everything, so that `load_json` gives the same back.

        The file holds an object: `results` is the list of `to_ytvis`, `video` has the id, size, length and frame rate,
        `categories` the class names. For an evaluator that wants the bare list, use `save_ytvis_json`.
        """
        height, width = self.size
        video = {"id": video_id, "height": height, "width": width, "length": self.num_frames, "fps": self.fps}
        labels = sorted({*(self.id2label or {}), *self.labels.tolist()})
        if category_ids is not None:
            labels = [label for label in labels if label in category_ids or label in self.labels]
        categories = [
            {
                "id": category_id(self, label, category_ids),
                "label": label,
                "name": (self.id2label or {}).get(label),
            }
            for label in labels
        ]
        document = {"video": video, "categories": categories, "results": self.to_ytvis(video_id, category_ids)}
        _write_json(path, document)

    def save_ytvis_json(
        self, path: str | PathLike, video_id: int | str = 1, category_ids: Mapping[int, int] | None = None
    ) -> None:
        """Write `to_ytvis` as it is: a plain list, the YouTube-VIS results format."""
        _write_json(path, self.to_ytvis(video_id, category_ids))

    @classmethod
    def load_json(
        cls,
        path: str | PathLike,
        video_id: int | str | None = None,
        category_ids: Mapping[int, int] | None = None,
        id2label: Mapping[int, str] | None = None,
    ) -> "VideoInstances":
        """Read a file of `save_json`, or one video of a plain YouTube-VIS results list.

        Args:
            path: the JSON file.
            video_id: which video of a plain list; may be left out if the list has only one.
            category_ids: for a plain list, the category id of each label; label + 1 by default.
            id2label: for a plain list, class names by label; by default the names in the list, if it has them.

        Raises:
            ValueError: if the file is in neither format, holds several videos and none was chosen, or a plain list
                shows no mask and so tells no frame size.
        """
        path = Path(path).expanduser()
        try:
            document = json.loads(path.read_text(encoding="utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not a JSON file ({error}): was it written completely?") from None
        try:
            if isinstance(document, dict):
                return cls._from_document(document)
            return cls._from_ytvis(document, video_id, category_ids, id2label)
        except (KeyError, TypeError, AttributeError, IndexError, OverflowError, ValueError) as error:
            reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
            raise ValueError(
                f"{path} could not be read: {reason}; expected a file of save_json or a YouTube-VIS results list"
            ) from error

    @classmethod
    def _from_document(cls, document: dict[str, Any]) -> "VideoInstances":
        video, categories = document["video"], document["categories"]
        label_of = {category["id"]: category["label"] for category in categories}
        names = {category["label"]: category["name"] for category in categories if category["name"] is not None}
        return cls._from_results(
            document["results"],
            labels=[label_of[result["category_id"]] for result in document["results"]],
            size=(video["height"], video["width"]),
            num_frames=video["length"],
            fps=video["fps"],
            id2label=names or None,
        )

    @classmethod
    def _from_ytvis(cls, results, video_id, category_ids, id2label) -> "VideoInstances":
        videos = list(dict.fromkeys(result["video_id"] for result in results))
        if video_id is None and len(videos) == 1:
            video_id = videos[0]
        if video_id not in videos:
            raise ValueError(f"video_id is {video_id!r}; the list has videos {videos[:10]}: choose one with video_id=")
        results = [result for result in results if result["video_id"] == video_id]
        sizes = [rle["size"] for result in results for rle in result["segmentations"] if rle]
        if not sizes:
            raise ValueError("no result shows a mask, so the frame size is unknown; save_json keeps it")
        label_of = {category: label for label, category in (category_ids or {}).items()}
        labels = [label_of[result["category_id"]] if category_ids else result["category_id"] - 1 for result in results]
        names = id2label or {
            label: result["label"]
            for label, result in zip(labels, results, strict=True)
            if isinstance(result.get("label"), str)
        }
        return cls._from_results(
            results,
            labels=labels,
            size=tuple(sizes[0]),
            num_frames=len(results[0]["segmentations"]),
            id2label=names or None,
        )

    @classmethod
    def _from_results(cls, results, labels, size, num_frames, fps=None, id2label=None) -> "VideoInstances":
        absent = [np.nan] * 4
        tracks = [result.get("track_id", number) for number, result in enumerate(results, start=1)]
        if len(set(tracks)) < len(tracks):  # of a query that appears with several classes
            tracks = range(1, len(tracks) + 1)
        boxes = [
            [absent if box is None else box for box in result.get("boxes") or [None] * num_frames]
            for result in results
        ]
        of_frames = [result.get("frame_scores") for result in results]
        return cls(
            scores=[result["score"] for result in results],
            labels=labels,
            track_ids=tracks,
            masks=[[visible(rle) for rle in result["segmentations"]] for result in results],
            boxes=boxes,
            size=size,
            num_frames=num_frames,
            fps=fps,
            id2label=id2label,
            frame_scores=None if not results or None in of_frames else of_frames,
        )


def _write_json(path: str | PathLike, document: Any) -> None:
    with written_aside(path) as unfinished:
        unfinished.write_text(json.dumps(document, allow_nan=False), encoding="utf-8")


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

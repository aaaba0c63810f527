"""Tracks of one video, read and compared: IoU of what was predicted and what was annotated, category by category.

Shape letters: `F` frames, `D` predictions, `G` annotations.
"""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_utils

from ..data.fields import area_problem, score_problem
from ..results.rle import count_pixels, counts_message, read_mask
from .reading import Reference, identifier

OCCLUSION_SCORES = {"no_occlusion": 0.0, "slight_occlusion": 0.25, "severe_occlusion": 0.75}


@dataclass(frozen=True, eq=False)
class CategoryTracks:
    """What one video contributes to one category: all that is kept of its masks.

    Attributes:
        iou (`np.ndarray` of shape `(D, G)`): IoU of predictions (by falling score) and annotations (in file order).
        scores (`np.ndarray` of shape `(D,)`): confidence of the predictions.
        prediction_areas (`np.ndarray` of shape `(D,)`): mean pixels per frame, over the frames with any.
        annotation_ids (`np.ndarray` of shape `(G,)`): `id` of the annotations.
        annotation_areas (`np.ndarray` of shape `(G,)`): as `prediction_areas`, but from the file's `areas` if given.
        crowd (`np.ndarray` of shape `(G,)`, bool): annotations that absorb predictions without counting.
        occlusion (`np.ndarray` of shape `(G,)`): occlusion score in [0, 1]; 0 unless evaluating OVIS.
    """

    iou: np.ndarray
    scores: np.ndarray
    prediction_areas: np.ndarray
    annotation_ids: np.ndarray
    annotation_areas: np.ndarray
    crowd: np.ndarray
    occlusion: np.ndarray

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CategoryTracks):
            return NotImplemented
        return all(map(np.array_equal, astuple(self), astuple(other)))


def measure_video(
    reference: Reference, predictions: list[tuple[int, dict[str, Any]]], *, max_detections: int, ovis: bool
) -> dict[Any, CategoryTracks]:
    """Compares the tracks of one video, category by category.

    Args:
        reference (`Reference`): the video and its annotations.
        predictions (`list[tuple[int, dict]]`): the predictions of this video, each with a number for error messages.
        max_detections (`int`): how many predictions per category to keep, by falling score.
        ovis (`bool`): whether to read the annotations' `occlusion`.

    Returns:
        `dict[category id, CategoryTracks]`

    Raises:
        ValueError: see [`YtvisMeanAveragePrecision.update`].
    """
    video, annotations = reference
    by_category: dict[Any, tuple[list, list]] = {}
    for annotation in annotations:
        name = f"annotation {annotation['id']!r} of video {video['id']!r}"
        for key in ("segmentations", "areas", "occlusion") if ovis else ("segmentations", "areas"):
            check_frames(annotation, key, video, name)
        _check_areas(annotation, video, name)
        by_category.setdefault(identifier(annotation["category_id"]), ([], []))[0].append((name, annotation))
    for position, prediction in predictions:
        name = f"prediction {position} (video {video['id']!r})"
        check_frames(prediction, "segmentations", video, name)
        score = score_of(prediction, name)
        category_id = identifier(prediction["category_id"])
        by_category.setdefault(category_id, ([], []))[1].append((name, prediction, score))

    read: list[tuple[str, dict]] = []
    rows = {}  # where the tracks of a category are among those read: predictions from, annotations from, to
    for category_id, (ground_truth, ranked) in by_category.items():
        ranked.sort(key=lambda entry: -entry[2])
        del ranked[max_detections:]
        start = len(read)
        read += [entry[:2] for entry in ranked]
        # Masks of annotations that nobody predicts matter only if their areas are missing.
        if ranked or any(annotation.get("areas") is None for _, annotation in ground_truth):
            read += ground_truth
        rows[category_id] = slice(start, start + len(ranked)), slice(start + len(ranked), len(read))
    tracks = read_tracks(read, video)
    ious = _iou_by_category(tracks, rows)

    measured = {}
    for category_id, (ground_truth, ranked) in by_category.items():
        predicted, annotated = (tracks.areas[part] for part in rows[category_id])
        pixels = annotated if len(annotated) else [()] * len(ground_truth)
        areas = [annotation.get("areas") for _, annotation in ground_truth]
        measured[category_id] = CategoryTracks(
            iou=ious[category_id] if len(annotated) else np.zeros((len(ranked), len(ground_truth))),
            scores=np.array([score for _, _, score in ranked], dtype=np.float64),
            prediction_areas=_mean_areas(predicted),
            annotation_ids=np.array([identifier(annotation["id"]) for _, annotation in ground_truth]),
            annotation_areas=_mean_areas(
                [counted if given is None else given for given, counted in zip(areas, pixels, strict=True)]
            ),
            crowd=np.array([bool(annotation.get("iscrowd")) for _, annotation in ground_truth], dtype=bool),
            occlusion=np.array(
                [_occlusion(annotation, name) if ovis else 0.0 for name, annotation in ground_truth], dtype=np.float64
            ),
        )
    return measured


def _iou_by_category(tracks: "Tracks", rows: dict[Any, tuple[slice, slice]]) -> dict[Any, np.ndarray]:
    """IoU `(D, G)` of the predictions and annotations of each category, which lie in the given rows of `tracks`."""
    compared = {key: parts for key, parts in rows.items() if all(part.stop > part.start for part in parts)}
    ious = {key: np.zeros([part.stop - part.start for part in parts]) for key, parts in rows.items()}
    predicted = [row for part, _ in compared.values() for row in range(part.start, part.stop)]
    annotated = [row for _, part in compared.values() for row in range(part.start, part.stop)]
    wanted = sum(ious[key].size for key in compared)
    # A call of pycocotools costs as much as comparing dozens of masks, so few tracks are compared across categories.
    if len(predicted) * len(annotated) - wanted <= 30 * (len(compared) - 1):
        everything = track_iou(tracks.select(predicted), tracks.select(annotated))
        top = left = 0
        for key in compared:
            height, width = ious[key].shape
            ious[key] = everything[top : top + height, left : left + width]
            top, left = top + height, left + width
    else:
        for key, parts in compared.items():
            ious[key] = track_iou(*(tracks.select(range(part.start, part.stop)) for part in parts))
    return ious


class Tracks(NamedTuple):
    """Masks of `N` objects in `F` frames.

    `masks` holds `N * F` compressed RLEs: all frames of the first object, then of the next, without pixels where an
    object is absent. `areas` of shape `(N, F)` is the number of pixels.
    """

    masks: list[dict[str, Any]]
    areas: np.ndarray

    def select(self, rows: Sequence[int]) -> "Tracks":
        """The given objects."""
        num_frames = self.areas.shape[1]
        masks = [mask for row in rows for mask in self.masks[row * num_frames : (row + 1) * num_frames]]
        return Tracks(masks, self.areas[list(rows)])


def track_iou(predictions: Tracks, annotations: Tracks) -> np.ndarray:
    """IoU of tracks of one video: intersection and union are summed over frames before they are divided.

    A frame where one side is absent adds the other side's area to the union. Crowds have no special role.

    Args:
        predictions (`Tracks`): `D` objects.
        annotations (`Tracks`): `G` objects.

    Returns:
        `np.ndarray` of shape `(D, G)`: in [0, 1]; 0 where both tracks are empty.
    """
    (num_predictions, num_frames), num_annotations = predictions.areas.shape, len(annotations.areas)
    if not num_predictions or not num_annotations:
        return np.zeros((num_predictions, num_annotations))
    plain = [0] * num_annotations
    frame_iou = np.zeros((num_frames, num_predictions, num_annotations))
    for frame in np.flatnonzero(predictions.areas.any(axis=0) & annotations.areas.any(axis=0)):
        frame_iou[frame] = mask_utils.iou(
            predictions.masks[frame::num_frames], annotations.masks[frame::num_frames], plain
        )
    # A frame's IoU is i / (a + b - i) of integers far below 2^53, so its intersection i comes back exactly.
    frame_areas = predictions.areas.T[:, :, None] + annotations.areas.T[:, None, :]  # (F, D, G)
    intersection = np.rint(frame_iou * frame_areas / (1.0 + frame_iou)).sum(axis=0)
    union = frame_areas.sum(axis=0) - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def read_tracks(entries: Sequence[tuple[str, dict[str, Any]]], video: dict[str, Any]) -> Tracks:
    """Reads the `segmentations` of annotations or predictions, each with a name for error messages.

    Raises:
        ValueError: if a mask is malformed or has another size than the video.
    """
    height, width, num_frames = video["height"], video["width"], video["length"]
    if not entries or not num_frames:
        return Tracks([], np.zeros((len(entries), num_frames), dtype=np.int64))
    empty = mask_utils.frPyObjects({"size": [height, width], "counts": [height * width]}, height, width)
    masks = []
    for name, entry in entries:
        for frame, segmentation in enumerate(entry["segmentations"]):
            try:
                masks.append(read_mask(segmentation, height, width) or empty)
            except (ValueError, TypeError, OverflowError, KeyError) as error:
                raise ValueError(f"{name}, frame {frame}: {error}") from error

    counts = [mask["counts"] for mask in masks]
    # In portions that fit the processor's cache.
    portions = [count_pixels(counts[start : start + 256]) for start in range(0, len(counts), 256)]
    areas, totals = (np.concatenate(values) for values in zip(*portions, strict=True))
    # pycocotools never returns from comparing masks whose run lengths have different sums.
    wrong = np.flatnonzero(totals != height * width)
    if len(wrong):
        entry, frame = divmod(int(wrong[0]), num_frames)
        message = counts_message(int(totals[wrong[0]]), height, width)
        raise ValueError(f"{entries[entry][0]}, frame {frame}: {message}")
    return Tracks(masks, areas.reshape(len(entries), num_frames))


def check_frames(entry: dict[str, Any], key: str, video: dict[str, Any], name: str) -> None:
    """
    Raises:
        ValueError: if what is under `key`, where it is there, is no list of an entry for each frame.
    """
    values = entry.get(key)
    if values is None and key != "segmentations":
        return
    if not isinstance(values, (list, tuple)) or len(values) != video["length"]:
        given = f"{len(values)} entries" if isinstance(values, (list, tuple)) else f"type {type(values).__name__}"
        raise ValueError(
            f"{name}: {key} has {given}; expected a list of {video['length']}, one per frame of the video, with null "
            "where the object is absent"
        )


def _check_areas(annotation: dict[str, Any], video: dict[str, Any], name: str) -> None:
    for frame, area in enumerate(annotation.get("areas") or ()):
        problem = area_problem(identifier(area), video["height"], video["width"])
        if problem is not None:
            raise ValueError(f"{name}, frame {frame}: {problem}")


def score_of(prediction: dict[str, Any], name: str) -> float:
    """
    Raises:
        ValueError: if it is no finite number.
    """
    score = identifier(prediction["score"])
    problem = score_problem(score)
    if problem is not None:
        raise ValueError(f"{name}: {problem}")
    return float(score)


def _mean_areas(areas: Sequence[Sequence[float | None]] | np.ndarray) -> np.ndarray:
    """`N` tracks of pixels per frame -> `(N,)` means over the frames with any."""
    visible = [[area for area in track if area] for track in areas]
    return np.array([sum(track) / len(track) if track else 0.0 for track in visible], dtype=np.float64)


def _occlusion(annotation: dict[str, Any], name: str) -> float:
    """Mean occlusion over the more occluded half of the frames in which the object is labelled; 0 without labels."""
    labels = annotation.get("occlusion")
    unknown = {label for label in labels or () if label is not None} - set(OCCLUSION_SCORES)
    if labels is None or unknown:
        raise ValueError(
            f"{name}: occlusion is {sorted(unknown, key=str) if unknown else 'missing'}; expected one of "
            f"{list(OCCLUSION_SCORES)} or null per frame: evaluate with ovis=False (without --ovis) if the data "
            "set has no such labels"
        )
    scores = sorted((OCCLUSION_SCORES[label] for label in labels if label is not None), reverse=True)
    upper_half = scores[: math.ceil(len(scores) / 2)]
    return sum(upper_half) / len(upper_half) if upper_half else 0.0

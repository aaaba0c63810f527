"""
Numbers of tracking, which AP hides: how well identities hold, by the package `trackeval`.

Letters: F frames, D predicted tracks, G annotated ones.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from ..extras import require
from ..metrics.reading import Reference, content_of, group_predictions, identifier, read_references
from ..metrics.tracks import Tracks, check_frames, read_tracks, score_of

TRACK_SCORE = 0.3  # from which predict shows a track
MATCHED = 0.5  # mask IoU from which a track shows an object in a frame, of all but HOTA, which takes them all


def tracking_numbers(
    truth: Any, results: Iterable[dict[str, Any]] | str | Path, threshold: float = TRACK_SCORE
) -> dict[str, Any]:
    """
    HOTA (Luiten et al., 2021), IDF1 (Ristani et al., 2016) and the identity switches of CLEAR MOT, of tracks of a
    score, on masks. A track shows objects of its own class only.

    Args:
        truth: annotated videos, as of [`YtvisMeanAveragePrecision`].
        results: tracks in YouTube-VIS results format, or a file of them.
        threshold: smallest score, 0..1, of a track that counts. AP ranks all tracks; here each is true or false.

    Returns:
        `HOTA`, its parts `DetA` (what is found) and `AssA` (which identity it has), and `IDF1`, in [0, 1];
        `id_switches`, a whole number; `threshold`. These are over all objects in all frames, whatever their class.
        `per_category` has the numbers by category id, -1 where it has no ground truth. Crowds do not count, nor do
        tracks where more than half of them is in one.

    Raises:
        ModuleNotFoundError: without `trackeval`.
        ValueError: for annotations or results with an error.
    """
    require("trackeval")
    videos, categories = read_references(truth)
    found = group_predictions(content_of(results), videos, categories)
    metrics = _metrics()
    measured: dict[Any, list[dict[str, dict]]] = {category: [] for category in sorted(categories)}
    for video_id, reference in videos.items():
        for category, sequence in _sequences(reference, found.get(video_id, []), threshold).items():
            if category in measured:
                measured[category].append({name: metric.eval_sequence(sequence) for name, metric in metrics.items()})
    of_category = {category: _combined(parts) for category, parts in measured.items() if parts}
    annotated = {identifier(one["category_id"]) for _, ones in videos.values() for one in ones if not _is_crowd(one)}
    return {
        **_named(_combined(list(of_category.values()))),
        "threshold": threshold,
        "per_category": {
            category: _named(of_category.get(category) if category in annotated else None) for category in measured
        },
    }


def _metrics() -> dict[str, Any]:
    from trackeval.metrics import CLEAR, HOTA, Identity

    quiet = {"PRINT_CONFIG": False, "THRESHOLD": MATCHED}
    return {"HOTA": HOTA(), "Identity": Identity(quiet), "CLEAR": CLEAR(quiet)}


def _combined(parts: list[dict[str, dict]]) -> dict[str, dict] | None:
    """The numbers of several videos or categories in one, every sighting of an object alike."""
    if not parts:
        return None
    return {
        name: metric.combine_sequences({str(number): part[name] for number, part in enumerate(parts)})
        for name, metric in _metrics().items()
    }


def _named(measured: dict[str, dict] | None) -> dict[str, Any]:
    names = ("HOTA", "DetA", "AssA")
    if measured is None:
        return {**dict.fromkeys((*names, "IDF1"), -1.0), "id_switches": 0}
    return {
        **{name: float(np.mean(measured["HOTA"][name])) for name in names},
        "IDF1": float(measured["Identity"]["IDF1"]),
        "id_switches": int(measured["CLEAR"]["IDSW"]),
    }


def _sequences(
    reference: Reference, predictions: list[tuple[int, dict[str, Any]]], threshold: float
) -> dict[Any, dict[str, Any]]:
    """One video by category, as `trackeval` takes it."""
    video, annotations = reference
    entries: dict[Any, tuple[list, list, list]] = {}  # by category: predictions, annotations, crowds
    for annotation in annotations:
        name = f"annotation {annotation['id']!r} of video {video['id']!r}"
        check_frames(annotation, "segmentations", video, name)
        lists = entries.setdefault(identifier(annotation["category_id"]), ([], [], []))
        lists[2 if _is_crowd(annotation) else 1].append((name, annotation))
    for position, prediction in predictions:
        name = f"prediction {position} (video {video['id']!r})"
        check_frames(prediction, "segmentations", video, name)
        if score_of(prediction, name) >= threshold:
            entries.setdefault(identifier(prediction["category_id"]), ([], [], []))[0].append((name, prediction))
    return {category: _sequence(*(read_tracks(part, video) for part in parts)) for category, parts in entries.items()}


def _sequence(predicted: Tracks, annotated: Tracks, crowds: Tracks) -> dict[str, Any]:
    num_frames = predicted.areas.shape[1]
    tracker_ids, gt_ids, similarities = [], [], []
    for frame in range(num_frames):
        here = np.flatnonzero(predicted.areas[:, frame])
        there = np.flatnonzero(annotated.areas[:, frame])
        iou = _iou(predicted, here, annotated, there, frame)  # (G, D)
        # Of what a crowd has, how much is not said: the IoU with a crowd is the share of the track in it.
        around = np.flatnonzero(crowds.areas[:, frame])
        in_crowd = _iou(predicted, here, crowds, around, frame, is_crowd=True).max(axis=0, initial=0) > MATCHED
        counts = ~in_crowd | (iou.max(axis=0, initial=0) >= MATCHED)
        tracker_ids.append(here[counts])
        gt_ids.append(there)
        similarities.append(iou[:, counts])
    tracker_ids, num_tracks = _numbered(tracker_ids)
    gt_ids, num_objects = _numbered(gt_ids)
    return {
        "gt_ids": gt_ids,
        "tracker_ids": tracker_ids,
        "similarity_scores": similarities,
        "num_gt_ids": num_objects,
        "num_tracker_ids": num_tracks,
        "num_gt_dets": sum(map(len, gt_ids)),
        "num_tracker_dets": sum(map(len, tracker_ids)),
        "num_timesteps": num_frames,
    }


def _iou(
    predicted: Tracks, here: np.ndarray, annotated: Tracks, there: np.ndarray, frame: int, is_crowd: bool = False
) -> np.ndarray:
    """`(G, D)` of those that are visible in one frame."""
    if not len(here) or not len(there):
        return np.zeros((len(there), len(here)))
    num_frames = predicted.areas.shape[1]
    masks = [predicted.masks[row * num_frames + frame] for row in here]
    others = [annotated.masks[row * num_frames + frame] for row in there]
    return mask_utils.iou(masks, others, [int(is_crowd)] * len(others)).T


def _numbered(frames: list[np.ndarray]) -> tuple[list[np.ndarray], int]:
    """Ids from 0 on, without those that are never there, and how many these are."""
    used = np.unique(np.concatenate([np.zeros(0, dtype=int), *frames]))
    return [np.searchsorted(used, ids) for ids in frames], len(used)


def _is_crowd(annotation: dict[str, Any]) -> bool:
    return bool(identifier(annotation.get("iscrowd")))

"""From compared tracks to the published numbers: matching, curves of precision over recall, and their means.

Shape letters: `D` predictions, `G` annotations, `T` IoU thresholds, `R` recall thresholds, `K` categories, `A` area
ranges, `O` occlusion ranges, `S = A * O` ranges, `M` detection limits.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .tracks import CategoryTracks

RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)
# Borders belong to both neighbours. Areas in pixels, averaged over the frames in which the object is visible.
AREA_RANGES = {"": (0.0, 1e10), "s": (0.0, 128.0**2), "m": (128.0**2, 256.0**2), "l": (256.0**2, 1e10)}
OCCLUSION_RANGES = {"": (0.0, 1.0), "_light": (0.0, 0.25), "_medium": (0.25, 0.5), "_heavy": (0.5, 1.0)}


class Matches(NamedTuple):
    """Assignment of one video's predictions of one category, for every range and IoU threshold.

    `matched` and `ignored` have shape `(S, T, D)`; a prediction that is neither is a false positive. `num_counted` of
    shape `(S,)` is the number of annotations to be found, `scores` has shape `(D,)`.
    """

    scores: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    num_counted: np.ndarray


def match_tracks(
    tracks: CategoryTracks, iou_thresholds: np.ndarray, area_ranges: np.ndarray, occlusion_ranges: np.ndarray
) -> Matches:
    """Assigns predictions to annotations, for all ranges and IoU thresholds at once.

    By falling score, each prediction takes the free annotation of highest IoU at or above the threshold, the later one
    of equals. Annotations that are crowds or out of range are taken only if no counted one is possible, and make the
    prediction ignored; crowds stay free. Unmatched predictions with an area out of range are ignored too.

    Args:
        tracks (`CategoryTracks`): one video and category.
        iou_thresholds (`np.ndarray` of shape `(T,)`).
        area_ranges (`np.ndarray` of shape `(A, 2)`): pixels, borders included.
        occlusion_ranges (`np.ndarray` of shape `(O, 2)`): borders included.

    Returns:
        `Matches`: with `S = A * O` ranges, areas outermost.
    """
    num_predictions, num_annotations = tracks.iou.shape
    num_ranges = len(area_ranges) * len(occlusion_ranges)
    outside_area = _outside(tracks.annotation_areas, area_ranges)[:, None]
    outside_occlusion = _outside(tracks.occlusion, occlusion_ranges)[None]
    # (A, O, G) -> (S, G)
    uncounted = (outside_area | outside_occlusion | tracks.crowd).reshape(num_ranges, num_annotations)
    # Predictions have no occlusion, so each occlusion range sees the same ones.
    outside = np.repeat(_outside(tracks.prediction_areas, area_ranges), len(occlusion_ranges), axis=0)  # (S, D)

    thresholds = np.minimum(iou_thresholds, 1 - 1e-10)[:, None]  # (T, 1)
    shape = (num_ranges, len(thresholds))
    matched = np.zeros((*shape, num_predictions), dtype=bool)
    ignored = np.repeat(outside[:, None], len(thresholds), axis=1)
    free = np.ones((*shape, num_annotations), dtype=bool)
    for d in np.flatnonzero(tracks.iou.max(axis=1, initial=0.0) >= thresholds.min()):
        iou = tracks.iou[d]
        # Ranks instead of values, as only they can be shifted without loss to put counted annotations first.
        rank = np.empty(num_annotations, dtype=np.int64)
        rank[np.argsort(iou, kind="stable")] = np.arange(1, num_annotations + 1)
        rank = rank + num_annotations * ~uncounted  # (S, G)
        rank = np.where(free & (iou >= thresholds), rank[:, None], 0)  # (S, T, G)
        best = rank.argmax(axis=-1)
        found = rank.any(axis=-1)
        matched[..., d] = found
        ignored[..., d] = np.where(found, np.take_along_axis(uncounted, best, axis=1), ignored[..., d])
        s, t = found.nonzero()
        free[s, t, best[s, t]] = tracks.crowd[best[s, t]]
    return Matches(tracks.scores, matched, ignored, (~uncounted).sum(axis=1))


def _outside(values: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """`(N,)` values and `(X, 2)` ranges -> `(X, N)` bool."""
    return (values < ranges[:, :1]) | (values > ranges[:, 1:])


def precision_recall(
    matches: Sequence[Matches], max_detections: int
) -> dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Curves of one category over all videos.

    Args:
        matches (`Sequence[Matches]`): one per video, by ascending video id.
        max_detections (`int`): how many predictions per video count.

    Returns:
        `dict[int, tuple]`: for each of the `S` ranges that has ground truth, precision of shape `(T, R)` at
        `RECALL_THRESHOLDS` (the highest at that recall or beyond, 0 if not reached), recall of shape `(T,)` over all
        predictions, and the scores of shape `(T, R)` at which the recall thresholds are reached.
    """
    scores = np.concatenate([video.scores[:max_detections] for video in matches])
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    # (S, T, N)
    matched = np.concatenate([video.matched[..., :max_detections] for video in matches], axis=-1)[..., order]
    counted = ~np.concatenate([video.ignored[..., :max_detections] for video in matches], axis=-1)[..., order]
    true_positives = np.cumsum(matched & counted, axis=-1, dtype=np.float64)
    false_positives = np.cumsum(~matched & counted, axis=-1, dtype=np.float64)
    precision = true_positives / (false_positives + true_positives + np.spacing(1))
    precision = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]

    curves = {}
    num_annotations = sum(video.num_counted for video in matches)  # (S,)
    for s in np.flatnonzero(num_annotations):
        recall = true_positives[s] / num_annotations[s]  # (T, N)
        interpolated = np.zeros((len(recall), len(RECALL_THRESHOLDS)))
        reached_at = np.zeros_like(interpolated)
        for t in range(len(recall)):
            first = np.searchsorted(recall[t], RECALL_THRESHOLDS, side="left")
            first = first[first < len(scores)]
            interpolated[t, : len(first)] = precision[s, t, first]
            reached_at[t, : len(first)] = scores[first]
        curves[int(s)] = (interpolated, recall[:, -1] if len(scores) else np.zeros(len(recall)), reached_at)
    return curves


def spread(array: np.ndarray, places: np.ndarray, number: int, axis: int) -> np.ndarray:
    """The entries of an axis at their places among `number`, with -1 at the others."""
    everything = np.full((*array.shape[:axis], number, *array.shape[axis + 1 :]), -1.0)
    everything[(slice(None),) * axis + (places,)] = array
    return everything


def summarize(
    precision: np.ndarray,
    recall: np.ndarray,
    iou_thresholds: np.ndarray,
    category_ids: Sequence[Any],
    max_detections: Sequence[int],
) -> dict[str, Any]:
    """Means of the curves under their published names; see [`YtvisMeanAveragePrecision.compute`].

    Args:
        precision (`np.ndarray` of shape `(T, R, K, A, O, M)`): in [0, 1], -1 without ground truth.
        recall (`np.ndarray` of shape `(T, K, A, O, M)`): as `precision`.
        iou_thresholds (`np.ndarray` of shape `(T,)`).
        category_ids (`Sequence`): of length `K`.
        max_detections (`Sequence[int]`): of length `M`, ascending.
    """
    areas = list(AREA_RANGES)[1:]
    occlusions = list(OCCLUSION_RANGES)[1 : precision.shape[-2]]
    at_50, at_75 = (np.isclose(iou_thresholds, threshold) for threshold in (0.5, 0.75))

    def overall(precision: np.ndarray, recall: np.ndarray) -> tuple[dict[str, float], dict[str, float]]:
        precision, recall = precision[..., 0, 0, :], recall[..., 0, 0, :]
        average_precision = {
            "AP": _mean(precision[..., -1]),
            "AP50": _mean(precision[at_50, ..., -1]),
            "AP75": _mean(precision[at_75, ..., -1]),
        }
        return average_precision, {f"AR{limit}": _mean(recall[..., m]) for m, limit in enumerate(max_detections)}

    average_precision, average_recall = overall(precision, recall)
    for kind, values, result in (("AP", precision, average_precision), ("AR", recall, average_recall)):
        result |= {f"{kind}{area}": _mean(values[..., a, 0, -1]) for a, area in enumerate(areas, start=1)}
        result |= {f"{kind}{name}": _mean(values[..., 0, o, -1]) for o, name in enumerate(occlusions, start=1)}

    per_category = {}
    for k, category_id in enumerate(category_ids):
        of_precision, of_recall = overall(precision[:, :, k : k + 1], recall[:, k : k + 1])
        if of_precision["AP"] > -1:
            per_category[category_id] = of_precision | of_recall
    return {**average_precision, **average_recall, "per_category": per_category}


def _mean(values: np.ndarray) -> float:
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else -1.0

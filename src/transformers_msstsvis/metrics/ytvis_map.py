"""Mean average precision of video instance segmentation: the official YouTube-VIS and OVIS numbers, offline.

The evaluation is that of `youtubevos/cocoapi` (`ytvos.py`, `ytvoseval.py`), itself a per-video COCO evaluation, and
for OVIS that of `qjy981010/cocoapi`, which adds an occlusion axis. A *track* is one annotation or one prediction: one
object with at most one mask per frame.

The steps, one function each, in `tracks` and `average_precision`, on what `reading` reads:

1. [`track_iou`] compares tracks: intersection and union are summed over all frames of the video.
2. [`match_tracks`] assigns the predictions of one video and category to annotations, by falling score.
3. [`precision_recall`] joins all videos of a category into curves.
4. [`summarize`] takes the means that are published.

Where the official code crashes or computes a meaningless number on illegal input, this module raises `ValueError`. One
legal input differs on purpose: an annotation with `id` 0 is an ordinary annotation here, while the official evaluator
uses 0 for "unmatched" and so never matches it.

Shape letters: `F` frames, `D` predictions, `G` annotations, `T` IoU thresholds, `R` recall thresholds, `K` categories,
`A` area ranges, `O` occlusion ranges, `S = A * O` ranges, `M` detection limits.
"""

from collections.abc import Iterable, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from .average_precision import (
    AREA_RANGES,
    OCCLUSION_RANGES,
    RECALL_THRESHOLDS,
    match_tracks,
    precision_recall,
    spread,
    summarize,
)
from .reading import Reference, content_of, group_predictions, identifier, read_json, read_references
from .tracks import CategoryTracks, measure_video, read_tracks, track_iou

logger = logging.get_logger(__name__)

IOU_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())


class YtvisMeanAveragePrecision:
    """Mean average precision and recall of video instance segmentation, as on the YouTube-VIS and OVIS servers.

    With `ground_truth`, every one of its videos counts: the objects of videos that never occur in `update` are missed.
    Without it, give each `update` the references of its videos; then only what [`CategoryTracks`] lists is kept, no
    masks. The result depends on the set of videos and the order of predictions within each video, not on the order or
    the grouping of updates and merges.

    Args:
        ground_truth (`dict`, path or `datasets.Dataset`, *optional*):
            YouTube-VIS annotations: `videos`, `annotations`, `categories`, or rows of `load_vis_dataset`. Masks may be
            polygons, uncompressed or compressed RLE.
        iou_thresholds (`Sequence[float]`, *optional*, defaults to 0.50, 0.55, ..., 0.95):
            IoU from which a prediction matches an annotation, each in (0, 1].
        max_detections (`Sequence[int]`, *optional*, defaults to `(1, 10, 100)`):
            How many predictions per video *and category* count, the best first. Recall is reported for each limit,
            everything else at the largest.
        ovis (`bool`, *optional*, defaults to `False`):
            Also report by occlusion; annotations then need `occlusion`, a label or null per frame.

    Attributes:
        tracks (`dict[video id, dict[category id, CategoryTracks]]`): what has been measured so far.

    Example:

    ```python
    >>> metric = YtvisMeanAveragePrecision("instances.json")
    >>> metric.update("results.json")
    >>> metric.compute()["AP"]
    0.371
    ```

    Over several processes, each with its own videos:

    ```python
    >>> first, *others = accelerate.utils.gather_object([metric])
    >>> for other in others:
    ...     first.merge(other)
    ```
    """

    def __init__(
        self,
        ground_truth: dict[str, Any] | str | Path | None = None,
        *,
        iou_thresholds: Sequence[float] = IOU_THRESHOLDS,
        max_detections: Sequence[int] = (1, 10, 100),
        ovis: bool = False,
    ):
        try:
            self.iou_thresholds = np.asarray(iou_thresholds, dtype=np.float64)
        except (TypeError, ValueError):
            self.iou_thresholds = np.array(0.0)
        if self.iou_thresholds.ndim != 1 or not len(self.iou_thresholds):
            raise ValueError(f"iou_thresholds is {iou_thresholds!r}; expected a sequence of numbers, e.g. [0.5, 0.75]")
        if not ((self.iou_thresholds > 0) & (self.iou_thresholds <= 1)).all():
            raise ValueError(
                f"iou_thresholds is {iou_thresholds}; expected values above 0 and up to 1: divide percent by 100"
            )
        limits = list(max_detections) if isinstance(max_detections, Iterable) else []
        if not limits or not all(isinstance(limit, Integral) and limit >= 1 for limit in limits):
            raise ValueError(
                f"max_detections is {max_detections!r}; expected positive numbers, whole ones, such as (1, 10, 100)"
            )
        self.max_detections = tuple(sorted(limits))
        self.ovis = ovis

        self._ground_truth: dict[Any, Reference] | None = None
        self._ground_truth_categories: set = set()
        if ground_truth is not None:
            self._ground_truth, self._ground_truth_categories = read_references(ground_truth)
        self.reset()

    def reset(self) -> None:
        """Forgets all updates and merges; the ground truth given at construction stays."""
        self.tracks: dict[Any, dict[Any, CategoryTracks]] = {}
        self._categories = set(self._ground_truth_categories)

    @property
    def video_ids(self) -> list:
        """Ids of all videos that take part, ascending."""
        return sorted({*self.tracks, *(self._ground_truth or ())})

    @property
    def category_ids(self) -> list:
        """Ids of all categories of the ground truth, ascending: axis `K` of the arrays."""
        return sorted(self._categories)

    def update(
        self,
        predictions: Sequence[dict[str, Any]] | str | Path,
        references: dict[str, Any] | Sequence[dict[str, Any]] | None = None,
    ) -> None:
        """Measures the predictions of one or more videos.

        An update that raises leaves the metric as it was, so a video with bad data can be skipped.

        Args:
            predictions (`list[dict]` or path of a `results.json`):
                Each with `video_id`, `category_id`, `score` and `segmentations`, a mask or null for every frame of the
                video. All predictions of a video belong in the same call. Predictions of categories that the ground
                truth does not have are left out.
            references (`dict` or `list[dict]`, *optional*):
                Ground truth of the videos of this call (`videos`, `annotations`, `categories`), or several of them.
                Required unless the metric was built with `ground_truth`.

        Raises:
            ValueError: on malformed predictions or references (wrong number of frames, wrong mask size, NaN score,
                duplicate annotation id, unknown video, missing keys), and if a video was already measured with another
                result. The same video with the same result, as samplers produce that pad the last batch, counts once.
        """
        if references is None:
            if self._ground_truth is None:
                raise ValueError(
                    "update() got no references and the metric has no ground truth; pass references={'videos': [...], "
                    "'annotations': [...], 'categories': [...]} or build the metric with ground_truth"
                )
            known, categories = self._ground_truth, set()
        elif self._ground_truth is not None:
            raise ValueError(
                "update() got references, but the metric was built with ground_truth; leave one of the two out"
            )
        else:
            known, categories = read_references(references)

        grouped = group_predictions(content_of(predictions), known, self._categories | categories)
        measured = {
            video_id: self._measure(known[video_id], grouped.get(video_id, []))
            for video_id in (known if references is not None else grouped)
        }
        self._add(measured, categories)

    def merge(self, other: "YtvisMeanAveragePrecision") -> "YtvisMeanAveragePrecision":
        """Adds what `other` has measured, e.g. in another process, and returns `self`.

        Raises:
            TypeError: if `other` is no such metric.
            ValueError: if the two have different settings, or different results for the same video.
        """
        if not isinstance(other, YtvisMeanAveragePrecision):
            raise TypeError(f"other is of type {type(other).__name__}; expected another YtvisMeanAveragePrecision")
        for name in ("iou_thresholds", "max_detections", "ovis"):
            ours, theirs = getattr(self, name), getattr(other, name)
            if not np.array_equal(ours, theirs):
                raise ValueError(
                    f"cannot merge metrics of {name} {ours} and {theirs}; build both with the same {name}"
                )
        self._add(other.tracks, other._categories)
        if other._ground_truth is not None:
            self._ground_truth = {**other._ground_truth, **(self._ground_truth or {})}
            self._ground_truth_categories |= other._ground_truth_categories
        return self

    def compute(self, return_arrays: bool = False, video_ids: Iterable[Any] | None = None) -> dict[str, Any]:
        """The published numbers over everything seen so far.

        Args:
            return_arrays (`bool`, *optional*, defaults to `False`): also return the curves.
            video_ids (`Iterable`, *optional*): count these videos only, as if there were no others; all by default.

        Returns:
            `dict`: in [0, 1], or -1 where there is no such ground truth: `AP` (mean over IoU thresholds, recall and
            categories), `AP50`, `AP75`, `APs`, `APm`, `APl` (small, medium, large objects), `AR1`, `AR10`, `AR100`
            (recall with that many predictions per video and category), `ARs`, `ARm`, `ARl`; for OVIS also `AP_light`,
            `AP_medium`, `AP_heavy` and `AR_light`, `AR_medium`, `AR_heavy`. `per_category` holds `AP`, `AP50`, `AP75`
            and the `AR` of each limit by category id, for the categories that have ground truth.

            With `return_arrays`: `precision` and `scores` of shape `(T, R, K, A, M)` (score at which that recall is
            reached), `recall` of shape `(T, K, A, M)`, each with an axis `O` before `M` for OVIS; and their axes
            `iou_thresholds`, `recall_thresholds`, `category_ids`, `area_ranges`, `max_detections`.

        Raises:
            ValueError: if there is nothing to evaluate, or one of `video_ids` is not known.
        """
        if video_ids is not None and not isinstance(video_ids, Iterable):
            raise TypeError(f"video_ids is {video_ids!r}; expected a list of ids")
        chosen = set(self.video_ids) if video_ids is None else {identifier(video_id) for video_id in video_ids}
        unknown = sorted(chosen.difference(self.video_ids), key=str)
        if unknown:
            raise ValueError(
                f"video_ids has {len(unknown)} ids without a video, e.g. {unknown[:3]}; expected some of "
                f"{len(self.video_ids)} ids, e.g. {self.video_ids[:3]}"
            )
        if not chosen:
            raise ValueError(
                "compute() has no video to evaluate; call update() first or give ground_truth with videos"
            )
        area_ranges = np.array(list(AREA_RANGES.values()))
        occlusion_ranges = np.array(list(OCCLUSION_RANGES.values())[: None if self.ovis else 1])
        by_category = self._tracks_by_category(chosen)

        # Those without ground truth need no place: of ten thousands of categories, few may occur.
        counted = [
            category_id
            for category_id, videos in by_category.items()
            if any(len(tracks.annotation_ids) for tracks in videos)
        ]
        # (T, R, K, S, M), (T, K, S, M)
        num_ranges = len(area_ranges) * len(occlusion_ranges)
        shape = (len(counted), num_ranges, len(self.max_detections))
        precision = np.full((len(self.iou_thresholds), len(RECALL_THRESHOLDS), *shape), -1.0)
        recall = np.full((len(self.iou_thresholds), *shape), -1.0)
        scores = precision.copy()
        for k, category_id in enumerate(counted):
            videos = by_category[category_id]
            matches = [match_tracks(tracks, self.iou_thresholds, area_ranges, occlusion_ranges) for tracks in videos]
            for m, limit in enumerate(self.max_detections):
                for s, curves in precision_recall(matches, limit).items():
                    precision[:, :, k, s, m], recall[:, k, s, m], scores[:, :, k, s, m] = curves

        # (..., S, M) -> (..., A, O, M)
        ranges = (len(area_ranges), len(occlusion_ranges))
        precision, recall, scores = (
            array.reshape(*array.shape[:-2], *ranges, array.shape[-1]) for array in (precision, recall, scores)
        )
        result = summarize(precision, recall, self.iou_thresholds, counted, self.max_detections)
        if return_arrays:
            places = np.searchsorted(self.category_ids, counted)
            precision, recall, scores = (
                spread(array, places, len(self.category_ids), axis)
                for array, axis in ((precision, 2), (recall, 1), (scores, 2))
            )
            if not self.ovis:
                precision, recall, scores = (array.squeeze(-2) for array in (precision, recall, scores))
            result |= {
                "precision": precision,
                "recall": recall,
                "scores": scores,
                "iou_thresholds": self.iou_thresholds,
                "recall_thresholds": RECALL_THRESHOLDS,
                "category_ids": self.category_ids,
                "area_ranges": area_ranges,
                "max_detections": self.max_detections,
            }
        return result

    def _measure(self, reference: Reference, predictions: list[tuple[int, dict]]) -> dict[Any, CategoryTracks]:
        return measure_video(reference, predictions, max_detections=self.max_detections[-1], ovis=self.ovis)

    def _add(self, measured: dict[Any, dict[Any, CategoryTracks]], categories: set) -> None:
        for video_id in measured.keys() & self.tracks.keys():
            if measured[video_id] != self.tracks[video_id]:
                raise ValueError(
                    f"video {video_id!r} was measured twice with different results; expected each video once: "
                    "give all its predictions in one update(), or call reset() before a new evaluation"
                )
        self.tracks |= measured
        self._categories |= categories

    def _tracks_by_category(self, video_ids: set) -> dict[Any, list[CategoryTracks]]:
        """By category, the tracks of the videos by ascending video id, which decides between equal scores."""
        by_category: dict[Any, list[CategoryTracks]] = {category_id: [] for category_id in self.category_ids}
        unknown = set()
        for video_id in sorted(video_ids):
            tracks = self.tracks.get(video_id)
            if tracks is None:
                tracks = self._measure(self._ground_truth[video_id], [])
            for category_id, category_tracks in tracks.items():
                if category_id in by_category:
                    by_category[category_id].append(category_tracks)
                else:
                    unknown.add(category_id)
        if unknown:
            logger.warning_once(
                f"Left out tracks of the category ids {sorted(unknown, key=str)}, which are not among the categories "
                f"of the ground truth ({self.category_ids})."
            )
        return by_category


def evaluate_ytvis(
    ground_truth: dict[str, Any] | str | Path,
    predictions: Sequence[dict[str, Any]] | str | Path,
    ovis: bool = False,
) -> dict[str, Any]:
    """Evaluates a submission in one call; see [`YtvisMeanAveragePrecision`] for arguments, result and errors."""
    metric = YtvisMeanAveragePrecision(ground_truth, ovis=ovis)
    metric.update(predictions)
    return metric.compute()


__all__ = [
    "YtvisMeanAveragePrecision",
    "evaluate_ytvis",
    "match_tracks",
    "precision_recall",
    "read_json",
    "read_references",
    "read_tracks",
    "summarize",
    "track_iou",
]

"""Mean average precision of video instance segmentation: the official YouTube-VIS and OVIS numbers, offline.

The evaluation is that of `youtubevos/cocoapi` (`ytvos.py`, `ytvoseval.py`), itself a per-video COCO evaluation, and
for OVIS that of `qjy981010/cocoapi`, which adds an occlusion axis. A *track* is one annotation or one prediction: one
object with at most one mask per frame.

The steps, one function each:

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

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_utils
from transformers.utils import logging

from ..data.fields import area_problem, category_problem, iscrowd_problem, score_problem
from ..data.json_index import decode, open_json
from ..results.rle import MAX_SIDE, count_pixels, counts_message, excerpt, read_mask

logger = logging.get_logger(__name__)

IOU_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)
# Borders belong to both neighbours. Areas in pixels, averaged over the frames in which the object is visible.
AREA_RANGES = {"": (0.0, 1e10), "s": (0.0, 128.0**2), "m": (128.0**2, 256.0**2), "l": (256.0**2, 1e10)}
OCCLUSION_RANGES = {"": (0.0, 1.0), "_light": (0.0, 0.25), "_medium": (0.25, 0.5), "_heavy": (0.5, 1.0)}
OCCLUSION_SCORES = {"no_occlusion": 0.0, "slight_occlusion": 0.25, "severe_occlusion": 0.75}


class Reference(NamedTuple):
    """A video entry of a ground-truth file and its annotations, in file order."""

    video: dict[str, Any]
    annotations: list[dict[str, Any]]


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


class Matches(NamedTuple):
    """Assignment of one video's predictions of one category, for every range and IoU threshold.

    `matched` and `ignored` have shape `(S, T, D)`; a prediction that is neither is a false positive. `num_counted` of
    shape `(S,)` is the number of annotations to be found, `scores` has shape `(D,)`.
    """

    scores: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    num_counted: np.ndarray


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

        grouped = _group_predictions(_read_json(predictions), known, self._categories | categories)
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
        chosen = set(self.video_ids) if video_ids is None else {_identifier(video_id) for video_id in video_ids}
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
                _spread(array, places, len(self.category_ids), axis)
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


# ---------------------------------------------------------------------------------------------------------- reading


def read_references(references: dict[str, Any] | Sequence[dict[str, Any]] | str | Path) -> tuple[dict, set]:
    """Reads ground truth in YouTube-VIS format.

    Annotations of videos that are not listed are left out, as in the official evaluator.

    Args:
        references (`dict`, `list[dict]`, path, or `datasets.Dataset` of `load_vis_dataset`):
            `videos`, `annotations`, `categories`.

    Returns:
        `tuple[dict[video id, Reference], set[category id]]`

    Raises:
        ValueError: if one of the three lists is missing or null, or a video or annotation id occurs twice.
    """
    if hasattr(references, "column_names"):
        from ..data.loading import dataset_to_ytvis

        references = dataset_to_ytvis(references)
    references = _read_json(references)
    if not isinstance(references, dict) and not isinstance(references, Sequence):
        raise ValueError(
            f"ground truth is a {type(references).__name__}; expected a dict of the lists 'videos', 'annotations' and "
            "'categories'"
        )
    parts = [references] if isinstance(references, dict) else references
    videos: dict[Any, Reference] = {}
    category_ids: set = set()
    listed: list[dict] = []
    stray = 0
    for part in parts:
        for key in ("videos", "annotations", "categories"):
            if isinstance(part, dict) and not isinstance(part.get(key), list | tuple | None):
                raise ValueError(f"ground truth has {key} {excerpt(part[key])}; expected a list of dicts")
            if not isinstance(part, dict) or part.get(key) is None:
                hint = "labels of validation and test splits are not public; evaluate on a split with annotations"
                raise ValueError(
                    f"ground truth has no {key!r} (missing or null); expected a dict of the lists 'videos', "
                    f"'annotations' and 'categories'" + (f": {hint}" if key == "annotations" else "")
                )
        for video in part["videos"]:
            _require(video, ("id", "height", "width", "length"), "a video of the ground truth")
            video_id = _identifier(video["id"])
            _check_video(video, f"video {video_id!r} of the ground truth")
            if video_id in videos:
                raise ValueError(f"video id {video_id!r} occurs twice in the ground truth; expected unique ids")
            videos[video_id] = Reference(video, [])
        for category in part["categories"]:
            _require(category, ("id",), "a category of the ground truth")
            category_ids.add(_identifier(category["id"]))

        annotation_ids = set()
        for annotation in part["annotations"]:
            _require(annotation, ("id", "video_id", "category_id", "segmentations"), "an annotation")
            annotation_id, video_id = _identifier(annotation["id"]), _identifier(annotation["video_id"])
            if annotation_id in annotation_ids:
                raise ValueError(
                    f"annotation id {annotation_id!r} occurs twice in the ground truth; expected unique ids: renumber "
                    "the annotations"
                )
            annotation_ids.add(annotation_id)
            if video_id in videos:
                videos[video_id].annotations.append(annotation)
                listed.append(annotation)
            else:
                stray += 1
    if stray:
        logger.warning_once(f"Left out {stray} annotations of videos that the ground truth does not list.")
    for kind, ids in (("video", videos), ("category", category_ids)):
        try:
            sorted(ids)
        except TypeError as error:
            raise ValueError(
                f"{kind} ids of the ground truth have no order ({error}); expected all integers, or all strings"
            ) from error
    for annotation in listed:
        problem = category_problem(_identifier(annotation["category_id"]), category_ids)
        problem = problem or iscrowd_problem(_identifier(annotation.get("iscrowd")))
        if problem is not None:
            raise ValueError(f"annotation {annotation['id']!r} of video {annotation['video_id']!r}: {problem}")
    return videos, category_ids


def _read_json(source: Any) -> Any:
    return read_json(source) if isinstance(source, (str, Path)) else source


def read_json(path: str | Path) -> Any:
    """The content of a JSON file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not JSON; the message names the file and the place.
    """
    with open_json(path) as file:
        content = file.read()
    try:
        return json.loads(decode(content))
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply; expected annotations or results in JSON") from None
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file: {error}; expected annotations or results in JSON") from error


def _group_predictions(
    predictions: Any, known: dict[Any, Reference], categories: set
) -> dict[Any, list[tuple[int, dict]]]:
    """By video id, the predictions with their position in the list, for error messages."""
    if isinstance(predictions, dict) or not hasattr(predictions, "__iter__"):
        raise ValueError(
            f"predictions is a {type(predictions).__name__}; expected a list of dicts with video_id, category_id, "
            "score and segmentations, or the path of a results.json"
        )
    grouped: dict[Any, list[tuple[int, dict]]] = {}
    for position, prediction in enumerate(predictions):
        _require(prediction, ("video_id", "category_id", "score", "segmentations"), f"prediction {position}")
        video_id = _identifier(prediction["video_id"])
        if video_id not in known:
            raise ValueError(
                f"prediction {position} is for video {video_id!r}, which the ground truth does not list (it has "
                f"{len(known)} videos, e.g. {list(known)[:3]}); check that both are of the same data set and split"
            )
        # Other integers are of categories that the ground truth lacks, and are left out.
        category_id = _identifier(prediction["category_id"])
        problem = category_problem(category_id, categories)
        if problem is not None and not (type(category_id) is int and all(type(known) is int for known in categories)):
            raise ValueError(f"prediction {position}: {problem}")
        grouped.setdefault(video_id, []).append((position, prediction))
    return grouped


def _require(entry: Any, keys: tuple[str, ...], name: str) -> None:
    if not isinstance(entry, dict):
        raise ValueError(f"{name} is a {type(entry).__name__}; expected a dict with {', '.join(keys)}")
    missing = [key for key in keys if key not in entry]
    if missing:
        raise ValueError(f"{name} has no {', '.join(missing)}; expected {', '.join(keys)} (given: {sorted(entry)})")
    for key in keys:
        if key.endswith("id") and isinstance(entry[key], (list, dict)):
            raise ValueError(f"{name}: {key} is {excerpt(entry[key])}; expected an integer or a string")


def _check_video(video: dict[str, Any], name: str) -> None:
    for key, lowest, highest in (("height", 1, MAX_SIDE), ("width", 1, MAX_SIDE), ("length", 0, math.inf)):
        value = _identifier(video[key])
        whole = isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0
        if not whole or not lowest <= value <= highest:
            unit = "number of frames" if key == "length" else f"number of pixels, up to {MAX_SIDE}"
            raise ValueError(f"{name}: {key} is {value!r}; expected its {unit}")


def _identifier(value: Any) -> Any:
    # Tensors of one element hash by identity, so they would never be found.
    return value.item() if hasattr(value, "item") else value


# ---------------------------------------------------------------------------------------------------------- masks


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
            _check_frames(annotation, key, video, name)
        _check_areas(annotation, video, name)
        by_category.setdefault(_identifier(annotation["category_id"]), ([], []))[0].append((name, annotation))
    for position, prediction in predictions:
        name = f"prediction {position} (video {video['id']!r})"
        _check_frames(prediction, "segmentations", video, name)
        score = _score(prediction, name)
        category_id = _identifier(prediction["category_id"])
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
            annotation_ids=np.array([_identifier(annotation["id"]) for _, annotation in ground_truth]),
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


def _check_frames(entry: dict[str, Any], key: str, video: dict[str, Any], name: str) -> None:
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
        problem = area_problem(_identifier(area), video["height"], video["width"])
        if problem is not None:
            raise ValueError(f"{name}, frame {frame}: {problem}")


def _score(prediction: dict[str, Any], name: str) -> float:
    score = _identifier(prediction["score"])
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


# ------------------------------------------------------------------------------------------------------- evaluation


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


def _spread(array: np.ndarray, places: np.ndarray, number: int, axis: int) -> np.ndarray:
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

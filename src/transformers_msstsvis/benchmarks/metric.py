"""Speed of the metric against a plain re-statement of the published YouTube-VIS evaluator.

The baseline is written here from the description of `youtubevos/cocoapi` (`ytvos.py`, `ytvoseval.py`); it is not that
code. It has the same steps and the same cost structure: every pair of a prediction and an annotation is compared frame
by frame with pycocotools, and matching loops over area ranges, IoU thresholds, predictions and annotations in Python.
Both sides get the same parsed JSON and must give the same numbers.

Two generated sets of 360x640 videos with 40 categories:

| set | videos | frames | objects | predictions per video |
|---|---|---|---|---|
| A | 300 | 20 | 5 | 10 |
| B | 40 | 40 | 10 | 100 |
"""

import argparse
import copy
import statistics
import time
from collections import defaultdict
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from ..metrics.ytvis_map import evaluate_ytvis

SETS = {
    "A": {"videos": 300, "frames": 20, "objects": 5, "predictions": 10, "categories": 40},
    # Crowded: with 40 categories few pairs of a video are compared, and the ratio is smaller; with 3 it is larger.
    "B": {"videos": 40, "frames": 40, "objects": 10, "predictions": 100, "categories": 8},
}
HEIGHT, WIDTH, CATEGORIES = 360, 640, 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS), help="which sets to measure")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each side, taken in turns (default 3)")
    parser.add_argument("--seed", type=int, default=0, help="of the generated sets (default 0)")
    parser.add_argument("--fraction", type=float, default=1.0, help="part of each set's videos (default 1)")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds of one thread from parsed JSON to numbers, median and spread, for both sides in turns.

    Raises:
        AssertionError: if the two sides do not give the same numbers.
    """
    report: dict[str, Any] = {
        "baseline": "own re-statement of the published evaluator (per-frame loops over pycocotools)",
        "unit": "CPU seconds, one thread, parsed JSON to numbers",
        "repeats": arguments.repeats,
        "seed": arguments.seed,
    }
    for name in arguments.sets:
        sizes = dict(SETS[name])
        sizes["videos"] = max(1, round(sizes["videos"] * arguments.fraction))
        ground_truth, predictions = generate(**sizes, seed=arguments.seed)
        sides = {"baseline": plain_evaluate, "ours": evaluate_ytvis}
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(arguments.repeats):
            numbers = {}
            for side, function in sides.items():
                inputs = copy.deepcopy((ground_truth, predictions))
                start = time.process_time()
                numbers[side] = function(*inputs)
                seconds[side].append(time.process_time() - start)
            for key, value in numbers["baseline"]["stats"].items():
                assert abs(numbers["ours"][key] - value) <= 1e-9 * abs(value), (key, value, numbers["ours"][key])
        ratios = [baseline / ours for baseline, ours in zip(seconds["baseline"], seconds["ours"], strict=True)]
        report[name] = {
            **sizes,
            "AP": numbers["ours"]["AP"],
            **{side: spread(values) for side, values in seconds.items()},
            "baseline_over_ours": spread(ratios),
        }
    return report


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


# ---------------------------------------------------------------------------------------------------- generated sets


def generate(
    videos: int,
    frames: int,
    objects: int,
    predictions: int,
    seed: int = 0,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    categories: int = CATEGORIES,
    crowds: float = 0.0,
    absent: float = 0.1,
    ties: bool = False,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """
    Ground truth and predictions of blobs that drift and change size.

    Most predictions follow an object of their video with an error of place and size, the others follow nothing. Masks
    are uncompressed RLE in the ground truth, as in the published files, and compressed in the predictions.

    Args:
        videos, frames, objects, predictions: how many; the last three per video.
        seed: of all that is drawn.
        size: height and width in pixels.
        categories: how many.
        crowds: share of the annotations that are crowds.
        absent: share of the frames in which a track has no mask.
        ties: draw scores from few values.

    Returns:
        Ground truth and predictions in YouTube-VIS format.
    """
    rng = np.random.default_rng(seed)
    annotations, results = [], []
    for video_id in range(1, videos + 1):
        tracks = []
        for _ in range(objects):
            category_id = int(rng.integers(1, categories + 1))
            track = draw_track(rng, frames, size)
            tracks.append((category_id, track))
            segmentations = [run_lengths(ellipse, size) for ellipse in track]
            visible = rng.random(frames) >= absent
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "video_id": video_id,
                    "category_id": category_id,
                    "iscrowd": int(rng.random() < crowds),
                    "segmentations": [s if v else None for s, v in zip(segmentations, visible, strict=True)],
                    "areas": [
                        sum(s["counts"][1::2]) if v else None for s, v in zip(segmentations, visible, strict=True)
                    ],
                }
            )
        for _ in range(predictions):
            category_id, track = tracks[rng.integers(len(tracks))]
            if rng.random() < 0.2:
                category_id, track = int(rng.integers(1, categories + 1)), draw_track(rng, frames, size)
            error = rng.exponential(0.06)
            track = track + rng.normal(0, error, (1, 4)) * track[:, [2, 3, 2, 3]]
            visible = rng.random(frames) >= absent
            results.append(
                {
                    "video_id": video_id,
                    "category_id": category_id,
                    "score": float(np.round(rng.random(), 1) if ties else rng.random()),
                    "segmentations": [
                        compressed(run_lengths(ellipse, size)) if v else None
                        for ellipse, v in zip(track, visible, strict=True)
                    ],
                }
            )
    ground_truth = {
        "videos": [
            {"id": video_id, "height": size[0], "width": size[1], "length": frames}
            for video_id in range(1, videos + 1)
        ],
        "categories": [{"id": number, "name": f"category {number}"} for number in range(1, categories + 1)],
        "annotations": annotations,
    }
    return ground_truth, results


def draw_track(rng: np.random.Generator, frames: int, size: tuple[int, int]) -> np.ndarray:
    """`(frames, 4)`: centre x, centre y, half width, half height of an ellipse in pixels."""
    height, width = size
    start = rng.uniform((0.2 * width, 0.2 * height), (0.8 * width, 0.8 * height))
    motion = rng.normal(0, 0.01, 2) * (width, height)
    radius = rng.uniform(0.05, 0.5, 2) * height
    time_steps = np.arange(frames)[:, None]
    growth = 1 + rng.normal(0, 0.01) * time_steps
    return np.concatenate([start + motion * time_steps, radius * np.maximum(growth, 0.2)], axis=1)


def run_lengths(ellipse: np.ndarray, size: tuple[int, int]) -> dict[str, Any]:
    """Uncompressed RLE of an ellipse with an uneven border."""
    height, width = size
    x, y, half_width, half_height = ellipse
    columns = np.arange(max(0, int(x - half_width)), min(width, int(x + half_width) + 1))
    half = half_height * np.sqrt(np.clip(1 - ((columns - x) / max(half_width, 1)) ** 2, 0, None))
    half += 2 * np.sin(columns / 3)
    top = np.clip(np.rint(y - half), 0, height).astype(int)
    bottom = np.clip(np.rint(y + half), 0, height).astype(int)
    filled = bottom > top
    borders, times = np.unique(columns[filled] * height + np.stack([top, bottom])[:, filled], return_counts=True)
    borders = borders[times == 1]  # runs that touch across columns are one run
    counts = np.diff(borders, prepend=0, append=height * width)
    return {"size": [height, width], "counts": counts.tolist()}


def compressed(rle: dict[str, Any]) -> dict[str, Any]:
    packed = mask_utils.frPyObjects(rle, *rle["size"])
    return {"size": rle["size"], "counts": packed["counts"].decode()}


# --------------------------------------------------------------------------------------------------- plain evaluator

AREAS = {"all": (0, 1e10), "small": (0, 128**2), "medium": (128**2, 256**2), "large": (256**2, 1e10)}
LIMITS = (1, 10, 100)


def plain_evaluate(ground_truth: dict[str, Any], predictions: list[dict[str, Any]]) -> dict[str, Any]:
    """
    The official numbers, step by step, one pair and one frame at a time.

    Args:
        ground_truth: in YouTube-VIS format, with `areas`; its masks are compressed in place.
        predictions: with compressed RLE.

    Returns:
        `stats`, the twelve numbers by name; `precision` (10, 101, K, 4, 3) and `recall` (10, K, 4, 3).
    """
    videos = {video["id"]: video for video in ground_truth["videos"]}
    truths, guesses = defaultdict(list), defaultdict(list)
    for annotation in ground_truth["annotations"]:
        video = videos[annotation["video_id"]]
        masks = annotation["segmentations"]
        for frame, mask in enumerate(masks):
            if mask:
                masks[frame] = compressed_any(mask, video["height"], video["width"])
        annotation["mean_area"] = mean_of_nonzero(annotation["areas"])
        truths[annotation["video_id"], annotation["category_id"]].append(annotation)
    for prediction in predictions:
        areas = [mask_utils.area(mask) if mask else None for mask in prediction["segmentations"]]
        prediction["mean_area"] = mean_of_nonzero(areas)
        guesses[prediction["video_id"], prediction["category_id"]].append(prediction)

    video_ids, category_ids = sorted(videos), sorted(category["id"] for category in ground_truth["categories"])
    thresholds, recalls = np.linspace(0.5, 0.95, 10), np.linspace(0, 1, 101)
    ious = {}
    for key in [(video_id, category_id) for video_id in video_ids for category_id in category_ids]:
        guesses[key] = sorted(guesses[key], key=lambda guess: -guess["score"])[: LIMITS[-1]]
        ious[key] = [
            [iou_over_frames(g["segmentations"], t["segmentations"]) for t in truths[key]] for g in guesses[key]
        ]

    shape = (len(category_ids), len(AREAS), len(LIMITS))
    precision, recall = np.full((10, 101, *shape), -1.0), np.full((10, *shape), -1.0)
    for k, category_id in enumerate(category_ids):
        for a, area in enumerate(AREAS.values()):
            keys = [(video_id, category_id) for video_id in video_ids]
            matched = [match(guesses[key], truths[key], ious[key], area, thresholds) for key in keys]
            total = sum(counted for *_, counted in matched)
            if not total:
                continue
            for m, limit in enumerate(LIMITS):
                scores = np.array([guess["score"] for key in keys for guess in guesses[key][:limit]])
                order = np.argsort(-scores, kind="stable")
                hits = np.concatenate([hit[:, :limit] for hit, _, _ in matched], axis=1)[:, order]
                skipped = np.concatenate([skip[:, :limit] for _, skip, _ in matched], axis=1)[:, order]
                for t in range(len(thresholds)):
                    curve = precision_at(hits[t], skipped[t], total, recalls)
                    precision[t, :, k, a, m], recall[t, k, a, m] = curve

    def mean(values: np.ndarray) -> float:
        return float(values[values > -1].mean()) if (values > -1).any() else -1.0

    stats = {"AP": mean(precision[:, :, :, 0, 2]), "AP50": mean(precision[0, :, :, 0, 2])}
    stats["AP75"] = mean(precision[5, :, :, 0, 2])
    stats |= {f"AP{name[0]}": mean(precision[:, :, :, a, 2]) for a, name in enumerate(AREAS) if a}
    stats |= {f"AR{limit}": mean(recall[:, :, 0, m]) for m, limit in enumerate(LIMITS)}
    stats |= {f"AR{name[0]}": mean(recall[:, :, a, 2]) for a, name in enumerate(AREAS) if a}
    return {"stats": stats, "precision": precision, "recall": recall}


def compressed_any(mask: Any, height: int, width: int) -> dict[str, Any]:
    if isinstance(mask, list):
        return mask_utils.merge(mask_utils.frPyObjects(mask, height, width))
    return mask_utils.frPyObjects(mask, height, width) if isinstance(mask["counts"], list) else mask


def mean_of_nonzero(areas: list[float | None]) -> float:
    visible = [area for area in areas if area]
    return np.array(visible).mean() if visible else 0.0


def iou_over_frames(guess: list, truth: list) -> float:
    """Summed intersection over summed union of two lists of masks, None where there is none."""
    intersection = union = 0.0
    for a, b in zip(guess, truth, strict=True):
        if a and b:
            intersection += mask_utils.area(mask_utils.merge([a, b], True))
            union += mask_utils.area(mask_utils.merge([a, b], False))
        elif a or b:
            union += mask_utils.area(a or b)
    return intersection / union if union else 0.0


def match(
    guesses: list[dict], truths: list[dict], ious: list[list[float]], area: tuple[float, float], thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """Hits and skipped guesses, each `(thresholds, guesses)` bool, and the number of truths to be found."""
    outside = [bool(t["iscrowd"]) or not area[0] <= t["mean_area"] <= area[1] for t in truths]
    order = sorted(range(len(truths)), key=lambda index: outside[index])  # those to be found come first
    hits, skipped = (np.zeros((len(thresholds), len(guesses)), dtype=bool) for _ in range(2))
    for t, threshold in enumerate(thresholds):
        taken = set()
        for g, guess in enumerate(guesses):
            best, best_iou = None, min(threshold, 1 - 1e-10)
            for index in order:
                if index in taken and not truths[index]["iscrowd"]:
                    continue
                if best is not None and not outside[best] and outside[index]:
                    break
                if ious[g][index] >= best_iou:
                    best, best_iou = index, ious[g][index]
            if best is None:
                skipped[t, g] = not area[0] <= guess["mean_area"] <= area[1]
            else:
                taken.add(best)
                hits[t, g], skipped[t, g] = True, outside[best]
    return hits, skipped, len(truths) - sum(outside)


def precision_at(hits: np.ndarray, skipped: np.ndarray, total: int, recalls: np.ndarray) -> tuple[np.ndarray, float]:
    """Precision at the given recalls, and the recall over all guesses."""
    true = np.cumsum(hits & ~skipped).astype(float)
    false = np.cumsum(~hits & ~skipped).astype(float)
    recall, precision = true / total, (true / (true + false + np.spacing(1))).tolist()
    for index in range(len(precision) - 1, 0, -1):
        precision[index - 1] = max(precision[index - 1], precision[index])
    result = np.zeros(len(recalls))
    for index, position in enumerate(np.searchsorted(recall, recalls, side="left")):
        if position < len(precision):
            result[index] = precision[position]
    return result, recall[-1] if len(recall) else 0.0

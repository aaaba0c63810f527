"""Trackers side by side on long synthetic videos, in which objects hide each other and leave, or look alike."""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from ..data.loading import load_vis_dataset
from ..data.synthetic import make_synthetic
from ..evaluation.evaluate import measure
from ..pipelines import SAMPLE_MODEL
from ..predict import load_segmenter
from ..results.rle import RLE, read_mask
from ..results.video_instances import VideoInstances
from ..tracking.clips import ClipJoiner
from ..tracking.stitching import mask_overlap
from ..tracking.track_selection import suppress_duplicates

SHOWN = 0.3  # the score from which predict shows a track
COMPARED = ("iou", "devis")
KINDS = {"occlusion": {}, "look-alikes": {"look_alikes": True}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--videos", type=int, default=10, help="of each kind (default 10)")
    parser.add_argument("--min_frames", type=int, default=60)
    parser.add_argument("--max_frames", type=int, default=120)
    parser.add_argument("--clip_frames", type=int, default=6, help="that the model sees at once (default 6)")
    parser.add_argument("--clip_stride", type=int, default=4, help="frames from clip to clip (default 4)")
    parser.add_argument("--seed", type=int, default=104, help="of the videos (default 104)")
    parser.add_argument("--model", default=str(SAMPLE_MODEL), help="checkpoint; the bundled one by default")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """
    By kind of video and tracker: AP and AR10 of 100, identity switches of the tracks that predict would show, and of
    100 times that an object is visible how often it has a track. `"whole"` are videos in one clip, where nothing is
    to be joined.
    """
    for tracker in COMPARED:
        ClipJoiner(tracker, arguments.clip_frames, arguments.clip_stride)  # refuses what it can't join
    segmenter = load_segmenter(arguments.model, device="cpu")
    segmenter.video_processor.clip_stride = arguments.clip_stride
    names = ("videos", "min_frames", "max_frames", "clip_frames", "clip_stride", "seed")
    report: dict[str, Any] = {
        "model": Path(arguments.model).name,
        **{name: getattr(arguments, name) for name in names},
    }
    for kind, options in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            annotations = make_synthetic(
                folder,
                arguments.seed,
                arguments.videos,
                min_frames=arguments.min_frames,
                max_frames=arguments.max_frames,
                min_objects=3,
                **options,
            )
            videos = load_vis_dataset(annotations)
            report[kind] = {
                tracker: _measure(segmenter, videos, tracker, arguments.clip_frames) for tracker in COMPARED
            }
            if segmenter.model.config.clip_length is None:
                report[kind]["whole"] = _measure(segmenter, videos, "iou", arguments.max_frames)
    return report


def _measure(segmenter, videos, tracker: str, clip_frames: int) -> dict[str, Any]:
    counts = np.zeros(3, dtype=int)

    def count(position: int, row: dict[str, Any], found: VideoInstances) -> None:
        shown = suppress_duplicates(found.filter(SHOWN))
        truth = [
            [None if mask is None else read_mask(mask, row["height"], row["width"]) for mask in one["segmentations"]]
            for one in videos[position]["annotations"]
        ]
        counts[:] += count_identities(truth, shown)

    start = time.process_time()
    numbers = measure(segmenter, videos, max_frames=clip_frames, tracker=tracker, on_video=count)
    switches, seen, visible = counts.tolist()
    return {
        "AP": round(100 * numbers["AP"], 1),
        "AR10": round(100 * numbers["AR10"], 1),
        "id_switches": switches,
        "id_switches_per_object": round(switches / max(sum(len(row["annotations"]) for row in videos), 1), 3),
        "seen": round(100 * seen / max(visible, 1), 1),
        "cpu_s": round(time.process_time() - start, 1),
    }


def count_identities(
    truth: Sequence[Sequence[RLE | None]], found: VideoInstances, iou_threshold: float = 0.5
) -> tuple[int, int, int]:
    """
    Identity switches as of CLEAR MOT (Bernardin and Stiefelhagen, 2008), whatever the classes.

    In every frame an object keeps its track as long as their mask IoU is at least `iou_threshold`; the others are
    assigned one to one, at the largest IoU above it. An object that gets another track than its last one has switched.

    Args:
        truth: of every object a mask for each frame, None where it is not visible.
        found: the tracks.

    Returns:
        Switches, pairs of an object and a frame in which it has a track, and those in which it is visible.
    """
    last: dict[int, int] = {}  # by object
    switches = seen = 0
    for frame in range(found.num_frames):
        masks, tracks = [masks[frame] for masks in truth], [masks[frame] for masks in found.masks]
        common, areas, other_areas = mask_overlap(masks, tracks)
        iou = common / np.maximum(areas + other_areas - common, 1)
        iou[iou < iou_threshold] = 0
        now = {one: track for one, track in last.items() if iou[one, track]}
        free = iou.copy()
        free[list(now)] = 0
        free[:, list(now.values())] = 0
        for one, track in zip(*linear_sum_assignment(free, maximize=True), strict=True):
            if free[one, track]:
                now[int(one)] = int(track)
        switches += sum(last.get(one, track) != track for one, track in now.items())
        seen += len(now)
        last |= now
    visible = sum(mask is not None for masks in truth for mask in masks)
    return switches, seen, visible

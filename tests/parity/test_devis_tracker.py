"""Tracks of the published code for the outputs of clips, with every option of its tracker."""

import functools

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from tests.parity.golden import GOLDEN, recipe
from tests.tiny import tiny_model
from transformers_msstsvis import (
    MsstsVisVideoProcessor,
    VideoInstances,
    VideoInstanceSegmentationOutput,
    VideoInstanceSegmentationPipeline,
)
from transformers_msstsvis.results.rle import decode_mask
from transformers_msstsvis.tracking import DevisTracker

VARIANTS = (
    *("published", "center", "per_class", "binary_frame_average", "soft_frame_average", "binary_volumetric"),
    "score_weighting_median",
)
CASES = [("tracker_short", "published"), *(("tracker_yt19", variant) for variant in VARIANTS)]


@functools.cache
def load(case: str):
    return recipe.load_case(GOLDEN / "devis" / f"{case}.json")


def outputs_of(case: str, clip: int, num_frames: int) -> VideoInstanceSegmentationOutput:
    """As a model gives them for the first `num_frames` frames of a clip."""
    description, arrays = load(case)
    T = description["arguments"]["num_frames"]
    logits, boxes, masks = (
        torch.from_numpy(arrays[f"clip{clip}.pred_{name}"]).float() for name in ("logits", "boxes", "masks")
    )
    frame_logits = logits.unflatten(1, (T, -1))[:, :num_frames]
    return VideoInstanceSegmentationOutput(
        logits=frame_logits.sigmoid().mean(1).logit(),
        frame_logits=frame_logits,
        pred_boxes=boxes.unflatten(1, (T, -1))[:, :num_frames].transpose(1, 2),
        pred_masks=masks[:num_frames].transpose(0, 1)[None],
        frame_sizes=torch.tensor(masks.shape[-2:]).mul(4).expand(1, num_frames, 2),
    )


def options_of(variant: dict) -> dict:
    names = {
        "MASK_COST": "mask_cost",
        "CLASS_COST": "class_cost",
        "SCORE_COST": "score_cost",
        "CENTER_COST": "center_cost",
        "PER_CLASS_MATCHING": "per_class_matching",
        "USE_BINARY_MASK_IOU": "binary_mask_iou",
        "USE_FRAME_AVERAGE_IOU": "frame_average_iou",
        "FINAL_CLASS_POLICY": "final_class",
        "FINAL_SCORE_POLICY": "final_score",
        "MIN_FRAME_SCORE": "min_frame_score",
        "MIN_TRACK_SCORE": "min_track_score",
        "MIN_DETECTIONS": "min_detections",
    }
    return {name: variant["clip_tracking"][published] for published, name in names.items()}


def assert_tracks(found: VideoInstances, expected: list[dict], ordered: bool) -> None:
    rows = [
        (int(label) + 1, float(score), [0 if mask is None else int(coco_mask.area(mask)) for mask in masks], index)
        for index, (label, score, masks) in enumerate(zip(found.labels, found.scores, found.masks, strict=True))
    ]
    wanted = [
        (track["category_id"], track["score"], [area or 0 for area in track["areas"]], track) for track in expected
    ]
    if not ordered:
        rows, wanted = (sorted(side, key=lambda row: (row[0], row[1], row[2])) for side in (rows, wanted))
    assert [row[0] for row in rows] == [row[0] for row in wanted]
    np.testing.assert_allclose([row[1] for row in rows], [row[1] for row in wanted], atol=1e-5)
    assert np.abs(np.array([row[2] for row in rows]) - np.array([row[2] for row in wanted])).max() <= 2
    for (*_, index), (*_, track) in zip(rows, wanted, strict=True):
        for mask, published in zip(found.masks[index], track.get("segmentations", ()), strict=False):
            assert (mask is None) == (published is None or not coco_mask.area(published))
            if mask is not None:
                assert np.sum(decode_mask(mask) != decode_mask(published)) <= 2


@pytest.mark.parametrize(("case", "variant"), CASES)
def test_tracks_of_the_pipeline_are_the_published_ones(case, variant, monkeypatch):
    description, _ = load(case)
    expected, about = description["variants"][variant], description["arguments"]
    model = tiny_model()
    model.config.num_labels, model.config.num_frames = about["num_classes"], about["num_frames"]
    clips = iter(range(len(expected["clips"])))

    def forward(pixel_values_videos, pixel_mask, mask_top_k):
        return outputs_of(case, next(clips), pixel_values_videos.shape[1])

    monkeypatch.setattr(model, "forward", forward)
    segmenter = VideoInstanceSegmentationPipeline(
        model=model,
        video_processor=MsstsVisVideoProcessor(
            size={"shortest_edge": 32},
            clip_stride=about["stride"],
            tracker="devis",
            tracker_options=options_of(expected),
        ),
    )
    video = np.zeros((about["video_length"], *about["original_size_hw"], 3), dtype=np.uint8)
    found = segmenter(video, threshold=0.0, duplicate_iou=1, top_k=expected["num_out"], return_instances=True)
    assert_tracks(found, expected["tracks"], ordered=False)


@pytest.mark.parametrize(("case", "variant"), CASES)
def test_tracks_are_the_published_ones(case, variant):
    description, arrays = load(case)
    expected, about = description["variants"][variant], description["arguments"]
    tracker = DevisTracker(about["num_frames"], about["stride"], expected["num_out"], **options_of(expected))
    plan = tracker.plan(about["video_length"])
    assert [frames for frames, _ in plan] == [clip["frames"] for clip in expected["clips"]]
    assert plan[-1][1] == expected["last_clip_start_idx"]
    for clip, (_, start_idx) in enumerate(plan):
        real = expected["clips"][clip]["clip_length"]
        tracker.add(outputs_of(case, clip, real), tuple(about["original_size_hw"]), start_idx)
    assert len(tracker.costs) == len(expected["matching"])
    for call, cost in enumerate(tracker.costs):
        np.testing.assert_allclose(cost, arrays[f"{variant}.cost{call}"], atol=1e-4)
    assert_tracks(tracker.finish(), expected["tracks"], ordered=variant != "per_class")

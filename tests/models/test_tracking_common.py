"""Long videos of all models, joined by every tracker."""

import numpy as np
import pytest
import torch

from tests.models.testers import TESTERS, model_of
from tests.tiny import moving_square
from transformers_msstsvis import VideoInstanceSegmentationPipeline
from transformers_msstsvis.models.auto import video_processor_class
from transformers_msstsvis.tracking import DevisTracker


def segmenter_of(name: str) -> VideoInstanceSegmentationPipeline:
    model = model_of(name)
    processor = video_processor_class(model.config)(size={"shortest_edge": 32})
    return VideoInstanceSegmentationPipeline(model=model, video_processor=processor, device="cpu")


@pytest.mark.parametrize("tracker", ["iou", "devis"])
@pytest.mark.parametrize("name", TESTERS)
def test_every_tracker_joins_the_clips_of_every_model(name, tracker):
    segmenter = segmenter_of(name)
    options = {"tracker": tracker, "threshold": 0.0, "duplicate_iou": 1, "return_instances": True}
    if segmenter.model.config.clip_length is None:
        options["max_frames"] = 4
    # One after the other, and in batches that have clips of both; what random weights find is nearly tied.
    for found in (
        segmenter(moving_square(11), **options),
        *segmenter([moving_square(11)] * 2, batch_size=2, **options),
    ):
        assert found.num_frames == 11
        assert np.isfinite(found.scores).all()
        assert len(found) <= 10 or tracker == "iou"


@pytest.mark.parametrize("name", TESTERS)
def test_the_tracker_of_the_pipeline_is_the_public_one(name):
    segmenter = segmenter_of(name)
    processor, config = segmenter.video_processor, segmenter.model.config
    video = moving_square(11)
    max_frames = None if config.clip_length else 4
    length, stride, full = processor.clip_plan(config, max_frames)
    tracker = DevisTracker(length, stride, num_out=10)
    starts = [frames[0] for frames, _ in tracker.plan(11)] if full else range(0, 11 - length + stride, stride)
    for start in starts:
        inputs = processor(video[start : start + length], return_tensors="pt")
        with torch.no_grad():
            outputs = segmenter.model(**inputs, mask_top_k=10)
        start_idx = max(0, tracker.num_frames - tracker.overlap - start)
        tracker.add(processor.unpadded(outputs, 0), (48, 64), start_idx)
    expected = tracker.finish()
    found = segmenter(
        video, tracker="devis", max_frames=max_frames, threshold=0, duplicate_iou=1, return_instances=True
    )
    visible = expected[[any(masks) for masks in expected.masks]]
    np.testing.assert_allclose(found.scores, np.sort(visible.scores)[::-1], atol=1e-5)
    assert sorted(found.labels.tolist()) == sorted(visible.labels.tolist())

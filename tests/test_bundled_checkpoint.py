"""What a newcomer tries first: the checkpoint and the clip that come with the package."""

import json

import numpy as np
import pytest
from transformers import pipeline

from transformers_msstsvis import VideoReader, write_video
from transformers_msstsvis.data.synthetic import make_synthetic, synthetic_video
from transformers_msstsvis.evaluation import evaluate_model
from transformers_msstsvis.predict import SAMPLE_MODEL, SAMPLE_VIDEO

TASK = "video-instance-segmentation"
# The clip is the video of this seed.
SIZES = {"height": 256, "width": 256, "min_frames": 30, "max_frames": 30, "min_objects": 3, "max_objects": 4}
SAMPLE_SEED = 907


@pytest.fixture(scope="module")
def segmenter():
    return pipeline(TASK, model=str(SAMPLE_MODEL), device="cpu")


def overlap(masks: np.ndarray, others: np.ndarray) -> float:
    return (masks & others).sum() / max((masks | others).sum(), 1)


def test_it_is_small_and_has_both_temporal_attentions(segmenter):
    assert sum(file.stat().st_size for file in SAMPLE_MODEL.iterdir()) < 8e6
    assert segmenter.model.config.encoder_temporal_attention
    assert segmenter.model.config.decoder_temporal_attention


def test_it_finds_the_objects_of_the_sample_clip(segmenter):
    truth = synthetic_video(SAMPLE_SEED, **SIZES)
    tracks = segmenter(str(SAMPLE_VIDEO), return_instances=True)
    found = np.stack([tracks.decode(frame) for frame in range(tracks.num_frames)], axis=1)  # (n, T, H, W)
    for masks, label in zip(truth.masks, truth.labels, strict=True):
        best = max(range(len(tracks)), key=lambda index, masks=masks: overlap(found[index], masks))
        assert overlap(found[best], masks) > 0.5
        assert tracks.labels[best] == label
    json.dumps(tracks.to_list())


def test_a_video_of_200_frames_is_never_cut(segmenter, tmp_path):
    frames = list(VideoReader(SAMPLE_VIDEO))
    there_and_back = (frames + frames[::-1]) * 4
    write_video(tmp_path / "long.mp4", there_and_back[:200], fps=10)
    tracks = segmenter(str(tmp_path / "long.mp4"))
    assert all(len(track["masks"]) == 200 for track in tracks)
    longest = max(sum(mask is not None for mask in track["masks"]) for track in tracks)
    assert longest > 150  # one identity through all clips


def test_two_videos_at_once(segmenter):
    first, second = segmenter([str(SAMPLE_VIDEO), str(SAMPLE_VIDEO)])
    assert first == second
    assert first == segmenter(str(SAMPLE_VIDEO))


@pytest.mark.slow
def test_average_precision_on_unseen_videos(tmp_path):
    annotations = make_synthetic(tmp_path / "set", seed=77, num_videos=60)
    numbers = evaluate_model(annotations)
    assert numbers["AP"] > 0.40
    assert numbers["AP50"] > 0.70

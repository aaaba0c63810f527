"""From nothing, on videos of one bright square or disk each: what does not learn these learns nothing else."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PreTrainedConfig

from tests.training.training_runs import make_trainer, named
from transformers_msstsvis import (
    AutoModelForVideoInstanceSegmentation,
    DevisConfig,
    TevitConfig,
    VistrConfig,
    decode_mask,
    encode_mask,
)
from transformers_msstsvis.data.clips import VideoClips
from transformers_msstsvis.data.loading import load_vis_dataset
from transformers_msstsvis.models.auto import video_processor_class
from transformers_msstsvis.pipelines import VideoInstanceSegmentationPipeline

SIDE, FRAMES = 64, 3


def write_easy_videos(folder: Path, number: int, seed: int) -> Path:
    """A YouTube-VIS file of videos in which one shape of a colour moves over dark noise."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    y, x = np.mgrid[:SIDE, :SIDE]
    videos, annotations = [], []
    for video in range(1, number + 1):
        size, kind, colour = rng.integers(24, 40), int(rng.integers(2)), rng.integers(160, 256, 3)
        start, step = rng.uniform(0, SIDE - size, 2), rng.uniform(-5, 5, 2)
        background = rng.integers(0, 90, (SIDE, SIDE, 3))
        names, masks = [], []
        for frame in range(FRAMES):
            top, left = np.clip(start + frame * step, 0, SIDE - size)
            across = np.stack((y - top, x - left)) / size - 0.5  # -0.5..0.5 within the shape
            mask = np.hypot(*across) < 0.5 if kind else (np.abs(across) < 0.5).all(0)
            names.append(f"{video}_{frame}.png")
            masks.append(encode_mask(mask))
            Image.fromarray(np.where(mask[..., None], colour, background).astype(np.uint8)).save(folder / names[-1])
        videos.append({"id": video, "height": SIDE, "width": SIDE, "length": FRAMES, "file_names": names})
        annotation = {"id": video, "video_id": video, "category_id": kind + 1, "iscrowd": 0, "segmentations": masks}
        annotations.append(annotation)
    categories = [{"id": 1, "name": "square"}, {"id": 2, "name": "disk"}]
    content = {"videos": videos, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder / "annotations.json"


OUT_FEATURES = ["stage1", "stage2", "stage3", "stage4"]
RESNET = {
    "model_type": "resnet",
    "embedding_size": 16,
    "hidden_sizes": [16, 32, 64, 96],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": OUT_FEATURES,
}
PVT = {
    "model_type": "pvt_v2",
    "hidden_sizes": [16, 32, 64, 96],
    "num_attention_heads": [1, 2, 4, 6],
    "mlp_ratios": [4, 4, 4, 4],
    "out_features": OUT_FEATURES,
}


def small(config_class: type[PreTrainedConfig], **settings) -> PreTrainedConfig:
    return config_class(
        backbone_config=RESNET,
        freeze_batch_norm=False,
        freeze_backbone_stem=False,
        num_frames=FRAMES,
        num_queries=3,
        d_model=128,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        dropout=0.0,
        attention_dropout=0.0,
        mask_loss_coefficient=5.0,
        dice_loss_coefficient=5.0,
        **settings,
        **named("square", "disk"),
    )


def small_tevit() -> TevitConfig:
    return TevitConfig(
        backbone_config=PVT,
        num_messengers=8,
        drop_path_rate=0.0,
        num_frames=FRAMES,
        num_queries=8,
        d_model=128,
        dynamic_dim=32,
        decoder_layers=3,
        decoder_attention_heads=4,
        decoder_ffn_dim=256,
        **named("square", "disk"),
    )


CONFIGS = {"vistr": small(VistrConfig), "devis": small(DevisConfig), "tevit": small_tevit()}


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_model_learns_easy_videos_from_nothing(config, tmp_path):
    train, others = (
        load_vis_dataset(write_easy_videos(tmp_path / name, number, seed))
        for seed, (name, number) in enumerate((("train", 200), ("others", 20)))
    )
    torch.manual_seed(0)
    processor = video_processor_class(config)(size={"shortest_edge": SIDE})
    run = make_trainer(
        VideoClips(train, num_frames=FRAMES),
        tmp_path / "run",
        AutoModelForVideoInstanceSegmentation.from_config(config),
        {"eval_dataset": others, "processing_class": processor, "backbone_lr_scale": 1.0, "num_samples": 0},
        per_device_train_batch_size=8,
        max_steps=200,
        lr_scheduler_type="cosine",
        warmup_steps=30,
        max_grad_norm=100.0,
        weight_decay=1e-4,
        logging_steps=50,
        save_strategy="no",
    )
    run.train()
    assert run.evaluate()["eval_AP"] > 0.1  # of videos that it has not seen

    segmenter = VideoInstanceSegmentationPipeline(model=run.model.eval(), video_processor=processor)
    video = others[0]
    frames = [str(Path(video["frames_dir"], name)) for name in video["file_names"]]
    found = segmenter(frames, threshold=0.0, return_instances=True)
    wanted = [decode_mask(mask) for mask in video["annotations"][0]["segmentations"]]
    given = [np.zeros((SIDE, SIDE), bool) if mask is None else decode_mask(mask) for mask in found.masks[0]]
    overlap = np.logical_and(given, wanted).sum() / np.logical_or(given, wanted).sum()
    assert overlap > 0.5

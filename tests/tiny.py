"""A model of the smallest size, with random weights, and small videos."""

from pathlib import Path

import numpy as np
import torch

from transformers_msstsvis import MsstsVisConfig, MsstsVisForVideoInstanceSegmentation
from transformers_msstsvis.video.writer import VideoWriter

NAMES = {0: "disk", 1: "star", 2: "ring"}
BACKBONE = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16, 24, 32],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage2", "stage3", "stage4"],
}


def tiny_config(config_class: type[MsstsVisConfig] = MsstsVisConfig, **changes) -> MsstsVisConfig:
    values = {
        "backbone_config": BACKBONE,
        "d_model": 64,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "num_queries": 12,
        "temporal_hidden_size": 16,
        "id2label": NAMES,
        "label2id": {name: label for label, name in NAMES.items()},
    }
    return config_class(**{**values, **changes})


def tiny_model(seed: int = 0, **changes) -> MsstsVisForVideoInstanceSegmentation:
    """In eval mode, with weights drawn wide enough that queries, frames and classes differ."""
    torch.manual_seed(seed)
    model = MsstsVisForVideoInstanceSegmentation(tiny_config(**changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
        for head in model.class_embed:
            head.bias.zero_()
    return model


def moving_square(frames: int = 5, height: int = 48, width: int = 64) -> np.ndarray:
    """A bright square that moves to the right over a gradient, uint8 `(T, H, W, 3)`."""
    ramp = np.linspace(0, 120, width, dtype=np.uint8)
    video = np.broadcast_to(ramp[None, None, :, None], (frames, height, width, 3)).copy()
    for frame in range(frames):
        left = 4 + 3 * frame % (width - 20)
        video[frame, 10:26, left : left + 16] = (250, 200, 30)
    return video


def write_mp4(path: Path, frames: int = 5, height: int = 48, width: int = 64, fps: float = 10) -> Path:
    with VideoWriter(path, fps=fps) as writer:
        for frame in moving_square(frames, height, width):
            writer.write(frame)
    return path

"""VidEoMT and Mask2Former of the smallest size, with random weights, as folders like those on the Hub."""

import json
from pathlib import Path

import torch
from transformers import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessor,
    SwinConfig,
    VideomtConfig,
    VideomtForUniversalSegmentation,
    VideomtVideoProcessor,
)

from tests.tiny import NAMES

LABELS = {"id2label": NAMES, "label2id": {name: label for label, name in NAMES.items()}}


def videomt_config(**changes) -> VideomtConfig:
    values = {
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "mlp_ratio": 2,
        "image_size": 32,
        "patch_size": 8,
        "num_upscale_blocks": 1,
        "num_blocks": 2,
        "num_queries": 6,
        "num_register_tokens": 1,
    }
    return VideomtConfig(**{**values, **LABELS, **changes})


def mask2former_config(**changes) -> Mask2FormerConfig:
    backbone = SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 2, 4],
        window_size=4,
        drop_path_rate=0.0,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    values = {
        "backbone_config": backbone,
        "feature_size": 64,
        "mask_feature_size": 32,
        "hidden_dim": 32,
        "encoder_feedforward_dim": 32,
        "dim_feedforward": 32,
        "encoder_layers": 1,
        "decoder_layers": 4,
        "num_attention_heads": 4,
        "num_queries": 6,
    }
    return Mask2FormerConfig(**{**values, **LABELS, **changes})


def drawn(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """In eval mode, with weights drawn wide enough that queries, frames and classes differ."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=1.5 * parameter[0].numel() ** -0.5)
    return model.eval()


def write_videomt(folder: Path, **changes) -> Path:
    """A checkpoint as `tue-mps/videomt-dinov2-small-ytvis2019` is one."""
    drawn(VideomtForUniversalSegmentation(videomt_config(**changes))).save_pretrained(folder)
    VideomtVideoProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def write_mask2former(folder: Path, **changes) -> Path:
    """A checkpoint as `shivi/video-mask2former-swin-tiny-youtubevis-2021-instance` is one."""
    drawn(Mask2FormerForUniversalSegmentation(mask2former_config(**changes))).save_pretrained(folder)
    Mask2FormerImageProcessor(size={"shortest_edge": 32, "longest_edge": 64}).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["VideoMask2FormerForVideoSegmentation"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder

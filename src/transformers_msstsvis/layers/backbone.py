"""Backbones of the Auto backbone API as feature extractors of strides 8, 16 and 32.

Letters: N frames, C channels, H W pixels.
"""

import torch
from torch import nn
from transformers.backbone_utils import load_backbone

STRIDES = (8, 16, 32)


class VisBackbone(nn.Module):
    """
    Backbone with three feature maps.

    Args:
        config: model configuration with `backbone_config`, `freeze_batch_norm` and `freeze_backbone_stem`.

    Raises:
        ValueError: for a backbone that does not return maps of strides 8, 16 and 32, or whose stem is not known.
    """

    def __init__(self, config):
        super().__init__()
        self.model = load_backbone(config)
        self.channels = list(self.model.channels)
        if len(self.channels) != len(STRIDES):
            raise ValueError(
                f"the backbone {config.backbone_config.model_type!r} returns {len(self.channels)} feature maps; "
                f'expected 3, of strides {STRIDES}: set out_features (e.g. ["stage2", "stage3", "stage4"]) or '
                "out_indices in backbone_config"
            )
        if config.freeze_batch_norm:
            from timm.layers import freeze_batch_norm_2d  # importing timm takes seconds

            freeze_batch_norm_2d(self.model)
        if config.freeze_backbone_stem:
            for module in _stem(self.model):
                module.requires_grad_(False)

    def forward(self, frames: torch.Tensor) -> list[torch.Tensor]:
        """`(N, 3, H, W)` to three maps `(N, C_l, H_l, W_l)` of strides 8, 16, 32, finest first."""
        return list(self.model(frames, return_dict=True).feature_maps)


def _stem(backbone: nn.Module) -> list[nn.Module]:
    """The modules of a backbone up to and including stride 4."""
    if backbone.config.model_type == "timm_backbone":
        body = backbone._backbone
        last = [info["module"].split(".")[0] for info in body.feature_info.info if info["reduction"] <= 4][-1]
        names = [name for name, _ in body.named_children()]
        return [getattr(body, name) for name in names[: names.index(last) + 1]]
    if hasattr(backbone, "embedder"):  # native ResNet and kin
        return [backbone.embedder, backbone.encoder.stages[0]]
    if hasattr(backbone, "swin"):
        return [backbone.swin.embeddings, backbone.swin.encoder.layers[0]]
    raise ValueError(
        f"the stem of the backbone {backbone.config.model_type!r} is not known, so it can't be frozen; "
        "set freeze_backbone_stem=False"
    )

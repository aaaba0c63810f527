"""Backbones of the Auto backbone API as feature extractors.

Letters: N frames, C channels, H W pixels.
"""

import json
from importlib import import_module

import torch
from torch import nn
from transformers.backbone_utils import load_backbone

from ..checkpoint_files import check_weights, told_in_words
from .frozen_batch_norm import fold_frozen_batch_norms, freeze_batch_norms, train_affine


class VisBackbone(nn.Module):
    """
    Backbone with a feature map of each stride.

    Args:
        config: model configuration with `backbone_config`, `freeze_batch_norm`, `train_batch_norm_affine` and
            `freeze_backbone_stem`.
        strides: of the feature maps, finest first.

    Attributes:
        channels: of each feature map.

    Raises:
        ValueError: for a backbone that does not return maps of these strides, or whose stem is not known.
    """

    def __init__(self, config, strides: tuple[int, ...] = (8, 16, 32)):
        super().__init__()
        self.model = load_backbone(config)
        self.channels = list(self.model.channels)
        is_timm = self.model.config.model_type == "timm_backbone"
        if len(self.channels) != len(strides):
            stages = [f"stage{stage}" for stage in range(5 - len(strides), 5)]
            raise ValueError(
                f"the backbone {config.backbone_config.model_type!r} returns {len(self.channels)} feature maps; "
                f"expected {len(strides)}, of strides {strides}: set out_features (e.g. {json.dumps(stages)}) or "
                "out_indices in backbone_config"
            )
        if is_timm:  # which says its strides; native backbones do not
            given = tuple(self.model._backbone.feature_info.reduction())
            if given != tuple(strides):
                raise ValueError(
                    f"the backbone {config.backbone_config.backbone!r} returns feature maps of strides {given}; "
                    f"expected {strides}: set out_indices in backbone_config"
                )
        if config.freeze_batch_norm:
            if is_timm:  # whose batch norms may hold activations
                import_module("timm.layers").freeze_batch_norm_2d(self.model)
            else:
                freeze_batch_norms(self.model)
            if config.train_batch_norm_affine:
                train_affine(self.model)
            fold_frozen_batch_norms(self.model)
        for module in self.model.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = True
        # Their backward pass ends the process: oneDNN, as of torch 2.14, writes beyond its memory.
        self.is_narrow = any(
            isinstance(module, nn.Conv2d)
            and (module.kernel_size, module.stride) == ((1, 1), (2, 2))
            and module.in_channels < 16
            for module in self.model.modules()
        )
        if config.freeze_backbone_stem:
            for module in _stem(self.model):
                module.requires_grad_(False)

    def forward(self, frames: torch.Tensor) -> list[torch.Tensor]:
        """`(N, 3, H, W)` to maps `(N, C_l, H_l, W_l)`, finest first."""
        # Where convolutions of this layout are a third faster.
        if frames.device.type == "cpu" and not (self.is_narrow and torch.is_grad_enabled()):
            frames = frames.contiguous(memory_format=torch.channels_last)
        return list(self.model(frames, return_dict=True).feature_maps)

    def load_pretrained(self, name_or_path: str) -> None:
        """
        Start from pretrained weights. Nothing is downloaded unless this is called.

        Args:
            name_or_path: for a native backbone, Hub name or folder of a checkpoint of the same architecture, such as
                `microsoft/resnet-50`; for a timm backbone, timm's name of the weights, such as `resnet50.a1_in1k`.

        Raises:
            ValueError: when the checkpoint's names or shapes are not those of this backbone.
            ValueError: when the file of its weights is none, or incomplete.
            OSError: when there is no such checkpoint.
        """
        if self.model.config.model_type == "timm_backbone":
            timm = import_module("timm")  # not a need of native backbones, whatever reads the imports of this file
            target, indices = self.model._backbone, self.model.config.out_indices
            source = timm.create_model(name_or_path, pretrained=True, features_only=True, out_indices=indices)
        else:
            target = self.model
            check_weights(name_or_path)
            with told_in_words(name_or_path):
                source = type(target).from_pretrained(name_or_path, out_features=target.config.out_features)
        weights = source.state_dict()
        expected = target.state_dict()
        wrong = [key for key, value in expected.items() if key not in weights or weights[key].shape != value.shape]
        if wrong:
            raise ValueError(
                f"{name_or_path} does not fit the backbone {self.model.config.model_type!r}: {len(wrong)} weights "
                f"differ, e.g. {wrong[0]}; set backbone_config to the architecture of the checkpoint"
            )
        target.load_state_dict({key: weights[key] for key in expected})


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

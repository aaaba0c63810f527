"""Batch norms with fixed statistics, folded into the convolutions before them.

With fixed statistics a batch norm is a scale and a shift per channel. Applied to the convolution's weights instead of
its output, it costs nothing per pixel. Weights and gradients stay those of the separate layers, and so do the names in
a checkpoint.
"""

import torch
from torch import nn

from ..recomputation import made_again
from .linear import in_autocast_dtype


class FoldedConv2d(nn.Conv2d):
    """Convolution that applies the frozen batch norm after it; see [`fold_frozen_batch_norms`]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(N, C, H, W)` to `(N, C', H', W')`."""
        norm = self.folded_norm
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        if self.bias is not None:
            shift = shift + self.bias * scale
        with made_again(_scaled, self.weight, scale) as weight:
            return self._conv_forward(x, weight, shift)


def _scaled(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return in_autocast_dtype(weight * scale[:, None, None, None])


class FoldedBatchNorm2d(nn.Module):
    """Holds what a frozen batch norm has for the convolution before it, and does nothing else."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        for name in ("running_mean", "running_var"):
            self.register_buffer(name, getattr(norm, name))
        for name in ("weight", "bias"):
            value = getattr(norm, name)
            register = self.register_parameter if isinstance(value, nn.Parameter) else self.register_buffer
            register(name, value)
        self.eps = norm.eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def freeze_batch_norms(module: nn.Module) -> None:
    """Replace every batch norm below `module` by one whose statistics and affine parameters are buffers, fixed."""
    from torchvision.ops import FrozenBatchNorm2d

    for name, child in module.named_children():
        if not isinstance(child, nn.BatchNorm2d | nn.SyncBatchNorm):
            freeze_batch_norms(child)
            continue
        frozen = FrozenBatchNorm2d(child.num_features, eps=child.eps)
        for buffer in ("weight", "bias", "running_mean", "running_var"):
            if getattr(child, buffer) is not None:
                frozen.register_buffer(buffer, getattr(child, buffer).detach())
        setattr(module, name, frozen)


def train_affine(module: nn.Module) -> None:
    """Let the affine parameters of all frozen batch norms below `module` be trained; their statistics stay fixed."""
    for norm in module.modules():
        if "running_var" in norm._buffers and "weight" in norm._buffers:
            for name in ("weight", "bias"):
                value = norm._buffers.pop(name)
                norm.register_parameter(name, nn.Parameter(value))


def fold_frozen_batch_norms(backbone: nn.Module) -> None:
    """
    Fold every `FrozenBatchNorm2d` into the convolution registered right before it, where the block is known to run
    them one after the other: the ResNets of transformers and of timm. Others keep their norms as they are.
    """
    from torchvision.ops import FrozenBatchNorm2d

    for block in backbone.modules():
        children = dict(block.named_children())
        for conv_name, norm_name in _PAIRS.get(type(block).__name__, ()):
            conv, norm = children.get(conv_name), children.get(norm_name)
            if type(conv) is nn.Conv2d and type(norm) is FrozenBatchNorm2d:
                conv.__class__ = FoldedConv2d
                folded = FoldedBatchNorm2d(norm)
                setattr(block, norm_name, folded)
                conv.__dict__["folded_norm"] = folded  # not a submodule: its buffers are in the checkpoint once


_NUMBERED = tuple((f"conv{i}", f"bn{i}") for i in (1, 2, 3))
_PAIRS = {
    "ResNetConvLayer": (("convolution", "normalization"),),
    "ResNetShortCut": (("convolution", "normalization"),),
    "BasicBlock": _NUMBERED[:2],
    "Bottleneck": _NUMBERED,
    "FeatureListNet": _NUMBERED[:1],  # the stem of timm's features_only models
    "Sequential": (("0", "1"),),  # timm's downsampling
}

"""Masks by dynamic convolution: each instance brings the weights that find it in the frame's mask features.

Letters: B videos, T frames, K instances, C channels, D mask channels, h w stride-8 pixels.
Source: CondInst (dynamic convolutions, relative coordinates, aligned upsampling); SeqFormer (its use on video).
"""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

FEATURE_STRIDE = 8


class MaskFeaturePyramid(nn.Module):
    """Fuse encoder maps of strides 8, 16, 32 from coarse to fine to D mask channels (published: C/32) at stride 8."""

    def __init__(self, d_model: int, channels: int):
        super().__init__()
        self.fusions = nn.ModuleList(nn.Conv2d(d_model, d_model, 3, padding=1) for _ in range(3))
        self.reductions = nn.ModuleList(
            [nn.Conv2d(d_model, d_model // 4, 3, padding=1), nn.Conv2d(d_model // 4, channels, 3, padding=1)]
        )

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """Maps `(N, C, H_l, W_l)`, finest first, to `(N, D, h, w)`."""
        fine, middle, coarse = maps
        fused = self.fusions[0](coarse).relu()
        fused = self.fusions[1](middle + F.interpolate(fused, size=middle.shape[-2:])).relu()
        fused = self.fusions[2](fine + F.interpolate(fused, size=fine.shape[-2:])).relu()
        for reduction in self.reductions:
            fused = reduction(fused).relu()
        return fused


def num_dynamic_parameters(feature_channels: int, channels: int, num_layers: int) -> int:
    """How many weights and biases an instance needs; two relative coordinates join the first layer's input."""
    return sum(i * o + o for i, o in _layer_sizes(feature_channels, channels, num_layers))


def _layer_sizes(feature_channels: int, channels: int, num_layers: int) -> list[tuple[int, int]]:
    sizes = [feature_channels + 2] + [channels] * (num_layers - 1) + [1]
    return list(pairwise(sizes))


@torch.autocast("cpu", enabled=False)
@torch.autocast("cuda", enabled=False)
def dynamic_masks(
    features: torch.Tensor, parameters: torch.Tensor, centres: torch.Tensor, channels: int, num_layers: int
) -> torch.Tensor:
    """
    Mask logits of instances at stride 4.

    Args:
        features: `(B, T, D, h, w)` mask features at stride 8.
        parameters: `(B, K, num_dynamic_parameters)`: all weights, layer by layer, then all biases.
        centres: `(B, T, K, 2)` xy reference point of every instance in every frame, in input pixels.
        channels: channels between the dynamic convolutions.
        num_layers: number of dynamic convolutions.

    Returns:
        `(B, K, T, 2h, 2w)` float32.
    """
    B, T, D, h, w = features.shape
    K = parameters.shape[1]
    # coordinates reach hundreds of pixels and nearly cancel: half precision would lose the instance
    features, parameters, centres = features.float(), parameters.float(), centres.float()
    sizes = _layer_sizes(D, channels, num_layers)
    counts = [i * o for i, o in sizes] + [o for _, o in sizes]
    *weights, biases = parameters.split([*counts[: len(sizes)], sum(counts[len(sizes) :])], dim=-1)
    weights = [weight.reshape(B, K, o, i) for weight, (i, o) in zip(weights, sizes, strict=True)]
    biases = [bias[..., None] for bias in biases.split([o for _, o in sizes], dim=-1)]  # (B, K, out, 1)

    # the relative coordinate of a pixel is centre - place, so the first layer splits into a part that all instances
    # read from the same map and a part that is one number per instance and frame
    coordinate_weights, feature_weights = weights[0].split([2, D], dim=-1)
    maps = torch.cat((_places(h, w, features), features), dim=2).transpose(1, 2).flatten(2)  # (B, 2 + D, T h w)
    shared = torch.cat((-coordinate_weights, feature_weights), dim=-1).flatten(1, 2)  # (B, K out, 2 + D)
    per_frame = torch.einsum("bkoc,btkc->bkot", coordinate_weights, centres) + biases[0]
    out = weights[0].shape[2]
    hidden = (shared @ maps).view(B, K, out, T, h * w) + per_frame[..., None]
    hidden = hidden.flatten(3)  # (B, K, out, T h w)
    for weight, bias in zip(weights[1:], biases[1:], strict=True):
        hidden = weight @ hidden.relu() + bias
    return aligned_upsample(hidden.view(B, K, T, h, w))


def _places(h: int, w: int, like: torch.Tensor) -> torch.Tensor:
    """Pixel centres of the stride-8 map in input pixels, `(B, T, 2, h, w)` xy."""
    y = torch.arange(h, device=like.device, dtype=like.dtype) * FEATURE_STRIDE + FEATURE_STRIDE // 2
    x = torch.arange(w, device=like.device, dtype=like.dtype) * FEATURE_STRIDE + FEATURE_STRIDE // 2
    grid = torch.stack((x.expand(h, w), y[:, None].expand(h, w)))
    return grid.expand(*like.shape[:2], 2, h, w)


def aligned_upsample(maps: torch.Tensor) -> torch.Tensor:
    """Double the size so that pixel i lands on pixel 2i+1, the midpoints between: `(..., h, w) -> (..., 2h, 2w)`."""
    for dim in (-2, -1):
        first = maps.narrow(dim, 0, 1)
        previous = torch.cat((first, maps.narrow(dim, 0, maps.shape[dim] - 1)), dim)
        maps = torch.stack(((previous + maps) / 2, maps), dim=dim).flatten(dim - 1, dim)
    return maps

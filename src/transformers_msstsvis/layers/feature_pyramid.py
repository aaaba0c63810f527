"""Feature pyramid network (FPN).

Letters: N frames, C channels.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init

from .linear import linear


def project(x: torch.Tensor, convolution: nn.Conv2d) -> torch.Tensor:
    """A 1x1 convolution as the linear layer that it is, which a CPU runs faster."""
    return linear(x.movedim(1, -1), convolution.weight.flatten(1), convolution.bias).movedim(-1, 1)


class FeaturePyramid(nn.Module):
    """Maps of a backbone to maps of C channels each, the coarser ones added to the finer ones."""

    def __init__(self, in_channels: list[int], channels: int):
        super().__init__()
        self.lateral_convolutions = nn.ModuleList(nn.Conv2d(size, channels, 1) for size in in_channels)
        self.output_convolutions = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels)

    def init_layer_weights(self) -> None:
        for convolution in (*self.lateral_convolutions, *self.output_convolutions):
            init.xavier_uniform_(convolution.weight)
            init.zeros_(convolution.bias)

    def forward(self, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        """`(N, C_l, h_l, w_l)` to `(N, C, h_l, w_l)`, finest first."""
        levels = [project(x, convolution) for x, convolution in zip(maps, self.lateral_convolutions, strict=True)]
        for finer in range(len(levels) - 2, -1, -1):
            enlarged = F.interpolate(levels[finer + 1], size=levels[finer].shape[-2:], mode="nearest")
            levels[finer] = levels[finer] + enlarged
        return [convolution(x) for convolution, x in zip(self.output_convolutions, levels, strict=True)]

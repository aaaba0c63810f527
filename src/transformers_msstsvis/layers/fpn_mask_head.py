"""The ladder from a frame's coarsest features to the masks of its instances, over the maps of the backbone (DETR).

Letters: N frames, k instances of a frame, C channels, M attention maps of an instance, D channels of the result.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init


class SharedConv2d(nn.Conv2d):
    """3x3 convolution that computes once what the k maps of a frame have in common."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 3, padding=1)

    def init_layer_weights(self) -> None:
        init.kaiming_uniform_(self.weight, a=1)
        init.zeros_(self.bias)

    def forward(self, x: torch.Tensor, maps: torch.Tensor | None = None) -> torch.Tensor:
        """
        `x (N, C, h, w)`, or `x` of every frame and `maps (N k, M, h, w)` of its instances, which are convolved as if
        concatenated along the channels: `(N, D, h, w)` or `(N k, D, h, w)`.
        """
        if maps is None:
            return self._conv_forward(x, self.weight, self.bias)
        shared, own = self.weight.split((x.shape[1], maps.shape[1]), dim=1)
        result = self._conv_forward(maps, own, None).unflatten(0, (len(x), -1))
        return (result + self._conv_forward(x, shared, self.bias)[:, None]).flatten(0, 1)


class MaskHeadStep(nn.Module):
    """A convolution, group norm and ReLU."""

    def __init__(self, convolution: nn.Module, channels: int):
        super().__init__()
        self.convolution = convolution
        self.norm = nn.GroupNorm(math.gcd(8, channels), channels)  # 8 in every published model

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.norm(self.convolution(*inputs)).relu_()


class FpnMaskHead(nn.Module):
    """
    Two steps at the coarsest level, then one at each finer level, on the enlarged result plus the backbone's map.

    Args:
        in_channels: channels C of the coarsest features.
        map_channels: attention maps M of an instance at the coarsest level and at any that follow.
        skip_channels: channels of the backbone's maps, coarse to fine, one for each level that follows.
        convolution: from channels in and out to the module of a step. It takes the features, and where an instance has
            attention maps these as a second argument, see [`SharedConv2d`].
        last_convolution: the same for the finest level.

    The widths are `C + M, C / 2, C / 4, ...`; `channels` is the last.
    """

    def __init__(
        self,
        in_channels: int,
        map_channels: Sequence[int],
        skip_channels: Sequence[int],
        convolution: Callable[[int, int], nn.Module],
        last_convolution: Callable[[int, int], nn.Module],
    ):
        super().__init__()
        levels = len(skip_channels)
        widths = [in_channels + map_channels[0], *(in_channels // 2**i for i in range(1, levels + 2))]
        self.channels = widths[-1]
        own = [0, *map_channels[1:], *[0] * (levels + 1 - len(map_channels))]  # of all steps but the first
        kinds = [*[convolution] * levels, last_convolution]
        self.steps = nn.ModuleList([MaskHeadStep(convolution(widths[0], widths[0]), widths[0])])
        for (before, after), maps, kind in zip(pairwise(widths), own, kinds, strict=True):
            self.steps.append(MaskHeadStep(kind(before + maps, after), after))
        self.adapters = nn.ModuleList(
            nn.Conv2d(channels, width, 1) for channels, width in zip(skip_channels, widths[1:], strict=False)
        )

    def init_layer_weights(self) -> None:
        for adapter in self.adapters:
            init.kaiming_uniform_(adapter.weight, a=1)
            init.zeros_(adapter.bias)

    def forward(
        self, features: torch.Tensor, attention_maps: Sequence[torch.Tensor], skips: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """
        Args:
            features: `(N, C, h, w)` of the frames at the coarsest level.
            attention_maps: per level that has some, coarsest first, `(N, k, M, h, w)`.
            skips: maps of the backbone `(N, C_l, h_l, w_l)`, coarse to fine.

        Returns:
            `(N, k, D, H, W)` at the size of the last skip.
        """
        frames, instances = attention_maps[0].shape[:2]
        maps = [[level.flatten(0, 1)] for level in attention_maps] + [[]] * (len(skips) + 1 - len(attention_maps))
        x = self.steps[1](self.steps[0](features, *maps[0]))  # (N k, C / 2, h, w)
        for step, adapter, skip, own in zip(self.steps[2:], self.adapters, skips, maps[1:], strict=True):
            x = F.interpolate(x, size=skip.shape[-2:]).unflatten(0, (frames, instances))
            x = step((x + adapter(skip)[:, None]).flatten(0, 1), *own)
        return x.unflatten(0, (frames, instances))

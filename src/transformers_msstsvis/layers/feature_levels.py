"""The feature pyramid of a video as tokens, and all that deformable attention has to know of it.

Letters: B videos, T frames, N frames of all videos, L levels, S pixels over all levels, C channels.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init

from .position_embedding import sine_position_embedding


class FeatureLevels(NamedTuple):
    """
    Attributes:
        features: `(B, T, S, C)`, levels finest first.
        positions: `(B, T, S, C)` their position embeddings, with that of the level; None when the encoder is through.
        mask: `(B, T, S)` bool, True = real pixel.
        valid_ratios: `(B, T, L, 2)` real fraction of every level's width and height; 1 for padding frames.
        spatial_shapes: `(height, width)` of every level.
    """

    features: torch.Tensor
    positions: torch.Tensor | None
    mask: torch.Tensor
    valid_ratios: torch.Tensor
    spatial_shapes: list[tuple[int, int]]

    @classmethod
    def of(
        cls, maps: list[torch.Tensor], pixel_mask: torch.Tensor, level_embed: torch.Tensor, offset: float = -0.5
    ) -> "FeatureLevels":
        """
        Args:
            maps: of every level `(B * T, H_l, W_l, C)`.
            pixel_mask: `(B, T, H, W)` bool, True = real pixel.
            level_embed: `(L, C)`, added to the positions.
            offset: of [`sine_position_embedding`].
        """
        videos, channels = pixel_mask.shape[:2], maps[0].shape[-1]
        shapes = [(level.shape[1], level.shape[2]) for level in maps]
        masks = [resize_mask(pixel_mask.flatten(0, 1), shape) for shape in shapes]
        positions = [
            sine_position_embedding(mask, channels, offset).flatten(1, 2).to(level.dtype) + embedding
            for mask, level, embedding in zip(masks, maps, level_embed, strict=True)
        ]
        return cls(
            features=torch.cat([level.flatten(1, 2) for level in maps], dim=1).unflatten(0, videos),
            positions=torch.cat(positions, dim=1).unflatten(0, videos),
            mask=torch.cat([mask.flatten(1) for mask in masks], dim=1).unflatten(0, videos),
            valid_ratios=torch.stack([_valid_ratio(mask) for mask in masks], dim=1).unflatten(0, videos),
            spatial_shapes=shapes,
        )

    def pixel_centres(self) -> torch.Tensor:
        """Every pixel's own centre, as a fraction of every level: `(B, T, S, L, 2)` float32."""
        points, ratios = [], self.valid_ratios
        for level, (height, width) in enumerate(self.spatial_shapes):
            y = (torch.arange(height, dtype=torch.float32, device=ratios.device) + 0.5) / height
            x = (torch.arange(width, dtype=torch.float32, device=ratios.device) + 0.5) / width
            grid = torch.stack((x.expand(height, width), y[:, None].expand(height, width)), dim=-1).flatten(0, 1)
            points.append(grid / ratios[:, :, level, None])  # (B, T, H_l W_l, 2)
        return torch.cat(points, dim=2)[:, :, :, None] * ratios[:, :, None]


def level_maps(features: torch.Tensor, spatial_shapes: list[tuple[int, int]]) -> list[torch.Tensor]:
    """Features `(B, T, S, C)` of all levels to the map `(B * T, C, H_l, W_l)` of each."""
    levels = features.flatten(0, 1).split([height * width for height, width in spatial_shapes], dim=1)
    return [level.mT.unflatten(2, shape) for level, shape in zip(levels, spatial_shapes, strict=True)]


class InputProjection(nn.Module):
    """
    Backbone maps to L levels of C channels: 1x1 convolutions, and 3x3 of stride 2 for the levels beyond.

    Args:
        channels: of the backbone's maps.
        d_model: C, a multiple of 32.
        num_levels: L.
    """

    def __init__(self, channels: list[int], d_model: int, num_levels: int):
        super().__init__()
        extra = num_levels - len(channels)
        inputs = [*channels, *([channels[-1]] + [d_model] * (extra - 1))[: max(extra, 0)]]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(size, d_model, 1) if level < len(channels) else nn.Conv2d(size, d_model, 3, stride=2, padding=1)
            for level, size in enumerate(inputs)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(32, d_model) for _ in inputs)

    def init_layer_weights(self) -> None:
        for convolution in self.convolutions:
            init.xavier_uniform_(convolution.weight)
            init.zeros_(convolution.bias)

    def forward(self, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        """Maps `(N, C_l, H_l, W_l)` to L maps `(N, H_l, W_l, C)`."""
        levels = []
        for index, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            source = maps[index] if index < len(maps) else (maps[-1] if index == len(maps) else levels[-1])
            levels.append(norm(convolution(source)))
        return [level.movedim(1, -1) for level in levels]


def resize_mask(pixel_mask: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """`(N, H, W)` bool to `(N, height, width)` bool by nearest neighbours."""
    return F.interpolate(pixel_mask[:, None].float(), size=shape)[:, 0].bool()


def _valid_ratio(mask: torch.Tensor) -> torch.Tensor:
    """Real fraction of the width and the height of maps `(N, height, width)`: `(N, 2)`; 1 for padding frames."""
    ratio = torch.stack((mask.any(1).float().mean(1), mask.any(2).float().mean(1)), dim=-1)
    return ratio.masked_fill(ratio == 0, 1.0)

"""Multi-scale deformable attention layer (Deformable DETR, section 4).

Letters: N frames, Q queries, S pixels over all L levels, C channels, M heads, P points.
"""

import math

import torch
from torch import nn
from transformers import initialization as init

from ..ops.multi_scale_deformable_attention import multi_scale_deformable_attention
from .linear import Linear, in_autocast_dtype, is_plain, linear


class DeformableAttention(nn.Module):
    """
    Each query reads P learned places on each of L levels of a frame's feature pyramid.

    Args:
        d_model: channels C.
        num_heads: heads M, divides C.
        num_levels: levels L.
        num_points: points P per head and level.
    """

    def __init__(self, d_model: int, num_heads: int, num_levels: int, num_points: int):
        super().__init__()
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        self.sampling_offsets = Linear(d_model, num_heads * num_levels * num_points * 2)
        self.attention_weights = Linear(d_model, num_heads * num_levels * num_points)
        self.value_proj = Linear(d_model, d_model)
        self.output_proj = Linear(d_model, d_model)

    def sample(
        self,
        query: torch.Tensor,
        reference_points: torch.Tensor,
        features: torch.Tensor,
        feature_mask: torch.Tensor,
        spatial_shapes: list[tuple[int, int]],
    ) -> torch.Tensor:
        """
        What each query reads, before any output projection.

        Args:
            query: `(N, Q, C)`, positions added.
            reference_points: `(N, Q, L, 2)` centres, or `(N, Q, L, 4)` boxes cx cy w h, as fractions of each level.
            features: `(N, S, C)`.
            feature_mask: `(N, S)` bool, True = real pixel; others read as zero.
            spatial_shapes: `(height, width)` of every level.

        Returns:
            `(N, Q, C)`.
        """
        value = self.value_proj(features)
        if _may_hide(feature_mask):
            value = value.masked_fill_(~feature_mask[..., None], 0.0)
        value = value.unflatten(-1, (self.num_heads, -1))  # (N, S, M, C/M)
        query = in_autocast_dtype(query)
        weights = self.attention_weights(query).unflatten(-1, (self.num_heads, -1))  # (N, Q, M, L * P)
        weights = weights.softmax(-1, dtype=torch.promote_types(weights.dtype, torch.float32))
        return read_places(self.sampling_offsets, query, reference_points, value, spatial_shapes, weights)

    def init_layer_weights(self) -> None:
        init_sampling(self.sampling_offsets, self.num_heads, self.num_levels, self.num_points)
        init.zeros_(self.attention_weights.weight)
        init.zeros_(self.attention_weights.bias)

    def forward(self, query, reference_points, features, feature_mask, spatial_shapes) -> torch.Tensor:
        """[`~DeformableAttention.sample`] and the output projection: `(N, Q, C)`."""
        return self.output_proj(self.sample(query, reference_points, features, feature_mask, spatial_shapes))


def read_places(
    layer: nn.Linear,
    query: torch.Tensor,
    reference_points: torch.Tensor,
    value: torch.Tensor,
    spatial_shapes: list[tuple[int, int]],
    weights: torch.Tensor,
) -> torch.Tensor:
    """
    What every query reads at the places where it looks, summed with their weights.

    Args:
        layer: C to the offsets of the places, `M * L * P * 2` numbers.
        query: `(N, Q, C)`.
        reference_points: see [`sampling_locations`].
        value: `(N, S, M, C/M)`.
        spatial_shapes: `(height, width)` of every level.
        weights: `(N, Q, M, L * P)` float32 or wider.

    Returns:
        `(N, Q, C)`.
    """
    locations = sampling_locations(layer, query, reference_points, spatial_shapes, value.shape[2])
    return multi_scale_deformable_attention(value, spatial_shapes, locations, weights.reshape(locations.shape[:-1]))


def sampling_locations(
    layer: nn.Linear,
    query: torch.Tensor,
    reference_points: torch.Tensor,
    spatial_shapes: list[tuple[int, int]],
    num_heads: int,
) -> torch.Tensor:
    """
    Where every query looks: learned offsets from its references, in pixels of each level from centres, in half boxes
    over P from boxes.

    Args:
        layer: C to the offsets, `M * L * P * 2` numbers.
        query: `(N, Q, C)`.
        reference_points: `(N, Q, L, 2)` centres, or `(N, Q, L, 4)` boxes cx cy w h, as fractions of each level.
        spatial_shapes: `(height, width)` of every level.
        num_heads: M.

    Returns:
        `(N, Q, M, L, P, 2)` float32 or wider, as fractions of each level.
    """
    (N, Q), (L, size) = query.shape[:2], reference_points.shape[2:]
    P = layer.out_features // (num_heads * L * 2)
    # The unit is multiplied into the weights, because a division of the result costs as much as the layer.
    if size == 4:
        scale = layer.weight.new_tensor(0.5 / P)
    else:
        unit = _pixels(spatial_shapes, layer.weight)
        scale = unit[None, :, None].expand(num_heads, -1, P, -1).reshape(-1)
    offsets = linear(query, layer.weight * scale[..., None], layer.bias * scale)
    offsets = offsets.to(torch.promote_types(offsets.dtype, torch.float32)).view(N, Q, num_heads, L * P, 2)
    # Written out per point: rows of 2 numbers would make the sum as slow as the linear layer.
    references = reference_points.repeat_interleave(P, dim=2)[:, :, None]  # (N, Q, 1, L * P, 2 or 4)
    if size == 4:
        offsets = offsets * references[..., 2:]
    return offsets.add_(references[..., :2]).view(N, Q, num_heads, L, P, 2)


def _may_hide(mask: torch.Tensor) -> bool:
    """Whether a mask hides a pixel, or may: where a look would wait for a GPU or end a graph, it is not looked at."""
    return mask.device.type != "cpu" or not is_plain(mask) or not bool(mask.all())


def _pixels(spatial_shapes: list[tuple[int, int]], like: torch.Tensor) -> torch.Tensor:
    """`(L, 2)` width and height of a pixel of each level, as fractions of the level."""
    if torch.compiler.is_exporting():  # sizes are no numbers there
        sides = [torch.scalar_tensor(side) for height, width in spatial_shapes for side in (width, height)]
        return torch.stack(sides).reciprocal().view(-1, 2).to(like)
    return like.new_tensor([(1 / width, 1 / height) for height, width in spatial_shapes])


def init_sampling(layer: nn.Linear, num_heads: int, num_levels: int, num_points: int) -> None:
    """Offsets of head m start along direction m, 1 to P steps long."""
    angles = torch.arange(num_heads, dtype=torch.float32) * (2 * math.pi / num_heads)
    directions = torch.stack((angles.cos(), angles.sin()), dim=-1)
    directions = directions / directions.abs().amax(-1, keepdim=True)  # (M, 2)
    steps = torch.arange(1, num_points + 1, dtype=torch.float32)
    offsets = directions[:, None, None] * steps[:, None]  # (M, 1, P, 2)
    init.zeros_(layer.weight)
    init.copy_(layer.bias, offsets.expand(-1, num_levels, -1, -1).reshape(-1))

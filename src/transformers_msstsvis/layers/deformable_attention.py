"""Multi-scale deformable attention layer (Deformable DETR, section 4).

Letters: N frames, Q queries, S pixels over all L levels, C channels, M heads, P points.
"""

import torch
from torch import nn

from ..ops.multi_scale_deformable_attention import multi_scale_deformable_attention
from .linear import Linear, linear


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
        N, Q = query.shape[:2]
        M, L, P = self.num_heads, self.num_levels, self.num_points
        value = self.value_proj(features).masked_fill_(~feature_mask[..., None], 0.0)
        value = value.view(*value.shape[:2], M, -1)  # (N, S, M, C/M)
        # places and weights in float32 at least: half precision would move the places by pixels
        dtype = torch.promote_types(value.dtype, torch.float32)
        offsets = self._offsets(query, reference_points.shape[-1], spatial_shapes).to(dtype).view(N, Q, M, L * P, 2)
        weights = self.attention_weights(query).to(dtype).view(N, Q, M, L * P).softmax(-1).view(N, Q, M, L, P)
        # Written out per point: rows of 2 numbers would make the sum as slow as the linear layer.
        references = reference_points.repeat_interleave(P, dim=2)[:, :, None]  # (N, Q, 1, L * P, 2 or 4)
        centres = references[..., :2]
        if reference_points.shape[-1] == 4:
            offsets = offsets * references[..., 2:]
        locations = offsets.add_(centres).view(N, Q, M, L, P, 2)
        return multi_scale_deformable_attention(value, spatial_shapes, locations, weights)

    def _offsets(
        self, query: torch.Tensor, reference_size: int, spatial_shapes: list[tuple[int, int]]
    ) -> torch.Tensor:
        """
        Learned offsets `(N, Q, M * L * P * 2)`: in pixels of each level for centres, in half boxes over P for boxes.
        Their unit is multiplied into the weights, because a division of the result costs as much as the layer.
        """
        layer = self.sampling_offsets
        if reference_size == 4:
            scale = layer.weight.new_tensor(0.5 / self.num_points)
        else:
            unit = layer.weight.new_tensor([(1 / width, 1 / height) for height, width in spatial_shapes])  # (L, 2)
            scale = unit[None, :, None].expand(self.num_heads, -1, self.num_points, -1).reshape(-1)
        return linear(query, layer.weight * scale[..., None], layer.bias * scale)

    def forward(self, query, reference_points, features, feature_mask, spatial_shapes) -> torch.Tensor:
        """[`~DeformableAttention.sample`] and the output projection: `(N, Q, C)`."""
        return self.output_proj(self.sample(query, reference_points, features, feature_mask, spatial_shapes))

"""Temporal multi-scale deformable attention (DeVIS, section 3.2): a query of a frame looks at its own and at others.

Letters: B videos, T frames, N = B T, Q queries of a frame, F other frames that a query looks at, S pixels over all L
levels, C channels, M heads, P points.
"""

from functools import partial

import torch
from torch import nn
from transformers import initialization as init

from ...layers.deformable_attention import init_sampling, read_places
from ...layers.linear import Linear, in_autocast_dtype
from ..vis.modeling_vis import in_frame_chunks

ATTENTION_FRAMES = {"cpu": 1}
TEMPORAL_REFERENCES = ("first_level", "same_query", "own")


class TemporalDeformableAttention(nn.Module):
    """
    Each query reads learned places of its own frame and of other frames. Both have offsets of their own, and one
    softmax runs over the weights of all places of a head.

    Args:
        d_model: channels C.
        num_heads: heads M, divides C.
        num_levels: levels L.
        num_points: points per head and level in the own frame.
        num_temporal_points: points per head and level in each other frame.
        num_other_frames: F.
        temporal_reference: from where a query looks in other frames: `"first_level"`, its own point of the first
            level (encoder); `"same_query"`, the point or box of the query of the same index there (decoder); `"own"`,
            its own point or box.

    Raises:
        ValueError: for another `temporal_reference`.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        num_levels: int,
        num_points: int,
        num_temporal_points: int,
        num_other_frames: int,
        temporal_reference: str = "same_query",
    ):
        super().__init__()
        if temporal_reference not in TEMPORAL_REFERENCES:
            raise ValueError(
                f"temporal_reference is {temporal_reference!r}; expected one of "
                f"{', '.join(map(repr, TEMPORAL_REFERENCES))}"
            )
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        self.num_temporal_points, self.num_other_frames = num_temporal_points, num_other_frames
        self.temporal_reference = temporal_reference
        places = num_heads * num_levels * num_points
        temporal_places = num_heads * num_other_frames * num_levels * num_temporal_points
        self.sampling_offsets = Linear(d_model, 2 * places)
        self.attention_weights = Linear(d_model, places)
        self.temporal_sampling_offsets = Linear(d_model, 2 * temporal_places)
        self.temporal_attention_weights = Linear(d_model, temporal_places)
        self.value_proj = Linear(d_model, d_model)
        self.output_proj = Linear(d_model, d_model)

    def init_layer_weights(self) -> None:
        """In other frames as in the own one."""
        M, L, F = self.num_heads, self.num_levels, self.num_other_frames
        init_sampling(self.sampling_offsets, M, L, self.num_points)
        init_sampling(self.temporal_sampling_offsets, M, F * L, self.num_temporal_points)
        for layer in (self.attention_weights, self.temporal_attention_weights):
            init.zeros_(layer.weight)
            init.zeros_(layer.bias)

    def forward(
        self,
        query: torch.Tensor,
        reference_points: torch.Tensor,
        features: torch.Tensor,
        spatial_shapes: list[tuple[int, int]],
        other_frames: torch.Tensor,
    ) -> torch.Tensor:
        """
        Args:
            query: `(B, T, Q, C)`, positions added.
            reference_points: `(B, T, Q, L, 2)` centres, or `(B, T, Q, L, 4)` boxes cx cy w h, as fractions of each
                level.
            features: `(B, T, S, C)`; padding is read like any other place.
            spatial_shapes: `(height, width)` of every level.
            other_frames: `(T, F)` int64, the frames that the queries of each frame look at beside it, in the order of
                the weights; a frame may stand there twice.

        Returns:
            `(B, T, Q, C)`.
        """
        B, T = query.shape[:2]
        value = self.value_proj(features).unflatten(-1, (self.num_heads, -1)).flatten(0, 1)  # (N, S, M, C/M)
        frames = torch.arange(B * T, device=query.device)
        others = (frames[::T, None, None] + other_frames).flatten(0, 1)  # (N, F)
        attend = partial(self.attend, value, reference_points.flatten(0, 1), spatial_shapes)
        attended = in_frame_chunks(attend, ATTENTION_FRAMES, query.flatten(0, 1), frames, others)
        return self.output_proj(attended).view_as(query)

    def attend(
        self,
        value: torch.Tensor,
        references: torch.Tensor,
        spatial_shapes: list[tuple[int, int]],
        query: torch.Tensor,
        frames: torch.Tensor,
        others: torch.Tensor,
    ) -> torch.Tensor:
        """
        What the queries `(n, Q, C)` of n `frames (n,)` read there and in `others (n, F)`: `(n, Q, C)`, of all frames'
        `value (N, S, M, C/M)` and `references (N, Q, L, 2 or 4)`.
        """
        query = in_autocast_dtype(query)
        layers = self.attention_weights, self.temporal_attention_weights
        weights = torch.cat([layer(query).unflatten(-1, (self.num_heads, -1)) for layer in layers], dim=-1)
        weights = weights.softmax(-1, dtype=torch.promote_types(weights.dtype, torch.float32))
        weights, temporal_weights = weights.split([layer.out_features // self.num_heads for layer in layers], dim=-1)
        own = read_places(self.sampling_offsets, query, references[frames], value[frames], spatial_shapes, weights)
        others_read = read_places(  # the other frames are further levels to the operator
            self.temporal_sampling_offsets,
            query,
            self.temporal_references(references, frames, others),
            value[others].flatten(1, 2),
            spatial_shapes * others.shape[1],
            temporal_weights,
        )
        return own + others_read

    def temporal_references(self, references: torch.Tensor, frames: torch.Tensor, others: torch.Tensor):
        """References in the other frames: `(n, Q, F L, 2 or 4)`, frame by frame; see [`attend`]."""
        if self.temporal_reference == "same_query":
            return references[others].transpose(1, 2).flatten(2, 3)
        own = references[frames]
        if self.temporal_reference == "first_level":
            own = own[:, :, :1].expand_as(own)
        return own.repeat(1, 1, others.shape[1], 1)


__all__ = ["TemporalDeformableAttention"]

"""Attention over the frames of a video.

`MultiScaleTemporalAttention` is the multi-scale spatio-temporal split (MS-STS) module, built from the architecture
figure of the MS-STS VIS paper (ECCV 2022); the published code has no counterpart. `FrameAttention` is its innermost
step and, at full width, the decoder's attention of one instance over frames.

Letters: B videos, T frames, Q queries, S pixels over all L levels, C channels, F bottleneck channels.
"""

import torch
from torch import nn

from ...layers.attention import VisAttention
from ...layers.feed_forward import FeedForward
from ...layers.position_embedding import sine_frame_embedding


def frame_attention_mask(frame_mask: torch.Tensor, repeats: int, dtype: torch.dtype) -> torch.Tensor | None:
    """
    Additive mask `(B * repeats, 1, 1, T)` that hides padding frames.

    Args:
        frame_mask: `(B, T)` bool, True = real frame.
        repeats: places or queries per video, folded into the batch.
        dtype: of the attention.
    """
    mask = torch.zeros(frame_mask.shape, dtype=dtype, device=frame_mask.device)
    mask = mask.masked_fill(~frame_mask, torch.finfo(dtype).min)
    return mask.repeat_interleave(repeats, dim=0)[:, None, None, :]


class FrameAttention(nn.Module):
    """
    Self-attention over T of whatever stands at the same index of dimension 2.

    `(B, T, S, C) -> (B, T, S, hidden_size)`.

    All S little attentions are one batched call.
    """

    def __init__(self, config, input_size: int, num_heads: int, hidden_size: int | None = None):
        super().__init__()
        self.attention = VisAttention(config, input_size, num_heads, hidden_size)
        self.with_positions = config.temporal_position_embedding

    def forward(self, hidden_states: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        B, T, S, C = hidden_states.shape
        sequences = hidden_states.transpose(1, 2).reshape(B * S, T, C)
        positions = None
        if self.with_positions:
            positions = sine_frame_embedding(T, C, sequences.device).to(sequences.dtype)
        mask = frame_attention_mask(frame_mask, S, sequences.dtype)
        attended, _ = self.attention(sequences, positions, mask)  # (B S, T, hidden_size)
        return attended.view(B, S, T, -1).transpose(1, 2)


class IntraScaleAttention(nn.Module):
    """Linear, attention over the frames at the same place, norm, feed-forward: `(B, T, S, F) -> (B, T, S, F)`."""

    def __init__(self, config):
        super().__init__()
        size = config.temporal_hidden_size
        self.linear = nn.Linear(size, size)
        self.attention = FrameAttention(config, size, config.temporal_attention_heads)
        self.norm = nn.LayerNorm(size)
        self.feed_forward = FeedForward(size, 2 * size, config.dropout, config.activation_function)

    def forward(self, hidden_states: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        hidden_states = self.linear(hidden_states)
        hidden_states = self.norm(hidden_states + self.attention(hidden_states, frame_mask))
        return self.feed_forward(hidden_states)


class InterScaleAttention(nn.Module):
    """
    A level and its coarser neighbour, brought to one size: two linears, concatenation, norm, attention over
    the frames, dropout, norm, feed-forward: twice `(B, T, S_l, F) -> (B, T, S_l, F)`.
    """

    def __init__(self, config):
        super().__init__()
        size = config.temporal_hidden_size
        self.fine = nn.Linear(size, size)
        self.coarse = nn.Linear(size, size)
        self.norm_before = nn.LayerNorm(2 * size)
        self.attention = FrameAttention(config, 2 * size, config.temporal_attention_heads, size)
        self.dropout = nn.Dropout(config.dropout)
        self.norm_after = nn.LayerNorm(size)
        self.feed_forward = FeedForward(size, 2 * size, config.dropout, config.activation_function)

    def forward(self, fine: torch.Tensor, coarse: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        fine = self.fine(fine)
        joined = self.norm_before(torch.cat((fine, self.coarse(coarse)), dim=-1))  # (B, T, S_l, 2 F)
        attended = self.dropout(self.attention(joined, frame_mask))
        return self.feed_forward(self.norm_after(fine + attended))


class MultiScaleTemporalAttention(nn.Module):
    """
    The MS-STS module: features of all levels attend over the frames, within each scale and then from coarse to fine
    across scales, in a bottleneck of `temporal_hidden_size` channels.

    The projection back starts at zero, so that an untrained module adds nothing to the encoder layer around it. The
    blocks are shared by all levels.
    """

    def __init__(self, config):
        super().__init__()
        self.down = nn.Linear(config.d_model, config.temporal_hidden_size)
        self.intra_scale = IntraScaleAttention(config)
        self.inter_scale = InterScaleAttention(config)
        self.up = nn.Linear(config.temporal_hidden_size, config.d_model)

    def forward(
        self,
        hidden_states: torch.Tensor,
        feature_mask: torch.Tensor,
        spatial_shapes: list[tuple[int, int]],
    ) -> torch.Tensor:
        """
        Args:
            hidden_states: `(B, T, S, C)` features of all levels, finest first.
            feature_mask: `(B, T, S)` bool, True = real pixel.
            spatial_shapes: `(height, width)` of every level.

        Returns:
            `(B, T, S, C)`.
        """
        frame_mask = feature_mask.any(-1)  # (B, T)
        features = self.down(hidden_states) * feature_mask[..., None]
        sizes = [height * width for height, width in spatial_shapes]
        within = self.intra_scale(features, frame_mask).split(sizes, dim=2)
        coarser = features.split(sizes, dim=2)[-1]  # the coarsest level is paired with its own input
        across = []
        for level, shape, coarser_shape in zip(
            reversed(within), reversed(spatial_shapes), [spatial_shapes[-1], *reversed(spatial_shapes)], strict=False
        ):
            coarser = self.inter_scale(level, _resize(coarser, coarser_shape, shape), frame_mask)
            across.insert(0, coarser)
        return self.up(torch.cat(across, dim=2))


def _resize(features: torch.Tensor, shape: tuple[int, int], new_shape: tuple[int, int]) -> torch.Tensor:
    """Nearest neighbours of a flattened map: `(B, T, h w, F) -> (B, T, H W, F)`."""
    if shape == new_shape:
        return features
    maps = features.unflatten(2, shape)  # (B, T, h, w, F)
    rows = torch.arange(new_shape[0], device=features.device) * shape[0] // new_shape[0]
    columns = torch.arange(new_shape[1], device=features.device) * shape[1] // new_shape[1]
    return maps[:, :, rows[:, None], columns[None, :]].flatten(2, 3)

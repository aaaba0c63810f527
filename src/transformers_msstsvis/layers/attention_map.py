"""Attention maps of queries over a frame: where a query looks is the first draft of its mask (DETR).

Letters: N frames, k queries of a frame, C channels, M heads, H W places.
"""

import torch
from torch import nn

from .linear import Linear


class AttentionMap(nn.Module):
    """
    Weights of multi-head attention without values. One softmax runs over all heads and places together, so that the
    M maps of a query sum to one.

    Args:
        hidden_size: channels C of queries and features.
        num_heads: number of maps M of a query; divides `hidden_size`.
    """

    def __init__(self, hidden_size: int, num_heads: int):
        super().__init__()
        self.head_dim = hidden_size // num_heads
        self.q_proj = Linear(hidden_size, hidden_size)
        self.k_proj = Linear(hidden_size, hidden_size)

    def forward(self, queries: torch.Tensor, features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """
        Args:
            queries: `(N, k, C)`.
            features: `(N, C, H, W)`.
            mask: `(N, H, W)` bool, True = real place; others weigh nothing.

        Returns:
            `(N, k, M, H, W)`, each `(M, H, W)` of which sums to one.
        """
        query = self.q_proj(queries).unflatten(-1, (-1, self.head_dim)) * self.head_dim**-0.5  # (N, k, M, C/M)
        key = self.k_proj(features.flatten(2).transpose(1, 2)).unflatten(-1, (-1, self.head_dim))  # (N, H W, M, C/M)
        scores = query.permute(0, 2, 1, 3) @ key.permute(0, 2, 3, 1)  # (N, M, k, H W)
        scores = scores.masked_fill(~mask.flatten(1)[:, None, None], torch.finfo(scores.dtype).min).transpose(1, 2)
        weights = scores.flatten(2).softmax(-1)
        return weights.view(*scores.shape[:3], *features.shape[-2:])

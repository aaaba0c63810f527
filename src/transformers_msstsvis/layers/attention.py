"""Multi-head attention in the interface of transformers, of queries, frames and places.

Letters: N sequences, S tokens, R tokens that are read, C channels, M heads.
"""

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .linear import Linear


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Softmax attention. `query (N, M, S, C/M)`, `key, value (N, M, R, C/M)`, mask additive and broadcastable to
    `(N, M, S, R)`.
    """
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling  # (N, M, S, R)
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights  # (N, S, M, C/M)


class VisAttention(nn.Module):
    """
    Multi-head attention, of tokens to each other unless others are given to read. Positions are added to queries and
    keys, not to values (DETR).

    Args:
        config: model configuration; chooses the attention implementation.
        input_size: channels of the tokens.
        num_heads: number of heads; divides `hidden_size`.
        hidden_size: channels of heads and output, `input_size` unless given.
        dropout: dropout on the attention weights.
    """

    def __init__(self, config, input_size: int, num_heads: int, hidden_size: int | None = None, dropout: float = 0.0):
        super().__init__()
        hidden_size = hidden_size or input_size
        self.config = config
        self.is_causal = False
        self.dropout = dropout
        self.head_dim = hidden_size // num_heads
        self.scaling = self.head_dim**-0.5
        self.q_proj = Linear(input_size, hidden_size)
        self.k_proj = Linear(input_size, hidden_size)
        self.v_proj = Linear(input_size, hidden_size)
        self.o_proj = Linear(hidden_size, hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        key_value_states: torch.Tensor | None = None,
        key_value_positions: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Args:
            hidden_states: `(N, S, C)`.
            position_embeddings: broadcastable to `(N, S, C)`.
            attention_mask: additive, broadcastable to `(N, M, S, R)`; the smallest number of its dtype hides a token.
            key_value_states: `(N, R, C)` the tokens that are read; `hidden_states` by default.
            key_value_positions: broadcastable to `(N, R, C)`, of `key_value_states`.

        Returns:
            `(N, S, hidden_size)` and, from the eager implementation, weights `(N, M, S, R)`.
        """
        positioned = _at(hidden_states, position_embeddings)
        read, read_at = hidden_states, positioned
        if key_value_states is not None:
            read, read_at = key_value_states, _at(key_value_states, key_value_positions)
        query = self._heads(self.q_proj(positioned))  # (N, M, S, C/M)
        key, value = self._heads(self.k_proj(read_at)), self._heads(self.v_proj(read))  # (N, M, R, C/M)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.dropout if self.training else 0.0
        dtype = query.dtype
        if query.device.type == "cpu":  # on a CPU, many short sequences cost three times as much in half precision
            wide = torch.promote_types(dtype, torch.float32)
            query, key, value = query.to(wide), key.to(wide), value.to(wide)
            attention_mask = None if attention_mask is None else attention_mask.to(wide)
        with torch.autocast("cpu", enabled=False):  # that of other devices stays, and casts the mask
            output, weights = attend(self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling)
        return self.o_proj(output.flatten(2).to(dtype)), weights

    def _heads(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.view(*tokens.shape[:2], -1, self.head_dim).transpose(1, 2)


def _at(tokens: torch.Tensor, positions: torch.Tensor | None) -> torch.Tensor:
    return tokens if positions is None else tokens + positions

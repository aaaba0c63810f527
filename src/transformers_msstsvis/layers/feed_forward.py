"""Feed-forward blocks."""

from itertools import pairwise

import torch
from torch import nn
from transformers.activations import ACT2FN

from .linear import Linear


class FeedForward(nn.Module):
    """Two linear layers with an activation between, residual and layer norm: `(..., C) -> (..., C)`."""

    def __init__(self, size: int, hidden_size: int, dropout: float = 0.0, activation: str = "relu"):
        super().__init__()
        self.fc1 = Linear(size, hidden_size)
        self.fc2 = Linear(hidden_size, size)
        self.norm = nn.LayerNorm(size)
        self.activation = nn.ReLU(inplace=True) if activation == "relu" else ACT2FN[activation]
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        inner = self.dropout(self.activation(self.fc1(hidden_states)))
        return self.norm(hidden_states + self.dropout(self.fc2(inner)))


class MLP(nn.Module):
    """`num_layers` linear layers with ReLU between them: `(..., input_size) -> (..., output_size)`."""

    def __init__(self, input_size: int, hidden_size: int, output_size: int, num_layers: int):
        super().__init__()
        sizes = [input_size] + [hidden_size] * (num_layers - 1) + [output_size]
        self.layers = nn.ModuleList(Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[:-1]:
            hidden_states = layer(hidden_states).relu_()
        return self.layers[-1](hidden_states)

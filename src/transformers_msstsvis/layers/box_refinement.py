"""Boxes that every decoder layer refines (Deformable DETR, appendix A.4).

Letters: C channels.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init

from .feed_forward import MLP


class BoxHeads(nn.ModuleList):
    """A box head for each decoder layer, of C channels."""

    def __init__(self, d_model: int, num_layers: int):
        super().__init__(MLP(d_model, d_model, 4, num_layers=3) for _ in range(num_layers))

    def init_layer_weights(self) -> None:
        """The first guesses are small boxes at the references."""
        for index, head in enumerate(self):
            init.zeros_(head.layers[-1].weight)
            bias = torch.zeros(4)
            bias[2:] = -2.0 if index == 0 else 0.0
            init.copy_(head.layers[-1].bias, bias)


def refined_boxes(references: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """
    Boxes `(..., 4)` float32 cx cy w h in `[0, 1]`, from centres or boxes `references (..., 2 or 4)` in `[0, 1]` and
    what a box head says, `delta (..., 4)`.
    """
    logits = inverse_sigmoid(references)
    return (delta.float() + F.pad(logits, (0, 4 - logits.shape[-1]))).sigmoid()


def inverse_sigmoid(x: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """Logit of `x`, both sides kept above `eps`."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))

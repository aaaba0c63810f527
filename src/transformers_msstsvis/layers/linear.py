"""Linear layers that use the vector width of the CPU."""

import torch
from torch import nn
from torch.nn import functional as F


class Linear(nn.Linear):
    """`nn.Linear`, see [`linear`]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """
    `x @ weight.T + bias`. Float32 inference on a CPU goes through oneDNN: MKL, which `F.linear` uses, has no AVX-512
    on CPUs of other makers.

    Args:
        x: `(..., in)`.
        weight: `(out, in)`.
        bias: `(out,)`, or None.

    Returns:
        `(..., out)`, equal to `F.linear` but for rounding.
    """
    if _onednn_takes(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def _onednn_takes(x: torch.Tensor, weight: torch.Tensor) -> bool:
    return (
        x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() > 0
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        # Graphs keep the public operator, which every exporter knows.
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and type(x) is torch.Tensor
        and torch.backends.mkldnn.enabled
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )

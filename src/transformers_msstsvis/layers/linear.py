"""Linear layers that use the vector width of the CPU."""

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class Linear(nn.Linear):
    """`nn.Linear`, see [`linear`]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """
    `x @ weight.T + bias`. Float32 on a CPU goes through oneDNN: MKL, which `F.linear` uses, has no AVX-512 on CPUs of
    other makers.

    Args:
        x: `(..., in)`.
        weight: `(out, in)`.
        bias: `(out,)`, or None.

    Returns:
        `(..., out)`, equal to `F.linear` but for rounding.
    """
    in_onednn = _onednn_takes(x, weight)
    if torch.is_grad_enabled() and is_plain(x):
        rows = (_OneDnnLinear.apply if in_onednn else F.linear)(x.reshape(-1, x.shape[-1]), weight, bias)
        # What changes a true view in place, as ReLU and masks do, is slow in the backward pass.
        return torch.ops.aten._unsafe_view(rows, [*x.shape[:-1], len(weight)])
    return _onednn(x, weight, bias) if in_onednn else F.linear(x, weight, bias)


def in_autocast_dtype(x: torch.Tensor) -> torch.Tensor:
    """`x` in the dtype in which autocast hands it to linear layers, cast once for all that read it."""
    device = x.device.type
    casts = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return x.to(torch.get_autocast_dtype(device)) if casts else x


class _OneDnnLinear(torch.autograd.Function):
    """The same in training, whose two products of the backward pass are most of a step's arithmetic."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            _onednn(grad, weight.t(), None) if of_x else None,
            grad.t() @ x if of_weight else None,  # where oneDNN is no faster
            grad.sum(0) if of_bias else None,
        )


def _onednn(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _onednn_takes(x: torch.Tensor, weight: torch.Tensor) -> bool:
    return (
        x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and is_plain(x)
        and torch.backends.mkldnn.enabled
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def is_plain(x: torch.Tensor) -> bool:
    """Whether a tensor has values that are computed now: graphs keep the public operators, which exporters know."""
    return type(x) is torch.Tensor and not torch.compiler.is_compiling() and not torch.jit.is_tracing()

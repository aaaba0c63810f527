"""Schemas, shapes for tracing and gradients of the operators; the kernels of each device are in `csrc/`.

Letters: `N` batch, `S` pixels over all levels, `Q` queries, `M` heads, `D` channels per head, `L` levels, `P` points
per level.
"""

from __future__ import annotations

import torch
from torch import Tensor

NAME = "multi_scale_deformable_attention"


def register(namespace: str) -> torch.library.Library:
    """Defines the operators `NAME` and `NAME_backward` in a namespace of `torch.ops`.

    `NAME(value, spatial_shapes, sampling_locations, attention_weights)`: value `(N, S, M, D)`; height and width of
    each level in turn, `2 * L` ints; locations `(N, Q, M, L, P, 2)`, x then y, 0 and 1 being the outer edges of the
    level, and weights `(N, Q, M, L, P)`, both float32. Returns `(N, Q, M * D)` in the dtype of value.

    Returns:
        the library, which the caller keeps: the operators live as long as it does.
    """
    library = torch.library.Library(namespace, "FRAGMENT")
    library.define(
        f"{NAME}(Tensor value, SymInt[] spatial_shapes, Tensor sampling_locations, Tensor attention_weights) -> Tensor"
    )
    library.define(
        f"{NAME}_backward(Tensor grad_output, Tensor value, SymInt[] spatial_shapes, Tensor sampling_locations, "
        "Tensor attention_weights) -> (Tensor, Tensor, Tensor)"
    )
    name = f"{namespace}::{NAME}"

    def setup_context(ctx, inputs, output):
        value, ctx.spatial_shapes, sampling_locations, attention_weights = inputs
        ctx.save_for_backward(value, sampling_locations, attention_weights)

    def backward(ctx, grad_output):
        value, sampling_locations, attention_weights = ctx.saved_tensors
        grad_value, grad_locations, grad_weights = getattr(getattr(torch.ops, namespace), f"{NAME}_backward")(
            grad_output, value, ctx.spatial_shapes, sampling_locations, attention_weights
        )
        return grad_value, None, grad_locations, grad_weights

    torch.library.register_fake(name, _fake, lib=library)
    torch.library.register_fake(f"{name}_backward", _fake_backward, lib=library)
    torch.library.register_autograd(name, backward, setup_context=setup_context, lib=library)
    torch.library.register_autograd(f"{name}_backward", _no_double_backward, lib=library)
    return library


def _fake(value: Tensor, spatial_shapes, sampling_locations: Tensor, attention_weights: Tensor) -> Tensor:
    return value.new_empty(value.shape[0], sampling_locations.shape[1], value.shape[2] * value.shape[3])


def _fake_backward(grad_output: Tensor, value: Tensor, spatial_shapes, sampling_locations: Tensor, weights: Tensor):
    return tuple(tensor.new_empty(tensor.shape) for tensor in (value, sampling_locations, weights))


def _no_double_backward(ctx, *grads):
    raise RuntimeError(
        "The compiled multi-scale deformable attention has a first derivative only; for a second one, "
        "set MSSTSVIS_KERNELS=off to use the PyTorch formula"
    )

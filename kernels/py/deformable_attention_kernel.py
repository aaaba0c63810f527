"""Registers multi-scale deformable attention with torch.library, and loads its compiled kernels on first use.

The schemas, the shapes for tracing and the gradient are defined here, the kernels in `csrc/`.
Letters as in `transformers_msstsvis.ops.multi_scale_deformable_attention`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from transformers.utils import logging

from .build import BuildError, build

logger = logging.get_logger(__name__)

SOURCE = Path(__file__).parent / "csrc" / "cpu" / "multi_scale_deformable_attention.cpp"
NAME = "msstsvis::multi_scale_deformable_attention"

_library = torch.library.Library("msstsvis", "DEF")
_library.define(
    "multi_scale_deformable_attention(Tensor value, SymInt[] spatial_shapes, Tensor sampling_locations, "
    "Tensor attention_weights) -> Tensor"
)
_library.define(
    "multi_scale_deformable_attention_backward(Tensor grad_output, Tensor value, SymInt[] spatial_shapes, "
    "Tensor sampling_locations, Tensor attention_weights) -> (Tensor, Tensor, Tensor)"
)


@torch.library.register_fake(NAME, lib=_library)
def _(value, spatial_shapes, sampling_locations, attention_weights):
    return value.new_empty(value.shape[0], sampling_locations.shape[1], value.shape[2] * value.shape[3])


@torch.library.register_fake(f"{NAME}_backward", lib=_library)
def _(grad_output, value, spatial_shapes, sampling_locations, attention_weights):
    return tuple(tensor.new_empty(tensor.shape) for tensor in (value, sampling_locations, attention_weights))


def _setup_context(ctx, inputs, output):
    value, ctx.spatial_shapes, sampling_locations, attention_weights = inputs
    ctx.save_for_backward(value, sampling_locations, attention_weights)


def _backward(ctx, grad_output):
    value, sampling_locations, attention_weights = ctx.saved_tensors
    grad_value, grad_locations, grad_weights = torch.ops.msstsvis.multi_scale_deformable_attention_backward(
        grad_output, value, ctx.spatial_shapes, sampling_locations, attention_weights
    )
    return grad_value, None, grad_locations, grad_weights


def _no_double_backward(ctx, *grads):
    raise RuntimeError(
        "The compiled multi-scale deformable attention has a first derivative only; for a second one, "
        "set MSSTSVIS_KERNELS=off to use the PyTorch formula"
    )


torch.library.register_autograd(NAME, _backward, setup_context=_setup_context, lib=_library)
torch.library.register_autograd(f"{NAME}_backward", _no_double_backward, lib=_library)


def load_cpu_kernel(reference: Callable[..., Tensor]) -> bool:
    """Builds and loads the CPU kernel, and checks it against `reference` on a tiny input.

    Returns:
        whether the kernel can be used; when it can't, one warning says why.
    """
    # A new thread has no tracing mode, autocast or no_grad of the caller, who may well be torch.export.
    with ThreadPoolExecutor(1) as executor:
        try:
            executor.submit(_load_and_check, reference).result()
        except (BuildError, OSError, RuntimeError, ArithmeticError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            logger.warning(
                f"The CPU kernel of deformable attention is off, PyTorch is used instead: {reason} "
                "(MSSTSVIS_KERNELS=off silences this)"
            )
            return False
    logger.info("Deformable attention on the CPU uses its compiled kernel")
    return True


def _load_and_check(reference: Callable[..., Tensor]) -> None:
    torch.ops.load_library(build(SOURCE))
    # Rows of one vector and of several with a rest; few queries and many.
    for channels, queries in ((16, 1), (20, 9)):
        _check_agreement(reference, channels, queries)


def _check_agreement(reference: Callable[..., Tensor], channels: int, queries: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes, batch, heads, points = [(3, 4), (2, 1)], 2, 2, 3

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    value = random(batch, sum(height * width for height, width in shapes), heads, channels) - 0.5
    locations = random(batch, queries, heads, len(shapes), points, 2) * 1.6 - 0.3
    weights = random(batch, queries, heads, len(shapes), points)
    grad_output = random(batch, queries, heads * channels) - 0.5
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 2e-2)):
        results = []
        for function, spatial_shapes in (
            (reference, shapes),
            (torch.ops.msstsvis.multi_scale_deformable_attention, [size for shape in shapes for size in shape]),
        ):
            inputs = [tensor.detach().clone().requires_grad_() for tensor in (value.to(dtype), locations, weights)]
            output = function(inputs[0], spatial_shapes, *inputs[1:])
            results.append((output, *torch.autograd.grad(output, inputs, grad_output.to(dtype))))
        for expected, given in zip(*results, strict=True):
            error = (given.float() - expected.float()).abs().max().item()
            if not error <= tolerance * (1 + expected.abs().max().item()):
                raise ArithmeticError(f"its {dtype} result is off by {error:.1e} in the self-check")

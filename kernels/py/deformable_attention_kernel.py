"""Loads the compiled kernels of multi-scale deformable attention on first use, and checks each before trusting it.

Letters as in `transformers_msstsvis.ops.multi_scale_deformable_attention`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from transformers.utils import logging

from .build import BuildError, build
from .multi_scale_deformable_attention.operators import NAME, register

logger = logging.get_logger(__name__)

# Inside this package when it is installed, beside it in a checkout.
_FOLDERS = (Path(__file__).parent / "csrc", Path(__file__).parents[1] / NAME / "csrc")
CSRC = next((folder for folder in _FOLDERS if folder.is_dir()), _FOLDERS[0])
SOURCES = {"cpu": CSRC / "cpu" / f"{NAME}.cpp", "cuda": CSRC / "cuda" / f"{NAME}.cu"}
HUB_VERSION = 1

_library = register("msstsvis")


def load_kernel(device: str, reference: Callable[..., Tensor]) -> bool:
    """Builds and loads the kernel of a device type, and checks it against `reference` on a tiny input.

    Where it can't be built, the environment variable `MSSTSVIS_HUB_KERNEL` may name a Hub repository, `owner/name`,
    which the `kernels` library then loads; the kernel there runs with your rights, as any code does.

    Args:
        device: "cpu" or "cuda".
        reference: the PyTorch formula.

    Returns:
        whether the kernel can be used; when it can't, one warning says why.
    """
    try:
        load_and_check(device, reference)
    except Exception as error:  # whatever it is, PyTorch can do the work
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        logger.warning(
            f"The {device.upper()} kernel of deformable attention is off, PyTorch is used instead: {reason} "
            "(MSSTSVIS_KERNELS=off silences this)"
        )
        return False
    logger.info(f"Deformable attention on {device} uses its compiled kernel")
    return True


def load_and_check(device: str, reference: Callable[..., Tensor]) -> None:
    """As [`load_kernel`], which tells what this raises: `BuildError`, `OSError`, `ArithmeticError` or another."""
    # A thread has a current CUDA device of its own, too.
    place = torch.device(device, torch.cuda.current_device()) if device == "cuda" else torch.device(device)
    # A new thread has no tracing mode, autocast or no_grad of the caller, who may well be torch.export.
    with ThreadPoolExecutor(1) as executor:
        executor.submit(_load_and_check, place, reference).result()


def _load_and_check(device: torch.device, reference: Callable[..., Tensor]) -> None:
    _load(device.type)
    # Rows of one vector and of several with a rest; few queries, many, and as many as pixels.
    for channels, queries in ((16, 1), (20, 9), (8, 14)):
        _check_agreement(device, reference, channels, queries)


def _load(device: str) -> None:
    try:
        count = torch.cuda.device_count() if device == "cuda" else 0
        torch.ops.load_library(build(SOURCES[device], [torch.cuda.get_device_capability(i) for i in range(count)]))
    except (BuildError, OSError):
        repository = os.environ.get("MSSTSVIS_HUB_KERNEL")
        if not repository:
            raise
        _load_from_hub(device, repository)


def _load_from_hub(device: str, repository: str) -> None:
    try:
        kernels = importlib.import_module("kernels")
    except ImportError as error:
        raise BuildError(f"MSSTSVIS_HUB_KERNEL={repository} needs `pip install kernels`") from error
    kernel = kernels.get_kernel(repository, version=HUB_VERSION, backend=device, trust_remote_code=True)
    # The Hub's operators have a namespace of their own; ours call them, so that graphs and checks know one name.
    for name in (NAME, f"{NAME}_backward"):
        _library.impl(name, getattr(kernel, name), device.upper())


def _check_agreement(device: torch.device, reference: Callable[..., Tensor], channels: int, queries: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes, batch, heads, points = [(3, 4), (2, 1)], 2, 2, 3
    sides = [side for shape in shapes for side in shape]

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    value = random(batch, sum(height * width for height, width in shapes), heads, channels) - 0.5
    locations = random(batch, queries, heads, len(shapes), points, 2) * 1.6 - 0.3
    weights = random(batch, queries, heads, len(shapes), points)
    grad_output = random(batch, queries, heads * channels) - 0.5
    tolerances = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
    if device.type == "cuda":  # the CPU kernel knows no float16
        tolerances[torch.float16] = 2e-3
    for dtype, tolerance in tolerances.items():
        results = []
        for function, spatial_shapes, where in (
            (reference, shapes, torch.device("cpu")),
            (
                torch.ops.msstsvis.multi_scale_deformable_attention,
                sides,
                device,
            ),
        ):
            inputs = [tensor.to(where, copy=True).requires_grad_() for tensor in (value.to(dtype), locations, weights)]
            output = function(inputs[0], spatial_shapes, *inputs[1:])
            grads = torch.autograd.grad(output, inputs, grad_output.to(where, dtype))
            results.append([tensor.cpu() for tensor in (output, *grads)])
        for expected, given in zip(*results, strict=True):
            error = (given.float() - expected.float()).abs().max().item()
            if not error <= tolerance * (1 + expected.abs().max().item()):
                raise ArithmeticError(f"its {dtype} result is off by {error:.1e} in the self-check")

"""Multi-scale deformable attention against the operator of transformers, interleaved in one process.

A ratio is the time of the transformers operator over that of a variant in the same round: above 1 is faster. Times are
CPU seconds of the process on the CPU, and wall seconds between synchronisations on CUDA.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable

import torch
from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention

from ..ops.multi_scale_deformable_attention import (
    multi_scale_deformable_attention,
    multi_scale_deformable_attention_embedding_bag,
)

HEADS, CHANNELS, POINTS, STRIDES = 8, 32, 4, (8, 16, 32, 64)
CUDA_CALLS = 20  # one is too short for the clock


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--height", type=int, default=360)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--queries", type=int, default=300, help="queries of the decoder")
    parser.add_argument("--rounds", type=int, default=5, help="times that every variant runs, in turn")
    parser.add_argument("--no-compile", action="store_true", help="leave out the torch.compile variant")


def run(arguments: argparse.Namespace) -> dict:
    """Returns `{"setting": {...}, "results": [...]}`; a result has `workload`, `variant`, `seconds` (median) and
    `ratio`, `ratio_low`, `ratio_high` (median and range over the rounds)."""
    shapes = level_shapes(arguments.height, arguments.width)
    results = []
    for name, queries in (("encoder", None), ("decoder", arguments.queries)):
        inputs = make_inputs(arguments.frames, shapes, queries, arguments.device)
        for gradients in (False, True):
            workload = f"{name} {'forward and backward' if gradients else 'forward'}"
            variants = make_variants(shapes, inputs, gradients, not arguments.no_compile)
            results += measure(workload, variants, arguments.rounds, arguments.device)
    setting = {key: getattr(arguments, key) for key in ("device", "frames", "height", "width", "queries", "rounds")}
    setting |= {"heads": HEADS, "channels": CHANNELS, "points": POINTS, "threads": torch.get_num_threads()}
    return {"setting": setting, "results": results}


def level_shapes(height: int, width: int) -> list[tuple[int, int]]:
    """Height and width of every level of a frame."""
    return [(-(-height // stride), -(-width // stride)) for stride in STRIDES]


def make_inputs(
    frames: int, shapes: list[tuple[int, int]], queries: int | None, device: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Value, locations and weights; without `queries` every pixel is one, and looks 1 to 4 pixels around itself."""
    generator = torch.Generator().manual_seed(0)
    pixels = sum(height * width for height, width in shapes)
    if queries is None:
        centres = torch.cat([grid(height, width) for height, width in shapes])
    else:
        centres = torch.rand(queries, 2, generator=generator)
    sides = torch.tensor(shapes).flip(1)[:, None]  # (L, 1, 2), x then y
    angles = torch.arange(HEADS) * (2 * torch.pi / HEADS)
    directions = torch.stack([angles.cos(), angles.sin()], -1)[:, None, None]  # (M, 1, 1, 2)
    rings = directions * torch.arange(1, POINTS + 1)[:, None]  # (M, 1, P, 2) in pixels
    noise = torch.randn(frames, len(centres), HEADS, len(shapes), POINTS, 2, generator=generator)
    locations = centres[:, None, None, None] + (rings + noise) / sides
    weights = torch.randn(frames, len(centres), HEADS, len(shapes) * POINTS, generator=generator).softmax(-1)
    value = torch.randn(frames, pixels, HEADS, CHANNELS, generator=generator)
    return value.to(device), locations.to(device), weights.unflatten(-1, (len(shapes), POINTS)).to(device)


def grid(height: int, width: int) -> torch.Tensor:
    """The centres of the pixels, `(height * width, 2)`, x then y."""
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    return torch.stack([x, y], -1).flatten(0, 1)


def make_variants(
    shapes: list[tuple[int, int]], inputs: tuple[torch.Tensor, ...], gradients: bool, compiled: bool
) -> dict[str, Callable[[], None]]:
    value, locations, weights = inputs

    def ours(value, locations, weights, function=multi_scale_deformable_attention):
        return function(value, shapes, locations, weights)

    functions = {
        "transformers": (transformers_operator(shapes, value.device), value),
        "compiled kernel": (ours, value),
        "compiled kernel, bfloat16 value": (ours, value.bfloat16()),
    }
    if not gradients and value.device.type == "cpu":
        eager = multi_scale_deformable_attention_embedding_bag
        functions["no compiler"] = (functools.partial(ours, function=eager), value)
        if compiled:
            fused = functools.partial(eager, compiled=True)
            functions["no compiler, torch.compile"] = (functools.partial(ours, function=fused), value)
    return {
        name: functools.partial(call, function, (value, locations, weights), gradients)
        for name, (function, value) in functions.items()
    }


def transformers_operator(shapes: list[tuple[int, int]], device: torch.device) -> Callable[..., torch.Tensor]:
    """That of transformers, of value, locations and weights."""
    sides, starts = level_tensors(shapes, device)
    theirs = MultiScaleDeformableAttention()
    return lambda value, locations, weights: theirs(value, sides, shapes, starts, locations, weights, 64)


def level_tensors(shapes: list[tuple[int, int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Height and width `(L, 2)` and first pixel `(L,)` of every level, as most operators take them."""
    sides = torch.tensor(shapes, device=device)
    return sides, torch.cat([sides.new_zeros(1), sides.prod(1).cumsum(0)[:-1]])


def call(function: Callable[..., torch.Tensor], inputs: tuple[torch.Tensor, ...], gradients: bool) -> None:
    inputs = [tensor.detach().requires_grad_(gradients) for tensor in inputs]
    output = function(*inputs)
    if gradients:
        torch.autograd.grad(output, inputs, torch.ones_like(output))


def measure(workload: str, variants: dict[str, Callable[[], None]], rounds: int, device: str) -> list[dict]:
    for variant in variants.values():  # builds, compiles and warms up
        variant()
    seconds = {name: [] for name in variants}
    for _ in range(rounds):
        for name, variant in variants.items():
            seconds[name].append(clock(variant, device))
    baseline = seconds["transformers"]
    results = []
    for name, times in seconds.items():
        ratios = [theirs / ours for theirs, ours in zip(baseline, times, strict=True)]
        results.append(
            {
                "workload": workload,
                "variant": name,
                "seconds": statistics.median(times),
                "ratio": statistics.median(ratios),
                "ratio_low": min(ratios),
                "ratio_high": max(ratios),
            }
        )
    return results


def clock(variant: Callable[[], None], device: str) -> float:
    if device == "cpu":
        start = time.process_time()
        variant()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(CUDA_CALLS):
        variant()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / CUDA_CALLS

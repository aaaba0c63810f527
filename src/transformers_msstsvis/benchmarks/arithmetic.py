"""The least that this CPU needs for a model: its arithmetic at the best rates that oneDNN reaches here."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..layers.linear import linear

# Rows, inputs and outputs of the layers of an encoder.
PRODUCTS = ((4820, 256, 256), (4820, 256, 1024), (4820, 1024, 256))
# Inputs, outputs, side of the kernel, height and width in a ResNet-50.
CONVOLUTIONS = ((64, 64, 3, 90, 160), (128, 128, 3, 45, 80), (256, 256, 3, 23, 40), (256, 1024, 1, 23, 40))
FRAMES = 4  # at once, as the backbone takes them
CONVOLUTION_KINDS = (torch.ops.aten.convolution, torch.ops.aten.convolution_backward)

Rates = dict[str, float]  # operations per second of `products` and `convolutions`


def least_seconds(function: Callable[[], Any], repeats: int = 5) -> dict[str, Any]:
    """
    What the products of matrices and the convolutions of a call take at least, in float32.

    Args:
        function: runs a model.
        repeats: of every measurement, of which the fastest counts.

    Returns:
        `cpu_s`, and for `products` and `convolutions` their `flop` and the best `flop_per_s`, of one thread.
    """
    rates = best_rates(repeats)
    with counted_operations() as operations:
        function()
    kinds = {kind: {"flop": flop, "flop_per_s": rates[kind]} for kind, flop in operations().items()}
    return {"cpu_s": seconds_at(rates, operations())} | kinds


@contextmanager
def counted_operations() -> Iterator[Callable[[], dict[str, int]]]:
    """
    The floating point operations of the products and convolutions within the block up to now, two for every
    multiplication, gradients included.
    """

    def of_linear(x, weight, *_, out_shape, **__) -> int:
        return 2 * math.prod(out_shape) * weight[-1]

    ours = getattr(torch.ops.mkldnn, "_linear_pointwise", None)  # of `linear`, which PyTorch does not count
    with FlopCounterMode(display=False, custom_mapping={} if ours is None else {ours: of_linear}) as counter:

        def operations() -> dict[str, int]:
            counts = dict(counter.get_flop_counts().get("Global", {}))
            convolutions = [counts.pop(kind, 0) for kind in CONVOLUTION_KINDS]
            return {"products": sum(counts.values()), "convolutions": sum(convolutions)}

        yield operations


def seconds_at(rates: Rates, operations: dict[str, int]) -> float:
    return sum(flop / rates[kind] for kind, flop in operations.items())


@torch.inference_mode()
def best_rates(repeats: int = 5, dtype: torch.dtype = torch.float32) -> Rates:
    """Most operations that a thread does in a second here of `products` and `convolutions`, in a precision."""
    return {
        "products": best_rate(products(dtype), repeats),
        "convolutions": best_rate(convolutions(dtype), repeats),
    }


def products(dtype: torch.dtype) -> list[tuple[Callable[[], Any], int]]:
    """Calls of linear layers with the operations of each."""
    calls = []
    for rows, inputs, outputs in PRODUCTS:
        x, layer = torch.randn(rows, inputs, dtype=dtype), nn.Linear(inputs, outputs, dtype=dtype)
        calls.append((lambda x=x, layer=layer: linear(x, layer.weight, layer.bias), 2 * rows * inputs * outputs))
    return calls


def convolutions(dtype: torch.dtype) -> list[tuple[Callable[[], Any], int]]:
    """Calls of convolutions with the operations of each."""
    calls = []
    for inputs, outputs, side, height, width in CONVOLUTIONS:
        layer = nn.Conv2d(inputs, outputs, side, padding=side // 2, dtype=dtype).to(memory_format=torch.channels_last)
        x = torch.randn(FRAMES, inputs, height, width, dtype=dtype).contiguous(memory_format=torch.channels_last)
        calls.append((lambda x=x, layer=layer: layer(x), 2 * FRAMES * inputs * outputs * side**2 * height * width))
    return calls


def best_rate(calls: list[tuple[Callable[[], Any], int]], repeats: int) -> float:
    """Most operations per CPU second among calls."""
    return max(operations / min(seconds_of(call, repeats)) for call, operations in calls)


def seconds_of(call: Callable[[], Any], repeats: int) -> list[float]:
    call()
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return seconds

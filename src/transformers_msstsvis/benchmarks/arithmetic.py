"""The least that this CPU needs for a model: its arithmetic at the best rates that oneDNN reaches here."""

import math
import time
from collections.abc import Callable
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


@torch.inference_mode()
def least_seconds(function: Callable[[], Any], repeats: int = 5) -> dict[str, Any]:
    """
    What the products of matrices and the convolutions of a call take at least.

    Args:
        function: runs a model whose parameters want no gradients.
        repeats: of every measurement, of which the fastest counts.

    Returns:
        `cpu_s`, and for `products` and `convolutions` their `flop` and the best `flop_per_s`, of one thread.
    """
    flop = operations(function)
    rates = {"products": best_rate(products(), repeats), "convolutions": best_rate(convolutions(), repeats)}
    seconds = sum(flop[kind] / rates[kind] for kind in flop)
    return {"cpu_s": seconds} | {kind: {"flop": flop[kind], "flop_per_s": rates[kind]} for kind in flop}


def operations(function: Callable[[], Any]) -> dict[str, int]:
    """Floating point operations of the products and convolutions of a call, two for every multiplication."""

    def of_linear(x, weight, *_, out_shape, **__) -> int:
        return 2 * math.prod(out_shape) * weight[-1]

    ours = getattr(torch.ops.mkldnn, "_linear_pointwise", None)  # of `linear`, which PyTorch does not count
    with FlopCounterMode(display=False, custom_mapping={} if ours is None else {ours: of_linear}) as counter:
        function()
    counts = counter.get_flop_counts()["Global"]
    convolutions = counts.pop(torch.ops.aten.convolution, 0)
    return {"products": sum(counts.values()), "convolutions": convolutions}


def products() -> list[tuple[Callable[[], Any], int]]:
    """Calls of linear layers with the operations of each."""
    calls = []
    for rows, inputs, outputs in PRODUCTS:
        x, layer = torch.randn(rows, inputs), nn.Linear(inputs, outputs)
        calls.append((lambda x=x, layer=layer: linear(x, layer.weight, layer.bias), 2 * rows * inputs * outputs))
    return calls


def convolutions() -> list[tuple[Callable[[], Any], int]]:
    """Calls of convolutions with the operations of each."""
    calls = []
    for inputs, outputs, side, height, width in CONVOLUTIONS:
        layer = nn.Conv2d(inputs, outputs, side, padding=side // 2).to(memory_format=torch.channels_last)
        x = torch.randn(FRAMES, inputs, height, width).contiguous(memory_format=torch.channels_last)
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

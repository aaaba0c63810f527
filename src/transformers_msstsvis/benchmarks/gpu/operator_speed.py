"""The operator beside other ways to compute it, and beside what moving its data once would take."""

import functools
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch

from ...commands.command_line import reason
from ...ops.multi_scale_deformable_attention import multi_scale_deformable_attention_reference as pytorch
from ..op import call, level_shapes, level_tensors, make_inputs, transformers_operator
from ..timing import finite, relative_error, spread
from .checks import compiled_kernel
from .device import clear, copy_bandwidth, device_seconds, peak_bytes, seconds
from .worker import Absent

Side = tuple[Callable[..., torch.Tensor], tuple[torch.Tensor, ...]]
KERNEL = "kernel"


def measure_operator(
    size: tuple[int, int, int],
    queries: int | None,
    dtype: str,
    gradients: bool,
    compiled: bool,
    device: str,
    repeats: int,
) -> dict[str, Any]:
    """
    One workload with all sides in turns.

    Args:
        size: frames, height and width of the clip.
        queries: of the decoder; None for the encoder, where every pixel is one.
        dtype: of value and output, "float32" or "bfloat16".
        gradients: also those of all inputs.
        compiled: the kernel beside PyTorch through `torch.compile`, and not beside the others.

    Returns:
        `roofline_s`: seconds in which a copy moves as many bytes as the inputs and outputs have; `sides`: by name
        `seconds` of the device, their `ratio` to the kernel's of the same round, seconds of one call as Python sees it
        (`call_s`) and of the first one, `peak_bytes` above the inputs, and `relative_error` to the formula in float64.
        A side that is not here has `absent`, one that fails `failed`, with the reason.
    """
    clear(device)
    frames, height, width = size
    shapes = level_shapes(height, width)
    value, locations, weights = make_inputs(frames, shapes, queries, device)
    inputs = (value.to(getattr(torch, dtype)), locations, weights)
    expected = torch.cat(
        [pytorch(v, shapes, l, w) for v, l, w in zip(*(x.double().split(1) for x in inputs), strict=True)]
    )
    makers = {KERNEL: _kernel, "PyTorch, compiled": _compiled} if compiled else SIDES
    rows: dict[str, dict[str, Any]] = {}
    calls = {}
    for name, make in makers.items():
        try:
            function, given = make(shapes, inputs)
            once = functools.partial(call, function, given, gradients)
            rows[name] = {
                "first_call_s": seconds(once, device),
                "peak_bytes": peak_bytes(once, device, above=True),
                "relative_error": finite(relative_error(function(*given), expected), "the error of the output"),
                "call_s": seconds(once, device),
            }
            calls[name] = once
        except Absent as absent:
            rows[name] = {"absent": str(absent)}
        except Exception as error:
            rows[name] = {"failed": reason(error)}
    times = _in_turns(calls, device, repeats)
    for name, measured in times.items():
        rows[name]["seconds"] = spread(measured)
        if KERNEL in times:
            rows[name]["ratio"] = spread([a / b for a, b in zip(measured, times[KERNEL], strict=True)])
    bandwidth = copy_bandwidth(device)
    return {
        "copy_bytes_per_s": bandwidth,
        "roofline_s": moved_bytes(inputs, expected.shape, gradients) / bandwidth,
        "sides": rows,
    }


def _in_turns(calls: dict[str, Callable[[], None]], device: str, repeats: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, once in calls.items():
            times[name].append(device_seconds(once, device))
    return times


def moved_bytes(inputs: tuple[torch.Tensor, ...], output_shape: torch.Size, gradients: bool) -> int:
    """Inputs read and output written once; with gradients all of that read once more, and gradients written."""
    read = sum(tensor.nbytes for tensor in inputs)
    written = output_shape.numel() * inputs[0].element_size()
    return read + written + (read + written + read if gradients else 0)


def _kernel(shapes: list[tuple[int, int]], inputs: tuple[torch.Tensor, ...]) -> Side:
    operator = compiled_kernel(inputs[0].device.type)
    sides = [side for shape in shapes for side in shape]
    return lambda value, locations, weights: operator(value, sides, locations, weights), inputs


def _pytorch(shapes: list[tuple[int, int]], inputs: tuple[torch.Tensor, ...]) -> Side:
    return lambda value, locations, weights: pytorch(value, shapes, locations, weights), inputs


def _compiled(shapes: list[tuple[int, int]], inputs: tuple[torch.Tensor, ...]) -> Side:
    function, inputs = _pytorch(shapes, inputs)
    return torch.compile(function, dynamic=False), inputs


def _transformers(shapes: list[tuple[int, int]], inputs: tuple[torch.Tensor, ...]) -> Side:
    value = inputs[0]
    if value.device.type == "cpu" and value.dtype != torch.float32:
        raise Absent("on a CPU it reads wrong memory in half precision")
    # All in one dtype, as a model of that dtype calls it.
    return transformers_operator(shapes, value.device), tuple(tensor.to(value.dtype) for tensor in inputs)


def _deformops(shapes: list[tuple[int, int]], inputs: tuple[torch.Tensor, ...]) -> Side:
    if find_spec("deformops") is None:
        raise Absent("deformops is not installed")
    from deformops.registry import msda

    value, locations, weights = inputs
    levels = level_tensors(shapes, value.device)

    def deformops(value, locations, weights):
        return msda(value, *levels, locations, weights)

    return deformops, (value, locations, weights.to(value.dtype))  # it takes weights in the dtype of value only


SIDES = {KERNEL: _kernel, "PyTorch": _pytorch, "transformers": _transformers, "deformops": _deformops}

"""Time, memory and bandwidth of a device, `"cuda"` or `"cpu"`."""

import gc
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from ..op import CUDA_CALLS, clock

COPIED_BYTES = {"cuda": 2**30, "cpu": 2**26}  # beyond the caches
CLOCK = 2e9  # cycles of a GPU in a second, about
MEASURED_SECONDS = 0.02  # by as many calls as fill them, at most CUDA_CALLS


def describe(device: str) -> dict[str, Any]:
    """What is measured on."""
    told = {"torch": torch.__version__, "python": platform.python_version(), "cuda": torch.version.cuda}
    if device == "cpu":
        return {"name": platform.processor() or platform.machine(), **told}
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "capability": [properties.major, properties.minor],
        "memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "cudnn": torch.backends.cudnn.version(),
        **told,
    }


def clear(device: str) -> None:
    """Forget what an earlier step has left: compiled graphs, and memory that nothing refers to."""
    torch.compiler.reset()
    if device == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def seconds(function: Callable[[], Any], device: str) -> float:
    """Wall seconds of one call, from an idle device to an idle device."""
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start


def device_seconds(function: Callable[[], Any], device: str) -> float:
    """
    Seconds of one call that the device itself works: on a GPU the next calls are queued while it is kept busy, so that
    the time in which Python starts them does not count. On a CPU its own time.
    """
    if device == "cpu":
        return clock(function, device)
    once = seconds(function, device)
    calls = max(1, min(CUDA_CALLS, round(MEASURED_SECONDS / once)))
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(int(1.5 * min(calls * once, MEASURED_SECONDS) * CLOCK))
    start.record()
    for _ in range(calls):
        function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000 / calls


def peak_bytes(function: Callable[[], Any], device: str, above: bool = False) -> int | None:
    """
    Memory of a GPU at the peak of a call, of all that lives there, or `above` what did before; None on a CPU, where
    it can't be told from what earlier steps have left.
    """
    if device == "cpu":
        return None
    synchronize(device)
    before = torch.cuda.memory_allocated() if above else 0
    torch.cuda.reset_peak_memory_stats()
    function()
    synchronize(device)
    return torch.cuda.max_memory_allocated() - before


def copy_bandwidth(device: str, repeats: int = 5) -> float:
    """Bytes per second that a copy reads and writes, median of some."""
    source = torch.zeros(COPIED_BYTES[device], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = [device_seconds(lambda: target.copy_(source), device) for _ in range(repeats)]
    return 2 * source.numel() / statistics.median(times)


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()

"""Two sides measured in turns in one process, in time and memory."""

import math
import os
import re
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from types import GeneratorType
from typing import Any


def compare(sides: dict[str, Callable[[], Any]], repeats: int) -> dict[str, Any]:
    """
    Run the sides in turns, after one unmeasured turn.

    Returns:
        Per side CPU and wall seconds (median, min, max); `ratio`: the first side's CPU seconds over every other's,
        turn by turn.
    """
    cpu: dict[str, list[float]] = {side: [] for side in sides}
    wall: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(repeats + 1):
        for side, function in sides.items():
            start_cpu, start = time.process_time(), time.perf_counter()
            function()
            if turn:
                cpu[side].append(time.process_time() - start_cpu)
                wall[side].append(time.perf_counter() - start)
    first, *others = sides
    return {
        **{side: {"cpu_s": spread(cpu[side]), "wall_s": spread(wall[side])} for side in sides},
        "ratio": {side: spread([a / b for a, b in zip(cpu[first], cpu[side], strict=True)]) for side in others},
    }


def cpu_seconds() -> float:
    """Of this process and of others that it ran, such as compilers, up to now."""
    return sum(os.times()[:4])


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


class Stopwatch:
    """
    Seconds of the parts of one run: `seconds`, by name, to be cleared before the next.

    Args:
        clock: seconds up to now; CPU seconds by default.
    """

    def __init__(self, clock: Callable[[], float] = time.process_time):
        self.seconds: dict[str, float] = {}
        self.clock = clock

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = self.clock()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self.clock() - start

    @contextmanager
    def watching(self, owner: Any, name: str, part: str) -> Iterator[None]:
        """Count every call of a function or method while the block runs; of a generator, every step."""
        original = getattr(owner, name)

        def watched(*args, **kwargs):
            with self.part(part):
                result = original(*args, **kwargs)
            return self._steps(result, part) if isinstance(result, GeneratorType) else result

        setattr(owner, name, watched)
        try:
            yield
        finally:
            setattr(owner, name, original)

    def _steps(self, generator: Iterator, part: str) -> Iterator:
        while True:
            with self.part(part):
                step = next(generator, self)
            if step is self:
                return
            yield step

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Count every call of a method of `owner`, as its class has it at that time."""

        def watched(*args, **kwargs):
            with self.part(name):
                return getattr(type(owner), method)(owner, *args, **kwargs)

        setattr(owner, method, watched)


def peak_in_new_process(function: Callable[..., int | None], *arguments: Any) -> int | None:
    """`function(*arguments)`, which returns a [`peak_growth`], in a process that has not grown before."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def peak_growth(function: Callable[[], Any]) -> int | None:
    """Bytes by which the process's resident memory grows at its peak while `function` runs; None beside Linux."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = _status("VmRSS")
        function()
        return max(_status("VmHWM") - before, 0)
    except OSError:
        return None


def _status(name: str) -> int:
    return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


def relative_error(given, expected) -> float:
    """2-norm of the difference over that of `expected`."""
    return float((given.double() - expected.double()).norm() / expected.double().norm())


def finite(value: float, what: str) -> float:
    """
    The value itself.

    Raises:
        ArithmeticError: it is infinite, or no number.
    """
    if not math.isfinite(value):
        raise ArithmeticError(f"{what} is {value}; expected a finite number")
    return value

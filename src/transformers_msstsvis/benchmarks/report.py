"""A measurement with what it was made on, and its picture."""

import platform
from datetime import date
from types import ModuleType
from typing import Any

import torch

from ..files import written_aside


def measure(part: ModuleType, arguments: Any) -> dict[str, Any]:
    """
    The report of a part.

    Args:
        part: a module of this package with `run`.
        arguments: those of its `add_arguments`, and `threads` of PyTorch, None for all cores.
    """
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    return {**setting(part.__name__.rpartition(".")[2]), **part.run(arguments)}


def setting(part: str) -> dict[str, Any]:
    """What a report of a part begins with."""
    return {
        "part": part,
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }


def plot_ratios(report: dict, path: str) -> None:
    """Every ratio of a report (`{"median", "min", "max"}` below a key with "ratio" or "over" in it) as a bar."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bars = []

    def collect(node, name, inside):
        if isinstance(node, dict) and inside and "median" in node:
            bars.append((name, node))
        elif isinstance(node, dict):
            for key, child in node.items():
                collect(child, f"{name} {key}".strip(), inside or "ratio" in key or "over" in key)

    collect(report, "", False)
    figure, axes = pyplot.subplots(figsize=(8, 0.5 * len(bars) + 1.5))
    medians = [bar["median"] for _, bar in bars]
    errors = [[bar["median"] - bar["min"] for _, bar in bars], [bar["max"] - bar["median"] for _, bar in bars]]
    axes.barh([name for name, _ in bars], medians, xerr=errors)
    axes.axvline(1.0, color="grey")
    axes.set_xlabel("times as fast as the baseline (CPU time; median, smallest, largest)")
    axes.set_title(f"{report['part']}, {report['date']}, {report['machine']}", fontsize=8)
    figure.tight_layout()
    with written_aside(path) as unfinished:
        figure.savefig(unfinished)

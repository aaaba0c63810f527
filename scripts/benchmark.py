#!/usr/bin/env python
"""Measure a part of the package against its baseline, in turns in one process.

python scripts/benchmark.py op|infer|train|masks|metric|models|stream [--json FILE] [--plot FILE.png] [--threads N]

Ratios are in CPU time of the process, so that they hold on a busy machine, too. `models` and `stream` have no
baseline: they give seconds and memory.
"""

import argparse
import importlib
import json
import platform
import sys
from datetime import date
from pathlib import Path

import torch

PARTS = ("op", "infer", "train", "masks", "metric", "models", "stream")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="part", required=True)
    modules = {part: importlib.import_module(f"benchmarks.{part}") for part in PARTS}
    for part, module in modules.items():
        command = commands.add_parser(part, help=module.__doc__.split("\n")[0])
        command.add_argument("--json", help="also write the report here")
        command.add_argument("--plot", help="draw the ratios into this picture (needs matplotlib)")
        command.add_argument("--threads", type=int, help="of PyTorch; all cores by default")
        module.add_arguments(command)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    report = {
        "part": arguments.part,
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        **modules[arguments.part].run(arguments),
    }
    text = json.dumps(report, indent=2)
    print(text)
    if arguments.json:
        Path(arguments.json).write_text(text + "\n")
    if arguments.plot:
        plot_ratios(report, arguments.plot)
    return 0


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
    figure.savefig(path)


if __name__ == "__main__":
    sys.exit(main())

"""Measures a part of the package against its baseline, in turns in one process.

transformers-msstsvis benchmark op|infer|train|masks|metric|models|stream [--json FILE] [--plot FILE.png] [--threads N]

Ratios are in CPU time of the process, so that they hold on a busy machine, too. `models` and `stream` have no
baseline: they give seconds and memory.
"""

import argparse
import importlib
import json
import platform
import sys
from datetime import date
from types import ModuleType

from ..files import check_distinct, check_writable, written_aside
from .command_line import Parser, run

PARTS = {
    "op": "multi-scale deformable attention against the operator of transformers",
    "infer": "inference of one clip against the published computation",
    "train": "a training step against the published computation",
    "masks": "mask logits to RLE against the published steps",
    "metric": "the metric against a plain re-statement of the published evaluator",
    "models": "every model on the same clip, untrained: seconds, parameters and memory",
    "stream": "videos of growing length: time per frame and memory",
}


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = Parser(prog="transformers-msstsvis benchmark", description=__doc__)
    parts = parser.add_subparsers(dest="part", required=True)
    part_parsers = {part: parts.add_parser(part, help=what) for part, what in PARTS.items()}

    def work() -> None:
        add_arguments(part_parsers[arguments[0]], arguments[0])  # only what is asked for is loaded
        measure(parser.parse_args(arguments))

    if not arguments or arguments[0] not in PARTS:
        parser.parse_args(arguments)
    return run(work)


def add_arguments(parser: argparse.ArgumentParser, part: str) -> None:
    parser.add_argument("--json", help="also write the report here")
    parser.add_argument("--plot", help="draw the ratios into this picture (needs matplotlib)")
    parser.add_argument("--threads", type=int, help="of PyTorch; all cores by default")
    load(part).add_arguments(parser)


def load(part: str) -> ModuleType:
    return importlib.import_module(f"..benchmarks.{part}", __package__)


def measure(arguments: argparse.Namespace) -> None:
    import torch

    check_writable(arguments.json, arguments.plot)
    check_distinct((arguments.json, arguments.plot), [])
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    report = {
        "part": arguments.part,
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        **load(arguments.part).run(arguments),
    }
    text = json.dumps(report, indent=2)
    print(text)
    if arguments.json:
        with written_aside(arguments.json) as unfinished:
            unfinished.write_text(text + "\n")
    if arguments.plot:
        plot_ratios(report, arguments.plot)


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


if __name__ == "__main__":
    raise SystemExit(main())

"""Measures a part of the package against its baseline, in turns in one process.

transformers-msstsvis benchmark op|infer|train|masks|metric|models|precision|video|tracking [--json FILE] [--threads N]
                                                                                             [--plot FILE.png]
transformers-msstsvis benchmark gpu --output DIR

Ratios are in CPU time of the process, so that they hold on a busy machine, too. `models` and `video` have no
baseline: they give seconds and memory. `tracking` gives AP and identity switches. `gpu` checks and measures everything
on a CUDA device, in minutes.
"""

import argparse
import importlib
import json
import sys
from types import ModuleType

from ..files import check_distinct, check_writable, written_aside
from .command_line import Parser, run, say

PARTS = {
    "op": "multi-scale deformable attention against the operator of transformers",
    "infer": "inference of one clip against the published computation",
    "train": "a training step against the published computation",
    "masks": "mask logits to RLE against the published steps",
    "metric": "the metric against a plain re-statement of the published evaluator",
    "models": "the five systems on videos of growing length, untrained: seconds, parameters and memory",
    "precision": "float32, bfloat16 and torch.compile side by side: time, size of the weights, mask AP",
    "video": "videos of growing length through predict: time of every part, and memory",
    "tracking": "trackers on long synthetic videos: AP and identity switches",
    "gpu": "a CUDA device: is the kernel right there, and how fast are the operator and all models",
}


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = Parser(prog="transformers-msstsvis benchmark", description=__doc__)
    parts = parser.add_subparsers(dest="part", required=True)
    part_parsers = {part: parts.add_parser(part, help=what) for part, what in PARTS.items()}

    def work() -> int:
        add_arguments(part_parsers[arguments[0]], arguments[0])  # only what is asked for is loaded
        return measure_and_write(parser.parse_args(arguments))

    if not arguments or arguments[0] not in PARTS:
        parser.parse_args(arguments)
    return run(work)


def add_arguments(parser: argparse.ArgumentParser, part: str) -> None:
    parser.add_argument("--json", help="also write the report here")
    parser.add_argument("--plot", help="draw the report into this picture (needs matplotlib)")
    parser.add_argument("--threads", type=int, help="of PyTorch; all cores by default")
    load(part).add_arguments(parser)


def load(part: str) -> ModuleType:
    return importlib.import_module(f"..benchmarks.{part}", __package__)


def measure_and_write(arguments: argparse.Namespace) -> int:
    """The exit status: 1 if the part checks whether results are right, and some are not."""
    from ..benchmarks.report import measure, plot_ratios

    check_writable(arguments.json, arguments.plot)
    check_distinct((arguments.json, arguments.plot), [])
    part = load(arguments.part)
    report = measure(part, arguments)
    text = json.dumps(report, indent=2)
    print(part.show(report) if hasattr(part, "show") else text)
    if arguments.json:
        with written_aside(arguments.json) as unfinished:
            unfinished.write_text(text + "\n")
    if arguments.plot:
        getattr(part, "plot", plot_ratios)(report, arguments.plot)
    failed = part.failed_checks(report) if hasattr(part, "failed_checks") else []
    if failed:
        say(f"error: of the checks failed: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())

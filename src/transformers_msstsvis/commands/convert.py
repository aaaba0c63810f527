"""Converts a published checkpoint to this package.

transformers-msstsvis convert --system seqformer --checkpoint r50.pth --output seqformer-r50
"""

import argparse
import json
from pathlib import Path

from .command_line import Parser, run

SYSTEMS = ("seqformer", "msstsvis")


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(prog="transformers-msstsvis convert", description=__doc__)
    parser.add_argument("--system", required=True, choices=SYSTEMS, help="what published the checkpoint")
    parser.add_argument("--checkpoint", required=True, help="the published .pth or .safetensors file")
    parser.add_argument("--output", required=True, help="folder for model.safetensors, config and processor")
    parser.add_argument("--labels", help="JSON list of class names by output index, or object of index to name")
    return run(convert, parser.parse_args(arguments))


def convert(args: argparse.Namespace) -> None:
    from ..conversion import convert_checkpoint

    hints = {}
    if args.labels:
        names = json.loads(Path(args.labels).read_text(encoding="utf-8"))
        hints["id2label"] = dict(enumerate(names)) if isinstance(names, list) else names
    print(convert_checkpoint(args.system, args.checkpoint, args.output, **hints))
    print(f"written to {args.output}")


if __name__ == "__main__":
    raise SystemExit(main())

"""Converts a published checkpoint to this package.

transformers-msstsvis convert --system seqformer --checkpoint r50.pth --output seqformer-r50
"""

import argparse

from ..conversion import SYSTEMS
from .command_line import Parser, run


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(prog="transformers-msstsvis convert", description=__doc__)
    parser.add_argument("--system", required=True, choices=list(SYSTEMS), help="what published the checkpoint")
    parser.add_argument("--checkpoint", required=True, help="the published .pth or .safetensors file")
    parser.add_argument("--output", required=True, help="folder for model.safetensors, config and processor")
    parser.add_argument("--labels", help="JSON list of class names by output index, or object of index to name")
    return run(convert, parser.parse_args(arguments))


def convert(args: argparse.Namespace) -> None:
    from ..conversion import convert_checkpoint
    from ..files import check_distinct, files_of
    from ..metrics.reading import read_json

    hints = {}
    if args.labels:
        names = read_json(args.labels)
        try:
            named = enumerate(names) if isinstance(names, list) else names.items()
            hints["id2label"] = {int(label): str(name) for label, name in named}
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{args.labels} holds no names of classes; expected a JSON list of them, or an object of label to name"
            ) from error
        check_distinct([args.output], files_of(args.labels))
    print(convert_checkpoint(args.system, args.checkpoint, args.output, **hints))
    print(f"written to {args.output}")


if __name__ == "__main__":
    raise SystemExit(main())

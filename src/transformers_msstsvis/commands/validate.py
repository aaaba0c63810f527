"""Checks an annotation file, and repairs what can be.

transformers-msstsvis validate annotations.json
transformers-msstsvis validate annotations.json --fix repaired.json --decode
"""

import argparse
from pathlib import Path

from .command_line import Parser, run


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(prog="transformers-msstsvis validate", description=__doc__)
    parser.add_argument("file", type=Path, help="annotation file, or folder of masks")
    parser.add_argument("--frames", type=Path, help="folder that file names are relative to; found by default")
    parser.add_argument("--split", help="train, validation or test, for the folder of a whole dataset")
    parser.add_argument("--fix", type=Path, metavar="OUT", help="write a repaired copy in YouTube-VIS format")
    parser.add_argument("--decode", action="store_true", help="read the frames completely, not only their headers")
    return run(check, parser.parse_args(arguments))


def check(args: argparse.Namespace) -> int:
    from ..data.validate import validate

    return int(validate(args.file, args.frames, args.split, args.fix, args.decode) > 0)


if __name__ == "__main__":
    raise SystemExit(main())

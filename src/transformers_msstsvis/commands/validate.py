"""Checks an annotation file, and repairs what can be.

transformers-msstsvis validate annotations.json
transformers-msstsvis validate annotations.json --fix repaired.json --decode
"""

import argparse
from pathlib import Path

from .command_line import Parser, add_data_flags, run, yes_or_no


def make_parser(prog: str) -> Parser:
    parser = Parser(prog=prog, description=__doc__)
    parser.add_argument("annotations", metavar="file", type=Path, help="annotation file, or folder of masks")
    parser.add_argument(
        "--frames",
        "--frames_dir",
        dest="frames_dir",
        type=Path,
        help="folder that file names are relative to; found by default",
    )
    parser.add_argument("--split", help="train, validation or test, for the folder of a whole dataset")
    parser.add_argument("--fix", metavar="OUT", help="write a repaired copy in YouTube-VIS format")
    parser.add_argument("--decode", action="store_true", help="read the frames completely, not only their headers")
    add_data_flags(parser)
    return parser


def main(arguments: list[str] | None = None) -> int:
    return run(check, make_parser("transformers-msstsvis validate").parse_args(arguments))


def check(args: argparse.Namespace) -> int:
    from ..data.validate import validate

    return int(validate(**vars(args) | {"tracks": yes_or_no(args.tracks)}) > 0)


def main_of_module(arguments: list[str] | None = None) -> int:
    """
    The command line of `python -m transformers_msstsvis.data.validate`, which prints errors with the problems; returns
    the exit status, 0 without errors and 1 with.
    """
    options = make_parser("python -m transformers_msstsvis.data.validate").parse_args(arguments)
    try:
        return check(options)
    except (OSError, ValueError) as error:
        print(error)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())

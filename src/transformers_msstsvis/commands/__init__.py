"""The command `transformers-msstsvis`: one module per subcommand, loaded when it is asked for.

Nothing here or at the top of these modules loads PyTorch, so that `--help` answers at once.
"""

import sys
from importlib import import_module

from .. import __version__
from .command_line import Parser

COMMANDS = {
    "predict": "find, segment and track the objects of a video, and draw them on it",
    "demo": "open a page to try models on videos in the browser",
    "train": "train a model on annotated videos and images",
    "evaluate": "official YouTube-VIS and OVIS numbers of a checkpoint or of a results file",
    "convert": "convert a published checkpoint",
    "export": "write a model as a program for other runtimes: ONNX or torch.export",
    "make-synthetic": "write a set of synthetic videos in YouTube-VIS format",
    "validate": "check an annotation file, and repair what can be",
    "benchmark": "measure a part of the package against its baseline",
}


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in COMMANDS:
        return import_module(f".{arguments[0].replace('-', '_')}", __name__).main(arguments[1:])
    parser = Parser(prog="transformers-msstsvis", description="Transformer video instance segmentation.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="command")
    for name, what in COMMANDS.items():
        commands.add_parser(name, help=what)
    parser.parse_args(arguments)
    parser.error(f"no command; expected one of {', '.join(COMMANDS)}")

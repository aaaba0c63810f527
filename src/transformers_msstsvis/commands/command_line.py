"""What all commands have in common: flags in either spelling, errors in one line, and Ctrl-C."""

import argparse
import contextlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from ..extras import explain_missing
from ..startup import prepare_process

INTERRUPTED = 130  # as shells have it: 128 and the number of the signal
LONGEST_REASON = 2000  # characters
# The message at the end of a traceback.
ORIGINAL_ERROR = re.compile(r"^[\w.]+: (.*?)(?=\n\n|\nwhile loading with |\Z)", re.DOTALL | re.MULTILINE)


class EitherSpelling:
    """Lets a parser take `--max-frames` for `--max_frames`, and the other way round."""

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None) -> Any:
        known = {option.replace("_", "-"): option for option in self._option_string_actions}
        given = list(sys.argv[1:] if args is None else args)
        for position, argument in enumerate(given):
            if argument == "--":
                break
            name, equals, value = argument.partition("=")
            if name.startswith("--") and name not in self._option_string_actions:
                given[position] = known.get(name.replace("_", "-"), name) + equals + value
        return super().parse_known_args(given, namespace)


class Parser(EitherSpelling, argparse.ArgumentParser):
    """A parser whose description keeps its lines."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{"formatter_class": argparse.RawDescriptionHelpFormatter, **kwargs})


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say how annotations are read."""
    parser.add_argument("--allow_outside", action="store_true", help="frames may lie outside of their folder")
    parser.add_argument("--tracks", choices=["yes", "no"], help="whether the images of a COCO file are videos")


def add_tracker_flag(parser: argparse.ArgumentParser) -> None:
    """The flag that says how the clips of long videos are joined."""
    parser.add_argument(
        "--tracker",
        choices=["iou", "devis", "none"],
        help="what joins the clips of a long video: masks, several cues, or nothing (default: that of the model)",
    )


def yes_or_no(answer: str | None) -> bool | None:
    """The value of a flag that takes yes or no; None if it was not given."""
    return None if answer is None else answer == "yes"


def run(work: Callable[..., int | None], *arguments: Any, verbose: Callable[[], bool] = lambda: False) -> int:
    """
    Do the work of a command.

    Args:
        work: returns the exit status, None for 0.
        arguments: of `work`.
        verbose: whether an error comes with its traceback; it does with `TRANSFORMERS_VERBOSITY=info` as well.

    Returns:
        The exit status: 1 after an error, which is told in one line, and 130 after Ctrl-C.
    """
    try:
        prepare_process()
        from .. import registration  # noqa: F401 (makes the models known)

        status = work(*arguments) or 0
        sys.stdout.flush()
        return status
    except KeyboardInterrupt as stop:
        say(str(stop) or "interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # Who reads the output, such as head, has enough of it; nothing is left to be flushed at exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if verbose() or os.environ.get("TRANSFORMERS_VERBOSITY") in ("info", "debug"):
            traceback.print_exc()
        say(f"error: {reason(error)}")
        return 1


def say(line: str) -> None:
    """A line on stderr, below the progress bars so far, which would be drawn once more at exit."""
    tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()
    print(line, file=sys.stderr)


def reason(error: BaseException) -> str:
    """What went wrong, in one line."""
    if isinstance(error, ModuleNotFoundError):
        error = explain_missing(error)
    while type(error).__name__.startswith("StrictDataclass") and error.__cause__ is not None:
        error = error.__cause__  # what a configuration says itself
    text = str(error)
    if "See the original errors:" in text:  # the pipeline of transformers shows the tracebacks of all that it tried
        text = (ORIGINAL_ERROR.findall(text) or [text])[-1]
    text = " ".join(text.split())
    if len(text) > LONGEST_REASON:
        text = f"{text[:LONGEST_REASON]} ..."
    clear = isinstance(error, OSError | ValueError | RuntimeError | ImportError | ArithmeticError)
    return text if clear and text else f"{type(error).__name__}: {text}" if text else type(error).__name__

"""How the process of a command starts: with nothing loaded, and settings that PyTorch reads when it is."""

import os
import sys
from pathlib import Path


def is_command() -> bool:
    """Whether this process was started as a command of the package, and not by a program that imports it."""
    program = sys.argv[0] if sys.argv else ""
    if program not in sys.orig_argv:  # such as the workers of multiprocessing, which inherit the other one
        return False
    if program == "-m":
        module = sys.orig_argv[sys.orig_argv.index(program) + 1]
        return module.split(".")[0] == __name__.split(".")[0]
    path = Path(program).absolute()
    scripts = Path(__file__).resolve().parents[2] / "scripts"
    return path.stem == "transformers-msstsvis" or path.parent.resolve() == scripts


def prepare_process() -> None:
    """What has to be set before PyTorch is loaded."""
    # Threads that wait for each other by spinning make a busy machine many times as slow, and those that sleep at once
    # a quiet one by a third; so many turns cost neither much. 300,000 is the default of GNU's OpenMP.
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}.intersection(os.environ):
        os.environ["GOMP_SPINCOUNT"] = "10000"

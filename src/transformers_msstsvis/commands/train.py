"""Trains a model for video instance segmentation on annotated videos, and on single images beside them.

    transformers-msstsvis train --config synthetic-cpu-1 --dataset annotations.json --output_dir out
    transformers-msstsvis train --model DIR --dataset train.json --output_dir out --eval_dataset valid.json \
        --eval_strategy steps --save_strategy steps --load_best_model_at_end --metric_for_best_model AP
    transformers-msstsvis train --stills instances.json --stills_dir images --output_dir out    on clips made of images
    transformers-msstsvis train ... --resume_from_checkpoint last      goes on where a run was stopped

Every argument of transformers' TrainingArguments is a flag as well; flags override the recipe given with --config, a
file or the name of one that comes with the package.
With --log_level info an error comes with its traceback.
"""

import argparse
import sys
from difflib import get_close_matches
from typing import TYPE_CHECKING

from ..extras import require
from ..training.arguments import Arguments, flags_of, load_recipe, training_defaults
from .command_line import EitherSpelling, run

if TYPE_CHECKING:
    from transformers import TrainingArguments


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults are shown, and examples stay as they are."""


def main(arguments: list[str] | None = None) -> int:
    parsed = []

    def work() -> None:
        parsed.extend(parse_arguments(arguments))
        from ..training.run import run_training

        run_training(*parsed)

    return run(work, verbose=lambda: bool(parsed) and parsed[1].log_level in ("debug", "info"))


def parse_arguments(arguments: list[str] | None = None) -> "tuple[Arguments, TrainingArguments]":
    """
    The arguments of the command line, those of its recipe included.

    Raises:
        ValueError: for a recipe that can't be read, and arguments that are unknown or do not fit together.
        ModuleNotFoundError: when a library of the extra "train" is missing.
    """
    from transformers import HfArgumentParser, TrainingArguments

    class TrainParser(EitherSpelling, HfArgumentParser):
        pass

    description, _, examples = __doc__.partition("\n")
    parser = TrainParser(
        (Arguments, TrainingArguments),
        prog="transformers-msstsvis train",
        description=f"{description} --config FILE takes a recipe, whose values flags override.",
        epilog=examples,
        formatter_class=HelpFormatter,
    )
    parser.set_defaults(**training_defaults())
    arguments = sys.argv[1:] if arguments is None else arguments
    if not {"-h", "--help"}.intersection(arguments):
        require("accelerate", "datasets", "yaml")
        arguments = read_recipe(arguments)
    *parsed, unknown = parser.parse_args_into_dataclasses(
        arguments, return_remaining_strings=True, look_for_args_file=False
    )
    flags = [argument for argument in unknown if argument.startswith("--")]
    if unknown:
        known = [option for option in parser._option_string_actions if option.startswith("--")]
        words = (flags or unknown)[0].lstrip("-").replace("-", "_")
        near = [option for option in known if words in option] or get_close_matches(f"--{words}", known, 3)
        hint = f"; did you mean {' or '.join(near[:3])}?" if near else "; --help lists all flags"
        raise ValueError(f"there is no flag {', '.join(flags or unknown)}{hint}")
    return tuple(parsed)


def read_recipe(argv: list[str]) -> list[str]:
    """
    Put the arguments of a YAML or JSON recipe (--config FILE) before those of the command line.

    Raises:
        ValueError: without a file, and as [`load_recipe`].
    """
    given = [argument.partition("=") for argument in argv]
    at = next((position for position, (name, _, _) in enumerate(given) if name == "--config"), None)
    if at is None:
        return argv
    _, equals, name = given[at]
    rest = argv[at + 1 :]
    if not equals:
        if not rest:
            raise ValueError("--config comes without a file; expected --config FILE")
        name, *rest = rest
    return flags_of(load_recipe(name)) + argv[:at] + rest


if __name__ == "__main__":
    raise SystemExit(main())

"""Official YouTube-VIS and OVIS numbers, offline, of a checkpoint or of a results file.

transformers-msstsvis evaluate --model DIR --dataset annotations.json --output results.json
transformers-msstsvis evaluate --model DIR --dataset valid.json --submission results.zip       for a server
transformers-msstsvis evaluate --results results.json --dataset annotations.json --plot pr.png
transformers-msstsvis evaluate --model DIR --dataset annotations.json --tracking               HOTA and IDF1 too
transformers-msstsvis evaluate --validate results.zip [--dataset valid.json]
accelerate launch --num_processes 8 -m transformers_msstsvis evaluate --model DIR --dataset ... --output results.json

With --output or --submission, results are kept video by video beside it: the same command goes on where it stopped.
"""

import argparse
import sys

from .command_line import Parser, add_data_flags, add_tracker_flag, run, yes_or_no


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(prog="transformers-msstsvis evaluate", description=__doc__)
    parser.add_argument("--dataset", help="annotations: YouTube-VIS, OVIS, COCO video, or a folder of masks")
    parser.add_argument("--frames_dir", help="folder of the frames; found around the annotations by default")
    add_data_flags(parser)
    parser.add_argument("--model", help="checkpoint; the bundled one by default")
    parser.add_argument("--results", help="score this results.json instead of running a model")
    parser.add_argument("--output", help="write the results in submission format, as .json")
    parser.add_argument("--submission", help="write the results as the .zip that servers take")
    parser.add_argument("--plot", help="write a plot of precision over recall: .png, .pdf, .svg")
    parser.add_argument("--validate", metavar="ZIP", help="only say what a server would reject in this submission")
    parser.add_argument("--ovis", action="store_true", help="the 18 numbers of OVIS, by occlusion too")
    parser.add_argument(
        "--long_videos",
        help="the numbers of YouTube-VIS 2022: JSON list of ids of the long videos, or annotation file of just these",
    )
    parser.add_argument("--tracking", action="store_true", help="HOTA, IDF1 and identity switches beside AP")
    parser.add_argument("--tracking_threshold", type=float, default=0.3, help="score of their tracks (default 0.3)")
    parser.add_argument("--top_k", type=int, default=10, help="results per video, 10 as published")
    parser.add_argument("--max_frames", type=int, help="longest clip that the model sees at once (default 36)")
    add_tracker_flag(parser)
    parser.add_argument("--device", help="as in every pipeline; of several processes, each takes its own by default")
    parsed = parser.parse_args(arguments)
    if not parsed.dataset and not parsed.validate:
        parser.error("--dataset is missing: the annotation file to evaluate on")
    return parsed


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    return run(validate if args.validate else evaluate, args)


def validate(args: argparse.Namespace) -> int:
    from ..evaluation import check_submission

    problems = check_submission(
        args.validate,
        args.dataset,
        frames_dir=args.frames_dir,
        allow_outside=args.allow_outside,
        tracks=yes_or_no(args.tracks),
    )
    for problem in problems:
        print(problem)
    if not problems:
        print(f"{args.validate} is a valid submission")
    return 1 if problems else 0


def evaluate(args: argparse.Namespace) -> None:
    from ..evaluation import evaluate_model
    from ..pipelines import SAMPLE_MODEL

    settings = {name: value for name, value in vars(args).items() if name != "validate"}
    settings |= {"model": args.model or SAMPLE_MODEL, "tracks": yes_or_no(args.tracks)}
    numbers = evaluate_model(**settings)
    if numbers is None:  # another process has them
        return
    if not numbers:
        print(f"{args.dataset} has no annotations, so there are no numbers; a server has them")
        return
    names = numbers["category_names"]
    show(numbers, names)
    for part in ("short", "long"):
        if part in numbers:
            print(f"{part} videos")
            show(numbers[part], names)


def show(numbers: dict, names: dict) -> None:
    from ..evaluation import format_table, rich_tables

    if sys.stdout.isatty():
        try:
            from rich.console import Console
        except ImportError:
            pass
        else:
            Console().print(*rich_tables(numbers, names))
            return
    print(format_table(numbers, names))


if __name__ == "__main__":
    raise SystemExit(main())

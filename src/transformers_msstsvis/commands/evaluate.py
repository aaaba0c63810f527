"""Official YouTube-VIS and OVIS numbers, offline, of a checkpoint or of a results file.

transformers-msstsvis evaluate --model DIR --dataset annotations.json --output results.json
transformers-msstsvis evaluate --model DIR --dataset valid.json --submission results.zip       for a server
transformers-msstsvis evaluate --results results.json --dataset annotations.json --plot pr.png
transformers-msstsvis evaluate --validate results.zip [--dataset valid.json]
accelerate launch --num_processes 8 -m transformers_msstsvis evaluate --model DIR --dataset ... --output results.json

With --output or --submission, results are kept video by video beside it: the same command goes on where it stopped.
"""

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

from ..extras import require
from .command_line import Parser, run


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(prog="transformers-msstsvis evaluate", description=__doc__)
    parser.add_argument("--dataset", help="annotations: YouTube-VIS, OVIS, COCO video, or a folder of masks")
    parser.add_argument("--frames_dir", help="folder of the frames; found around the annotations by default")
    parser.add_argument("--allow_outside", action="store_true", help="frames may lie outside of their folder")
    parser.add_argument("--tracks", choices=["yes", "no"], help="whether the images of a COCO file are videos")
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
    parser.add_argument("--top_k", type=int, default=10, help="results per video, 10 as published")
    parser.add_argument("--max_frames", type=int, default=36, help="longest clip that the model sees at once")
    parser.add_argument("--device", help="as in every pipeline; of several processes, each takes its own by default")
    parsed = parser.parse_args(arguments)
    if not parsed.dataset and not parsed.validate:
        parser.error("--dataset is missing: the annotation file to evaluate on")
    return parsed


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    return run(validate if args.validate else evaluate, args)


def validate(args: argparse.Namespace) -> int:
    from ..metrics.submission import validate_submission

    dataset = ground_truth(args, require_labels=False) if args.dataset else None
    problems = validate_submission(args.validate, dataset)
    for problem in problems:
        print(problem)
    if not problems:
        print(f"{args.validate} is a valid submission")
    return 1 if problems else 0


def evaluate(args: argparse.Namespace) -> int:
    from ..evaluation.predictions import read_results, write_results
    from ..files import check_distinct, check_writable, files_of
    from ..metrics.plots import check_plot
    from ..metrics.short_long import compute_short_long
    from ..metrics.submission import write_submission
    from ..metrics.ytvis_map import YtvisMeanAveragePrecision

    outputs = (args.output, args.submission, args.plot)
    check_writable(*outputs)
    inputs = (args.dataset, args.results, args.long_videos, args.model)
    check_distinct(outputs, [file for path in inputs if path for file in files_of(path)])
    if args.plot:
        check_plot(args.plot)
    # Labels of validation splits are not public; results for a server don't need them.
    score = not (args.output or args.submission)
    dataset = ground_truth(args, require_labels=score or bool(args.results or args.plot))
    check_distinct(outputs, data_files(args, dataset, outputs))
    metric = None
    if dataset.get("annotations"):
        with naming(args.dataset):
            metric = YtvisMeanAveragePrecision(dataset, ovis=args.ovis)
            metric.compute()  # finds what is wrong with the annotations before the work
        if args.long_videos:
            compute_short_long(metric, args.long_videos)
    results = read_results(args.results) if args.results else predict(args, dataset)
    if results is None:  # another process has them
        return 0
    if args.output:
        write_results(args.output, results)
    if args.submission:
        with naming(args.results or "the results"):
            write_submission(args.submission, results, dataset)
    if metric is None:
        print(f"{args.dataset} has no annotations, so there are no numbers; a server has them")
        return 0
    # The masks of annotations are read together with those of the results.
    with naming(f"{args.results or 'the results'} on {args.dataset}"):
        metric.update(results)
    report(args, metric, {category["id"]: str(category.get("name", "")) for category in dataset["categories"]})
    return 0


def data_files(args: argparse.Namespace, dataset: dict, outputs: Sequence[str | None]) -> Iterator[Path]:
    """The frames and masks of the data set, if an output is there already, which might be one of them."""
    from ..evaluation.predictions import find_frames

    if not any(output and Path(output).is_file() for output in outputs):
        return
    if Path(args.dataset).is_dir():
        yield from (path for path in Path(args.dataset).rglob("*") if path.is_file())
    with contextlib.suppress(FileNotFoundError):
        frames_dir = find_frames(args.dataset, dataset, args.frames_dir)
        for video in dataset["videos"]:
            yield from (frames_dir / name for name in video.get("file_names") or [])


def ground_truth(args: argparse.Namespace, require_labels: bool) -> dict:
    from ..evaluation.predictions import read_ground_truth

    tracks = None if args.tracks is None else args.tracks == "yes"
    return read_ground_truth(
        args.dataset, args.frames_dir, require_labels, allow_outside=args.allow_outside, tracks=tracks
    )


@contextlib.contextmanager
def naming(source: str):
    """Say in errors where the bad data came from."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def predict(args: argparse.Namespace, dataset: dict) -> list[dict] | None:
    """The results of all videos; None in all processes but the first."""
    from transformers.utils import logging

    from ..evaluation.predictions import category_ids, find_frames, predict_to_files, run_settings
    from ..evaluation.result_files import ResultFiles
    from ..pipelines import SAMPLE_MODEL
    from ..predict import load_segmenter

    model = args.model or str(SAMPLE_MODEL)
    place = args.output or args.submission
    state = processes(args.device)
    rank, num_processes = (state.process_index, state.num_processes) if state else (0, 1)
    if state and not place:
        raise ValueError("several processes share their results through files beside --output: give --output")
    frames_dir = find_frames(args.dataset, dataset, args.frames_dir)
    segmenter = load_segmenter(model, args.device or (state.device if state else None))
    category_ids(segmenter.model.config.id2label, dataset["categories"])
    settings = run_settings(
        model,
        args.dataset,
        dataset,
        frames_dir=str(Path(frames_dir).resolve()),
        top_k=args.top_k,
        max_frames=args.max_frames,
        device=segmenter.device.type,
    )
    with contextlib.ExitStack() as stack:
        place = place or os.path.join(stack.enter_context(tempfile.TemporaryDirectory()), "results.json")
        files = ResultFiles(place, settings, rank)
        predict_to_files(
            segmenter, dataset, frames_dir, files, args.top_k, args.max_frames, rank=rank, num_processes=num_processes
        )
        if state:
            state.wait_for_everyone()
            state.destroy_process_group()
        if rank:
            files.close()
            return None
        results, skipped = files.collect(len(dataset["videos"]))
        if len(skipped) == len(dataset["videos"]):
            raise ValueError(f"no video could be evaluated; the first one: {next(iter(skipped.values()))}")
        if skipped:
            logging.get_logger("transformers_msstsvis").warning(
                f"{len(skipped)} of {len(dataset['videos'])} videos were skipped and count as missed; the same "
                "command tries them again"
            )
        files.close(delete=not skipped)
        return results


def processes(device: str | None):
    """This one among the processes of `accelerate launch` or torchrun; None if it is alone."""
    started = int(os.environ.get("WORLD_SIZE", 1))
    if started == 1:
        return None
    require("accelerate")
    import torch
    from accelerate import PartialState

    # The slowest process may finish long after the others.
    state = PartialState(cpu=device == "cpu" or not torch.accelerator.is_available(), timeout=timedelta(days=7))
    if state.num_processes != started:
        raise ValueError(f"{started} processes were started, but they do not find each other; give --device cpu")
    return state


def report(args: argparse.Namespace, metric, names: dict) -> None:
    from ..metrics.plots import plot_precision_recall
    from ..metrics.short_long import compute_short_long

    if args.plot:
        plot_precision_recall(metric.compute(return_arrays=True), args.plot)
    if not args.long_videos:
        return show(metric.compute(), names)
    numbers = compute_short_long(metric, args.long_videos)
    show(numbers, names)
    for part in ("short", "long"):
        print(f"{part} videos")
        show(numbers[part], names)


def show(numbers: dict, names: dict) -> None:
    from ..evaluation.predictions import format_table, rich_tables

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

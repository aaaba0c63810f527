"""The official numbers: of a checkpoint, of results that are there already, and of a model that is being trained."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.utils import logging

from ..data.loading import categories_of, ytvis_entries
from ..extras import require
from ..files import check_distinct, check_writable, files_of
from ..metrics.plots import check_plot, plot_precision_recall
from ..metrics.short_long import compute_short_long
from ..metrics.submission import validate_submission, write_submission
from ..metrics.ytvis_map import YtvisMeanAveragePrecision
from ..pipelines import SAMPLE_MODEL, VideoInstanceSegmentationPipeline
from ..predict import load_segmenter
from ..results.video_instances import VideoInstances
from ..tracking.clips import check_tracker
from ..tracking.options import check_options
from .ground_truth import category_ids, find_frames, read_ground_truth
from .predictions import predict_dataset, predict_to_files
from .result_files import ResultFiles, read_results, run_settings, write_results
from .tracking_numbers import TRACK_SCORE, tracking_numbers

if TYPE_CHECKING:
    from accelerate import PartialState
    from datasets import Dataset

logger = logging.get_logger(__name__)

PathOrName = str | PathLike


def evaluate_model(
    dataset: PathOrName,
    model: PathOrName = SAMPLE_MODEL,
    *,
    frames_dir: PathOrName | None = None,
    allow_outside: bool = False,
    tracks: bool | None = None,
    results: PathOrName | None = None,
    output: PathOrName | None = None,
    submission: PathOrName | None = None,
    plot: PathOrName | None = None,
    ovis: bool = False,
    long_videos: PathOrName | None = None,
    top_k: int = 10,
    max_frames: int | None = None,
    tracker: str | None = None,
    device: str | None = None,
    tracking: bool = False,
    tracking_threshold: float = TRACK_SCORE,
) -> dict[str, Any] | None:
    """
    The official YouTube-VIS and OVIS numbers of a checkpoint, or of a file of results.

    With `output` or `submission`, results are kept video by video beside it, and the same call goes on where it
    stopped. Several processes, as of `accelerate launch`, share the videos.

    Args:
        dataset: annotations, whatever [`load_vis_dataset`] reads.
        model: folder or Hub name of a checkpoint; the small one of the package by default.
        frames_dir, allow_outside, tracks: as of [`load_vis_dataset`].
        results: score this file of results in YouTube-VIS format instead of running a model.
        output: write the results in YouTube-VIS format, as `.json`.
        submission: write them as the `.zip` that servers take.
        plot: write a plot of precision over recall: `.png`, `.pdf`, `.svg`.
        ovis: also the numbers by occlusion.
        long_videos: the numbers of YouTube-VIS 2022, see [`compute_short_long`]: file with the ids of the long videos.
        top_k: results per video, 10 as published.
        max_frames, tracker: longest clip that the model sees at once, and what joins clips, as of the pipeline.
        device: as in every pipeline; of several processes, each takes its own by default.
        tracking: also HOTA, IDF1 and identity switches, see [`tracking_numbers`].
        tracking_threshold: smallest score, 0..1, of the tracks that they are of.

    Returns:
        The numbers, as of [`YtvisMeanAveragePrecision.compute`] or [`compute_short_long`], `category_names` by
        category id, and those of `tracking` under this name. Empty where the data set has no annotations, as splits
        for servers; None in all processes but the first.

    Raises:
        FileNotFoundError: when a file, or the frames, are not there.
        ValueError: for data sets, results or settings with an error, most of them before the work; for outputs that
            would replace an input; when no video could be evaluated.
        OSError: when an output can't be written, or the model can't be loaded.
    """
    outputs = (output, submission, plot)
    check_writable(*outputs)
    if tracker is not None:
        check_tracker(tracker)
    inputs = (dataset, results, long_videos, model)
    check_distinct(outputs, [file for path in inputs if path for file in files_of(path)])
    if plot:
        check_plot(plot)
    if tracking:
        require("trackeval")
        check_options(threshold=tracking_threshold)
    # Labels of validation splits are not public; results for a server don't need them.
    score = not (output or submission)
    truth = read_ground_truth(
        dataset, frames_dir, score or bool(results or plot), allow_outside=allow_outside, tracks=tracks
    )
    check_distinct(outputs, _data_files(dataset, truth, frames_dir, outputs))
    metric = None
    if truth["annotations"]:
        with _naming(dataset):
            metric = YtvisMeanAveragePrecision(truth, ovis=ovis)
            metric.compute()  # finds what is wrong with the annotations before the work
        if long_videos:
            compute_short_long(metric, long_videos)
    if results:
        found = read_results(results)
    else:
        found = _predict(model, dataset, truth, frames_dir, output or submission, top_k, max_frames, tracker, device)
    if found is None:  # another process has them
        return None
    if output:
        write_results(output, found)
    name = results or "the results"
    if submission:
        with _naming(name):
            write_submission(submission, found, truth)
    if metric is None:
        return {}
    # The masks of annotations are read together with those of the results.
    with _naming(f"{name} on {dataset}"):
        metric.update(found)
    if plot:
        plot_precision_recall(metric.compute(return_arrays=True), plot)
    names = {category["id"]: str(category.get("name", "")) for category in truth["categories"]}
    numbers = compute_short_long(metric, long_videos) if long_videos else metric.compute()
    if tracking:
        numbers["tracking"] = tracking_numbers(truth, found, tracking_threshold)
    return {**numbers, "category_names": names}


def check_submission(
    submission: PathOrName,
    dataset: PathOrName | None = None,
    *,
    frames_dir: PathOrName | None = None,
    allow_outside: bool = False,
    tracks: bool | None = None,
) -> list[str]:
    """
    What a server would reject in a submission, as of [`validate_submission`]; `dataset` is whatever
    [`load_vis_dataset`] reads, with annotations or without.
    """
    truth = None
    if dataset:
        truth = read_ground_truth(dataset, frames_dir, False, allow_outside=allow_outside, tracks=tracks)
    return validate_submission(submission, truth)


def measure(
    segmenter: VideoInstanceSegmentationPipeline,
    videos: "Dataset",
    top_k: int = 10,
    max_frames: int | None = None,
    rank: int = 0,
    num_processes: int = 1,
    on_video: Callable[[int, dict[str, Any], VideoInstances], None] = lambda *_: None,
    tracker: str | None = None,
) -> dict[str, Any]:
    """
    The official numbers of annotated videos, of which every process takes its share; no mask of a video that was
    measured is kept.

    Args:
        segmenter: the pipeline.
        videos: a data set of [`load_vis_dataset`], with frames as files.
        top_k, max_frames, tracker: as of [`evaluate_model`].
        rank, num_processes: which of how many processes this is.
        on_video: is told the position in this process' share, the row without annotations, and what was found, of each
            video that could be evaluated.

    Returns:
        As of [`YtvisMeanAveragePrecision.compute`], the same in all processes. A video that can't be evaluated counts
        as missed, with a warning.
    """
    share = videos.select(range(rank, len(videos), num_processes))
    categories = categories_of(videos)
    ids = category_ids(segmenter.model.config.id2label, categories)
    metric = YtvisMeanAveragePrecision()
    found = predict_dataset(segmenter, share, top_k=top_k, max_frames=max_frames, tracker=tracker)
    for position, (row, instances) in enumerate(zip(share, found, strict=True)):
        video, annotations = ytvis_entries(row)
        predictions = [] if instances is None else instances.to_ytvis(video["id"], ids)
        metric.update(predictions, {"videos": [video], "annotations": annotations, "categories": categories})
        if instances is not None:
            on_video(position, {name: value for name, value in row.items() if name != "annotations"}, instances)
    if num_processes > 1:
        from accelerate.utils import gather_object

        metric, *others = gather_object([metric])
        for other in others:
            metric.merge(other)
    return metric.compute()


def _data_files(
    dataset: PathOrName, truth: dict, frames_dir: PathOrName | None, outputs: Sequence[PathOrName | None]
) -> Iterator[Path]:
    """The frames and masks of the data set, if an output is there already, which might be one of them."""
    if not any(output and Path(output).is_file() for output in outputs):
        return
    if Path(dataset).is_dir():
        yield from (path for path in Path(dataset).rglob("*") if path.is_file())
    with contextlib.suppress(FileNotFoundError):
        frames_dir = find_frames(dataset, truth, frames_dir)
        for video in truth["videos"]:
            yield from (frames_dir / name for name in video.get("file_names") or [])


@contextlib.contextmanager
def _naming(source: PathOrName) -> Iterator[None]:
    """Say in errors where the bad data came from."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def _predict(
    model: PathOrName,
    dataset: PathOrName,
    truth: dict[str, Any],
    frames_dir: PathOrName | None,
    place: PathOrName | None,
    top_k: int,
    max_frames: int | None,
    tracker: str | None,
    device: str | None,
) -> list[dict] | None:
    """The results of all videos, kept at `place` while they grow; None in all processes but the first."""
    state = processes(device)
    rank, num_processes = (state.process_index, state.num_processes) if state else (0, 1)
    if state and not place:
        raise ValueError("several processes share their results through files beside --output: give --output")
    frames_dir = find_frames(dataset, truth, frames_dir)
    segmenter = load_segmenter(model, device or (state.device if state else None))
    category_ids(segmenter.model.config.id2label, truth["categories"])
    settings = run_settings(
        model,
        dataset,
        truth,
        frames_dir=str(Path(frames_dir).resolve()),
        top_k=top_k,
        max_frames=max_frames,
        tracker=tracker or segmenter.video_processor.tracker,
        device=segmenter.device.type,
    )
    with contextlib.ExitStack() as stack:
        place = place or os.path.join(stack.enter_context(tempfile.TemporaryDirectory()), "results.json")
        files = ResultFiles(place, settings, rank)
        predict_to_files(segmenter, truth, frames_dir, files, top_k, max_frames, rank, num_processes, tracker)
        if state:
            state.wait_for_everyone()
            state.destroy_process_group()
        if rank:
            files.close()
            return None
        results, skipped = files.collect(len(truth["videos"]))
        if len(skipped) == len(truth["videos"]):
            raise ValueError(f"no video could be evaluated; the first one: {next(iter(skipped.values()))}")
        if skipped:
            logger.warning(
                f"{len(skipped)} of {len(truth['videos'])} videos were skipped and count as missed; the same command "
                "tries them again"
            )
        files.close(delete=not skipped)
        return results


def processes(device: str | None) -> "PartialState | None":
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

"""What a model finds in the videos of a dataset, video by video."""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.utils import logging

from ..data.frames import OutsideError, frame_path, turned_note
from ..pipelines import VideoInstanceSegmentationPipeline
from ..results.video_instances import VideoInstances
from ..video.images import ImageError, read_image
from .ground_truth import category_ids, listed_videos

if TYPE_CHECKING:
    from datasets import Dataset

    from .result_files import ResultFiles

logger = logging.get_logger(__name__)


class SkippedVideo(ValueError):
    """A video that can't be evaluated; the message says which and why."""


def predict_dataset(
    segmenter: VideoInstanceSegmentationPipeline,
    dataset: "dict[str, Any] | Dataset",
    frames_dir: str | Path | None = None,
    top_k: int = 10,
    max_frames: int | None = None,
    tracker: str | None = None,
) -> Iterator[VideoInstances | None]:
    """
    What is found in every video, video by video.

    Args:
        segmenter: the pipeline.
        dataset: YouTube-VIS ground truth with `videos` and `categories`, see [`category_ids`]; or a data set of
            [`load_vis_dataset`], with embedded frames or without.
        frames_dir: folder that `file_names` are relative to, for the videos that have no `frames_dir` of their own.
        top_k: results per clip, 10 as published.
        max_frames, tracker: longest clip that the model sees at once, and what joins clips, as of the pipeline.

    Returns:
        The instances of each video, when they are asked for. A video that can't be evaluated gives None, with a
        warning that names it.

    Raises:
        ValueError: at once, when the classes of the model are not those of the dataset.
    """
    videos, categories = listed_videos(dataset)
    category_ids(segmenter.model.config.id2label, categories)

    def predict() -> Iterator[VideoInstances | None]:
        for video in logging.tqdm(videos, desc="videos", unit="video"):
            try:
                yield _predict_video(segmenter, video, frames_dir, top_k, max_frames, tracker)
            except SkippedVideo as reason:
                logger.warning(str(reason))
                yield None

    return predict()


def predict_to_files(
    segmenter: VideoInstanceSegmentationPipeline,
    dataset: dict[str, Any],
    frames_dir: str | Path,
    files: "ResultFiles",
    top_k: int = 10,
    max_frames: int | None = None,
    rank: int = 0,
    num_processes: int = 1,
    tracker: str | None = None,
) -> None:
    """
    As [`predict_dataset`], for the videos of one of several processes that `files` has no results of; each video's
    results, in YouTube-VIS results format, are kept there as soon as they are known.
    """
    ids = category_ids(segmenter.model.config.id2label, dataset["categories"])
    share = range(rank, len(dataset["videos"]), num_processes)
    remaining = [position for position in share if position not in files.done]
    with logging.tqdm(
        total=len(share), initial=len(share) - len(remaining), desc="videos", unit="video", disable=rank > 0
    ) as progress:
        for position in remaining:
            try:
                video = dataset["videos"][position]
                instances = _predict_video(segmenter, video, frames_dir, top_k, max_frames, tracker)
                files.add(position, instances.to_ytvis(video["id"], ids))
            except SkippedVideo as reason:
                logger.warning(str(reason))
                files.add(position, None, str(reason))
            progress.update()


def _predict_video(
    segmenter: VideoInstanceSegmentationPipeline,
    video: dict[str, Any],
    frames_dir: str | Path,
    top_k: int,
    max_frames: int | None,
    tracker: str | None,
) -> VideoInstances:
    name = f"video {video['id']}"
    frames = _frames_of(video, frames_dir, name)
    try:
        instances = segmenter(
            [frames],
            threshold=0.0,
            top_k=top_k,
            max_frames=max_frames,
            tracker=tracker,
            duplicate_iou=1,  # as published
            return_instances=True,
            on_error="raise",
        )[0]
    except Exception as error:
        # Decoders and accelerators raise of every kind, and no video may cost the results of the others.
        raise SkippedVideo(f"{name} is skipped: {error}") from error
    if instances.num_frames != len(frames):
        raise SkippedVideo(f"{name} is skipped, not all of its {len(frames)} frames can be read")
    size = (video["height"], video["width"])
    if instances.size != size:
        note = turned_note(frames[0], instances.size, size) if isinstance(frames[0], str) else ""
        raise SkippedVideo(
            f"{name} is skipped, its frames are {instances.size} (height, width) and not {size} as the dataset says"
            f"{note}"
        )
    return instances


def _frames_of(video: dict[str, Any], frames_dir: str | Path | None, name: str) -> list[Any]:
    """The frames of a video for the pipeline: their files, or the pictures of those that are embedded."""
    from PIL import Image

    folder = video.get("frames_dir") or frames_dir
    if folder is None:
        if not video.get("frames"):
            raise SkippedVideo(f"{name} is skipped, neither frames nor their folder are given; pass frames_dir")
        try:
            return [Image.fromarray(read_image(io.BytesIO(frame["bytes"]))) for frame in video["frames"]]
        except ImageError as error:
            raise SkippedVideo(f"{name} is skipped, a frame cannot be read: {error}") from error
    # A folder without a name stands for names that are complete.
    try:
        frames = [str(frame_path(folder, name) if str(folder) else name) for name in video["file_names"]]
    except OutsideError as error:
        raise SkippedVideo(f"{name} is skipped: {error}") from error
    missing = [frame for frame in frames if not os.path.isfile(frame)]
    if missing:
        raise SkippedVideo(f"{name} is skipped, {len(missing)} frames are missing, e.g. {missing[0]}")
    return frames

"""A video in, an annotated video and its tracks out: the pipeline with files around it."""

import glob
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from transformers import pipeline
from transformers.utils import logging

from .attention_maps import attention_of_track, check_looks_at_points, index_of_track
from .checkpoint_files import check_checkpoint
from .files import check_distinct, check_writable, check_writable_folder, files_of, partial_path, written_aside
from .pipelines import SAMPLE_MODEL, TASK, VideoInstanceSegmentationPipeline, VideoInterrupted
from .results.attention_drawing import draw_attention
from .results.drawing import contact_sheet, draw_video
from .results.video_instances import VideoInstances
from .video.download import is_url, name_of_url
from .video.images import IMAGE_SUFFIXES, ImageError, count_images
from .video.reader import VideoReader, natural_key
from .video.writer import MAX_FPS, VideoWriter

logger = logging.get_logger(__name__)

SAMPLE_VIDEO = SAMPLE_MODEL.parent / "sample.mp4"
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv"),
    *(".3gp", ".ogv", ".mxf", ".gif"),
)
SHEET_FRAMES = 12

# A file, URL, folder of frames or glob pattern, or the files of its frames.
Video = str | PathLike | list[str | PathLike]


class Outputs(NamedTuple):
    """
    What is written for a video; None is not written.

    Attributes:
        video: annotated video: `.mp4`, `.webm`, `.gif`, or a folder for PNG frames.
        json: tracks in YouTube-VIS results format, with `track_id`, `label` and `boxes` in addition.
        masks: folder of palette PNGs whose values are the track ids, one for each frame.
    """

    video: Path | None = None
    json: Path | None = None
    masks: Path | None = None

    @classmethod
    def of(cls, *paths: str | PathLike | None) -> "Outputs":
        """From the names of the three, checked not to be empty."""
        if any(path is not None and not str(path) for path in paths):
            raise ValueError("the name of an output is empty; expected a file or a folder")
        return cls(*(None if path is None else Path(path).expanduser() for path in paths))

    def check(self, video: Video, model: str | PathLike) -> None:
        """Find what can be wrong with the files before the model runs."""
        if self.json is not None and self.json.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES):
            raise ValueError(f"{self.json} has the name of a picture or a video; expected that of a JSON file")
        folder = self.video is not None and (not self.video.suffix or self.video.is_dir())
        check_writable(self.json, None if folder else self.video)
        check_distinct(self, [*_video_files(video), *files_of(model)])
        for path in (self.masks, self.video if folder else None):
            if path is not None:
                check_writable_folder(path)


def load_segmenter(
    model: str | PathLike = SAMPLE_MODEL, device: str | int | None = None, dtype: str = "auto"
) -> VideoInstanceSegmentationPipeline:
    """
    The pipeline of a checkpoint.

    Args:
        model: folder or Hub name; the small one that comes with the package by default.
        device: as in every pipeline; the first GPU by default, or else the CPU.
        dtype: of the model, for example `"bfloat16"`.

    Raises:
        FileNotFoundError: if there is no such checkpoint, or the Hub, where it could be, can't be reached.
        OSError, ValueError: if the model can't be loaded.
    """
    if Path(model) == SAMPLE_MODEL and not SAMPLE_MODEL.is_dir():
        raise FileNotFoundError(f"the checkpoint {SAMPLE_MODEL.name} is not part of this installation; name a model")
    check_checkpoint(model)
    return pipeline(TASK, model=str(Path(model).expanduser()), device=device, dtype=dtype)


def predict_video(
    video: Video = SAMPLE_VIDEO,
    model: str | PathLike | VideoInstanceSegmentationPipeline = SAMPLE_MODEL,
    output: str | PathLike | None = None,
    json_path: str | PathLike | None = None,
    masks_dir: str | PathLike | None = None,
    device: str | int | None = None,
    dtype: str = "auto",
    public_urls: bool = False,
    attention: int | None = None,
    **options,
) -> VideoInstances:
    """
    Segment the instances of a video and write what is asked for.

    The video is read twice, first for the model and then to be drawn on, frame by frame, so that memory stays flat.
    Files are written aside and named when they are finished.

    Args:
        video: file, URL, folder of frames or glob pattern, or a list of image files; a synthetic clip by default.
        model: folder or Hub name of a checkpoint, or a pipeline, as of [`load_segmenter`].
        output: annotated video: `.mp4`, `.webm`, `.gif`, or a folder for PNG frames; 25 frames per second where the
            source has no rate.
        json_path: tracks in YouTube-VIS results format, with `track_id`, `label` and `boxes` in addition.
        masks_dir: folder of palette PNGs whose values are the track ids, one for each frame.
        device, dtype: as of [`load_segmenter`].
        public_urls: refuse URLs that lead to this machine or its private networks.
        attention: id of a track: `output` shows where the model looks for it, instead of all tracks; also as a `.png`,
            a contact sheet of up to 12 frames.
        **options: of [`VideoInstanceSegmentationPipeline`]: `threshold`, `top_k`, `classes`, `max_frames`, ...

    Returns:
        The tracks.

    Raises:
        FileNotFoundError: if the video, or a model given as a folder, does not exist.
        ValueError: for an unknown suffix, an output that would replace an input, or values out of range.
        OSError: if the model can't be loaded, or a file can't be written; the others are.
        VideoInterrupted: after Ctrl-C; what was finished is written, and the message says up to which frame and where.
            Where there is an older file, the new one is beside it, as `out.partial.json`.
    """
    outputs = Outputs.of(output, json_path, masks_dir)
    checkpoint = model.model.name_or_path if isinstance(model, VideoInstanceSegmentationPipeline) else model
    outputs.check(video, checkpoint)
    reader = VideoReader(video, public_urls=public_urls)
    is_sheet = attention is not None and outputs.video is not None and outputs.video.suffix.lower() == ".png"
    if outputs.video is not None and not is_sheet:
        VideoWriter(outputs.video, fps=_rate(reader))  # refuses what it can't write
    segmenter = model if isinstance(model, VideoInstanceSegmentationPipeline) else load_segmenter(model, device, dtype)
    if attention is not None:
        check_looks_at_points(segmenter)
    try:
        instances = segmenter(reader, **{**options, "return_instances": True, "on_error": "raise"})
    except VideoInterrupted as stop:
        if stop.instances is not None:
            outputs = outputs if attention is None else outputs._replace(video=None)
            written = ", ".join(map(str, _write(stop.instances, reader, outputs, finished=False)))
            place = f", which are in {written}" if written else ""
            stop.args = (f"stopped after {stop.instances.num_frames} frames{place}",)
        raise
    frames = None
    if attention is not None and outputs.video is not None:
        settings = {name: options[name] for name in ("max_frames", "top_k") if options.get(name) is not None}
        frames = partial(_attention_frames, segmenter, reader, instances, attention, settings)
    _write(instances, reader, outputs, frames=frames)
    return instances


def predict_videos(
    videos: Sequence[str | PathLike],
    model: str | PathLike | VideoInstanceSegmentationPipeline = SAMPLE_MODEL,
    output: str | PathLike = "out",
    masks_dir: str | PathLike | None = None,
    suffix: str = ".mp4",
    device: str | int | None = None,
    dtype: str = "auto",
    **options,
) -> Iterator[tuple[str, VideoInstances | Exception, Outputs]]:
    """
    Segment several videos, one after the other, each as by [`predict_video`].

    Args:
        videos: as of [`list_videos`].
        model, device, dtype: as of [`predict_video`].
        output: folder for an annotated video and a JSON file of each.
        masks_dir: folder for a folder of masks of each.
        suffix: of the annotated videos.
        **options: as of [`predict_video`].

    Yields:
        For each video its name, its tracks, or what was wrong with it, and where the results are.

    Raises:
        OSError, ValueError: as [`predict_video`], before the first video, for what is wrong with all.
    """
    paths = list_videos(videos)
    names: dict[str, None] = {}
    for name in map(video_name, paths):
        names[next(new for new in _numbered(name) if new not in names)] = None
    folder, masks = Path(output).expanduser(), None if masks_dir is None else Path(masks_dir).expanduser()
    if folder.suffix in VIDEO_SUFFIXES or folder.is_file():
        raise ValueError(f"the output for {len(paths)} videos is {folder}; expected a folder")
    results = [Outputs.of(folder / f"{n}{suffix}", folder / f"{n}.json", masks and masks / n) for n in names]
    checkpoint = model.model.name_or_path if isinstance(model, VideoInstanceSegmentationPipeline) else model
    inputs = [*(file for path in paths for file in _video_files(path)), *files_of(checkpoint)]
    check_distinct([output for outputs in results for output in outputs], inputs)
    check_writable_folder(folder)
    segmenter = model if isinstance(model, VideoInstanceSegmentationPipeline) else load_segmenter(model, device, dtype)
    for path, outputs in zip(paths, results, strict=True):
        try:
            result = predict_video(path, segmenter, *outputs, **options)
        except Exception as error:  # whatever it is, it may not cost the other videos
            result = error
        yield (str(path[0]) if isinstance(path, list) else str(path)), result, outputs


def list_videos(sources: Sequence[str | PathLike]) -> list[Video]:
    """
    The videos that are meant: folders that hold videos, and no frames, stand for these; so do patterns that match
    videos. Several images, which a shell makes of a pattern, are the frames of one video. Everything else stands for
    itself.

    Raises:
        ValueError: if there is none.
    """
    images = [source for source in sources if not is_url(source) and Path(source).suffix.lower() in IMAGE_SUFFIXES]
    if len(sources) > 1 and len(images) == len(sources) and not _are_animations(images):
        return [sorted(sources, key=natural_key)]
    videos: list[Video] = []
    for source in sources:
        path = Path(source).expanduser()
        found = []
        if not is_url(source) and path.is_dir():
            inside = [file for file in path.iterdir() if not file.name.startswith(".") and file.is_file()]
            images = [file for file in inside if file.suffix.lower() in IMAGE_SUFFIXES]
            found = [file for file in inside if file.suffix.lower() in VIDEO_SUFFIXES]
            if images and _are_animations(images):
                found += images
            elif images and found:
                logger.warning(
                    f"{path} is read as the frames of one video, its {len(images)} images; the {len(found)} videos in "
                    f"it are not: name them, such as '{path}/*{found[0].suffix}'"
                )
                found = []
        elif not is_url(source) and not path.exists() and glob.has_magic(str(path)):
            matches = [Path(match) for match in glob.glob(str(path), recursive=True)]
            if not any(match.suffix.lower() in IMAGE_SUFFIXES for match in matches):
                found = [match for match in matches if match.is_file() and match.suffix.lower() in VIDEO_SUFFIXES]
        videos += sorted(found, key=natural_key) or [source]
    if not videos:
        raise ValueError("no video was given; expected at least one")
    return videos


def video_name(video: Video) -> str:
    """A name for the results of a video: that of its file or folder without suffix."""
    if isinstance(video, list):
        name = Path(video[0]).absolute().parent.name
    elif is_url(video):
        name = name_of_url(video)
    else:
        path = Path(video).expanduser()
        name = path.name if path.is_dir() else path.stem
    return "".join("_" if character in '/\\:*?"<>|\0' else character for character in name).strip(". ") or "video"


def track_table(instances: VideoInstances) -> str:
    """The tracks as text, one a line: id, label, score, number of frames in which it is visible."""
    rows = [("track", "label", "score", "frames")]
    for index in range(len(instances)):
        visible = sum(mask is not None for mask in instances.masks[index])
        label = str(instances.label_name(instances.labels[index]))
        rows.append((str(instances.track_ids[index]), label, f"{instances.scores[index]:.2f}", str(visible)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _are_animations(images: Sequence[str | PathLike]) -> bool:
    """Whether images are videos, and not the frames of one, by the first of them."""
    try:
        return count_images(images[0])[0] > 1
    except (OSError, ImageError):
        return False


def _video_files(video: Video) -> list[Path]:
    """What is read for a video: of a folder its images."""
    files = files_of(video)
    folders = [path for path in files if path.is_dir()]
    return [path for path in files if not folders or path in folders or path.suffix.lower() in IMAGE_SUFFIXES]


def _rate(reader: VideoReader) -> float:
    return min(reader.fps or 25.0, MAX_FPS)


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1


def _attention_frames(
    segmenter: VideoInstanceSegmentationPipeline,
    reader: VideoReader,
    instances: VideoInstances,
    track_id: int,
    settings: dict[str, int],
) -> Iterator[np.ndarray]:
    """The frames with one track, and where the model looks for it."""
    track = instances[index_of_track(instances, track_id)]
    frames = draw_video(islice(reader, instances.num_frames), track, opacity=0.25)
    places = attention_of_track(segmenter, reader, instances, track_id, **settings)
    for frame, (points, weights) in zip(frames, places, strict=True):
        yield from draw_attention([frame], [points], [weights])


def _write(
    instances: VideoInstances,
    reader: VideoReader,
    outputs: Outputs,
    finished: bool = True,
    frames: Callable[[], Iterator[np.ndarray]] | None = None,
) -> list[Path]:
    """
    Write all outputs, each whatever happens to the others; returns what was written, or raises the first error.
    `frames` makes those of the video, by default with all tracks.
    """
    if frames is None:
        frames = partial(_drawn_frames, instances, reader)
    steps: list[tuple[Path | None, Callable[[Path], Path]]] = [
        (outputs.json, lambda path: _save_json(instances, path, reader.name)),
        (outputs.masks, lambda path: _save_masks(instances, path)),
        (outputs.video, lambda path: _draw(frames(), instances.num_frames, _rate(reader), path, finished)),
    ]
    written, errors = [], []
    for path, step in steps:
        if path is None:
            continue
        if not finished and path is not outputs.video and path.is_file():
            path = partial_path(path)
        try:
            written.append(step(path))
        except OSError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return written


def _save_json(instances: VideoInstances, path: Path, video_id: str) -> Path:
    instances.save_ytvis_json(path, video_id=video_id)
    return path


def _save_masks(instances: VideoInstances, folder: Path) -> Path:
    instances.to_mots(folder)
    return folder


def _drawn_frames(instances: VideoInstances, reader: VideoReader) -> Iterator[np.ndarray]:
    return draw_video(islice(reader, instances.num_frames), instances)


def _draw(frames: Iterator[np.ndarray], num_frames: int, fps: float, path: Path, finished: bool) -> Path:
    if path.suffix.lower() == ".png":
        return _draw_sheet(frames, num_frames, path)
    writer = VideoWriter(path, fps=fps)
    try:
        for frame in logging.tqdm(frames, total=num_frames, desc="drawing", unit="frame"):
            writer.write(frame)
    except KeyboardInterrupt as stop:
        writer.close(finished=False)
        place = f", which are in {writer.written_to}" if writer.written_to else ""
        stop.args = (f"stopped after drawing {writer.num_frames} of {num_frames} frames{place}",)
        raise
    except BaseException:
        writer.close(finished=False)
        raise
    writer.close(finished)
    return writer.written_to


def _draw_sheet(frames: Iterator[np.ndarray], num_frames: int, path: Path) -> Path:
    chosen = set(np.linspace(0, num_frames - 1, min(SHEET_FRAMES, num_frames)).round().astype(int).tolist())
    sheet = contact_sheet([frame for index, frame in enumerate(frames) if index in chosen])
    with written_aside(path) as unfinished:
        Image.fromarray(sheet).save(unfinished, format="png")
    return path


if __name__ == "__main__":
    from .commands.predict import main

    raise SystemExit(main())

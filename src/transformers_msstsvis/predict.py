"""A video in, an annotated video and its tracks out: the pipeline with files around it."""

import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import pipeline
from transformers.utils import logging

from .attention_maps import attention_of_track, check_looks_at_points, index_of_track
from .checkpoint_files import check_checkpoint
from .files import check_distinct, check_writable_folder, files_of, remove_partial, written_aside
from .pipelines import SAMPLE_MODEL, TASK, VideoInstanceSegmentationPipeline, VideoInterrupted
from .prediction.outputs import OutputFiles, Outputs
from .prediction.shards import ErrorFile, Shard
from .prediction.videos import VIDEO_SUFFIXES, Video, list_videos, video_files, video_name
from .results.attention_drawing import draw_attention
from .results.drawing import contact_sheet, draw_video
from .results.video_instances import VideoInstances
from .tracking.clip_model import why_not_recorded
from .tracking.clip_record import ClipRecord
from .video.writer import MAX_FPS, VideoWriter, write_video

logger = logging.get_logger(__name__)

SAMPLE_VIDEO = SAMPLE_MODEL.parent / "sample.mp4"
SHEET_FRAMES = 12


def load_segmenter(
    model: str | PathLike = SAMPLE_MODEL,
    device: str | int | None = None,
    dtype: str = "auto",
    compile: bool = False,
) -> VideoInstanceSegmentationPipeline:
    """
    The pipeline of a checkpoint.

    Args:
        model: folder or Hub name; the small one that comes with the package by default.
        device: as in every pipeline; the first GPU by default, or else the CPU.
        dtype: of the model, for example `"bfloat16"`, faster on a CPU that has instructions for it; on one that has
            not, a warning says so.
        compile: put the model through `torch.compile`, which takes minutes at the first clip; what it gains depends on
            model and device.

    Raises:
        FileNotFoundError: if there is no such checkpoint, or the Hub, where it could be, can't be reached.
        OSError, ValueError: if the model can't be loaded.
    """
    if Path(model) == SAMPLE_MODEL and not SAMPLE_MODEL.is_dir():
        raise FileNotFoundError(f"the checkpoint {SAMPLE_MODEL.name} is not part of this installation; name a model")
    check_checkpoint(model)
    segmenter = pipeline(TASK, model=str(Path(model).expanduser()), device=device, dtype=dtype)
    if compile:
        segmenter.model.compile()
    return segmenter


def predict_video(
    video: Video = SAMPLE_VIDEO,
    model: str | PathLike | VideoInstanceSegmentationPipeline = SAMPLE_MODEL,
    output: str | PathLike | None = None,
    json_path: str | PathLike | None = None,
    masks_dir: str | PathLike | None = None,
    device: str | int | None = None,
    dtype: str = "auto",
    compile: bool = False,
    attention: int | None = None,
    **options,
) -> VideoInstances:
    """
    Segment the instances of a video and write what is asked for.

    As [`stream_video`], whose stretches it joins to one result.

    Args:
        video, model, output, json_path, masks_dir, device, dtype, compile: as of [`stream_video`].
        attention: id of a track: `output` shows where the model looks for it, instead of all tracks; also as a `.png`,
            a contact sheet of up to 12 frames.
        **options: as of [`stream_video`].

    Returns:
        The tracks.

    Raises:
        FileNotFoundError, ValueError, OSError, VideoInterrupted: as [`stream_video`].
    """
    if attention is None:
        written = stream_video(video, model, output, json_path, masks_dir, device, dtype, compile, **options)
        return VideoInstances.join(written)
    Outputs.of(output, json_path, masks_dir).check(video, _checkpoint_of(model))
    if output is not None and Path(output).suffix.lower() != ".png":
        VideoWriter(output)  # refuses what it can't write
    segmenter = _segmenter_of(model, device, dtype, compile)
    check_looks_at_points(segmenter)
    instances = VideoInstances.join(stream_video(video, segmenter, None, json_path, masks_dir, **options))
    if output is not None:
        _draw_attention(segmenter, video, instances, attention, Path(output).expanduser(), options)
    return instances


def stream_video(
    video: Video = SAMPLE_VIDEO,
    model: str | PathLike | VideoInstanceSegmentationPipeline = SAMPLE_MODEL,
    output: str | PathLike | None = None,
    json_path: str | PathLike | None = None,
    masks_dir: str | PathLike | None = None,
    device: str | int | None = None,
    dtype: str = "auto",
    compile: bool = False,
    per_instance: bool = False,
    exports: Sequence[tuple[str, str | PathLike]] = (),
    resume: bool = False,
    **options,
) -> Iterator[VideoInstances]:
    """
    Segment the instances of a video, write what is asked for, and hand out the tracks, stretch by stretch.

    The video is read once, and memory does not grow with it: what is finished is drawn and written. Files are written
    aside and named when they are complete. Until then a record beside the first of them, `out.resume.jsonl`, keeps
    what the model found, so that a run that was stopped can go on.

    Args:
        video: file, URL, folder of frames or glob pattern, or a list of image files; a synthetic clip by default.
        model: folder or Hub name of a checkpoint, or a pipeline, as of [`load_segmenter`].
        output: annotated video: `.mp4`, `.webm`, `.gif`, or a folder for PNG frames; 25 frames per second where the
            source has no rate.
        json_path: tracks in YouTube-VIS results format, with `track_id`, `label` and `boxes` in addition; a name that
            ends in `.jsonl` gets JSON Lines, which grow with a line for each frame.
        masks_dir: folder of palette PNGs whose values are the track ids, one for each frame.
        device, dtype, compile: as of [`load_segmenter`].
        per_instance: `masks_dir` gets a folder of masks for each track instead.
        exports: further formats and their files or folders, such as `("cvat", "tracks.xml")`; see `SINKS`.
        resume: go on with a run that was stopped, with the same results as if it had not been.
        **options: of [`StreamingPredictor`] and for reading, as of the pipeline: `threshold`, `top_k`, `classes`,
            `max_frames`, `tracker`, `frames`, `frame_stride`, `fps`, `max_side`, `public_urls`, ...

    Yields:
        The tracks of each stretch of frames, once they are written.

    Raises:
        FileNotFoundError: if the video, or a model given as a folder, does not exist.
        ValueError: for an unknown suffix, an output that would replace an input, values out of range, or if a run
            can't go on with the same results.
        OSError: if the model can't be loaded, or a file can't be written; the others are.
        VideoInterrupted: after Ctrl-C; what was finished is written, and the message says up to which frame and where.
            Where there is an older file, the new one is beside it, as `out.partial.json`.
    """
    outputs = Outputs.of(output, json_path, masks_dir, per_instance=per_instance, exports=exports)
    outputs.check(video, _checkpoint_of(model))
    if outputs.video is not None:
        VideoWriter(outputs.video)  # refuses what it can't write
    segmenter = _segmenter_of(model, device, dtype, compile)
    reader = segmenter.read(video, **options)
    predictor = segmenter.predictor(**options)  # refuses what is out of range, before an older record goes
    predictor.record = record = _record(segmenter, video, outputs, resume, options)
    files = OutputFiles(outputs, reader.fps, reader.name)
    return _run(predictor, reader, files, record)


def _segmenter_of(
    model: str | PathLike | VideoInstanceSegmentationPipeline, device: str | int | None, dtype: str, compile: bool
) -> VideoInstanceSegmentationPipeline:
    if isinstance(model, VideoInstanceSegmentationPipeline):
        return model
    return load_segmenter(model, device, dtype, compile)


def _checkpoint_of(model: str | PathLike | VideoInstanceSegmentationPipeline) -> str | PathLike:
    return model.model.name_or_path if isinstance(model, VideoInstanceSegmentationPipeline) else model


def _run(predictor, reader, files: OutputFiles, record: ClipRecord | None) -> Iterator[VideoInstances]:
    frames: deque[np.ndarray] = deque()

    def remembered() -> Iterator[np.ndarray]:
        for frame in reader:
            frames.append(frame)
            yield frame

    predictor.fps = reader.fps
    is_long = reader.num_frames is None or reader.num_frames > predictor.latency + 1
    with logging.tqdm(total=reader.num_frames, desc=reader.name, unit="frame", disable=not is_long) as progress:
        try:
            for tracks in predictor.stream(remembered()):
                files.append([frames.popleft() for _ in range(tracks.num_frames)], tracks)
                progress.update(tracks.num_frames)
                yield tracks
        except BaseException as error:
            if record is not None:
                record.close()
            written = ", ".join(map(str, files.close(finished=False)))
            place = f", which are in {written}" if written else ""
            way_on = "; with --resume it goes on" if record is not None and record.is_kept else ""
            told = f"stopped after {files.num_frames} frames{place}{way_on}"
            if isinstance(error, KeyboardInterrupt):
                stop = VideoInterrupted()
                stop.args = (told,)
                raise stop from error
            if files.num_frames and isinstance(error, Exception):
                logger.warning(f"{reader.name}: {told}.")
            raise
    files.close()
    if record is not None:
        record.close(finished=True)


def _record(
    segmenter: VideoInstanceSegmentationPipeline, video: Video, outputs: Outputs, resume: bool, options: dict[str, Any]
) -> ClipRecord | None:
    """Where what is found in the clips is kept until the outputs are complete."""
    if not outputs.paths:
        return None
    if reason := why_not_recorded(segmenter.model, options.get("tracker") or segmenter.video_processor.tracker):
        if resume:
            kind, name, needed = reason
            raise ValueError(
                f"a run with the {kind} {name} can't be resumed, for that needs {needed}; run it again without"
            )
        return None
    first = outputs.paths[0]
    settings = {
        "video": f"{video_name(video)} ({_digest_of_files(video)})",
        "model": f"{segmenter.model.name_or_path} ({_digest_of_weights(segmenter.model)})",
        "options": {name: value for name, value in sorted(options.items()) if value is not None},
    }
    record = ClipRecord(first.with_name(f"{first.stem}.resume.jsonl"), settings, resume)
    if resume:  # and the record fits
        for path in outputs.paths:
            remove_partial(path)
    return record


def _digest_of_files(video: Video) -> str:
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in video_files(video)]
    return hashlib.sha256(repr(stats or str(video)).encode()).hexdigest()[:12]


def _digest_of_weights(model: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:12]


def predict_videos(
    videos: Sequence[str | PathLike],
    model: str | PathLike | VideoInstanceSegmentationPipeline = SAMPLE_MODEL,
    output: str | PathLike = "out",
    masks_dir: str | PathLike | None = None,
    suffix: str | None = ".mp4",
    device: str | int | None = None,
    dtype: str = "auto",
    compile: bool = False,
    shard: str | None = None,
    overwrite: bool = False,
    **options,
) -> Iterator[tuple[str, VideoInstances | Exception | None, Outputs]]:
    """
    Segment several videos, one after the other, each as by [`predict_video`].

    The results of a video are there whole or not at all; those that are there are not made again, so that what was
    stopped goes on when it is started once more. `errors.jsonl` in the output folder lists the videos that failed.

    Args:
        videos: as of [`list_videos`].
        model, device, dtype, compile: as of [`predict_video`]; of several processes on a machine each takes a GPU of
            its own.
        output: folder for an annotated video and a JSON file of each.
        masks_dir: folder for a folder of masks of each.
        suffix: of the annotated videos; None for none.
        shard: the share of the videos that is meant, `"2/8"` for the second of eight; by default the one of this
            process in a SLURM array, or among those that `torchrun` or `accelerate launch` started.
        overwrite: make all results anew.
        **options: as of [`predict_video`].

    Yields:
        For each video its name, its tracks, or what was wrong with it, or None where the results were there, and where
        they are.

    Raises:
        OSError, ValueError: as [`predict_video`], before the first video, for what is wrong with all.
    """
    share = Shard.of(shard)
    paths = list_videos(videos)
    names: dict[str, None] = {}
    for name in map(video_name, paths):
        names[next(new for new in _numbered(name) if new not in names)] = None
    folder, masks = Path(output).expanduser(), None if masks_dir is None else Path(masks_dir).expanduser()
    if folder.suffix in VIDEO_SUFFIXES or folder.is_file():
        raise ValueError(f"the output for {len(paths)} videos is {folder}; expected a folder")
    results = [
        Outputs.of(None if suffix is None else folder / f"{n}{suffix}", folder / f"{n}.json", masks and masks / n)
        for n in names
    ]
    inputs = [*(file for path in paths for file in video_files(path)), *files_of(_checkpoint_of(model))]
    check_distinct([path for outputs in results for path in outputs.paths], inputs)
    check_writable_folder(folder)
    errors = ErrorFile(folder / "errors.jsonl", anew=share.count == 1)
    segmenter = _segmenter_of(model, _own_device() if device is None else device, dtype, compile)
    ours = {"per_instance", "exports", "resume", "attention"}
    segmenter.predictor(**{name: value for name, value in options.items() if name not in ours})
    for path, outputs in share.take(list(zip(paths, results, strict=True))):
        name = str(path[0]) if isinstance(path, list) else str(path)
        # Tracks come last into their place.
        if not overwrite and outputs.json.exists():
            yield name, None, outputs
            continue
        for left in outputs.paths:
            remove_partial(left)
        try:
            result = predict_video(path, segmenter, outputs.video, outputs.json, outputs.masks, **options)
        except Exception as error:  # whatever it is, it may not cost the other videos
            errors.add(name, error)
            result = error
        yield name, result, outputs


def _own_device() -> str | None:
    """The GPU of this process among those of the machine; None where that is for the pipeline to say."""
    place, number = os.environ.get("LOCAL_RANK"), torch.cuda.device_count()
    return f"cuda:{int(place) % number}" if place is not None and number else None


class TrackTable:
    """The tracks of a video as text, put together stretch by stretch."""

    def __init__(self):
        self.class_names: list[str] = []  # that the model knows
        self._rows: dict[int, tuple[str, float, int]] = {}  # by track: label, score, frames in which it is visible

    def add(self, instances: VideoInstances) -> "TrackTable":
        self.class_names = list((instances.id2label or {}).values())
        for index, track in enumerate(instances.track_ids.tolist()):
            *_, visible = self._rows.get(track, (0,))
            visible += sum(1 for _ in instances.masks[index].visible())
            label = str(instances.label_name(instances.labels[index]))
            self._rows[track] = (label, float(instances.scores[index]), visible)
        return self

    def __len__(self) -> int:
        return len(self._rows)

    def __str__(self) -> str:
        """One track a line, best first: id, label, score, number of frames in which it is visible."""
        rows = [("track", "label", "score", "frames")]
        for track, (label, score, visible) in sorted(self._rows.items(), key=lambda row: -row[1][1]):
            rows.append((str(track), label, f"{score:.2f}", str(visible)))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
        return "\n".join(line.rstrip() for line in lines)


def track_table(instances: VideoInstances) -> str:
    """The tracks of a video as text, see [`TrackTable`]."""
    return str(TrackTable().add(instances))


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1


def _draw_attention(
    segmenter: VideoInstanceSegmentationPipeline,
    video: Video,
    instances: VideoInstances,
    track_id: int,
    path: Path,
    options: dict[str, Any],
) -> None:
    """The frames with one track, and where the model looks for it."""
    reader = segmenter.read(video, **options)
    track = instances[index_of_track(instances, track_id)]
    settings = {name: options[name] for name in ("max_frames", "top_k") if options.get(name) is not None}
    places = attention_of_track(segmenter, reader, instances, track_id, **settings)
    drawn = draw_video(islice(reader, instances.num_frames), track, opacity=0.25)
    frames = (
        looked
        for frame, (points, weights) in zip(drawn, places, strict=True)
        for looked in draw_attention([frame], [points], [weights])
    )
    if path.suffix.lower() == ".png":
        _draw_sheet(frames, instances.num_frames, path)
    else:
        write_video(path, frames, fps=min(reader.fps or 25.0, MAX_FPS))


def _draw_sheet(frames: Iterator[np.ndarray], num_frames: int, path: Path) -> None:
    chosen = set(np.linspace(0, num_frames - 1, min(SHEET_FRAMES, num_frames)).round().astype(int).tolist())
    sheet = contact_sheet([frame for index, frame in enumerate(frames) if index in chosen])
    with written_aside(path) as unfinished:
        Image.fromarray(sheet).save(unfinished, format="png")


if __name__ == "__main__":
    from .commands.predict import main

    raise SystemExit(main())

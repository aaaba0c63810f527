"""A video in, an annotated video and its tracks out: the pipeline with files around it."""

from os import PathLike
from pathlib import Path

from transformers import pipeline
from transformers.utils import logging

from .data.video_io import VideoReader, VideoWriter
from .pipelines import SAMPLE_MODEL, TASK
from .results import VideoInstances
from .visualization import draw_video

SAMPLE_VIDEO = SAMPLE_MODEL.parent / "sample.mp4"


def predict_video(
    video: str | PathLike = SAMPLE_VIDEO,
    model: str | PathLike = SAMPLE_MODEL,
    output: str | PathLike | None = None,
    json_path: str | PathLike | None = None,
    threshold: float = 0.3,
    device: str | int | None = None,
    dtype: str = "auto",
    max_frames: int = 36,
) -> VideoInstances:
    """
    Segment the instances of a video and write what is asked for.

    The video is read twice, first for the model and then to be drawn on, frame by frame, so that memory stays flat.

    Args:
        video: file, URL, folder of frames or glob pattern; a synthetic clip by default.
        model: folder or Hub name of a checkpoint; the small one that comes with the package by default.
        output: annotated video: `.mp4`, `.webm`, `.gif`, or a folder for PNG frames; 25 frames per second where the
            source has no rate.
        json_path: tracks in YouTube-VIS results format, with `track_id`, `label` and `boxes` in addition.
        threshold: smallest score of a track, 0..1.
        device: as in every pipeline; the first GPU by default, or else the CPU.
        dtype: of the model, for example `"bfloat16"`.
        max_frames: longest clip that the model sees at once.

    Returns:
        The tracks.

    Raises:
        FileNotFoundError: if the video, or a model given as a folder, does not exist.
        ValueError: for an unknown suffix, an output that would replace the video, or values out of range.
        OSError: if the model can't be loaded, or the files can't be written.
    """
    if Path(model) == SAMPLE_MODEL and not SAMPLE_MODEL.is_dir():
        raise FileNotFoundError(f"the checkpoint {SAMPLE_MODEL.name} is not part of this installation; name a model")
    # Everything that can be wrong with the files is found before the model runs.
    reader = VideoReader(video)
    writer = None
    if output is not None:
        if Path(output).expanduser().resolve() == Path(video).expanduser().resolve():
            raise ValueError(f"{output} is the video itself; choose another output")
        writer = VideoWriter(output, fps=reader.fps or 25.0)
    if json_path is not None:
        json_path = Path(json_path).expanduser()
        json_path.parent.mkdir(parents=True, exist_ok=True)
        if json_path.is_dir():
            raise ValueError(f"{json_path} is a folder; expected the name of a JSON file")

    segmenter = pipeline(TASK, model=str(model), device=device, dtype=dtype)
    instances = segmenter(str(video), threshold=threshold, max_frames=max_frames, return_instances=True)
    if json_path is not None:
        instances.save_ytvis_json(json_path, video_id=reader.name)
    if writer is not None:
        frames = logging.tqdm(draw_video(reader, instances), total=instances.num_frames, desc="drawing", unit="frame")
        with writer:
            for frame in frames:
                writer.write(frame)
    return instances


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


if __name__ == "__main__":
    from .commands.predict import main

    raise SystemExit(main())

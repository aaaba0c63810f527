"""The whole way of a video through `predict`: seconds per frame of every part, and peak memory, at growing lengths."""

import argparse
import contextlib
import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from ..models.auto import video_processor_class
from .models import MODELS
from .timing import Stopwatch, peak_growth, peak_in_new_process

MASKS = 10  # of each clip, as in the pipeline


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lengths", nargs="+", type=int, default=[300, 3000], help="frames (default 300 3000)")
    parser.add_argument("--height", type=int, default=360)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--max_frames", type=int, default=36, help="longest clip that the model sees (default 36)")
    parser.add_argument(
        "--model", help="checkpoint (default: the bundled one), or resnet50: the default size with random weights"
    )
    parser.add_argument("--tracker", choices=["iou", "devis", "none"])


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """
    By length, CPU and wall seconds per frame, those of every part, those of decoding and of the model when nothing
    else is done, and the peak bytes of the process above those of the loaded model.
    """
    report: dict[str, Any] = {
        "video": [arguments.height, arguments.width],
        "model": arguments.model or "bundled",
        "max_frames": arguments.max_frames,
    }
    for length in arguments.lengths:
        report[f"{length} frames"] = peak_in_new_process(predict_once, length, arguments)
    return report


def predict_once(length: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """A video of moving discs from file to annotated video and JSON Lines."""
    from ..predict import stream_video

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    segmenter = segmenter_of(arguments.model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "video.mp4")
        write_discs(path, length, arguments.height, arguments.width)
        options = {"max_frames": arguments.max_frames, "tracker": arguments.tracker}
        for _ in stream_video(path, segmenter, frames="0:2", **options):
            pass  # what is made on first use, such as the kernel
        shown: set[int] = set()

        def run_once() -> None:
            outputs = Path(folder, "out.mp4"), Path(folder, "out.jsonl")
            for tracks in stream_video(path, segmenter, *outputs, **options):
                shown.update(tracks.track_ids.tolist())

        with parts_of_predict() as seconds:
            cpu, wall = time.process_time(), time.perf_counter()
            peak = peak_growth(run_once)
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        seconds["other"] = cpu - sum(seconds.values())
        floors = {"decoding": decode_alone(path) / length, "model": run_alone(path, segmenter, arguments.max_frames)}
        return {
            "cpu_ms_per_frame": 1000 * cpu / length,
            "wall_ms_per_frame": 1000 * wall / length,
            "parts_ms_per_frame": {name: 1000 * value / length for name, value in seconds.items()},
            "alone_ms_per_frame": {name: 1000 * value for name, value in floors.items()},
            "besides_the_model": cpu / seconds["model"] - 1,
            "tracking_and_drawing": (seconds["tracking"] + seconds["drawing"]) / seconds["model"],
            "peak_bytes": peak,
            "tracks": len(shown),
        }


def decode_alone(path: Path) -> float:
    """CPU seconds of PyAV for a whole file, to RGB arrays."""
    start = time.process_time()
    with av.open(path) as container:
        for frame in container.decode(video=0):
            frame.to_ndarray(format="rgb24")
    return time.process_time() - start


@torch.inference_mode()
def run_alone(path: Path, segmenter: Any, max_frames: int) -> float:
    """CPU seconds of the model per frame, for the first clip of a file."""
    with av.open(path) as container:
        frames = [
            frame.to_ndarray(format="rgb24") for frame in itertools.islice(container.decode(video=0), max_frames)
        ]
    inputs = segmenter.video_processor(np.stack(frames), input_data_format="channels_last", return_tensors="pt")
    start = time.process_time()
    segmenter.model(**inputs, mask_top_k=MASKS)
    return (time.process_time() - start) / len(frames)


def segmenter_of(model: str | None) -> Any:
    from ..pipelines import VideoInstanceSegmentationPipeline
    from ..predict import SAMPLE_MODEL, load_segmenter

    if model != "resnet50":
        return load_segmenter(model or SAMPLE_MODEL, device="cpu")
    torch.manual_seed(0)
    network = MODELS["msstsvis-r50"]().eval()
    processor = video_processor_class(network.config)()
    return VideoInstanceSegmentationPipeline(model=network, video_processor=processor, device="cpu")


@contextlib.contextmanager
def parts_of_predict() -> Iterator[dict[str, float]]:
    """CPU seconds of the parts of `predict`, while the block runs."""
    from ..prediction import outputs
    from ..results.sinks.frame_lines import JsonLinesSink
    from ..tracking import clips, streaming
    from ..video import reader, writer

    watch = Stopwatch()
    places = [
        (reader.VideoReader, "__iter__", "decoding"),
        (streaming.StreamingPredictor, "_preprocess", "preprocessing"),
        (streaming.StreamingPredictor, "_run_model", "model"),
        (streaming.StreamingPredictor, "_post_process", "post-processing"),
        (clips.ClipJoiner, "add", "tracking"),
        (clips.ClipJoiner, "release", "tracking"),
        (outputs, "draw_instances", "drawing"),
        (writer.VideoWriter, "write", "encoding"),
        (writer.VideoWriter, "flush", "encoding"),
        (JsonLinesSink, "append", "JSON"),
    ]
    with contextlib.ExitStack() as stack:
        for owner, name, part in places:
            stack.enter_context(watch.watching(owner, name, part))
        yield watch.seconds


def write_discs(path: Path, length: int, height: int, width: int) -> None:
    from ..video.writer import VideoWriter

    with VideoWriter(path) as video:
        for frame in range(length):
            video.write(discs(frame, height, width))


def discs(frame: int, height: int, width: int) -> np.ndarray:
    """Frame `(height, width, 3)` of three discs, each on a circle of its own."""
    y, x = np.ogrid[:height, :width]
    picture = np.full((height, width, 3), 90, dtype=np.uint8)
    for index, colour in enumerate(((230, 80, 60), (70, 200, 90), (60, 90, 220))):
        angle = 0.05 * frame + 2.1 * index
        centre_y, centre_x = height * (0.5 + 0.3 * np.sin(angle)), width * (0.5 + 0.3 * np.cos(angle))
        picture[np.hypot(y - centre_y, x - centre_x) < 0.1 * height] = colour
    return picture

"""Videos of growing length through the pipeline with the bundled checkpoint: time per frame and peak memory."""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .timing import peak_growth, peak_in_new_process


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lengths", nargs="+", type=int, default=[36, 120, 360], help="frames of the videos")
    parser.add_argument("--height", type=int, default=240)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--max_frames", type=int, default=36, help="longest clip that the model sees (default 36)")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """By length, seconds per frame from file to tracks, and the peak bytes above the loaded pipeline."""
    report: dict[str, Any] = {"video": [arguments.height, arguments.width], "max_frames": arguments.max_frames}
    for length in arguments.lengths:
        seconds, peak, tracks = peak_in_new_process(segment, length, arguments)
        report[f"{length} frames"] = {"wall_s_per_frame": seconds / length, "peak_bytes": peak, "tracks": tracks}
    return report


def segment(length: int, arguments: argparse.Namespace) -> tuple[float, int | None, int]:
    """Seconds, peak bytes and number of tracks of a video of moving discs."""
    from transformers import pipeline

    from ..pipelines import SAMPLE_MODEL
    from ..video.writer import VideoWriter

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    segmenter = pipeline("video-instance-segmentation", model=str(SAMPLE_MODEL))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "video.mp4")
        with VideoWriter(path) as video:
            for frame in range(length):
                video.write(discs(frame, arguments.height, arguments.width))
        segmenter(str(path), max_frames=1)  # what is made on first use, such as the kernel
        found = []
        start = time.perf_counter()
        peak = peak_growth(lambda: found.extend(segmenter(str(path), max_frames=arguments.max_frames)))
        return time.perf_counter() - start, peak, len(found)


def discs(frame: int, height: int, width: int) -> np.ndarray:
    """Frame `(height, width, 3)` of three discs, each on a circle of its own."""
    y, x = np.ogrid[:height, :width]
    picture = np.full((height, width, 3), 90, dtype=np.uint8)
    for index, colour in enumerate(((230, 80, 60), (70, 200, 90), (60, 90, 220))):
        angle = 0.05 * frame + 2.1 * index
        centre_y, centre_x = height * (0.5 + 0.3 * np.sin(angle)), width * (0.5 + 0.3 * np.cos(angle))
        picture[np.hypot(y - centre_y, x - centre_x) < 0.1 * height] = colour
    return picture

"""
The five systems on videos of growing length, untrained, as users would run them: parameters, seconds per frame and
peak memory, beside the published AP. `--published`: one of them against the published computation at its published
size.
"""

import argparse
import time
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ..commands.command_line import say
from ..files import written_aside
from ..metrics.plots import new_figure
from ..models import auto
from . import published_devis, published_tevit, published_vistr
from .report import plot_ratios
from .timing import compare, peak_growth, peak_in_new_process, relative_error

WARM_UP = 10  # frames: what takes no longer is timed in a second run, but for its memory
STAGES = ["stage2", "stage3", "stage4"]
RESNET_101 = {"model_type": "resnet", "depths": [3, 4, 23, 3], "out_features": STAGES}
SWIN_T = {
    "model_type": "swin",
    "embed_dim": 96,
    "depths": [2, 2, 6, 2],
    "num_heads": [3, 6, 12, 24],
    "window_size": 7,
    "out_features": STAGES,
}


def _untrained(name: str, **settings) -> PreTrainedModel:
    config = auto.class_of(name, "Config")(**settings)
    return auto.class_of(name, "ForVideoInstanceSegmentation")(config)


def _bundled() -> PreTrainedModel:
    from ..pipelines import SAMPLE_MODEL

    return auto.AutoModelForVideoInstanceSegmentation.from_pretrained(str(SAMPLE_MODEL))


# Every model of the table as its defaults have it, most with a ResNet-50, and some others.
OTHER_BACKBONES = {"tevit": "msgshift"}
SYSTEMS = {name: f"{name}-{OTHER_BACKBONES.get(name, 'r50')}" for name in auto.MODELS}
MODELS = {model: partial(_untrained, name) for name, model in SYSTEMS.items()} | {
    "msstsvis-r101": partial(_untrained, "msstsvis", backbone_config=RESNET_101),
    "msstsvis-swin-t": partial(_untrained, "msstsvis", backbone_config=SWIN_T),
    "msstsvis-tiny": _bundled,
}
# Mask AP on YouTube-VIS 2019 as the papers have it.
PUBLISHED_AP = {
    "seqformer-r50": 47.4,
    "msstsvis-r50": 50.1,
    "vistr-r50": 36.2,
    "devis-r50": 44.4,
    "tevit-msgshift": 46.6,
}
# Model -> the published computation, its model, its clip (frames, height, width), and what settles drawn weights.
PUBLISHED = {
    "vistr": (published_vistr.infer, "vistr-r50", (36, 300, 533)),
    "devis": (published_devis.infer, "devis-r50", (6, 360, 640)),
    "tevit": (published_tevit.infer, "tevit-msgshift", (5, 360, 640), published_tevit.settle),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--models", nargs="+", choices=list(MODELS), default=list(SYSTEMS.values()), help="which to measure"
    )
    parser.add_argument("--published", choices=list(PUBLISHED), help="instead, this one against its published code")
    lengths = [5, 36, 360]
    parser.add_argument("--frames", type=int, nargs="+", default=lengths, help=f"of the videos (default {lengths})")
    parser.add_argument("--height", type=int, default=360)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--repeats", type=int, default=3, help="of --published")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """By model: parameters, published AP, and by number of frames seconds of one and peak bytes above the weights."""
    if arguments.published:
        return run_published(arguments)
    report: dict[str, Any] = {"video": [arguments.height, arguments.width, 3], "models": {}}
    for name in arguments.models:
        row = report["models"][name] = {"published_AP": PUBLISHED_AP.get(name), "frames": {}}
        for frames in arguments.frames:
            size = frames, arguments.height, arguments.width
            row["parameters"], measured = peak_in_new_process(measure_video, name, size, arguments.threads)
            row["frames"][frames] = measured
            say(f"{name}, {frames} frames: {told(row['parameters'], measured)}")
    return report


def told(parameters: int, measured: dict[str, Any]) -> str:
    peak = measured["peak_bytes"]
    memory = "unknown memory" if peak is None else f"{peak / 1e9:.2f} GB"
    seconds = f"{measured['wall_s_per_frame']:.3f} s per frame ({measured['cpu_s_per_frame']:.3f} of CPU time)"
    return f"{parameters / 1e6:.1f} M parameters, {seconds}, {memory}"


def measure_video(name: str, size: tuple[int, int, int], threads: int | None) -> tuple[int, dict[str, Any]]:
    """Parameters of a model, and what the pipeline takes for a video, frames by height by width."""
    from ..pipelines import VideoInstanceSegmentationPipeline

    if threads:
        torch.set_num_threads(threads)
    model = MODELS[name]().eval()
    processor = auto.video_processor_class(model.config)()
    segmenter = VideoInstanceSegmentationPipeline(model=model, video_processor=processor, device="cpu")
    video = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    seconds = []

    def segment() -> None:
        start = time.perf_counter(), time.process_time()
        segmenter(video, return_instances=True)
        seconds[:] = time.perf_counter() - start[0], time.process_time() - start[1]

    peak = peak_growth(segment)
    if size[0] <= WARM_UP:
        segment()
    wall, cpu = (value / size[0] for value in seconds)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return parameters, {"wall_s_per_frame": wall, "cpu_s_per_frame": cpu, "peak_bytes": peak}


def plot(report: dict[str, Any], path: str) -> None:
    """Speed against published AP, for the videos of each length; of `--published`, the ratios."""
    if "models" not in report:
        return plot_ratios(report, path)
    rows = {name: row for name, row in report["models"].items() if row["published_AP"] is not None}
    figure = new_figure()
    axes = figure.add_subplot()
    for frames in next(iter(rows.values()), {"frames": {}})["frames"]:
        speeds = [1 / row["frames"][frames]["cpu_s_per_frame"] for row in rows.values()]
        axes.scatter(speeds, [row["published_AP"] for row in rows.values()], label=f"{frames} frames")
    for name, row in rows.items():
        fastest = 1 / min(measured["cpu_s_per_frame"] for measured in row["frames"].values())
        axes.annotate(name, (fastest, row["published_AP"]), xytext=(6, 4), textcoords="offset points")
    title = f"{report['date']}, {report['machine']}"
    axes.set(
        xlabel="frames per second of CPU time, measured",
        ylabel="mask AP on YouTube-VIS 2019, as published",
        title=title,
    )
    axes.margins(x=0.2, y=0.15)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    if rows:
        axes.legend(title="videos of")
    with written_aside(path) as unfinished:
        figure.savefig(unfinished, dpi=150)


def run_published(arguments: argparse.Namespace) -> dict[str, Any]:
    """
    Seconds of both sides, run in turns, the published ones over ours, peak bytes of both, each in a process of its
    own, and how far the outputs are from each other.
    """
    name = arguments.published
    sides, outputs = ("published", "ours"), {}
    model, clip = _published_case(name)

    def run_side(side: str) -> None:
        outputs[side] = _one_side(name, side, model, clip)

    return {
        "clip": list(clip.shape),
        **compare({side: partial(run_side, side) for side in sides}, arguments.repeats),
        "peak_bytes": {side: peak_in_new_process(peak_of_side, name, side, arguments.threads) for side in sides},
        "relative_error": {
            output: relative_error(outputs["ours"][output], expected)
            for output, expected in outputs["published"].items()
        },
    }


def peak_of_side(name: str, side: str, threads: int | None) -> int | None:
    """Bytes above the model and the clip itself."""
    if threads:
        torch.set_num_threads(threads)
    model, clip = _published_case(name)
    return peak_growth(partial(_one_side, name, side, model, clip))


def _published_case(name: str) -> tuple[PreTrainedModel, torch.Tensor]:
    """A model whose weights are drawn so that its outputs differ, and a clip."""
    _, model, (frames, height, width), *settle = PUBLISHED[name]
    torch.manual_seed(0)
    model = MODELS[model]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.xavier_normal_(parameter)
    for change in settle:
        change(model)
    return model, torch.randn(1, frames, 3, height, width)


@torch.inference_mode()
def _one_side(name: str, side: str, model: PreTrainedModel, clip: torch.Tensor) -> dict[str, torch.Tensor]:
    return PUBLISHED[name][0](model, clip) if side == "published" else model(clip)

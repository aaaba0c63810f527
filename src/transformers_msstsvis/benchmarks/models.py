"""
Every model on the same clip, untrained: seconds, frames per second, parameters and peak memory. `--published`: one of
them against the published computation at its published size.
"""

import argparse
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from ..models import auto
from . import published_devis, published_tevit, published_vistr
from .timing import compare, peak_growth, peak_in_new_process, relative_error, timed

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


# Every model of the table as its defaults have it, which is with a ResNet-50, and some others.
MODELS = {name if name == "tevit" else f"{name}-r50": partial(_untrained, name) for name in auto.MODELS} | {
    "msstsvis-r101": partial(_untrained, "msstsvis", backbone_config=RESNET_101),
    "msstsvis-swin-t": partial(_untrained, "msstsvis", backbone_config=SWIN_T),
    "msstsvis-tiny": _bundled,
}
# Model -> the published computation, its model and its clip, frames by height by width.
PUBLISHED = {
    "vistr": (published_vistr, "vistr-r50", (36, 300, 533)),
    "devis": (published_devis, "devis-r50", (6, 360, 640)),
    "tevit": (published_tevit, "tevit", (5, 360, 640)),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), help="which to measure")
    parser.add_argument("--published", choices=list(PUBLISHED), help="instead, this one against its published code")
    parser.add_argument("--frames", type=int, default=5, help="frames of the clip (default 5)")
    parser.add_argument("--height", type=int, default=360)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--repeats", type=int, default=3)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """By model, seconds of a clip (after one unmeasured run), parameters, and peak bytes above the weights."""
    if arguments.published:
        return run_published(arguments)
    report: dict[str, Any] = {"clip": [1, arguments.frames, 3, arguments.height, arguments.width]}
    for name in arguments.models:
        model = MODELS[name]().eval()
        clip = torch.randn(*report["clip"])
        seconds = timed(lambda model=model, clip=clip: _infer(model, clip), arguments.repeats)
        report[name] = {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            **seconds,
            "frames_per_second": arguments.frames / seconds["wall_s"]["median"],
            "peak_bytes": peak_in_new_process(peak_of_model, name, arguments),
        }
    return report


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
    module, model, (frames, height, width) = PUBLISHED[name]
    torch.manual_seed(0)
    model = MODELS[model]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.xavier_normal_(parameter)
    if hasattr(module, "settle"):
        module.settle(model)
    return model, torch.randn(1, frames, 3, height, width)


@torch.inference_mode()
def _one_side(name: str, side: str, model: PreTrainedModel, clip: torch.Tensor) -> dict[str, torch.Tensor]:
    return PUBLISHED[name][0].infer(model, clip) if side == "published" else model(clip)


def peak_of_model(name: str, arguments: argparse.Namespace) -> int | None:
    """Bytes above the loaded model and the clip itself."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    model = MODELS[name]().eval()
    clip = torch.randn(1, arguments.frames, 3, arguments.height, arguments.width)
    return peak_growth(lambda: _infer(model, clip))


@torch.inference_mode()
def _infer(model: PreTrainedModel, clip: torch.Tensor) -> None:
    model(clip, mask_top_k=10)

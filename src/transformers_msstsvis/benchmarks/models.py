"""Every model on the same clip, untrained: seconds, frames per second, parameters and peak memory."""

import argparse
from typing import Any

import torch
from transformers import PreTrainedModel

from .. import (
    MsstsVisConfig,
    MsstsVisForVideoInstanceSegmentation,
    SeqFormerConfig,
    SeqFormerForVideoInstanceSegmentation,
)
from .timing import peak_growth, peak_in_new_process, timed

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
MODELS = {
    "seqformer-r50": lambda: SeqFormerForVideoInstanceSegmentation(SeqFormerConfig()),
    "msstsvis-r50": lambda: MsstsVisForVideoInstanceSegmentation(MsstsVisConfig()),
    "msstsvis-r101": lambda: MsstsVisForVideoInstanceSegmentation(MsstsVisConfig(backbone_config=RESNET_101)),
    "msstsvis-swin-t": lambda: MsstsVisForVideoInstanceSegmentation(MsstsVisConfig(backbone_config=SWIN_T)),
    "msstsvis-tiny": lambda: MsstsVisForVideoInstanceSegmentation.from_pretrained(_bundled()),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), help="which to measure")
    parser.add_argument("--frames", type=int, default=5, help="frames of the clip (default 5)")
    parser.add_argument("--height", type=int, default=360)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--repeats", type=int, default=3)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """By model, seconds of a clip (after one unmeasured run), parameters, and peak bytes above the weights."""
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


def _bundled() -> str:
    from ..pipelines import SAMPLE_MODEL

    return str(SAMPLE_MODEL)

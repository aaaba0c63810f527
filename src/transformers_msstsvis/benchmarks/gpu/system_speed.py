"""Inference and a training step of whole models, with random weights."""

import argparse
import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

from .. import models
from ..timing import finite, relative_error, spread
from ..train import make_labels
from .device import clear, peak_bytes, seconds

PRECISIONS = ("float32", "tf32", "bfloat16")
CLIP = (5, 360, 640)  # frames, height, width
CLIPS = {model: clip for _, model, clip, *_ in models.PUBLISHED.values()}
MASKS, INSTANCES = 10, 4


def clip_size(name: str, frames: int | None, height: int | None, width: int | None) -> tuple[int, int, int]:
    """Frames, height and width of a model's clip: as published, but for what is given."""
    published = CLIPS.get(name, CLIP)
    return tuple(given or default for given, default in zip((frames, height, width), published, strict=True))


def measure_inference(
    name: str, size: tuple[int, int, int], precision: str, compiled: bool, device: str, repeats: int
) -> dict[str, Any]:
    """
    Args:
        name: one of `MODELS` of the benchmark of models.
        size: frames, height and width of the clip.
        precision: one of `PRECISIONS`; "bfloat16" has weights and clip in it.

    Returns:
        `frames_per_s` by the median of `seconds`, `first_call_s` (with its compilation), `peak_bytes`, and the
        `relative_error` of the logits to those of the model as it is, in float32.

    Raises:
        ArithmeticError: the logits are not finite.
    """
    clear(device)
    model, clip = _model(name, device).eval(), _clip(size, device)

    @torch.inference_mode()
    def run(model: Callable, clip: torch.Tensor) -> torch.Tensor:
        return model(clip, mask_top_k=MASKS).logits

    allow_tf32(False)
    expected = run(model, clip)
    allow_tf32(precision == "tf32")
    if precision == "bfloat16":
        model, clip = copy.deepcopy(model).bfloat16(), clip.bfloat16()
    once = functools.partial(run, torch.compile(model) if compiled else model, clip)
    report = _measure(once, size[0], device, repeats)
    return {**report, "relative_error": finite(relative_error(once(), expected), "the error of the logits")}


def measure_training(
    name: str, size: tuple[int, int, int], precision: str, compiled: bool, device: str, repeats: int
) -> dict[str, Any]:
    """
    As [`measure_inference`], of forward, loss, backward, clipping and update of one clip; "bfloat16" is autocast.
    `loss` instead of `relative_error`.

    Raises:
        ArithmeticError: the loss is not finite.
    """
    clear(device)
    model, clip = _model(name, device).train(), _clip(size, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)  # the default of the Trainer
    settings = argparse.Namespace(instances=INSTANCES, frames=size[0], height=size[1], width=size[2])
    labels = [{key: tensor.to(device) for key, tensor in make_labels(settings).items()}]
    run = torch.compile(model) if compiled else model
    allow_tf32(precision == "tf32")

    def step() -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = run(clip, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    try:
        return {**_measure(step, size[0], device, repeats), "loss": finite(step().item(), "the loss")}
    finally:
        optimizer.zero_grad()  # the model is kept


def _measure(once: Callable[[], Any], frames: int, device: str, repeats: int) -> dict[str, Any]:
    first = seconds(once, device)
    peak = peak_bytes(once, device)
    times = spread([seconds(once, device) for _ in range(repeats)])
    return {
        "frames": frames,
        "frames_per_s": frames / times["median"],
        "seconds": times,
        "first_call_s": first,
        "peak_bytes": peak,
    }


def allow_tf32(allowed: bool) -> None:
    """Let matrix products and convolutions of a GPU round float32 inputs to TensorFloat-32, or not."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


@functools.lru_cache(maxsize=1)
def _model(name: str, device: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return models.MODELS[name]().to(device)


def _clip(size: tuple[int, int, int], device: str) -> torch.Tensor:
    frames, height, width = size
    return torch.randn(1, frames, 3, height, width, generator=torch.Generator().manual_seed(0)).to(device)

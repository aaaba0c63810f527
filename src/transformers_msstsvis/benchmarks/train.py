"""One training step against the published computation (see `published.py`), same weights, clip and labels."""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from .. import SeqFormerConfig, SeqFormerForVideoInstanceSegmentation
from . import published
from .arithmetic import best_rates, counted_operations, seconds_at
from .timing import Stopwatch, compare, cpu_seconds, peak_growth, peak_in_new_process

FORWARD_PARTS = ("backbone", "encoder", "decoder", "masks, matching and losses")
PRECISIONS = {"ours": torch.float32, "bfloat16": torch.bfloat16}  # whose arithmetic is counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--height", type=int, default=352)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--instances", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--no_bfloat16", action="store_true", help="leave out the side in bfloat16 autocast")
    parser.add_argument("--compiled", action="store_true", help="also a side through torch.compile")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """
    Seconds, ratios, the losses of all sides (dropout is off, so that they can be compared), peak memory, the CPU
    seconds of every part of a step, those that the arithmetic of each takes here at least, and those of the first
    step, which holds what `torch.compile` takes.
    """
    watch = Stopwatch()
    sides = make_sides(arguments, watch)
    parts, first_step = {}, {}

    def keep_parts(side: str) -> float:
        watch.seconds.clear()
        start = cpu_seconds()
        loss = sides[side]()
        first_step.setdefault(side, cpu_seconds() - start)
        parts[side] = by_part(watch)
        return loss

    report = {
        "baseline": "own restatement of the published computation in plain PyTorch (published.py of this package)",
        "clip": [1, arguments.frames, 3, arguments.height, arguments.width],
        "loss": {side: keep_parts(side) for side in sides},
        "peak_bytes": {side: peak_in_new_process(peak_of_step, arguments, side) for side in sides},
        **compare({side: partial(keep_parts, side) for side in sides}, arguments.repeats),
        "parts_cpu_s": parts,  # of the last turn
        "first_step_cpu_s": first_step,
        "least": {side: least_of_step(arguments, side) for side in PRECISIONS if side in sides},
    }
    least = report["least"]
    return report | {
        "times_the_least": {side: report[side]["cpu_s"]["median"] / least[side]["cpu_s"] for side in least}
    }


def least_of_step(arguments: argparse.Namespace, side: str) -> dict[str, Any]:
    """The seconds in which this CPU does the products and convolutions of a step at its best, in all and by part."""
    rates = best_rates(dtype=PRECISIONS[side])
    with counted_operations() as operations:
        watch = Stopwatch(lambda: seconds_at(rates, operations()))
        make_sides(arguments, watch)[side]()
        return {"cpu_s": watch.clock(), "flop_per_s": rates, "parts_cpu_s": by_part(watch)}


def by_part(watch: Stopwatch) -> dict[str, float]:
    """Seconds of the parts of a step, those of the forward pass apart."""
    inner = sum(watch.seconds.get(name, 0.0) for name in FORWARD_PARTS)
    return {"rest of the forward pass": watch.seconds["forward"] - inner} | {
        name: seconds for name, seconds in watch.seconds.items() if name != "forward"
    }


def peak_of_step(arguments: argparse.Namespace, side: str) -> int | None:
    """Bytes above the loaded model, gradients and optimizer state included."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    return peak_growth(make_sides(arguments, Stopwatch())[side])


def make_sides(arguments: argparse.Namespace, watch: Stopwatch) -> dict[str, Callable[[], float]]:
    """One training step per side; each returns its loss."""
    torch.manual_seed(0)
    config = SeqFormerConfig(
        encoder_layers=arguments.layers, decoder_layers=arguments.layers, dropout=0.0, attention_dropout=0.0
    )
    model = SeqFormerForVideoInstanceSegmentation(config).train()
    torch_adamw = torch.optim.AdamW(model.parameters(), lr=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)  # the default of the Trainer
    for name in FORWARD_PARTS[:3]:
        watch.watch(getattr(model.model, name), "forward", name)
    for method in ("predict_mask_features", "compute_loss"):
        watch.watch(model, method, FORWARD_PARTS[3])
    clip = torch.randn(1, arguments.frames, 3, arguments.height, arguments.width)
    labels = [make_labels(arguments)]

    def step(autocast: bool = False, model: nn.Module = model, optimizer: torch.optim.Optimizer = optimizer) -> float:
        with watch.part("forward"), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(clip, labels=labels).loss
        with watch.part("backward"):
            loss.backward()
        with watch.part("clipping and update"):
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
        return loss.item()

    def published_step() -> float:
        with published.published(model):
            return step(optimizer=torch_adamw)

    sides = {"published": published_step, "ours": step}
    if not arguments.no_bfloat16:
        sides["bfloat16"] = lambda: step(True)
    if arguments.compiled:
        fast = SeqFormerForVideoInstanceSegmentation(config).train()
        fast.load_state_dict(model.state_dict())
        fast.compile()
        compiled_optimizer = torch.optim.AdamW(fast.parameters(), lr=0.0, fused=True)
        sides["compiled"] = partial(step, model=fast, optimizer=compiled_optimizer)
    return sides


def make_labels(arguments: argparse.Namespace) -> dict[str, torch.Tensor]:
    """Rectangles that move to the right, up to the edge."""
    n, T, H, W = arguments.instances, arguments.frames, arguments.height, arguments.width
    masks = torch.zeros(n, T, H, W, dtype=torch.bool)
    boxes = torch.empty(n, T, 4)
    height, width = H // 6, W // 6
    for i in range(n):
        for t in range(T):
            top, left = (i * H) // (n + 1), min((i * W) // (2 * n) + 8 * t, W - width)
            masks[i, t, top : top + height, left : left + width] = True
            boxes[i, t] = torch.tensor([(left + width / 2) / W, (top + height / 2) / H, width / W, height / H])
    return {"class_labels": torch.arange(n) % 2, "boxes": boxes, "masks": masks, "valid": masks.flatten(2).any(2)}

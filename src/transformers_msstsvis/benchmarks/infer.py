"""Inference of one clip against the published computation (see `published.py`), on the same random weights."""

import argparse
from typing import Any

import torch

from .. import SeqFormerConfig, SeqFormerForVideoInstanceSegmentation
from . import published
from .arithmetic import least_seconds
from .timing import compare, peak_growth, peak_in_new_process, relative_error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--frames", type=int, default=5, help="frames of the clip (default 5)")
    parser.add_argument("--height", type=int, default=360)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--layers", type=int, default=6, help="encoder and decoder layers (default 6)")
    parser.add_argument("--top_k", type=int, default=10, help="masks that our side computes (default 10)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory_frames", type=int, default=0, help="also the peak memory of a clip this long")
    parser.add_argument("--sides", nargs="+", choices=["bfloat16", "compiled"], default=[], help="further sides")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """
    Seconds, ratios, differences of the outputs, the least that the arithmetic takes here and how many times that each
    side takes, and peak memory above the loaded weights.
    """
    torch.manual_seed(0)
    config = SeqFormerConfig(encoder_layers=arguments.layers, decoder_layers=arguments.layers)
    model = SeqFormerForVideoInstanceSegmentation(config).eval().requires_grad_(False)
    clip = torch.randn(1, arguments.frames, 3, arguments.height, arguments.width)

    @torch.inference_mode()
    def ours(model=model, clip=clip, top_k=arguments.top_k):
        return model(clip, mask_top_k=top_k)

    sides = {"published": lambda: published.infer(model, clip), "ours": ours}
    if "bfloat16" in arguments.sides:
        half = SeqFormerForVideoInstanceSegmentation(config).eval()
        half.load_state_dict(model.state_dict())
        half = half.to(torch.bfloat16)
        sides["bfloat16"] = lambda: ours(half)
    if "compiled" in arguments.sides:
        fast = SeqFormerForVideoInstanceSegmentation(config).eval()
        fast.load_state_dict(model.state_dict())
        fast.model.backbone.compile(options={"freezing": True})
        sides["compiled"] = lambda: ours(fast)

    expected, given, least = published.infer(model, clip), ours(), least_seconds(ours)
    measured = compare(sides, arguments.repeats)
    kept = given.mask_query_indices[0]
    report = {
        "baseline": "own restatement of the published computation in plain PyTorch (published.py of this package)",
        "clip": list(clip.shape),
        "error": {
            "logits": relative_error(given.logits, expected["logits"]),
            "boxes": relative_error(given.pred_boxes, expected["pred_boxes"]),
            "masks": relative_error(given.pred_masks, expected["pred_masks"][:, kept]),
        },
        **measured,
        "least": least,
        "times_the_least": {
            side: measured[side]["cpu_s"]["median"] / least["cpu_s"] for side in ("published", "ours")
        },
    }
    if arguments.memory_frames:
        report["peak_bytes"] = {
            "frames": arguments.memory_frames,
            "ours": peak_in_new_process(peak_of_clip, arguments),
        }
    return report


def peak_of_clip(arguments: argparse.Namespace) -> int | None:
    """Bytes above the loaded model and the clip itself."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    config = SeqFormerConfig(encoder_layers=arguments.layers, decoder_layers=arguments.layers)
    model = SeqFormerForVideoInstanceSegmentation(config).eval().requires_grad_(False)
    clip = torch.randn(1, arguments.memory_frames, 3, arguments.height, arguments.width)
    with torch.inference_mode():
        return peak_growth(lambda: model(clip, mask_top_k=arguments.top_k))

"""
Mask logits to RLE against upsample, sigmoid, threshold, encode, frame by frame at full size. `--boxes`: masks of 28x28
that lie in boxes, against pasting all of them into whole frames first.
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pycocotools import mask as rle_codec
from torch.nn import functional as F

from ..results.mask_pasting import pasted_mask
from ..results.mask_resizing import resized_mask
from .timing import compare


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--instances", type=int, default=10)
    parser.add_argument("--frames", type=int, default=36)
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--boxes", action="store_true", help="masks in boxes instead of masks of whole frames")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds, ratio, and how many of the masks are the same to the byte."""
    size = (arguments.height, arguments.width)
    if arguments.boxes:
        return run_boxes(arguments, size)
    logits = blobs(arguments.instances, arguments.frames, 90, 160)

    def published() -> list:
        masks = []
        for instance in logits:
            full = F.interpolate(instance[None], size=size, mode="bilinear", align_corners=False)[0].sigmoid().numpy()
            for frame in full > 0.5:
                masks.append(rle_codec.encode(np.asfortranarray(frame.astype(np.uint8)))["counts"].decode())
        return masks

    def ours() -> list:
        return [resized_mask(frame, size) for instance in logits for frame in instance]

    baseline = "bilinear upsampling, sigmoid, > 0.5, F-order copy, pycocotools.encode"
    return _compared(baseline, published, ours, size, arguments.repeats)


def run_boxes(arguments: argparse.Namespace, size: tuple[int, int]) -> dict[str, Any]:
    """The same of masks in boxes of up to half of the frame's sides."""
    generator = torch.Generator().manual_seed(0)
    shape = (arguments.frames, arguments.instances)
    sides = torch.tensor([size[1], size[0]])
    first = torch.rand(*shape, 2, generator=generator) * 1.1 - 0.2
    boxes = torch.cat((first, first + 0.05 + 0.45 * torch.rand(*shape, 2, generator=generator)), dim=-1)
    boxes = boxes * sides.repeat(2)
    probability = blobs(*shape, 28, 28).sigmoid()

    def published() -> list:
        frames = [dense_masks(*frame, size) for frame in zip(probability, boxes, strict=True)]
        return [rle_codec.encode(np.asfortranarray(mask))["counts"].decode() for masks in frames for mask in masks]

    def ours() -> list:
        parts = zip(probability.flatten(0, 1), boxes.flatten(0, 1), strict=True)
        return [pasted_mask(*part, size) for part in parts]

    return _compared(
        "bilinear sampling of whole frames, >= 0.5, pycocotools.encode", published, ours, size, arguments.repeats
    )


def dense_masks(probability: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """All masks of a frame at full size, uint8 `(n, H, W)`: `probability (n, r, c)`, `boxes (n, 4)`."""
    left, top, right, bottom = boxes[:, :, None].unbind(1)
    y = (torch.arange(size[0]) + 0.5 - top) / (bottom - top) * 2 - 1
    x = (torch.arange(size[1]) + 0.5 - left) / (right - left) * 2 - 1
    shape = (len(boxes), *size)
    grid = torch.stack((x[:, None].expand(shape), y[:, :, None].expand(shape)), dim=-1)
    return (F.grid_sample(probability[:, None], grid, align_corners=False)[:, 0] >= 0.5).numpy().astype(np.uint8)


def _compared(
    baseline: str, published: Callable, ours: Callable, size: tuple[int, int], repeats: int
) -> dict[str, Any]:
    empty = rle_codec.encode(np.zeros(size, dtype=np.uint8, order="F"))["counts"].decode()
    equal = [a == (empty if b is None else b["counts"]) for a, b in zip(published(), ours(), strict=True)]
    return {
        "baseline": baseline,
        "masks": len(equal),
        "equal_to_the_byte": sum(equal),
        **compare({"published": published, "ours": ours}, repeats),
    }


def blobs(instances: int, frames: int, height: int, width: int) -> torch.Tensor:
    """Logits `(instances, frames, height, width)` of noisy blobs of about 5 % of the frame that move."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    start = torch.rand(instances, 2, generator=generator) * torch.tensor([height * 0.6, width * 0.6])
    step = torch.rand(instances, 2, generator=generator)
    centre = start[:, None] + step[:, None] * torch.arange(frames)[:, None] + 15  # (instances, frames, 2)
    distance = torch.hypot(y - centre[..., 0, None, None], x - centre[..., 1, None, None])
    return 0.15 * height - distance + torch.randn(instances, frames, height, width, generator=generator)

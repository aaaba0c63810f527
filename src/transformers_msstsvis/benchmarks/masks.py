"""Mask logits to RLE against upsample, sigmoid, threshold, encode, frame by frame at full size."""

import argparse
from typing import Any

import numpy as np
import torch
from pycocotools import mask as rle_codec
from torch.nn import functional as F

from ..results.mask_resizing import resized_mask
from .timing import compare


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--instances", type=int, default=10)
    parser.add_argument("--frames", type=int, default=36)
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--repeats", type=int, default=3)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds, ratio, and how many of the masks are the same to the byte."""
    size = (arguments.height, arguments.width)
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

    empty = rle_codec.encode(np.zeros(size, dtype=np.uint8, order="F"))["counts"].decode()
    equal = [a == (empty if b is None else b["counts"]) for a, b in zip(published(), ours(), strict=True)]
    return {
        "baseline": "bilinear upsampling, sigmoid, > 0.5, F-order copy, pycocotools.encode",
        "masks": len(equal),
        "equal_to_the_byte": sum(equal),
        **compare({"published": published, "ours": ours}, arguments.repeats),
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

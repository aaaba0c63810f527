"""Clips to a batch."""

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from transformers import BaseVideoProcessor


class ClipCollator:
    """
    Clips to one batch of the models' contract, normalised as the processor of the model does it, and padded bottom
    right to common multiples of a number and in time. Labels carry the `video_id` of their clip, a tensor without
    axes, if it has one.

    Args:
        processor: of the model; mean and deviation of the pixels in `[0, 1]`, per channel, are its `image_mean` and
            `image_std`.
        size_divisor: height and width of the batch are multiples of it, or of the `size_divisor` of the processor if
            that has one; 32 as published.
    """

    def __init__(self, processor: "BaseVideoProcessor", size_divisor: int = 32):
        self.mean, self.std = (
            torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std)
        )
        self.size_divisor = getattr(processor, "size_divisor", None) or size_divisor

    def __call__(self, clips: list[dict]) -> dict:
        shapes = [clip["frames"].shape for clip in clips]
        T = max(shape[0] for shape in shapes)
        H, W = (-(-max(shape[axis] for shape in shapes) // self.size_divisor) * self.size_divisor for axis in (2, 3))
        pixels = torch.zeros(len(clips), T, 3, H, W)
        pixel_mask = torch.zeros(len(clips), T, H, W, dtype=torch.int64)
        labels = []
        for row, clip in enumerate(clips):
            t, _, h, w = clip["frames"].shape
            pixels[row, :t, :, :h, :w].copy_(clip["frames"]).div_(255).sub_(self.mean).div_(self.std)
            pixel_mask[row, :t, :h, :w] = 1
            target = clip["labels"]
            labels.append(
                {
                    "class_labels": target["class_labels"],
                    "boxes": F.pad(target["boxes"], (0, 0, 0, T - t)),
                    "masks": F.pad(target["masks"], (0, W - w, 0, H - h, 0, T - t)),
                    "valid": F.pad(target["valid"], (0, T - t)),
                }
            )
            if "video_id" in clip:
                labels[-1]["video_id"] = torch.tensor(clip["video_id"])
        return {"pixel_values_videos": pixels, "pixel_mask": pixel_mask, "labels": labels}

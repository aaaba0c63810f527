"""The resizing with which TeViT was trained and tested: that of OpenCV, on bytes.

Letters: H W height and width of the frames, h w those of the result.
"""

import numpy as np
import torch
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from transformers.image_utils import PILImageResampling, SizeDict

BILINEAR = (None, PILImageResampling.BILINEAR, InterpolationMode.BILINEAR)
WEIGHT_BITS = 11  # of the bilinear weights of OpenCV


def rounded_size(frame: tuple[int, int], size: SizeDict) -> tuple[int, int]:
    """Height and width of a frame `(H, W)` within a shortest and a longest edge, rounded half up."""
    scale = size.shortest_edge / min(frame)
    if size.longest_edge:
        scale = min(scale, size.longest_edge / max(frame))
    return tuple(max(int(side * scale + 0.5), 1) for side in frame)


def _neighbours(length: int, target: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The two pixels between which every pixel of the result lies, and their weights in 1/2048, both `(2, target)`.
    Beyond the border both are the last pixel.
    """
    place = ((torch.arange(target, device=device, dtype=torch.float64) + 0.5) * (length / target) - 0.5).float()
    first = place.floor()
    part = place - first
    weights = (torch.stack((1 - part, part)) * 2**WEIGHT_BITS).round().int()
    return torch.stack((first, first + 1)).long().clamp(0, length - 1), weights


def bilinear(frames: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """
    Frames `(..., H, W)` of bytes to `(..., h, w)` as OpenCV's bilinear `resize` gives them, without antialiasing; of
    floats the same without its rounding.
    """
    if frames.shape[-2:] == size:
        return frames
    if frames.is_floating_point():
        planes = frames.flatten(0, -3)[None]
        return F.interpolate(planes, size=size, mode="bilinear", align_corners=False)[0].unflatten(
            0, frames.shape[:-2]
        )
    (top, bottom), row_weights = _neighbours(frames.shape[-2], size[0], frames.device)
    (left, right), column_weights = _neighbours(frames.shape[-1], size[1], frames.device)

    def resized(plane: torch.Tensor) -> torch.Tensor:
        wide = plane.int()
        rows = (wide[:, left] * column_weights[0] + wide[:, right] * column_weights[1]) >> 4  # (H, w)
        halves = zip((top, bottom), row_weights, strict=True)
        upper, lower = ((rows[row] * weight[:, None]) >> 16 for row, weight in halves)
        return ((upper + lower + 2) >> 2).to(frames.dtype)

    planes = frames.flatten(0, -3)
    return torch.stack([resized(plane) for plane in planes]).unflatten(0, frames.shape[:-2])


class TevitInput:
    """What the processors of videos and images do: resizing as above, padding to multiples of 32."""

    size_divisor = 32

    def resize(self, image, size: SizeDict, resample=None, **kwargs):
        """
        A tensor or array `(..., H, W)` of frames. Sizes but a shortest edge, and other filters than the bilinear one,
        are those of every processor.
        """
        if size.shortest_edge:
            size = SizeDict(**dict(zip(("height", "width"), rounded_size(image.shape[-2:], size), strict=True)))
        if resample not in BILINEAR or not size.height:
            return super().resize(image, size=size, resample=resample, **kwargs)
        resized = bilinear(torch.as_tensor(image), (size.height, size.width))
        return resized.numpy() if isinstance(image, np.ndarray) else resized

"""Clips made of single images, to train on data sets of stills such as COCO.

Letters: T frames, n instances, H W pixels.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from .augmentation import shift_hue
from .clips import VideoClips

# Names of COCO where the data sets of videos have another one, for `JointClips(renames=...)`. COCO's mouse is a
# computer mouse, theirs an animal.
COCO_TO_YTVIS_2019 = {"bicycle": "motorbike", "motorcycle": "motorbike", "car": "sedan", "mouse": None}
COCO_TO_YTVIS_2021 = {"bicycle": "motorbike", "motorcycle": "motorbike", "mouse": None}
COCO_TO_OVIS = {"car": "Vehical", "bus": "Vehical", "truck": "Vehical"}


@dataclass(frozen=True)
class StillMotion:
    """
    Makes a clip of an image: the image itself and T - 1 copies of it, each turned, shifted, seen from another side,
    of other colours and sometimes blurred, in random order. As published for SeqFormer and MS-STS VIS (from STEm-Seg),
    except that masks keep overlapping in the copies, where the published code lets the later object win.

    Args:
        rotation: largest angle in degrees.
        translation: largest shift, as a fraction of height and width; the same fraction for both.
        perspective: deviation of the half-normal inward shift of each corner, as a fraction of height and width.
        brightness: largest change of the values in 0..255.
        hue_saturation: largest change of hue and saturation, in 255ths of their range.
        blur_probability, blur_kernels: of motion blur, and its lengths in pixels, of which one is drawn.
    """

    rotation: float = 20.0
    translation: float = 0.1
    perspective: float = 0.08
    brightness: float = 40.0
    hue_saturation: float = 5.0
    blur_probability: float = 0.25
    blur_kernels: tuple[int, ...] = (9, 11)

    def __call__(
        self, image: torch.Tensor, masks: torch.Tensor, num_frames: int, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        An image `(3, H, W)` uint8 and masks `(n, H, W)` bool to frames `(T, 3, H, W)` and masks `(n, T, H, W)`. What
        lies outside of the image is black.
        """
        shown = rng.integers(num_frames)
        copies = [(image, masks) if t == shown else self._copy(image, masks, rng) for t in range(num_frames)]
        frames, masks = zip(*copies, strict=True)
        return torch.stack(frames), torch.stack(masks, dim=1)

    def _copy(
        self, image: torch.Tensor, masks: torch.Tensor, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        corners = self._draw_corners(*image.shape[-2:], rng)
        image = F.perspective(self._change_colours(image, rng), *corners, InterpolationMode.BILINEAR)
        masks = F.perspective(masks.to(torch.uint8), *corners, InterpolationMode.NEAREST).bool()
        if rng.random() < self.blur_probability:
            image = motion_blur(image, int(rng.choice(self.blur_kernels)), rng.uniform(0, 180))
        return image, masks

    def _draw_corners(self, height: int, width: int, rng: np.random.Generator) -> tuple[list, list]:
        """Four points of the image, clockwise from top left, and where they come to lie: `[x, y]` each."""
        size = np.array([width, height])
        inward = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
        frame = np.where(inward > 0, 0, size - 1)
        # The corners of the frame show what lies inside the image; half way in, the picture would turn inside out.
        points = frame + inward * np.minimum(np.abs(rng.normal(0, self.perspective, (4, 2))), 0.45) * size
        angle = np.deg2rad(rng.uniform(-self.rotation, self.rotation))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        centre = (size - 1) / 2
        moved = (frame - centre) @ turn.T + centre + rng.uniform(-self.translation, self.translation) * size
        # Fractions of pixels are fine: torchvision declares integers, but solves for the homography in floats.
        return points.tolist(), moved.tolist()

    def _change_colours(self, image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        brighten, tint = ((True, True), (True, False), (False, True))[rng.integers(3)]
        pixels = image.float()
        if brighten:
            pixels = (pixels + rng.uniform(-self.brightness, self.brightness)).clamp_(0, 255)
        if tint:
            change = rng.uniform(-self.hue_saturation, self.hue_saturation) / 255
            pixels = shift_hue(F.adjust_saturation(pixels / 255, 1 + change) * 255, 360 * change)
        return pixels.round_().to(torch.uint8)


def motion_blur(image: torch.Tensor, length: int, degrees: float) -> torch.Tensor:
    """An image `(3, H, W)` uint8 smeared along a line of `length` pixels (odd) in the given direction."""
    line = torch.zeros(1, length, length)
    line[0, length // 2] = 1
    kernel = F.rotate(line, degrees, InterpolationMode.BILINEAR)
    kernel = (kernel / kernel.sum()).expand(3, 1, -1, -1)
    padded = torch.nn.functional.pad(image.float()[None], (length // 2,) * 4, mode="replicate")
    return torch.nn.functional.conv2d(padded, kernel, groups=3)[0].round().to(torch.uint8)


class PseudoClips(VideoClips):
    """
    Clips that [`StillMotion`] makes of single images: those of a data set of stills, or every frame of videos. Items
    and errors are those of [`VideoClips`].

    Args:
        stills: annotation file, or data set as of [`load_vis_dataset`].
        motion: how the frames of a clip differ; as published by default.
        max_instances: leave out images with more instances, as published; those without any are left out too.
        args, kwargs: of [`VideoClips`], but for `sampling` and `stride`. Published is
            `augmentation=ClipAugmentation(photometric_probability=0)`, since the colours of the frames differ already.
    """

    def __init__(
        self,
        stills: str | Path | Dataset,
        *args,
        motion: StillMotion | None = None,
        max_instances: int = 25,
        **kwargs,
    ):
        super().__init__(stills, *args, sampling="published", **kwargs)  # every frame has an index of its own
        self.motion = motion or StillMotion()
        instances = self.num_instances()
        self._index(np.where((instances > 0) & (instances <= max_instances), self.lengths, 0))
        if not len(self):
            raise ValueError(f"no image has between 1 and {max_instances} instances; expected at least one")

    def _read(self, row: int, key_frame: int, rng: np.random.Generator) -> tuple[torch.Tensor, ...]:
        pixels, masks, classes = self.read(row, np.array([key_frame]))
        frames, masks = self.motion(pixels[0], masks[:, 0], self.num_frames, rng)
        return frames, masks, classes

"""Augmentation of clips: the geometry is drawn once per clip, the colours frame by frame.

Letters: T frames, n instances, H W pixels.
"""

from dataclasses import asdict, dataclass, fields

import numpy as np
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F


@dataclass(frozen=True)
class ClipAugmentation:
    """
    The augmentation that SeqFormer and MS-STS VIS were trained with, in their order of drawing: mirror, distort the
    colours, crop or not, resize.

    The published code differs in what is no part of the method, and is not followed there: it casts distorted colours
    to 8 bits without clipping, so that bright pixels turn dark, which are clipped here; it resizes a clip up to three
    times in a row (resize, crop, resize), which is one resampling here, of the same part to the same size; and it
    distorts colours before it resizes, here after, on fewer pixels. It converts RGB as if it were BGR, which mirrors
    the circle of hues and so makes no difference.

    Args:
        scale: multiplies all sizes in pixels, for models that are trained on smaller frames.
        flip_probability: to mirror the clip.
        photometric_probability: of each of the colour changes of a frame.
        brightness: largest change of the values in 0..255.
        contrast, saturation: lowest and highest factor. Contrast is changed before or after saturation and hue.
        hue: largest change in degrees.
        permute_channels: whether to put the channels in random order as well.
        short_sides: one of them, in pixels, becomes the shorter side of the frames.
        max_long_side: the longer side stays within it, if need be with a smaller shorter side; None for no limit.
        crop_probability: to cut a part out first.
        crop_short_sides, crop_sizes: the part has height and width between the two `crop_sizes`, in pixels of frames
            whose shorter side has one of `crop_short_sides`.

    Raises:
        ValueError: for probabilities outside 0..1, empty or reversed ranges, and sizes that aren't positive.
    """

    scale: float = 1.0
    flip_probability: float = 0.5
    photometric_probability: float = 0.5
    brightness: float = 32.0
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: float = 18.0
    permute_channels: bool = True
    short_sides: tuple[int, ...] = (288, 320, 352, 392, 416, 448, 480, 512)
    max_long_side: int | None = 768
    crop_probability: float = 0.5
    crop_short_sides: tuple[int, ...] = (400, 500, 600)
    crop_sizes: tuple[int, int] = (384, 600)

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):  # JSON knows no tuples
                value = tuple(value)
                object.__setattr__(self, field.name, value)
            default = field.default
            numbers = value if isinstance(value, tuple) else (value,)
            fits = isinstance(value, tuple) == isinstance(default, tuple) and all(
                isinstance(number, int | float) for number in numbers
            )
            if not fits and not (value is None and field.name == "max_long_side"):
                kind = "a list of numbers" if isinstance(default, tuple) else "a number"
                raise ValueError(f"{field.name} is {value!r}; expected {kind}")
            if field.name.endswith("probability") and not 0 <= value <= 1:
                raise ValueError(f"{field.name} is {value}; expected 0 to 1")
        for name in ("contrast", "saturation", "crop_sizes"):
            value = getattr(self, name)
            if len(value) != 2 or not 0 < value[0] <= value[1]:
                raise ValueError(f"{name} is {value}; expected two positive numbers, the lower one first")
        for name in ("short_sides", "crop_short_sides"):
            value = getattr(self, name)
            if not value or min(value) <= 0:
                raise ValueError(f"{name} is {value}; expected at least one size, all positive")
        for name in ("scale", "max_long_side"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}; expected a positive number")
        if not 0 <= self.hue <= 180:
            raise ValueError(f"hue is {self.hue}; expected 0 to 180 degrees")

    @classmethod
    def from_dict(cls, values: dict) -> "ClipAugmentation":
        """
        From a dict, such as a part of a JSON recipe; what it leaves out is as published.

        Raises:
            ValueError: for unknown names, besides the class's own.
        """
        unknown = sorted(values.keys() - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"unknown {unknown}; expected some of {[field.name for field in fields(cls)]}")
        return cls(**values)

    def to_dict(self) -> dict:
        """All values, for JSON."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    def __call__(
        self, frames: torch.Tensor, masks: torch.Tensor, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Frames `(T, 3, H, W)` uint8 and masks `(n, T, H, W)` bool, augmented alike. Masks of instances that a crop has
        cut off come back empty.
        """
        if rng.random() < self.flip_probability:
            frames, masks = frames.flip(-1), masks.flip(-1)
        if rng.random() < self.crop_probability:
            top, left, height, width = self._draw_part(*frames.shape[-2:], rng)
            frames, masks = (x[..., top : top + height, left : left + width] for x in (frames, masks))
        short_side = rng.choice(self.short_sides) * self.scale
        limit = None if self.max_long_side is None else self.max_long_side * self.scale
        size = resized_size(*frames.shape[-2:], short_side, limit)
        frames, masks = resize_clip(frames, masks, size)
        return self.distort_colours(frames, rng), masks

    def _draw_part(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Top, left, height and width of the part to cut out, in pixels of the frames as they are."""
        ratio = rng.choice(self.crop_short_sides) * self.scale / min(height, width)
        part = []
        for side in (height, width):
            low, high = (min(bound * self.scale, side * ratio) for bound in self.crop_sizes)
            size = min(max(round(rng.uniform(low, high) / ratio), 1), side)
            part.append((int(rng.integers(0, side - size + 1)), size))
        (top, height), (left, width) = part
        return top, left, height, width

    def distort_colours(self, frames: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Frames `(T, 3, H, W)` uint8, every one with other brightness, contrast, saturation, hue and channels."""
        if self.photometric_probability == 0:
            return frames
        T = len(frames)

        def draw(low: float, high: float, unchanged: float) -> torch.Tensor:
            chosen = rng.random(T) < self.photometric_probability
            values = np.where(chosen, rng.uniform(low, high, T), unchanged)
            return torch.from_numpy(values).float().view(T, 1, 1, 1)

        brightness, contrast = draw(-self.brightness, self.brightness, 0), draw(*self.contrast, 1)
        saturation, hue = draw(*self.saturation, 1), draw(-self.hue, self.hue, 0)
        contrast_first = torch.from_numpy(rng.random(T) < 0.5).view(T, 1, 1, 1)
        order = np.tile(np.arange(3), (T, 1))
        permuted = rng.random(T) < self.photometric_probability * self.permute_channels
        order[permuted] = rng.permuted(order, axis=1)[permuted]

        pixels = (frames.float() + brightness).clamp_(0, 255)
        pixels = pixels.mul_(torch.where(contrast_first, contrast, 1)).clamp_(0, 255)
        pixels = scale_saturation(pixels, saturation)
        pixels = torch.stack(list(map(shift_hue, pixels, hue.flatten().tolist())))
        pixels = pixels.mul_(torch.where(contrast_first, 1, contrast)).clamp_(0, 255)
        return pixels[torch.arange(T)[:, None], torch.from_numpy(order)].round_().to(torch.uint8)


def resized_size(height: int, width: int, short_side: float, max_long_side: float | None = None) -> tuple[int, int]:
    """
    Height and width of a frame resized to a shorter side, as published: the longer side is rounded down, and where it
    would exceed its limit, the shorter side is the one that fits, rounded.
    """
    short, long = sorted((height, width))
    if max_long_side is not None and short_side * long / short > max_long_side:
        short_side = max_long_side * short / long
    short_side = max(round(short_side), 1)
    long_side = max(int(short_side * long / short), 1)
    return (short_side, long_side) if height <= width else (long_side, short_side)


def resize_clip(
    frames: torch.Tensor, masks: torch.Tensor, size: tuple[int, int] | list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames `(T, 3, H, W)` resized with antialiasing and masks `(n, T, H, W)` to the nearest pixel."""
    frames = F.resize(frames, size, antialias=True)
    resized = F.resize(masks.flatten(0, 1), frames.shape[-2:], InterpolationMode.NEAREST_EXACT)
    return frames, resized.unflatten(0, masks.shape[:2])


def scale_saturation(pixels: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """
    Pixels `(..., 3, H, W)`, values from 0, with the saturation of HSV times `factor` (broadcast), up to full
    saturation; hue and value stay.
    """
    value = pixels.amax(-3, keepdim=True)
    full = value / (value - pixels.amin(-3, keepdim=True)).clamp_min(1e-6)
    return value - (value - pixels) * torch.minimum(factor.expand_as(full), full)


def shift_hue(frame: torch.Tensor, degrees: float) -> torch.Tensor:
    """One frame `(3, H, W)`, float values in 0..255, with its hue turned by -180 to 180 degrees."""
    return F.adjust_hue(frame / 255, degrees / 360) * 255 if degrees else frame

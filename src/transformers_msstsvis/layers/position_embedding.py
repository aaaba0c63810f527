"""Sine position embeddings over places and over time.

Letters: N frames, T frames of a video, H W pixels, C channels.
"""

import math

import torch


def _sine(positions: torch.Tensor, channels: int, temperature: float = 10000.0) -> torch.Tensor:
    """Interleaved sine and cosine of `positions (...)` at `channels` / 2 frequencies: `(..., channels)`, float32."""
    index = torch.arange(channels, dtype=torch.float32, device=positions.device)
    frequency = temperature ** (2 * torch.div(index, 2, rounding_mode="floor") / channels)
    angles = positions[..., None] / frequency  # (..., channels)
    return torch.stack((angles[..., 0::2].sin(), angles[..., 1::2].cos()), dim=-1).flatten(-2)


def sine_position_embedding(pixel_mask: torch.Tensor, channels: int) -> torch.Tensor:
    """
    Position embedding of every place of a feature map, the first half of the channels for y, the second for x.

    Places count from 0.5 at the first real pixel to the number of real pixels, scaled to `[0, 2 pi]` (Deformable
    DETR).

    Args:
        pixel_mask: `(N, H, W)` bool, True = real pixel.
        channels: number of channels, a multiple of 4.

    Returns:
        `(N, H, W, channels)` float32.
    """
    real = pixel_mask.float()
    y, x = real.cumsum(1), real.cumsum(2)
    y = (y - 0.5) / (y[:, -1:, :] + 1e-6) * 2 * math.pi
    x = (x - 0.5) / (x[:, :, -1:] + 1e-6) * 2 * math.pi
    return torch.cat((_sine(y, channels // 2), _sine(x, channels // 2)), dim=-1)


def sine_frame_embedding(num_frames: int, channels: int, device: torch.device) -> torch.Tensor:
    """Embedding of the frame index: `(num_frames, channels)` float32."""
    return _sine(torch.arange(num_frames, dtype=torch.float32, device=device), channels)

"""Sine position embeddings over places and over time.

Letters: N frames, T frames of a video, H W pixels, C channels.
"""

import math

import torch


def sine_embedding(positions: torch.Tensor, channels: int, temperature: float = 10000.0) -> torch.Tensor:
    """Interleaved sine and cosine of `positions (...)` at `channels` / 2 frequencies: `(..., channels)`, float32."""
    index = torch.arange(channels, dtype=torch.float32, device=positions.device)
    frequency = temperature ** (2 * torch.div(index, 2, rounding_mode="floor") / channels)
    angles = positions[..., None] / frequency  # (..., channels)
    return torch.stack((angles[..., 0::2].sin(), angles[..., 1::2].cos()), dim=-1).flatten(-2)


def sine_position_embedding(pixel_mask: torch.Tensor, channels: int, offset: float = -0.5) -> torch.Tensor:
    """
    Position embedding of every place of a feature map, the first half of the channels for y, the second for x.

    Real pixels count from 1 plus `offset`, divided by their number and scaled to `[0, 2 pi]` (Deformable DETR, whose
    offset is -0.5; DETR has none).

    Args:
        pixel_mask: `(N, H, W)` bool, True = real pixel.
        channels: number of channels, a multiple of 4.
        offset: added to the numbers of rows and columns.

    Returns:
        `(N, H, W, channels)` float32.
    """
    real = pixel_mask.float()
    y, x = real.cumsum(1), real.cumsum(2)
    y = (y + offset) / (y[:, -1:, :] + 1e-6) * 2 * math.pi
    x = (x + offset) / (x[:, :, -1:] + 1e-6) * 2 * math.pi
    return torch.cat((sine_embedding(y, channels // 2), sine_embedding(x, channels // 2)), dim=-1)


def sine_frame_embedding(num_frames: int, channels: int, device: torch.device) -> torch.Tensor:
    """Embedding of the frame index: `(num_frames, channels)` float32."""
    return sine_embedding(torch.arange(num_frames, dtype=torch.float32, device=device), channels)

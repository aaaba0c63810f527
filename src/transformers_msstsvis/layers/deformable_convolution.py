"""Deformable convolution: a convolution whose taps move, by as much as another convolution says, place by place.

Letters: N maps, C channels in, D channels out, H W places, k taps a side.
"""

import torch
from torch import nn
from torch.nn import functional as F


class DeformableConv2d(nn.Module):
    """
    Deformable convolution without bias (version 1), of an odd kernel that keeps the size of the map. A 1x1 convolution
    of the same input gives the offsets, first vertical, then horizontal, tap after tap.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        self.offsets = nn.Conv2d(in_channels, 2 * kernel_size**2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(N, C, H, W)` to `(N, D, H, W)`."""
        return deformable_convolution(x, self.offsets(x), self.weight)


def deformable_convolution(x: torch.Tensor, offsets: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """
    Deformable convolution with zeros beyond the map, by torchvision. Inference on a CPU, where that is a loop in one
    thread, multiplies first and samples afterwards, which commute: half of the places to read, and in vectors.

    Args:
        x: `(N, C, H, W)`.
        offsets: `(N, 2 k k, H, W)` in places, y and x of every tap, row by row.
        weight: `(D, C, k, k)` with odd k.

    Returns:
        `(N, D, H, W)`.
    """
    size = weight.shape[-1]
    if x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return _sampled_products(x, offsets, weight)
    from torchvision.ops import deform_conv2d  # importing torchvision takes a second

    return deform_conv2d(x, offsets.to(x.dtype), weight, padding=size // 2)


def _sampled_products(x: torch.Tensor, offsets: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    (N, _, H, W), (D, C, size, _) = x.shape, weight.shape
    products = F.conv2d(x, weight.permute(2, 3, 0, 1).reshape(-1, C, 1, 1))  # (N, k k D, H, W)
    taps = torch.arange(size, device=x.device) - size // 2
    offsets = offsets.to(torch.promote_types(offsets.dtype, torch.float32))
    y, x = offsets.unflatten(1, (size, size, 2)).unbind(3)  # (N, k, k, H, W) each
    y = y + taps.view(-1, 1, 1, 1) + torch.arange(H, device=x.device).view(-1, 1)
    x = x + taps.view(-1, 1, 1) + torch.arange(W, device=x.device)
    grid = torch.stack(((2 * x + 1) / W - 1, (2 * y + 1) / H - 1), dim=-1)  # (N, k, k, H, W, 2), borders at -1 and 1
    maps = products.contiguous().view(-1, D, H, W)
    sampled = F.grid_sample(maps, grid.view(-1, H, W, 2).to(maps.dtype), align_corners=False)
    return sampled.view(N, size**2, D, H, W).sum(1)

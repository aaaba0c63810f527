"""Deformable convolution: a convolution whose taps move, by as much as another convolution says, place by place.

Letters: N maps, C channels in, D channels out, H W places, k taps a side.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init


class DeformableConv2d(nn.Module):
    """
    Deformable convolution without bias (version 1), of an odd kernel that keeps the size of the map. A 1x1 convolution
    of the same input gives the offsets, first vertical, then horizontal, tap after tap.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        self.offsets = nn.Conv2d(in_channels, 2 * kernel_size**2, 1)

    def init_layer_weights(self) -> None:
        """Taps start in their places."""
        init.kaiming_uniform_(self.weight, a=1)
        init.zeros_(self.offsets.weight)
        init.zeros_(self.offsets.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(N, C, H, W)` to `(N, D, H, W)`."""
        return deformable_convolution(x, self.offsets(x), self.weight)


class ModulatedDeformableConv2d(nn.Module):
    """
    Modulated deformable convolution without bias (version 2) of a 3x3 kernel: beside its place, every tap has a weight
    from 0 to 2. 3x3 convolutions of the same input give both.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        self.offsets = nn.Conv2d(in_channels, 18, 3, padding=1)
        self.modulation = nn.Conv2d(in_channels, 9, 3, padding=1)

    def init_layer_weights(self) -> None:
        """Taps start in their places and count 1."""
        init.kaiming_uniform_(self.weight, a=1)
        for layer in (self.offsets, self.modulation):
            init.zeros_(layer.weight)
            init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor, maps: torch.Tensor | None = None) -> torch.Tensor:
        """
        `x (N, C, h, w)`, or `x` of every frame and `maps (N k, M, h, w)` of its instances, which are convolved as if
        concatenated along the channels: `(N, D, h, w)` or `(N k, D, h, w)`.
        """
        if maps is not None:
            x = torch.cat((x.repeat_interleave(len(maps) // len(x), dim=0), maps), dim=1)
        return deformable_convolution(x, self.offsets(x), self.weight, 2 * self.modulation(x).sigmoid())


def deformable_convolution(
    x: torch.Tensor, offsets: torch.Tensor, weight: torch.Tensor, modulation: torch.Tensor | None = None
) -> torch.Tensor:
    """
    Deformable convolution with zeros beyond the map, by torchvision. Inference on a CPU, where that is a loop in one
    thread, multiplies first and samples afterwards, which commute: half of the places to read, and in vectors.

    Args:
        x: `(N, C, H, W)`.
        offsets: `(N, 2 k k, H, W)` in places, y and x of every tap, row by row.
        weight: `(D, C, k, k)` with odd k.
        modulation: `(N, k k, H, W)` what every tap counts; 1 by default.

    Returns:
        `(N, D, H, W)`.
    """
    size = weight.shape[-1]
    if x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_exporting():
        return _sampled_products(x, offsets, weight, modulation)
    from torchvision.ops import deform_conv2d  # importing torchvision takes a second

    # which knows no bfloat16; half precision would move the taps, too
    wide = torch.promote_types(x.dtype, torch.float32)
    mask = None if modulation is None else modulation.to(wide)
    return deform_conv2d(x.to(wide), offsets.to(wide), weight.to(wide), padding=size // 2, mask=mask).to(x.dtype)


def _sampled_products(
    x: torch.Tensor, offsets: torch.Tensor, weight: torch.Tensor, modulation: torch.Tensor | None
) -> torch.Tensor:
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
    sampled = sampled.view(N, size**2, D, H, W)
    return (sampled if modulation is None else sampled * modulation[:, :, None]).sum(1)

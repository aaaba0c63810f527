"""Samples a random feature pyramid with the kernel from the Hub, and checks it against the same in plain PyTorch."""

import sys

import torch
from torch.nn import functional as F

from kernels import get_kernel

SHAPES = [(45, 80), (23, 40)]


def in_pytorch(value, locations, weights):
    batch, _, heads, channels = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    output = 0
    for level, pixels in enumerate(value.split([height * width for height, width in SHAPES], dim=1)):
        image = pixels.permute(0, 2, 3, 1).reshape(batch * heads, channels, *SHAPES[level])
        grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).reshape(batch * heads, queries, points, 2)
        weight = weights[:, :, :, level].transpose(1, 2).reshape(batch * heads, 1, queries, points)
        output = output + (F.grid_sample(image, grid, align_corners=False) * weight).sum(-1)
    return output.reshape(batch, heads * channels, queries).transpose(1, 2)


def main(repository: str) -> None:
    kernel = get_kernel(repository, version=1, trust_remote_code=[repository])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    value = torch.randn(1, sum(height * width for height, width in SHAPES), 8, 32, device=device)
    locations = torch.rand(1, 300, 8, len(SHAPES), 4, 2, device=device)
    weights = torch.rand(1, 300, 8, len(SHAPES), 4, device=device).flatten(3).softmax(-1).view(1, 300, 8, -1, 4)
    sides = [side for shape in SHAPES for side in shape]
    output = kernel.multi_scale_deformable_attention(value, sides, locations, weights)
    difference = (output - in_pytorch(value, locations, weights)).abs().max().item()
    print(f"{tuple(output.shape)} on {device}; largest difference to PyTorch {difference:.1e}")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Tests of a built kernel, against bilinear sampling with grid_sample; run them where it can be imported."""

import pytest
import torch
from torch.nn import functional as F

kernel = pytest.importorskip("multi_scale_deformable_attention")

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]
SHAPES = [(6, 5), (3, 3), (1, 2)]
SIDES = [side for shape in SHAPES for side in shape]


def formula(value, locations, weights):
    batch, _, heads, channels = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    output = 0
    for level, pixels in enumerate(value.split([height * width for height, width in SHAPES], dim=1)):
        image = pixels.permute(0, 2, 3, 1).reshape(batch * heads, channels, *SHAPES[level])
        grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).reshape(batch * heads, queries, points, 2)
        weight = weights[:, :, :, level].transpose(1, 2).reshape(batch * heads, 1, queries, points)
        output = output + (F.grid_sample(image, grid, align_corners=False) * weight).sum(-1)
    return output.reshape(batch, heads * channels, queries).transpose(1, 2)


def make_inputs(channels, queries):
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(2, 41, 4, channels, generator=generator)
    locations = torch.rand(2, queries, 4, 3, 4, 2, generator=generator) * 1.4 - 0.2
    weights = torch.rand(2, queries, 4, 3, 4, generator=generator)
    return value, locations, weights


@pytest.mark.kernels_ci
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("channels", "queries"), [(32, 7), (32, 41), (8, 300), (13, 5)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)])
def test_forward_and_backward(device, channels, queries, dtype, tolerance):
    value, locations, weights = make_inputs(channels, queries)
    value = value.to(dtype)
    results = []
    for function, kind, where in (
        (formula, torch.float64, "cpu"),
        (lambda v, l, w: kernel.multi_scale_deformable_attention(v, SIDES, l, w), None, device),
    ):
        inputs = [tensor.to(where, kind or tensor.dtype).requires_grad_() for tensor in (value, locations, weights)]
        output = function(*inputs)
        results.append([output, *torch.autograd.grad(output.sum(), inputs)])
    for expected, given in zip(*results, strict=True):
        torch.testing.assert_close(given.double().cpu(), expected, rtol=tolerance, atol=tolerance * 10)


@pytest.mark.parametrize("device", DEVICES)
def test_operators_pass_opcheck(device):
    value, locations, weights = (tensor.to(device).requires_grad_() for tensor in make_inputs(8, 5))
    torch.library.opcheck(kernel.multi_scale_deformable_attention.default, (value, SIDES, locations, weights))

import pytest
import torch
from torch.nn import functional as F

from transformers_msstsvis.layers.deformable_convolution import (
    DeformableConv2d,
    ModulatedDeformableConv2d,
    deformable_convolution,
)


def given(
    seed: int = 0, n: int = 2, channels: int = 5, out: int = 4, size: int = 3, h: int = 7, w: int = 9, far: float = 2.0
):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, channels, h, w, generator=generator)
    offsets = far * torch.randn(n, 2 * size**2, h, w, generator=generator)
    return x, offsets, torch.randn(out, channels, size, size, generator=generator)


@pytest.mark.parametrize(
    "settings", [{}, {"size": 1}, {"size": 5}, {"far": 30.0}, {"h": 1, "w": 1}, {"n": 1, "out": 1}]
)
def test_the_way_of_the_cpu_gives_what_torchvision_gives(settings):
    expected = deformable_convolution(*given(**settings))  # with gradients
    with torch.no_grad():
        torch.testing.assert_close(deformable_convolution(*given(**settings)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_gradients_in_any_precision(dtype):
    x, offsets, weight = (tensor.to(dtype).requires_grad_() for tensor in given())
    modulation = torch.rand(2, 9, 7, 9, dtype=dtype)
    result = deformable_convolution(x, offsets, weight, modulation)
    assert result.dtype == dtype
    result.sum().backward()
    assert all(tensor.grad.isfinite().all() and tensor.grad.any() for tensor in (x, offsets, weight))


def test_a_tap_moves_down_and_to_the_right():
    x = torch.arange(12.0).view(1, 1, 3, 4)
    offsets = torch.zeros(1, 2, 3, 4)
    offsets[:, 0], offsets[:, 1] = 1.0, 0.5  # y, x
    moved = deformable_convolution(x, offsets, torch.ones(1, 1, 1, 1))[0, 0]
    assert moved[0, 0] == 4.5  # between 4 and 5, one row below
    assert moved[0, 3] == 3.5  # half of it beyond the edge, where there are zeros
    assert not moved[2].any()


def test_without_offsets_it_is_a_convolution():
    layer = DeformableConv2d(5, 4)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.zeros_(layer.offsets.weight), torch.nn.init.zeros_(layer.offsets.bias)
    x, _, _ = given()
    with torch.no_grad():
        torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight, padding=1), rtol=1e-4, atol=1e-4)


def test_gradients_reach_weights_and_offsets():
    layer = DeformableConv2d(5, 4)
    torch.nn.init.normal_(layer.weight)
    layer(given()[0]).square().sum().backward()
    assert all(parameter.grad.any() for parameter in layer.parameters())


def modulated(seed: int = 0) -> ModulatedDeformableConv2d:
    torch.manual_seed(seed)
    layer = ModulatedDeformableConv2d(5, 4)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer


def test_modulated_taps_count_from_nothing_to_twice():
    layer, (x, _, _) = modulated(), given()
    expected = layer(x)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)  # the way of the CPU
        layer.modulation.weight.zero_()
        plain = deformable_convolution(x, layer.offsets(x), layer.weight)
        for bias, factor in ((0.0, 1.0), (100.0, 2.0), (-100.0, 0.0)):
            layer.modulation.bias.fill_(bias)
            torch.testing.assert_close(layer(x), factor * plain, rtol=1e-4, atol=1e-4)


def test_maps_of_instances_are_convolved_as_if_concatenated():
    layer, x = modulated(), torch.randn(2, 3, 7, 9)
    maps = torch.randn(6, 2, 7, 9)  # of three instances in each of two frames
    together = torch.cat((x.repeat_interleave(3, dim=0), maps), dim=1)
    torch.testing.assert_close(layer(x, maps), layer(together))


def test_fresh_modulated_taps_are_in_their_places_and_count_one():
    layer, (x, _, _) = modulated(), given()
    layer.init_layer_weights()
    with torch.no_grad():
        torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight, padding=1), rtol=1e-4, atol=1e-4)

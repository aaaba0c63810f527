import pytest
import torch
from torch.nn import functional as F

from transformers_msstsvis.layers import linear as module
from transformers_msstsvis.layers.linear import Linear, in_autocast_dtype


@pytest.fixture
def onednn_calls(monkeypatch) -> list:
    calls = []
    takes = module._onednn_takes
    monkeypatch.setattr(module, "_onednn_takes", lambda *a: calls.append(takes(*a)) or calls[-1])
    return calls


@pytest.mark.parametrize("shape", [(7, 12), (2, 3, 12), (1, 1, 2, 12), (0, 12), (12,)])
def test_inference_is_that_of_pytorch(shape, onednn_calls):
    layer, x = Linear(12, 5), torch.randn(shape)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))
        torch.testing.assert_close(layer(x.expand(2, *shape)), F.linear(x.expand(2, *shape), layer.weight, layer.bias))
        wide = torch.randn(*shape[:-1], 24)
        torch.testing.assert_close(layer(wide[..., ::2]), F.linear(wide[..., ::2], layer.weight, layer.bias))
    assert onednn_calls == [bool(x.numel()) and torch.backends.mkldnn.is_available()] * 3


@pytest.mark.parametrize("shape", [(7, 12), (2, 3, 12), (12,)])
@pytest.mark.parametrize("frozen", [(), ("weight",), ("bias", "x"), ("weight", "bias")], ids=str)
def test_training_is_that_of_pytorch(shape, frozen, onednn_calls):
    layer, x = Linear(12, 5), torch.randn(shape)
    inputs = {"x": x, "weight": layer.weight, "bias": layer.bias}
    wanted = [value.requires_grad_(name not in frozen) for name, value in inputs.items() if name not in frozen]
    for name in frozen:
        inputs[name].requires_grad_(False)
    given, expected = layer(x), F.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(given, expected)
    grad = torch.randn_like(given)
    torch.testing.assert_close(torch.autograd.grad(given, wanted, grad), torch.autograd.grad(expected, wanted, grad))
    assert onednn_calls == [torch.backends.mkldnn.is_available()]


@pytest.mark.parametrize("autocast", [False, True])
def test_the_result_of_training_can_be_changed_in_place(autocast):
    layer, x = Linear(12, 5), torch.randn(2, 3, 12)
    mask = torch.rand(2, 3, 1) < 0.5
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        result = layer(x).masked_fill_(mask, 0.0)
        assert not any("CopySlices" in name for name in names_of_graph(result.grad_fn))  # of the whole, there and back
        result.square().sum().backward()
        given = layer.weight.grad.clone()
        layer.zero_grad()
        F.linear(x, layer.weight, layer.bias).masked_fill(mask, 0.0).square().sum().backward()
    torch.testing.assert_close(given, layer.weight.grad)


def names_of_graph(node) -> set[str]:
    return {node.name()} | {name for child, _ in node.next_functions if child for name in names_of_graph(child)}


def test_autocast_casts_once():
    x = torch.randn(3, 12)
    assert in_autocast_dtype(x) is x
    with torch.autocast("cpu", torch.bfloat16):
        cast = in_autocast_dtype(x)
        assert cast.dtype == torch.bfloat16
        assert in_autocast_dtype(cast) is cast


def test_what_onednn_does_not_take(onednn_calls):
    layer, x = Linear(12, 5), torch.randn(3, 12)
    with torch.inference_mode():
        assert layer.double()(x.double()).dtype == torch.float64
        assert layer.bfloat16()(x.bfloat16()).dtype == torch.bfloat16
        layer.float()
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
    assert onednn_calls == [False] * 3


@torch.no_grad()
def test_exported_graphs_have_the_public_operator():
    graph = torch.export.export(Linear(12, 5), (torch.randn(3, 12),))
    assert "aten.linear" in str(graph)
    assert "mkldnn" not in str(graph)

import pytest
import torch
from torch.nn import functional as F

from transformers_msstsvis.layers import linear as module
from transformers_msstsvis.layers.linear import Linear


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


def test_what_onednn_does_not_take(onednn_calls):
    layer, x = Linear(12, 5), torch.randn(3, 12)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    with torch.inference_mode():
        assert layer.double()(x.double()).dtype == torch.float64
        assert layer.bfloat16()(x.bfloat16()).dtype == torch.bfloat16
        layer.float()
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
    assert onednn_calls == [False] * 4


@torch.no_grad()
def test_exported_graphs_have_the_public_operator():
    graph = torch.export.export(Linear(12, 5), (torch.randn(3, 12),))
    assert "aten.linear" in str(graph)
    assert "mkldnn" not in str(graph)

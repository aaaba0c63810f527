import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from transformers_msstsvis.layers.linear import Linear, in_autocast_dtype
from transformers_msstsvis.recomputation import made_again, recomputed


class Counted:
    """A norm that counts its calls."""

    def __init__(self, size: int):
        self.norm, self.calls = nn.LayerNorm(size), 0
        nn.init.uniform_(self.norm.weight)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.norm(x)


def gradients(make, first, second, x, again: bool):
    x = x.detach().requires_grad_()
    with made_again(make, x, unless=not again) as result:
        # Two that read it, one of them a part of it only.
        output = first(result).relu_().sum() + second(result[1:]).square().sum() + result.sum()
    output.backward()
    parameters = [x, *make.norm.parameters(), *first.parameters(), *second.parameters()]
    given = [parameter.grad.clone() for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    return given


@pytest.mark.parametrize("autocast", [False, True])
def test_what_is_made_again_has_the_same_gradients(autocast):
    torch.manual_seed(0)
    make, first, second, x = Counted(8), Linear(8, 5), nn.Linear(8, 3), torch.randn(2, 4, 8)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        expected = gradients(make, first, second, x, again=False)
        assert make.calls == 1
        given = gradients(make, first, second, x, again=True)
    # Autocast hands copies to those that read it, which are kept as they are.
    assert make.calls == (2 if autocast else 4)
    torch.testing.assert_close(given, expected, rtol=0, atol=0)


def test_the_dtype_is_that_of_the_forward_pass():
    x, y = torch.randn(4, 8, requires_grad=True), torch.randn(4, 8)
    layer, calls = nn.Linear(8, 3), []

    def make(x, y):
        calls.append(torch.is_autocast_enabled("cpu"))
        return in_autocast_dtype(x + y)

    with torch.autocast("cpu", torch.bfloat16), made_again(make, x, y) as result:
        output = layer(result)
    assert output.dtype == result.dtype == torch.bfloat16
    output.sum().backward()  # outside
    assert calls == [True, True]
    assert x.grad is not None
    assert layer.weight.grad.dtype == torch.float32


def test_nothing_is_kept_that_is_made_again():
    x, layer = torch.randn(64, 32, requires_grad=True), Linear(32, 4)
    norm = nn.LayerNorm(32)
    with made_again(norm, x) as result:
        output = layer(result)
    storage = StorageWeakRef(result.untyped_storage())
    del result
    assert storage.expired()
    output.sum().backward()
    assert layer.weight.grad.abs().sum() > 0


def test_without_gradients_it_is_made_once():
    make = Counted(8)
    with torch.no_grad(), made_again(make, torch.randn(2, 8)) as result:
        assert not result.requires_grad
    assert make.calls == 1


def test_recomputed_runs_twice_and_has_the_same_gradients():
    calls = []

    def function(x, factor):
        calls.append(1)
        return (x * factor).sigmoid().square().sum(), x.exp().sum()

    x = torch.randn(3, 4, requires_grad=True)
    sum(function(x, 2.0)).backward()
    expected, x.grad = x.grad, None
    calls.clear()
    sum(recomputed(function, x, 2.0)).backward()
    assert len(calls) == 2
    torch.testing.assert_close(x.grad, expected, rtol=0, atol=0)
    calls.clear()
    with torch.no_grad():
        recomputed(function, x, 2.0)
    assert len(calls) == 1

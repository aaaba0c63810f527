from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.models.testers import TESTERS, model_of, video
from transformers_msstsvis.layers import deformable_attention
from transformers_msstsvis.layers.query_sampling import recorded_queries
from transformers_msstsvis.ops import multi_scale_deformable_attention as op

WITH_POINTS = ("seqformer", "msstsvis")


@pytest.mark.parametrize("name", WITH_POINTS)
def test_places_and_weights_are_those_of_the_last_decoder_layer(name, monkeypatch):
    model, clip = model_of(name), video(1, 6)
    calls = []

    def spy(value, spatial_shapes, locations, weights):
        calls.append((locations, weights))
        return op.multi_scale_deformable_attention(value, spatial_shapes, locations, weights)

    monkeypatch.setattr(deformable_attention, "multi_scale_deformable_attention", spy)
    with torch.no_grad(), recorded_queries(model) as recorded:
        outputs = model(clip)
    [sampling] = recorded
    T, Q, k = 6, model.config.num_queries, 4 * 4 * 4
    assert sampling.points.shape == (T, Q, k, 2)
    assert sampling.frames.tolist() == [[frame] * k for frame in range(T)]
    torch.testing.assert_close(sampling.weights.sum(-1), torch.ones(T, Q))
    count = 0
    last = []
    while count < T:  # the calls of the last layer, of a few frames each
        last.insert(0, calls.pop())
        count += len(last[0][0])
    torch.testing.assert_close(sampling.points, torch.cat([locations for locations, _ in last]).flatten(2, 4))
    torch.testing.assert_close(sampling.weights, torch.cat([weights for _, weights in last]).flatten(2) / 4)

    with torch.no_grad():
        alone = model(clip)
    assert torch.equal(alone.logits, outputs.logits)
    assert len(recorded) == 1
    assert op._recorded is None


class Temporal(nn.Module):
    """Two frames; each query reads one place in its own frame and one in the other, with weights 0.75 and 0.25."""

    def __init__(self):
        super().__init__()
        self.sampling_offsets = self.temporal_sampling_offsets = nn.Identity()

    def forward(self, query, other_frames):
        value = torch.zeros(1, 4, 1, 2)
        for frame in range(2):
            for place, weight in ((0.25, 0.75), (0.5, 0.25)):
                locations = torch.full((1, 1, 1, 1, 1, 2), place + 0.1 * frame)
                op.multi_scale_deformable_attention(value, [(2, 2)], locations, torch.full((1, 1, 1, 1, 1), weight))
        return query


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.cross_attn = Temporal()

    def forward(self, query):
        return self.cross_attn(query, other_frames=torch.tensor([[1], [0]]))


def test_places_in_other_frames():
    layers = nn.ModuleList([Layer(), Layer()])
    model = SimpleNamespace(base_model=SimpleNamespace(decoder=SimpleNamespace(layers=layers)))
    with recorded_queries(model) as recorded:
        for layer in layers:
            layer(torch.zeros(1))
    [sampling] = recorded
    assert sampling.frames.tolist() == [[0, 1], [1, 0]]
    torch.testing.assert_close(sampling.points[:, 0, :, 0], torch.tensor([[0.25, 0.5], [0.35, 0.6]]))
    torch.testing.assert_close(sampling.weights[:, 0], torch.tensor([[0.75, 0.25], [0.75, 0.25]]))


@pytest.mark.parametrize("name", TESTERS)
def test_every_model_says_where_it_looks_or_that_it_looks_everywhere(name):
    model, clip = model_of(name), video(1, 3)
    with torch.no_grad():
        alone = model(clip)
    if not any(hasattr(module, "sampling_offsets") for module in model.model.decoder.modules()):
        message = f"a {name} model has no deformable attention in its decoder, so there are no sampling points to draw"
        with pytest.raises(ValueError, match=message), recorded_queries(model):
            pass
        return
    with torch.no_grad(), recorded_queries(model) as recorded:
        outputs = model(clip)
    [sampling] = recorded
    assert torch.equal(outputs.logits, alone.logits)
    torch.testing.assert_close(sampling.weights.sum(-1), torch.ones(sampling.weights.shape[:2]))
    assert set(sampling.frames.flatten().tolist()) == set(range(len(sampling.frames)))

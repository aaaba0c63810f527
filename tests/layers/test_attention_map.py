import torch

from transformers_msstsvis.layers.attention_map import AttentionMap


def test_all_maps_of_a_query_together_sum_to_one_and_padding_weighs_nothing():
    torch.manual_seed(0)
    layer = AttentionMap(32, 4)
    queries, features = torch.randn(2, 3, 32), torch.randn(2, 32, 5, 6)
    mask = torch.ones(2, 5, 6, dtype=torch.bool)
    mask[0, 3:] = False
    maps = layer(queries, features, mask)
    assert maps.shape == (2, 3, 4, 5, 6)
    torch.testing.assert_close(maps.sum((2, 3, 4)), torch.ones(2, 3))
    assert not maps[0, ..., 3:, :].any()


def test_by_the_formula():
    torch.manual_seed(0)
    layer = AttentionMap(8, 2)
    queries, features = torch.randn(1, 1, 8), torch.randn(1, 8, 2, 2)
    query = layer.q_proj(queries)[0, 0].view(2, 4)
    key = layer.k_proj(features.flatten(2).transpose(1, 2))[0].view(4, 2, 4)  # place, head, channel
    scores = torch.einsum("mc,smc->ms", query, key) / 4**0.5
    expected = scores.flatten().softmax(0).view(2, 2, 2)
    torch.testing.assert_close(layer(queries, features, torch.ones(1, 2, 2, dtype=torch.bool))[0, 0], expected)


def test_a_frame_of_padding_alone_is_finite():
    layer = AttentionMap(8, 2)
    maps = layer(torch.randn(1, 1, 8), torch.randn(1, 8, 2, 2), torch.zeros(1, 2, 2, dtype=torch.bool))
    assert maps.isfinite().all()

import pytest
import torch

from tests.tiny import tiny_config
from transformers_msstsvis.layers.attention import VisAttention


@pytest.fixture
def attention():
    torch.manual_seed(0)
    config = tiny_config()
    config._attn_implementation = "sdpa"
    return VisAttention(config, 32, 4).eval()


def formula(attention, tokens, mask):
    """Softmax attention, written out in the precision of its inputs."""
    heads = (*tokens.shape[:2], 4, 8)
    query, key, value = (
        project(tokens).view(heads).transpose(1, 2)
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    weights = (query @ key.transpose(2, 3) * attention.scaling + mask).softmax(-1)
    return attention.o_proj((weights @ value).transpose(1, 2).flatten(2))


def test_float64_stays_float64(attention):
    attention = attention.double()
    tokens = torch.randn(5, 3, 32, dtype=torch.float64)
    mask = torch.zeros(5, 1, 1, 3, dtype=torch.float64)
    mask[0, ..., 2] = torch.finfo(torch.float64).min
    output, _ = attention(tokens, None, mask)
    torch.testing.assert_close(output, formula(attention, tokens, mask), rtol=1e-12, atol=1e-12)


def test_bfloat16_autocast_is_close(attention):
    tokens, mask = torch.randn(5, 3, 32), torch.zeros(5, 1, 1, 3)
    mask[0, ..., 2] = torch.finfo(torch.float32).min
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = attention(tokens, None, mask)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), formula(attention, tokens, mask), rtol=0.05, atol=0.02)

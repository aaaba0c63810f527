"""A precision that the CPU only imitates is told; what is native, or can't be known, is not."""

import pytest
import torch
from transformers import pipeline

from tests.test_pipelines import small_processor
from tests.tiny import moving_square, tiny_model
from transformers_msstsvis import precision

NATIVE = {"architecture": "x86_64", "avx512_bf16": True}
OLD = {"architecture": "x86_64", "avx2": True, "avx512_bf16": False}


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    messages = []
    monkeypatch.setattr(precision.logger, "warning", messages.append)
    return messages


@pytest.mark.parametrize(
    ("capabilities", "dtype", "expected"),
    [
        (NATIVE, torch.bfloat16, True),
        (OLD, torch.bfloat16, False),
        ({"architecture": "arm64", "bf16": True}, torch.bfloat16, True),
        (NATIVE, torch.float16, False),
        (OLD, torch.float32, True),
        (None, torch.bfloat16, None),
    ],
)
def test_what_is_native(monkeypatch, capabilities, dtype, expected):
    monkeypatch.setattr(precision, "cpu_capabilities", lambda: capabilities)
    assert precision.is_native(dtype) is expected


@pytest.mark.skipif(not hasattr(torch.cpu, "get_capabilities"), reason="this version of PyTorch does not tell")
def test_pytorch_knows_the_instructions():
    known = precision.cpu_capabilities()
    names = {name for instructions in precision.INSTRUCTIONS.values() for name in instructions}
    assert names & set(known)


@pytest.mark.parametrize(("capabilities", "told"), [(NATIVE, False), (OLD, True)])
def test_the_pipeline_says_so_in_one_line(monkeypatch, warnings, capabilities, told):
    monkeypatch.setattr(precision, "cpu_capabilities", lambda: capabilities)
    model = tiny_model().to(torch.bfloat16)
    segmenter = pipeline("video-instance-segmentation", model=model, video_processor=small_processor(), device="cpu")
    assert [message[:28] for message in warnings] == ["The model is in bfloat16, fo"] * told
    assert all("\n" not in message and "--dtype float32" in message for message in warnings)
    assert isinstance(segmenter(moving_square(2)), list)
    pipeline("video-instance-segmentation", model=tiny_model(), video_processor=small_processor(), device="cpu")
    assert len(warnings) == told  # float32 never is

"""Checkpoints that earlier versions saved, and what their models gave."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoVideoProcessor

from transformers_msstsvis import (
    AutoModelForVideoInstanceSegmentation,
    MsstsVisConfig,
    MsstsVisForVideoInstanceSegmentation,
    MsstsVisVideoProcessor,
    SeqFormerConfig,
    SeqFormerForVideoInstanceSegmentation,
)

CHECKPOINTS = Path(__file__).parents[1] / "fixtures" / "checkpoints"


@pytest.mark.parametrize(
    ("name", "model_class"),
    [("msstsvis-0.1", MsstsVisForVideoInstanceSegmentation), ("seqformer-0.1", SeqFormerForVideoInstanceSegmentation)],
)
@pytest.mark.parametrize("auto", [AutoModelForVideoInstanceSegmentation, AutoModel])
def test_it_gives_what_it_gave(name, model_class, auto, caplog):
    model, info = auto.from_pretrained(CHECKPOINTS / name, output_loading_info=True)
    assert type(model) is model_class
    assert not any(info.values())
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    expected = load_file(CHECKPOINTS / name / "expected_outputs.safetensors")
    with torch.no_grad():
        outputs = model.eval()(expected.pop("pixel_values_videos"))
    for key, values in expected.items():
        torch.testing.assert_close(outputs[key], values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["msstsvis-0.1", "seqformer-0.1"])
def test_its_processor_is_the_one_that_was_saved(name):
    processor = AutoVideoProcessor.from_pretrained(CHECKPOINTS / name)
    assert type(processor) is MsstsVisVideoProcessor
    assert dict(processor.size) == {"shortest_edge": 48, "longest_edge": 64}


def test_settings_of_msstsvis_are_gone_from_a_seqformer(tmp_path):
    config = SeqFormerConfig.from_pretrained(CHECKPOINTS / "seqformer-0.1")
    config.save_pretrained(tmp_path)
    assert "temporal" not in (tmp_path / "config.json").read_text()
    with pytest.raises(ValueError, match=r"decoder_temporal_attention is True.*use MsstsVisConfig"):
        SeqFormerConfig(decoder_temporal_attention=True)
    assert issubclass(MsstsVisConfig, SeqFormerConfig)

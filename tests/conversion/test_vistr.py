"""Published VisTR checkpoints: every tensor finds its place, and others are refused."""

import json

import pytest
import torch

from tests.parity.golden import GOLDEN, load
from transformers_msstsvis.conversion import convert_checkpoint, convert_state_dict


def shrunk(manifest: str) -> dict[str, torch.Tensor]:
    """Published names and shapes as tensors without memory."""
    shapes = json.loads((GOLDEN / "vistr" / manifest).read_text())
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def published():
    _, _, checkpoint = load("vistr/r50_t6_loss")
    return {name: torch.from_numpy(value) for name, value in checkpoint.items()}


@pytest.mark.parametrize(
    ("manifest", "depths", "num_frames", "keys"),
    [
        ("manifest_resnet50_q360.json", [3, 4, 6, 3], 36, 503),
        ("manifest_resnet50_q60.json", [3, 4, 6, 3], 6, 503),
        ("manifest_resnet101_q50.json", [3, 4, 23, 3], 5, 758),
    ],
)
def test_architecture_is_read_from_the_checkpoint(manifest, depths, num_frames, keys):
    with torch.device("meta"):
        model = convert_state_dict("vistr", {"model": shrunk(manifest)})
    config = model.config
    assert config.backbone_config.depths == depths
    assert (config.num_frames, config.num_queries, config.num_labels) == (num_frames, 10, 41)
    assert (config.d_model, config.encoder_attention_heads, config.encoder_layers) == (384, 8, 6)
    report = model.conversion_report
    assert (len(report.used), report.dropped, report.missing) == (keys, {}, [])


def test_every_tensor_keeps_its_values(published):
    model = convert_state_dict("vistr", published)
    ours = {tuple(value.shape) + tuple(value.flatten()[:4].tolist()): value for value in model.state_dict().values()}
    for name, value in published.items():
        for part in value.chunk(3) if ".in_proj_" in name else (value,):
            assert torch.equal(ours[tuple(part.shape) + tuple(part.flatten()[:4].tolist())], part), name


def test_hints_are_arguments_of_the_configuration(published):
    names = {label: f"class {label}" for label in range(41)}
    model = convert_state_dict("vistr", published, id2label=names, published_presence_flags=True, num_queries=6)
    assert model.config.id2label == names
    assert model.config.published_presence_flags
    assert model.config.num_frames == 10
    with pytest.raises(ValueError, match="60 queries, which is no multiple of 7 in every frame; expected num_queries"):
        convert_state_dict("vistr", published, num_queries=7)


def test_a_partial_checkpoint(published):
    part = {name: value for name, value in published.items() if "decoder.layers.1.linear2" not in name}
    with pytest.raises(ValueError, match=r"lacks 2 weights of the model, e.g. \['model.decoder.layers.1.feed_f"):
        convert_state_dict("vistr", part)
    with pytest.raises(ValueError, match=r"lacks \['mask_head.lay1.weight'\]; expected the keys of a VisTR release"):
        convert_state_dict("vistr", {name: value for name, value in published.items() if "lay1" not in name})


def test_unknown_keys_and_checkpoints_of_other_systems(published):
    with pytest.raises(ValueError, match=r"1 keys .* unknown to 'vistr', e.g. \['vistr.mystery.weight'\]"):
        convert_state_dict("vistr", {**published, "vistr.mystery.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"lacks .* expected the keys of a VisTR release"):
        convert_state_dict("vistr", {"detr.query_embed.weight": torch.zeros(2, 2)})
    with pytest.raises(ValueError, match="expected the keys of a SeqFormer"):
        convert_state_dict("seqformer", published)
    wrong = {**published, "vistr.class_embed.bias": torch.zeros(3)}
    with pytest.raises(ValueError, match=r"class_embed.bias has shape \(3,\) in the checkpoint; the model expects"):
        convert_state_dict("vistr", wrong)


def test_a_folder_that_loads_with_the_published_size(tmp_path, published):
    from transformers import AutoVideoProcessor

    torch.save({"model": published}, tmp_path / "vistr_r50.pth")
    convert_checkpoint("vistr", tmp_path / "vistr_r50.pth", tmp_path / "out")
    processor = AutoVideoProcessor.from_pretrained(tmp_path / "out")
    assert type(processor).__name__ == "VistrVideoProcessor"
    assert dict(processor.size)["shortest_edge"] == 300
    assert dict(processor.size).get("longest_edge") is None

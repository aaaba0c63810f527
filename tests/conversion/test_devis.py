"""Published DeVIS checkpoints: every tensor finds its place, and others are refused."""

import json

import pytest
import torch

from tests.parity.golden import GOLDEN, load
from transformers_msstsvis.conversion import convert_checkpoint, convert_state_dict

T, N, K = 6, 10, 40


def shrunk(manifest: str) -> dict[str, torch.Tensor]:
    """Published names and shapes as tensors without memory."""
    shapes = json.loads((GOLDEN / "devis" / manifest).read_text())
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def published():
    _, _, checkpoint = load("devis/r50_yt19_t6_loss")
    return {name: torch.from_numpy(value) for name, value in checkpoint.items()}


@pytest.mark.parametrize(
    ("manifest", "backbone", "used"),
    [("manifest_resnet50_yt19.json", "resnet", 668), ("manifest_swin_l_p4w12_yt19.json", "swin", None)],
)
def test_architecture_is_read_from_the_checkpoint(manifest, backbone, used):
    checkpoint = shrunk(manifest)
    with torch.device("meta"):
        model = convert_state_dict("devis", {"model": checkpoint})
    config, report = model.config, model.conversion_report
    assert config.backbone_config.model_type == backbone
    assert (config.num_frames, config.num_queries, config.num_labels) == (T, N, K)
    assert (config.encoder_n_points, config.decoder_n_temporal_points, config.encoder_temporal_window) == (4, 4, None)
    assert len(report.used) == (used or len(checkpoint) - 36)
    assert set(report.dropped.values()) == {"second name of the box heads, which are in the decoder"}
    assert all(name.startswith("def_detr.bbox_embed.") for name in report.dropped)
    assert all(name.startswith("model.backbone.model.swin.layernorm.") for name in report.missing)


def test_other_numbers_of_frames_queries_and_classes_and_a_window(published):
    changed = dict(published)
    changed["def_detr.backbone.1.temporal_embed"] = torch.zeros(5, 256)
    changed["def_detr.query_embed.weight"] = torch.zeros(150, 512)
    for layer in range(6):
        changed[f"def_detr.class_embed.{layer}.weight"] = torch.zeros(25, 256)
        changed[f"def_detr.class_embed.{layer}.bias"] = torch.zeros(25)
        for name, frames in ((f"encoder.layers.{layer}.self_attn", 2), (f"decoder.layers.{layer}.cross_attn", 4)):
            for part, size in (("sampling_offsets", 256), ("attention_weights", 128)):
                key = f"def_detr.transformer.{name}.temporal_{part}."
                changed[key + "weight"], changed[key + "bias"] = (
                    torch.zeros(size * frames, 256),
                    torch.zeros(size * frames),
                )
    config = convert_state_dict("devis", changed, encoder_n_temporal_points=4).config
    assert (config.num_frames, config.num_queries, config.num_labels) == (5, 30, 25)


def test_every_tensor_keeps_its_values(published):
    model = convert_state_dict("devis", published)
    ours = {tuple(value.shape) + tuple(value.flatten()[:4].tolist()): value for value in model.state_dict().values()}
    for name, value in published.items():
        for part in value.chunk(3) if ".in_proj_" in name else (value,):
            assert torch.equal(ours[tuple(part.shape) + tuple(part.flatten()[:4].tolist())], part), name


def test_a_partial_checkpoint(published):
    part = {name: value for name, value in published.items() if "decoder.layers.1.linear2" not in name}
    with pytest.raises(ValueError, match=r"lacks 2 weights of the model, e.g. \['model.decoder.layers.1.feed_f"):
        convert_state_dict("devis", part)
    with pytest.raises(ValueError, match=r"lacks \['mask_head.lay1.regular_conv.weight'\]; .* a DeVIS release"):
        convert_state_dict("devis", {name: value for name, value in published.items() if "lay1" not in name})
    with pytest.raises(ValueError, match="59 queries for 6 frames; expected as many for each frame"):
        convert_state_dict("devis", {**published, "def_detr.query_embed.weight": torch.zeros(59, 512)})


def test_unknown_keys_and_checkpoints_of_other_systems(published):
    with pytest.raises(ValueError, match=r"1 keys .* unknown to 'devis', e.g. \['def_detr.mystery.weight'\]"):
        convert_state_dict("devis", {**published, "def_detr.mystery.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"lacks .* expected the keys of a DeVIS release"):
        convert_state_dict("devis", {"detr.query_embed.weight": torch.zeros(2, 2)})
    with pytest.raises(ValueError, match="expected the keys of a SeqFormer"):
        convert_state_dict("seqformer", published)


def test_a_folder_that_loads_with_the_published_size(tmp_path, published):
    from transformers import AutoVideoProcessor

    torch.save({"model": published}, tmp_path / "devis_r50.pth")
    convert_checkpoint("devis", tmp_path / "devis_r50.pth", tmp_path / "out")
    processor = AutoVideoProcessor.from_pretrained(tmp_path / "out")
    assert type(processor).__name__ == "DevisVideoProcessor"
    assert (dict(processor.size)["shortest_edge"], dict(processor.size)["longest_edge"]) == (360, 640)
    assert processor.clip_stride == 4

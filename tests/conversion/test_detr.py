"""A VisTR that starts from a DETR sees with its eyes."""

import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DetrConfig, DetrForObjectDetection

from tests.models.test_modeling_vistr import tiny_vistr
from tests.models.testers import FOUR_MAPS, model_of
from tests.tiny import BACKBONE
from transformers_msstsvis.conversion.detectors import init_from_pretrained
from transformers_msstsvis.conversion.detr import initialize


def tiny_detr(**changes) -> DetrForObjectDetection:
    torch.manual_seed(1)
    settings = {
        "backbone_config": {**BACKBONE, "out_features": ["stage4"]},
        "d_model": 64,
        "num_queries": 7,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
    }
    detr = DetrForObjectDetection(DetrConfig(**{**settings, **changes})).eval()
    with torch.no_grad():
        for parameter in detr.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return detr


def test_the_encoder_of_one_frame_gives_the_same_at_the_same_positions():
    model, detr = tiny_vistr(num_frames=1), tiny_detr()
    report = initialize(model, detr)
    assert "queries of an image" in str(report)
    assert report.summary() == (
        f"{len(report.used)} weights used, {len(report.dropped)} left out; new in query_embed, class_embed, "
        "attention_map, mask_head, instance_head; classes known by name: none"
    )
    assert all(
        name.startswith(("model.query_embed", "class_embed", "attention_map", "mask_head", "instance_head"))
        for name in report.missing
    )
    image, mask = torch.randn(1, 3, 64, 96), torch.ones(1, 64, 96, dtype=torch.int64)
    with torch.no_grad():
        [(features, _)] = detr.model.backbone(image, mask)
        expected = detr.model.input_projection(features)
        given = model.model.input_projection(model.model.backbone(image)[-1])
        torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4)

        tokens = expected.flatten(2).transpose(1, 2)
        positions = torch.randn_like(tokens)
        expected = detr.model.encoder(inputs_embeds=tokens, spatial_position_embeddings=positions).last_hidden_state
        given = model.model.encoder(tokens, positions).last_hidden_state
        torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4)

        queries = torch.randn(1, 5, 64)
        decoded = detr.model.decoder(
            inputs_embeds=torch.zeros_like(queries),
            object_queries_position_embeddings=queries,
            encoder_hidden_states=expected,
            spatial_position_embeddings=positions,
        ).last_hidden_state
        given = model.model.decoder(queries, expected, positions).last_hidden_state
        torch.testing.assert_close(given, decoded, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model.box_embed(given), detr.bbox_predictor(given))


def test_what_does_not_fit_stays_new_and_is_told():
    model, detr = tiny_vistr(d_model=32), tiny_detr()
    before = model.model.encoder.layers[0].self_attn.q_proj.weight.clone()
    report = initialize(model, detr)
    assert "the model has no such module of this shape" in str(report)
    name, (theirs, ours) = next(iter(report.shapes.items()))
    assert f"{len(report.shapes)} of other shapes, such as {name}, which is {theirs} there and {ours} here" in (
        report.summary()
    )
    assert report.shapes["model.encoder.layers.0.self_attn.q_proj.weight"] == ((64, 64), (32, 32))
    assert torch.equal(model.model.encoder.layers[0].self_attn.q_proj.weight, before)
    assert all("backbone" in name for name in report.used)
    stem = "backbone.model.embedder.embedder.convolution.weight"
    assert torch.equal(model.model.get_parameter(stem), detr.model.get_parameter(stem))


def test_a_backbone_of_timm_becomes_a_native_one():
    depths = {"embedding_size": 64, "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic"}
    model = tiny_vistr(backbone_config={**FOUR_MAPS, **depths})
    detr = tiny_detr(backbone_config={"model_type": "timm_backbone", "backbone": "resnet18", "out_indices": [4]})
    initialize(model, detr)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        [(expected, _)] = detr.model.backbone(image, torch.ones(1, 64, 64))
        torch.testing.assert_close(model.model.backbone(image)[-1], expected, rtol=1e-4, atol=1e-4)


def test_other_heads_or_nothing_in_common():
    with pytest.raises(ValueError, match="decoder_attention_heads is 2 and that of the DETR 4; expected the same"):
        initialize(tiny_vistr(decoder_attention_heads=2), tiny_detr())
    other = {**BACKBONE, "embedding_size": 4, "hidden_sizes": [4, 4, 4, 4], "out_features": ["stage4"]}
    told = r"nothing of the detr fits the model: 0 weights used.* such as .* there and .*; expected its backbone"
    with pytest.raises(ValueError, match=told):
        initialize(tiny_vistr(), tiny_detr(d_model=48, encoder_ffn_dim=8, decoder_ffn_dim=8, backbone_config=other))


def test_a_checkpoint_by_its_folder(tmp_path):
    detr, model = tiny_detr(), tiny_vistr()
    detr.save_pretrained(tmp_path)
    init_from_pretrained(model, str(tmp_path))
    assert torch.equal(model.model.decoder.norm.weight, detr.model.decoder.layernorm.weight)


@pytest.mark.parametrize("share", [0.5, "every second"])
def test_half_a_checkpoint_is_told(tmp_path, share):
    tiny_detr().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    if share == "every second":
        weights = load_file(path)
        save_file({name: weights[name] for name in sorted(weights)[::2]}, path, metadata={"format": "pt"})
    else:
        os.truncate(path, int(share * path.stat().st_size))
    with pytest.raises(ValueError, match=r"incomplete (checkpoint|one).*: fetch it again"):
        init_from_pretrained(tiny_vistr(), str(tmp_path))


def test_a_detector_from_which_the_model_can_not_start(tmp_path):
    tiny_detr().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a detr and the model a seqformer; expected to start a vistr from a detr"):
        init_from_pretrained(model_of("seqformer"), str(tmp_path))
    with pytest.raises(FileNotFoundError):
        init_from_pretrained(tiny_vistr(), str(tmp_path / "none"))


def test_classes_are_known_by_name():
    model = tiny_vistr(num_frames=1, id2label={0: "dog", 1: "unicorn"})
    detr = tiny_detr(id2label={0: "N/A", 1: "person", 2: "dog"})
    report = initialize(model, detr)
    assert report.classes == ["dog"]
    assert torch.equal(model.class_embed.weight[0], detr.class_labels_classifier.weight[2])
    assert not torch.equal(model.class_embed.weight[1], detr.class_labels_classifier.weight[1])

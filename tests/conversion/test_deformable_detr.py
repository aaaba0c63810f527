"""A DeVIS that starts from a Deformable DETR sees with its eyes, in all frames."""

import pytest
import torch
from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection

from tests.models.testers import model_of
from tests.tiny import BACKBONE
from transformers_msstsvis.conversion.deformable_detr import initialize
from transformers_msstsvis.conversion.detectors import initialize_from


def tiny_detector(**changes) -> DeformableDetrForObjectDetection:
    torch.manual_seed(1)
    settings = {
        "backbone_config": BACKBONE,
        "d_model": 64,
        "num_queries": 7,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "with_box_refine": True,
    }
    detector = DeformableDetrForObjectDetection(DeformableDetrConfig(**{**settings, **changes})).eval()
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return detector


def test_all_but_classes_queries_and_masks_is_taken_over():
    model, detector = model_of("devis", num_frames=3), tiny_detector()
    report = initialize(model, detector)
    assert report.summary() == (
        f"{len(report.used)} weights used, {len(report.dropped)} left out; new in temporal_embed, query_embed, "
        "class_embed, attention_maps, mask_head, mask_output"
    )
    ours, theirs = model.model.encoder.layers[0], detector.model.encoder.layers[0]
    assert torch.equal(ours.self_attn.value_proj.weight, theirs.self_attn.value_proj.weight)
    assert torch.equal(ours.feed_forward.norm.weight, theirs.final_layer_norm.weight)
    assert torch.equal(model.model.decoder.box_embed[1].layers[2].weight, detector.bbox_embed[1].layers[2].weight)
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = detector.model.backbone.model(image).feature_maps
        for given, wanted in zip(model.model.backbone(image)[1:], expected, strict=True):
            torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-4)


def test_attention_looks_into_other_frames_as_into_its_own():
    model, detector = model_of("devis", num_frames=3), tiny_detector()
    initialize(model, detector)
    attention = model.model.decoder.layers[1].cross_attn
    for layer, size in (("sampling_offsets", 32), ("attention_weights", 16)):
        own = getattr(attention, layer).weight.view(4, 1, size, 64)
        elsewhere = getattr(attention, f"temporal_{layer}").weight.view(4, 2, size, 64)
        assert torch.equal(elsewhere, own.expand_as(elsewhere))


def test_a_checkpoint_by_its_folder_and_what_does_not_fit(tmp_path):
    tiny_detector().save_pretrained(tmp_path)
    assert "second name of the box heads" in str(initialize_from(model_of("devis"), str(tmp_path)))
    with pytest.raises(ValueError, match="is a deformable_detr and the model a vistr; expected to start a vistr from"):
        initialize_from(model_of("vistr"), str(tmp_path))
    with pytest.raises(ValueError, match="decoder_attention_heads is 2 and that of the Deformable DETR 4"):
        initialize(model_of("devis", decoder_attention_heads=2), tiny_detector())
    report = initialize(model_of("devis", encoder_n_temporal_points=2), tiny_detector())
    assert "model.encoder.layers.0.self_attn.temporal_sampling_offsets.weight" in report.missing

"""A model that starts from a Deformable DETR sees with its eyes, in all frames."""

import pytest
import torch
from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection

from tests.models.testers import model_of
from tests.tiny import BACKBONE
from transformers_msstsvis import AutoModelForVideoInstanceSegmentation
from transformers_msstsvis.conversion.deformable_detr import initialize
from transformers_msstsvis.conversion.detectors import init_from_pretrained


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
        "class_embed, attention_maps, mask_head, mask_output; classes known by name: none"
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
    assert "second name of the box heads" in str(init_from_pretrained(model_of("devis"), str(tmp_path)))
    with pytest.raises(ValueError, match="is a deformable_detr and the model a vistr; expected to start a vistr from"):
        init_from_pretrained(model_of("vistr"), str(tmp_path))
    with pytest.raises(ValueError, match="decoder_attention_heads is 2 and that of the Deformable DETR 4"):
        initialize(model_of("devis", decoder_attention_heads=2), tiny_detector())
    report = initialize(model_of("devis", encoder_n_temporal_points=2), tiny_detector())
    assert "model.encoder.layers.0.self_attn.temporal_sampling_offsets.weight" in report.missing


def with_distinct_heads(names: list[str], **changes) -> DeformableDetrForObjectDetection:
    detector = tiny_detector(id2label=dict(enumerate(names)), num_queries=12, **changes)
    with torch.no_grad():
        for index, head in enumerate(detector.class_embed):
            head.weight.normal_(std=0.1 * (1 + index))
    return detector


@pytest.mark.parametrize("name", ["seqformer", "msstsvis"])
@pytest.mark.parametrize("frames", [1, 3])
def test_a_seqformer_is_the_detector_in_every_frame(name, frames):
    names = ["disk", "star", "ring"]
    detector = with_distinct_heads(names)
    config = model_of(name, num_queries=12, id2label=dict(enumerate(names))).config
    model = AutoModelForVideoInstanceSegmentation.from_config(config).eval()  # temporal attention adds nothing yet
    report = initialize(model, detector)
    assert report.classes == names
    assert {key.partition(".")[0] for key in report.missing if not key.startswith("model.")} == {
        "class_embed",
        "controller",
        "mask_features",
    }
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = detector(image, pixel_mask=torch.ones(1, 64, 96, dtype=torch.long))
        found = model(image[:, None].expand(-1, frames, -1, -1, -1), mask_top_k=2)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        found.pred_boxes, expected.pred_boxes[:, :, None].expand(-1, -1, frames, -1), rtol=1e-4, atol=1e-5
    )


def test_classes_are_known_by_name():
    detector = with_distinct_heads(["N/A", "Person", "dog", "toaster"])
    model = model_of("seqformer", num_queries=12, id2label={0: "dog", 1: "unicorn", 2: "person"})
    before = [head.weight[1].clone() for head in model.class_embed]
    report = initialize(model, detector)
    assert report.classes == ["dog", "person"]
    assert report.summary().endswith("classes known by name: dog, person")
    for head, other, unknown in zip(model.class_embed, detector.class_embed, before, strict=True):
        assert torch.equal(head.weight[[0, 2]], other.weight[[2, 1]])
        assert torch.equal(head.bias[[0, 2]], other.bias[[2, 1]])
        assert torch.equal(head.weight[1], unknown)


def test_detectors_in_two_stages_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"is a Deformable DETR in two stages.*SenseTime/deformable-detr-with-box-ref"
    ):
        initialize(model_of("seqformer"), tiny_detector(two_stage=True, two_stage_num_proposals=7))


def test_without_refinement_boxes_start_anew():
    report = initialize(model_of("seqformer", num_queries=12), with_distinct_heads(["a"], with_box_refine=False))
    assert any("box_embed" in name for name in report.missing)
    assert not any(
        "encoder.layers" in name and "box" not in name and "time" not in name
        for name in report.missing
        if "decoder" not in name
    )

"""Properties of the MS-STS VIS and SeqFormer models on tiny random weights."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoBackbone

from tests.models.test_modeling_common import assert_same
from tests.models.testers import labels, random_model, video
from tests.tiny import tiny_config
from transformers_msstsvis import (
    MsstsVisConfig,
    MsstsVisForVideoInstanceSegmentation,
    MsstsVisModel,
    SeqFormerConfig,
    SeqFormerForVideoInstanceSegmentation,
)
from transformers_msstsvis.layers.feature_levels import FeatureLevels


def test_attention_ignores_padding_in_space():
    """
    The backbone sees a border of padding, attention none of it: features of padded places don't reach the
    queries.
    """
    config = tiny_config()
    model = random_model(MsstsVisModel, config)
    features = torch.randn(1, 2, 20, config.d_model)
    mask = torch.ones(1, 2, 20, dtype=torch.bool)
    mask[:, :, 12:16] = False
    changed = features.clone()
    changed[:, :, 12:16] += 100
    shapes = [(4, 4), (2, 1), (1, 1), (1, 1)]
    ratios = torch.ones(1, 2, 4, 2)
    with torch.no_grad():
        encoded = [
            model.encoder(FeatureLevels(x, torch.zeros_like(x), mask, ratios, shapes)).last_hidden_state[mask]
            for x in (features, changed)
        ]
        assert_same(*encoded)


def test_untrained_msstsvis_equals_its_trunk():
    seqformer = SeqFormerForVideoInstanceSegmentation(tiny_config(SeqFormerConfig)).eval()
    with torch.no_grad():
        for parameter in seqformer.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    msstsvis = MsstsVisForVideoInstanceSegmentation(tiny_config()).eval()
    missing, unexpected = msstsvis.load_state_dict(seqformer.state_dict(), strict=False)
    assert unexpected == []
    assert missing
    assert all("temporal" in name for name in missing)
    with torch.no_grad():
        a, b = seqformer(video(2, 3)), msstsvis(video(2, 3))
    for key in ("logits", "pred_boxes", "pred_masks"):
        assert torch.equal(a[key], b[key])


@pytest.mark.parametrize("flag", ["encoder_temporal_attention", "decoder_temporal_attention"])
def test_temporal_attention_lets_frames_see_each_other(flag):
    """
    What the encoder and the box queries compute for frame 0 depends on frame 1 only through a temporal
    attention.
    """
    off = {"encoder_temporal_attention": False, "decoder_temporal_attention": False, "decoder_layers": 2}
    trunk = random_model(MsstsVisModel, tiny_config(**off))
    model = random_model(MsstsVisModel, tiny_config(**{**off, flag: True}))
    a = video(1, 2)
    b = torch.cat((a[:, :1], video(1, 1, seed=9)), dim=1)

    def first_frame(m, x):
        with torch.no_grad():
            outputs = m(x)
        if flag == "encoder_temporal_attention":
            return outputs.encoder_last_hidden_state[:, 0]
        return outputs.box_queries[-1][:, 0]

    assert torch.allclose(first_frame(trunk, a), first_frame(trunk, b), atol=1e-5)
    assert not torch.allclose(first_frame(model, a), first_frame(model, b), atol=1e-3)


def test_temporal_position_embedding_makes_order_matter():
    for with_positions in (False, True):
        config = tiny_config(temporal_position_embedding=with_positions)
        model = random_model(MsstsVisForVideoInstanceSegmentation, config)
        frames = video(1, 3)
        with torch.no_grad():
            forward, backward = model(frames), model(frames.flip(1))
        same = torch.allclose(forward.pred_boxes, backward.pred_boxes.flip(2), atol=1e-4)
        assert same != with_positions


def test_number_of_parameters_of_the_published_size():
    with torch.device("meta"):
        msstsvis = MsstsVisForVideoInstanceSegmentation(MsstsVisConfig(num_labels=40))
        seqformer = SeqFormerForVideoInstanceSegmentation(SeqFormerConfig(num_labels=40))
    count = lambda model: sum(p.numel() for p in model.parameters()) / 1e6  # noqa: E731
    assert abs(count(msstsvis) - 50.6) <= 0.5
    assert abs(count(seqformer) - 48.4) <= 0.5


def test_mask_features_may_be_wider_than_published():
    published, wide = tiny_config(), tiny_config(mask_feature_channels=6)
    assert published.mask_feature_channels == published.d_model // 32 == 2
    models = [MsstsVisForVideoInstanceSegmentation(config).eval() for config in (published, wide)]
    parameters = [model.controller.layers[-1].out_features for model in models]
    assert parameters[1] - parameters[0] == 4 * wide.mask_channels
    assert [model.mask_features.reductions[-1].out_channels for model in models] == [2, 6]
    with torch.no_grad():
        masks = [model(torch.randn(1, 2, 3, 64, 64)).pred_masks for model in models]
    assert masks[0].shape == masks[1].shape


def test_initial_values_survive_loading_without_weights():
    config = tiny_config()
    fresh = MsstsVisForVideoInstanceSegmentation(config)
    loaded = MsstsVisForVideoInstanceSegmentation.from_pretrained(None, config=config, state_dict={})
    prior = -torch.log(torch.tensor(99.0))
    for model in (fresh, loaded):
        torch.testing.assert_close(model.class_embed[0].bias, prior.expand(config.num_labels))
        assert model.model.decoder.box_embed[0].layers[-1].bias.tolist() == [0, 0, -2, -2]
        assert model.model.decoder.box_embed[1].layers[-1].bias.tolist() == [0, 0, 0, 0]
        offsets = model.model.encoder.layers[0].self_attn.sampling_offsets.bias.view(4, 4, 4, 2)
        torch.testing.assert_close(offsets[0, 0, :, 0], torch.tensor([1.0, 2, 3, 4]))
        assert not model.model.encoder.layers[0].temporal_attn.up.weight.any()
        assert not model.model.decoder.layers[0].box_temporal_attn.attention.o_proj.weight.any()
        assert all(torch.isfinite(p).all() for p in model.parameters())


def test_hidden_states_and_attentions_on_request():
    model = random_model(MsstsVisForVideoInstanceSegmentation, tiny_config())
    model.set_attn_implementation("eager")
    with torch.no_grad():
        outputs = model(video(1, 2), output_hidden_states=True, output_attentions=True)
    assert len(outputs.decoder_hidden_states) == model.config.decoder_layers + 1
    assert len(outputs.encoder_hidden_states) == model.config.encoder_layers + 1
    Q = model.config.num_queries
    assert outputs.decoder_attentions[0].shape == (1, model.config.decoder_attention_heads, Q, Q)


@pytest.mark.parametrize(
    ("backbone", "flags"),
    [
        ({"model_type": "timm_backbone", "backbone": "resnet18", "out_indices": [2, 3, 4]}, {}),
        ({"model_type": "timm_backbone", "backbone": "mobilenetv3_small_050", "out_indices": [2, 3, 4]}, {}),
        (
            {
                "model_type": "swin",
                "embed_dim": 24,
                "depths": [1, 1, 1, 1],
                "num_heads": [1, 2, 4, 8],
                "window_size": 4,
                "out_features": ["stage2", "stage3", "stage4"],
            },
            {},
        ),
    ],
    ids=["timm-resnet18", "timm-mobilenet", "native-swin"],
)
def test_backbones(backbone, flags, tmp_path):
    config = tiny_config(backbone_config=backbone, **flags)
    model = MsstsVisForVideoInstanceSegmentation(config).train()
    outputs = model(video(1, 2), labels=[labels(1, 2)])
    outputs.loss.backward()
    stem = next(p for name, p in model.named_parameters() if ".backbone." in name)
    assert not stem.requires_grad
    assert stem.grad is None
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    model.save_pretrained(tmp_path)
    loaded = MsstsVisForVideoInstanceSegmentation.from_pretrained(tmp_path)
    with torch.no_grad():
        assert_same(model.eval()(video(1, 1)).logits, loaded.eval()(video(1, 1)).logits)


def test_pretrained_backbone_weights_are_copied_on_request(tmp_path):
    model = MsstsVisForVideoInstanceSegmentation(tiny_config())
    source = AutoBackbone.from_config(model.config.backbone_config)
    source.save_pretrained(tmp_path)
    model.model.backbone.load_pretrained(str(tmp_path))
    weights = source.state_dict()
    for name, value in model.model.backbone.model.state_dict().items():
        assert torch.equal(value, weights[name])
    other = MsstsVisForVideoInstanceSegmentation(
        tiny_config(backbone_config={**model.config.backbone_config.to_dict(), "depths": [1, 1, 1, 2]})
    )
    with pytest.raises(ValueError, match=r"does not fit the backbone 'resnet': .* weights differ"):
        other.model.backbone.load_pretrained(str(tmp_path))


def test_pretrained_timm_backbone(monkeypatch):
    import timm

    backbone = {"model_type": "timm_backbone", "backbone": "resnet18", "out_indices": [2, 3, 4]}
    model = MsstsVisForVideoInstanceSegmentation(tiny_config(backbone_config=backbone))
    source = timm.create_model("resnet18", features_only=True, out_indices=(2, 3, 4))
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **kwargs: source if pretrained else None)
    model.model.backbone.load_pretrained("resnet18.a1_in1k")
    copied = model.model.backbone.model._backbone.state_dict()
    assert torch.equal(copied["layer1.0.conv1.weight"], source.state_dict()["layer1.0.conv1.weight"])


def test_backbone_from_scratch_trains_its_stem_and_batch_norms():
    config = tiny_config(freeze_batch_norm=False, freeze_backbone_stem=False)
    model = MsstsVisForVideoInstanceSegmentation(config)
    assert all(p.requires_grad for p in model.parameters())
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"d_model": 100}, "multiple of 32"),
        ({"encoder_attention_heads": 7}, "encoder_attention_heads"),
        ({"num_feature_levels": 2}, "at least 3"),
        ({"temporal_attention_heads": 5}, "temporal_attention_heads"),
        ({"num_queries": 0}, "num_queries"),
        ({"id2label": {}, "label2id": {}}, "num_labels is 0"),
        ({"decoder_attention_heads": 0}, "decoder_attention_heads is 0"),
        ({"temporal_attention_heads": 0}, "temporal_attention_heads is 0"),
        ({"encoder_n_points": 0}, "encoder_n_points is 0"),
    ],
)
def test_wrong_configurations(settings, message):
    with pytest.raises(Exception, match=message):
        MsstsVisConfig(**settings)


def test_misspelt_arguments_are_told(caplog):
    config = MsstsVisConfig(num_querys=5, hidden_size=64, my_own_note="kept")
    assert (config.num_queries, config.d_model, config.my_own_note) == (300, 64, "kept")
    told = [record.getMessage() for record in caplog.records]
    assert told == ["num_querys is no argument of MsstsVisConfig, without effect: num_queries is meant?"]


def test_keys_of_later_versions_are_kept(tmp_path, caplog):
    MsstsVisConfig(backbone=None, note=1).save_pretrained(tmp_path)
    assert MsstsVisConfig.from_pretrained(tmp_path).note == 1
    assert not caplog.records


def test_unknown_backbone():
    with pytest.raises(ValueError, match="model_type is 'resnot'; expected one that transformers knows"):
        MsstsVisConfig(backbone_config={"model_type": "resnot"})
    with pytest.raises(ValueError, match="model_type is None"):
        MsstsVisConfig(backbone_config={"depths": [1, 1, 1, 1]})
    wrong_strides = {"model_type": "timm_backbone", "backbone": "resnet18", "out_indices": [1, 2, 3]}
    with pytest.raises(ValueError, match=r"strides \(4, 8, 16\); expected \(8, 16, 32\)"):
        MsstsVisForVideoInstanceSegmentation(MsstsVisConfig(backbone_config=wrong_strides))
    one_map = {"model_type": "resnet", "out_features": ["stage4"]}
    with pytest.raises(ValueError, match="returns 1 feature maps; expected 3"):
        MsstsVisForVideoInstanceSegmentation(MsstsVisConfig(backbone_config=one_map))


def test_tensors_without_values_pass_through():
    with FakeTensorMode(), torch.no_grad():
        model = MsstsVisForVideoInstanceSegmentation(tiny_config(MsstsVisConfig)).eval()
        outputs = model(torch.randn(1, 2, 3, 64, 96))
    assert outputs.logits.shape[0] == 1

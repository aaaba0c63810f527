"""Properties of the MS-STS VIS and SeqFormer models on tiny random weights."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoBackbone, AutoConfig, AutoModel

from tests.tiny import tiny_config
from transformers_msstsvis import (
    AutoModelForVideoInstanceSegmentation,
    MsstsVisConfig,
    MsstsVisForVideoInstanceSegmentation,
    MsstsVisModel,
    SeqFormerConfig,
    SeqFormerForVideoInstanceSegmentation,
)
from transformers_msstsvis.layers.feature_levels import FeatureLevels

H, W = 48, 64
MODELS = {
    "msstsvis": (MsstsVisConfig, MsstsVisForVideoInstanceSegmentation),
    "seqformer": (SeqFormerConfig, SeqFormerForVideoInstanceSegmentation),
}


@pytest.fixture(params=sorted(MODELS))
def model(request):
    config_class, model_class = MODELS[request.param]
    return random_model(model_class, tiny_config(config_class))


def random_model(model_class, config, seed=0):
    """A model whose every weight matters: fresh ones are nearly constant and start with zero projections."""
    torch.manual_seed(seed)
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def video(*frames, seed=0):
    return torch.randn(*frames, 3, H, W, generator=torch.Generator().manual_seed(seed))


def labels(n, T, num_labels=3, seed=0, h=H, w=W):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(n, T, h, w, generator=generator) > 0.5
    return {
        "class_labels": torch.randint(0, num_labels, (n,), generator=generator),
        "boxes": torch.rand(n, T, 4, generator=generator) * 0.4 + 0.2,
        "masks": masks,
        "valid": masks.flatten(2).any(2),
    }


def assert_same(a, b, atol=2e-5):
    torch.testing.assert_close(a, b, atol=atol, rtol=1e-4)


def test_output_follows_the_contract(model):
    with torch.no_grad():
        outputs = model(video(2, 3))
    B, T, Q, K = 2, 3, model.config.num_queries, model.config.num_labels
    assert outputs.logits.shape == (B, Q, K)
    assert outputs.pred_boxes.shape == (B, Q, T, 4)
    assert outputs.pred_masks.shape == (B, Q, T, H // 4, W // 4)
    assert outputs.last_hidden_state.shape == (B, Q, model.config.d_model)
    assert len(outputs.auxiliary_outputs) == model.config.decoder_layers - 1
    assert ((outputs.pred_boxes >= 0) & (outputs.pred_boxes <= 1)).all()


@pytest.mark.parametrize("size", [(48, 64), (50, 70), (33, 41)])
def test_any_size_and_one_frame(model, size):
    h, w = size
    with torch.no_grad():
        outputs = model(torch.randn(1, 1, 3, h, w))
    assert outputs.pred_masks.shape[-2:] == (2 * -(-h // 8), 2 * -(-w // 8))
    assert all(torch.isfinite(outputs[key]).all() for key in ("logits", "pred_boxes", "pred_masks"))


def test_batched_equals_alone_and_permuting_videos_permutes_outputs(model):
    videos = video(3, 2)
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        together, permuted = model(videos), model(videos[order])
        alone = [model(videos[index][None]) for index in range(3)]
    for key in ("logits", "pred_boxes", "pred_masks"):
        assert_same(together[key], torch.cat([output[key] for output in alone]), atol=1e-4)
        assert_same(together[key][order], permuted[key], atol=1e-4)


def test_padded_in_time_equals_alone(model):
    short, mask = video(1, 2), torch.ones(1, 4, H, W, dtype=torch.int64)
    mask[:, 2:] = 0
    padded = torch.cat((short, 100 * video(1, 2, seed=5)), dim=1)  # what stands in padding must not matter
    with torch.no_grad():
        alone, together = model(short), model(padded, mask)
    assert_same(alone.logits, together.logits)
    assert_same(alone.pred_boxes, together.pred_boxes[:, :, :2])
    assert_same(alone.pred_masks, together.pred_masks[:, :, :2], atol=1e-4)
    assert together.frame_sizes[0].tolist() == [[H, W], [H, W], [0, 0], [0, 0]]


def test_padding_in_time_changes_neither_loss_nor_matches(model):
    target = labels(2, 2)
    padded = {
        **target,
        "boxes": nn.functional.pad(target["boxes"], (0, 0, 0, 2)),
        "masks": nn.functional.pad(target["masks"], (0, 0, 0, 0, 0, 2)),
        "valid": nn.functional.pad(target["valid"], (0, 2)),
    }
    mask = torch.ones(1, 4, H, W, dtype=torch.int64)
    mask[:, 2:] = 0
    short = video(1, 2)
    alone = model(short, labels=[target])
    together = model(torch.cat((short, video(1, 2, seed=7)), dim=1), mask, labels=[padded])
    for name, value in alone.loss_dict.items():
        torch.testing.assert_close(together.loss_dict[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_padded_in_space_equals_the_same_padding_alone(model):
    """
    A small video gives the same, whatever else is in its batch; what stands in the padding reaches only the
    borders.
    """
    mask = torch.zeros(2, 2, H, W, dtype=torch.int64)
    mask[0, :, :32, :40], mask[1] = 1, 1
    videos = video(2, 2) * mask[:, :, None]
    with torch.no_grad():
        together, alone = model(videos, mask), model(videos[:1], mask[:1])
    for key in ("logits", "pred_boxes", "pred_masks"):
        assert_same(together[key][:1], alone[key], atol=1e-4)


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


def test_mask_top_k_gives_the_masks_of_the_best_queries(model):
    with torch.no_grad():
        all_masks, top = model(video(2, 2)), model(video(2, 2), mask_top_k=4)
    best = all_masks.logits.amax(-1).topk(4).indices
    assert top.pred_masks.shape[1] == 4
    assert torch.equal(top.mask_query_indices, best)
    for row in range(2):
        assert_same(top.pred_masks[row], all_masks.pred_masks[row, best[row]], atol=1e-4)


def test_mask_top_k_of_nothing(model):
    with pytest.raises(ValueError, match="mask_top_k is 0; expected at least 1"):
        model(video(1, 1), mask_top_k=0)


def test_every_trainable_parameter_receives_a_gradient(model):
    model.train()
    model(video(1, 2), labels=[labels(3, 2)]).loss.backward()
    without = [
        name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    # a bias of keys shifts all scores of a query alike, so softmax is blind to it
    assert [name for name in without if not name.endswith("k_proj.bias")] == []


def test_no_instances_still_trains(model):
    model.train()
    outputs = model(video(2, 2), labels=[labels(0, 2), labels(0, 2)])
    outputs.loss.backward()
    assert torch.isfinite(outputs.loss)
    assert outputs.loss_dict["loss_mask"] == 0
    assert all(p.grad is not None for name, p in model.named_parameters() if name.startswith(("controller", "mask_f")))


def test_more_instances_than_queries_and_one_class():
    config = tiny_config(id2label={0: "thing"}, label2id={"thing": 0})
    model = random_model(MsstsVisForVideoInstanceSegmentation, config)
    outputs = model(video(1, 2), labels=[labels(config.num_queries + 3, 2, num_labels=1)])
    assert outputs.logits.shape[-1] == 1
    assert torch.isfinite(outputs.loss)


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


def test_inference_in_chunks_of_frames_is_exact(model):
    video = torch.randn(2, 5, 3, 64, 96)  # ten frames: more than a chunk
    whole = model(video)  # with gradients, all frames at once
    with torch.no_grad():
        chunked = model(video)
    for name in ("logits", "pred_boxes", "pred_masks"):
        torch.testing.assert_close(
            chunked[name], whole[name], rtol=1e-4, atol=1e-4 * float(whole[name].detach().abs().max())
        )


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


def test_save_and_load_through_the_auto_classes(model, tmp_path):
    model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.id2label == model.config.id2label
    with torch.no_grad():
        expected = model(video(1, 2))
        for auto in (AutoModelForVideoInstanceSegmentation, AutoModel):
            loaded, info = auto.from_pretrained(tmp_path, output_loading_info=True)
            assert type(loaded) is type(model)
            assert not info["missing_keys"]
            assert not info["unexpected_keys"]
            assert_same(loaded.eval()(video(1, 2)).logits, expected.logits)


def test_base_model_loads_from_the_head_checkpoint(model, tmp_path):
    model.save_pretrained(tmp_path)
    base = type(model.model).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert_same(base(video(1, 2)).last_hidden_state, model(video(1, 2)).last_hidden_state)
    base.save_pretrained(tmp_path / "base")
    assert type(AutoModel.from_pretrained(tmp_path / "base")) is type(model.model)


def test_gradient_checkpointing_gives_equal_gradients(model):
    plain, saving = model.train(), copy.deepcopy(model).train()
    saving.activation_checkpointing_enable()
    for m in (plain, saving):
        torch.manual_seed(0)  # of the dropout
        m(video(1, 2), labels=[labels(2, 2)]).loss.backward()
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5 * a.grad.abs().max().item(), msg=name)


def test_bfloat16_is_finite_and_close(model):
    with torch.no_grad():
        expected, half = model(video(1, 2)), copy.deepcopy(model).bfloat16()(video(1, 2))
    for key in ("logits", "pred_boxes", "pred_masks"):
        assert torch.isfinite(half[key]).all()
    assert (half.pred_boxes.float() - expected.pred_boxes).abs().median() < 0.02


def test_float64_is_close(model):
    pixels = video(1, 2)
    with torch.no_grad():
        double = copy.deepcopy(model).double()(pixels.double())
        assert double.logits.dtype == torch.float64
        torch.testing.assert_close(double.logits.float(), model(pixels).logits, atol=1e-4, rtol=1e-4)


def test_hidden_states_and_attentions_on_request():
    model = random_model(MsstsVisForVideoInstanceSegmentation, tiny_config())
    model.set_attn_implementation("eager")
    with torch.no_grad():
        outputs = model(video(1, 2), output_hidden_states=True, output_attentions=True)
    assert len(outputs.decoder_hidden_states) == model.config.decoder_layers + 1
    assert len(outputs.encoder_hidden_states) == model.config.encoder_layers + 1
    Q = model.config.num_queries
    assert outputs.decoder_attentions[0].shape == (1, model.config.decoder_attention_heads, Q, Q)


def test_return_tuple(model):
    with torch.no_grad():
        outputs = model(video(1, 1), return_dict=False)
    assert isinstance(outputs, tuple)


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
    ("shape", "message"),
    [
        ((2, 3, H, W), "add a batch dimension"),
        ((1, 2, H, W, 3), "move the channels"),
        ((1, 3, 2, H, W), "swap frames and channels"),
        ((1, 2, 4, H, W), r"expected \(batch, frames, 3, height, width\)"),
        ((1, 0, 3, H, W), "an empty video"),
        ((H, W), r"expected \(batch, frames, 3, height, width\)"),
    ],
)
def test_wrong_video_shapes(model, shape, message):
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(shape))


def test_wrong_mask_shape(model):
    with pytest.raises(ValueError, match="pixel_mask has shape"):
        model(video(1, 2), torch.ones(1, H, W))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_labels": torch.tensor([0, 3])}, "reach from 0 to 3; expected 0 to 2"),
        ({"class_labels": torch.tensor([-1, 0])}, "reach from -1"),
        ({"masks": torch.zeros(2, 3, H, W, dtype=torch.bool)}, r"\['masks'\] has shape \(2, 3, 48, 64\)"),
        ({"boxes": torch.zeros(2, 3, 4)}, r"\['boxes'\] has shape"),
        ({"boxes": torch.zeros(1, 2, 4)}, r"\['boxes'\] has shape"),
        ({"boxes": torch.full((2, 2, 4), 30.0)}, r"\['boxes'\] reach from 30 to 30; expected 0 to 1: divide pixels"),
        ({"boxes": torch.full((2, 2, 4), math.nan)}, r"\['boxes'\] reach from nan"),
        ({"masks": torch.full((2, 2, H, W), 255, dtype=torch.uint8)}, r"\['masks'\] reach from 255 to 255"),
        ({"class_labels": torch.tensor([[0], [1]])}, r"\['class_labels'\] has shape \(2, 1\)"),
        ({"class_labels": torch.tensor([0.0, 1.0])}, r"\['class_labels'\] is torch.float32; expected integers"),
        ({"class_labels": [0, 1]}, r"\['class_labels'\] is a list; expected a tensor"),
        ({"masks": np.zeros((2, 2, H, W), dtype=bool)}, r"\['masks'\] is a ndarray; expected a tensor"),
    ],
)
def test_wrong_labels(model, change, message):
    with pytest.raises((ValueError, TypeError), match=message):
        model(video(1, 2), labels=[{**labels(2, 2), **change}])


def test_masks_of_labels_may_be_integers(model):
    target = labels(2, 2)
    with torch.no_grad():
        expected = model(video(1, 2), labels=[target]).loss
        assert model(video(1, 2), labels=[{**target, "masks": target["masks"].byte()}]).loss == expected


def test_wrong_number_of_label_dicts(model):
    with pytest.raises(ValueError, match="labels holds 1 dicts and the batch 2 videos"):
        model(video(2, 1), labels=[labels(1, 1)])
    with pytest.raises(ValueError, match="lacks"):
        model(video(1, 1), labels=[{"class_labels": torch.tensor([0])}])


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
        ({"backbone": "resnet50"}, "backbone is no argument of MsstsVisConfig; expected .* in backbone_config"),
        ({"use_timm_backbone": True}, "use_timm_backbone is no argument"),
        ({"use_pretrained_backbone": False}, "use_pretrained_backbone is no argument"),
        ({"backbone_kwargs": {}}, "backbone_kwargs is no argument"),
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


def test_compiles_to_one_graph():
    model = random_model(MsstsVisModel, tiny_config())
    explanation = torch._dynamo.explain(model)(video(1, 2))
    assert explanation.graph_break_count == 0

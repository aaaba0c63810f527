"""What is VisTR's own: a fixed number of frames, queries of frames, joint attention, masks over time."""

import math

import pytest
import torch
from torch.nn import functional as F

from tests.models.testers import BY_FRAME, H, W, assert_same, labels_with_absences, model_of, video
from transformers_msstsvis import VistrConfig, VistrForVideoInstanceSegmentation, VistrVideoProcessor
from transformers_msstsvis.models.vis.modeling_vis import clip_of_frames
from transformers_msstsvis.models.vistr import modeling_vistr
from transformers_msstsvis.models.vistr.loss_vistr import (
    match_instances,
    matching_cost,
    supervised_frames,
    video_instance_segmentation_loss,
)
from transformers_msstsvis.models.vistr.modeling_vistr import key_mask, video_position_embedding

T, Q = 4, 5


def tiny_vistr(seed: int = 0, **changes) -> VistrForVideoInstanceSegmentation:
    return model_of("vistr", seed, **{"num_frames": T, "num_queries": Q, **changes})


@pytest.fixture(scope="module")
def model():
    return tiny_vistr()


def test_shapes_of_the_outputs(model):
    with torch.no_grad():
        outputs = model(video(2, 3))
    assert outputs.frame_logits.shape == (2, 3, Q, 4)
    assert outputs.logits.shape == (2, Q, 3)
    assert outputs.pred_boxes.shape == (2, Q, 3, 4)
    assert outputs.pred_masks.shape == (2, Q, 3, H // 4, W // 4)
    assert outputs.last_hidden_state.shape == (2, Q, 3, 64)
    assert outputs.encoder_last_hidden_state.shape == (2, 3, -(-H // 32) * -(-W // 32), 64)
    assert [set(layer) for layer in outputs.auxiliary_outputs] == [{"frame_logits", "logits", "pred_boxes"}]


def test_logits_are_log_odds_of_the_mean_over_the_real_frames(model):
    mask = torch.ones(1, 3, H, W)
    mask[:, 2] = 0
    with torch.no_grad():
        outputs = model(video(1, 3), mask)
    probability = outputs.frame_logits[:, :2].softmax(-1)[..., :3].mean(1)
    assert_same(outputs.logits.sigmoid(), probability, atol=1e-6)


@pytest.mark.parametrize("frames", [1, 3])
def test_a_short_video_is_repeated_from_its_start(model, frames):
    short = video(1, frames)
    with torch.no_grad():
        alone, repeated = model(short), model(short[:, torch.arange(T) % frames])
    for name, axis in BY_FRAME.items():
        assert_same(alone[name], repeated[name].narrow(axis, 0, frames))


def test_padding_may_reach_beyond_the_frames_of_the_model(model):
    mask = torch.ones(1, T + 2, H, W)
    mask[:, 2:] = 0
    padded = video(1, T + 2)
    with torch.no_grad():
        assert_same(model(padded, mask).pred_masks[:, :, :2], model(padded[:, :2]).pred_masks)


def test_frames_of_a_clip():
    real = torch.tensor([[True, True, True, False], [False, True, False, True], [False] * 4])
    frames, places = clip_of_frames(real, 5)
    assert frames.tolist() == [[0, 1, 2, 0, 1], [1, 3, 1, 3, 1], [0, 1, 2, 3, 0]]
    assert places.tolist()[0][:3] == [0, 1, 2]
    assert (places[1, 1], places[1, 3]) == (0, 1)


def test_features_of_padding_reach_no_query(model):
    tokens, positions = torch.randn(1, 12, 64), torch.randn(1, 12, 64)
    real = torch.ones(1, 12, dtype=torch.bool)
    real[:, 8:] = False
    mask, changed = key_mask(real, tokens.dtype), tokens.clone()
    changed[:, 8:] += 100
    trunk = model.model
    with torch.no_grad():
        a, b = (trunk.encoder(given, positions, mask).last_hidden_state for given in (tokens, changed))
        assert_same(a[real], b[real])
        queries = torch.randn(1, 6, 64)
        a, b = (trunk.decoder(queries, given, positions, mask).last_hidden_state for given in (tokens, changed))
        assert_same(a, b)


def test_no_mask_where_nothing_is_padded_and_one_row_of_it_otherwise(model, monkeypatch):
    shapes = []
    plain = F.scaled_dot_product_attention

    def watched(query, key, value, attn_mask=None, **kwargs):
        shapes.append(None if attn_mask is None else tuple(attn_mask.shape))
        return plain(query, key, value, attn_mask=attn_mask, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    mask = torch.ones(1, T, H, W)
    with torch.no_grad():
        model(video(1, T), mask)
        assert set(shapes) == {None}
        mask[:, :, 20:] = 0
        shapes.clear()
        model(video(1, T), mask)
    assert set(shapes) == {None, (1, 1, 1, T * -(-H // 32) * -(-W // 32))}  # None: queries among themselves


def test_results_of_the_best_queries_alone(model):
    processor = VistrVideoProcessor()
    with torch.no_grad():
        everything, best = model(video(2, T)), model(video(2, T), mask_top_k=2)
    of_all = processor.post_process_video_instance_segmentation(everything)
    of_best = processor.post_process_video_instance_segmentation(best, top_k=2)
    for few, many in zip(of_best, of_all, strict=True):
        assert len(few) == 2
        assert set(few.scores) <= set(many.scores)
    with pytest.raises(ValueError, match="masks were computed for 2 queries, but others are among the 3 best"):
        processor.post_process_video_instance_segmentation(best, top_k=3)


def test_losses_are_of_the_last_layer_alone_without_auxiliary_loss():
    outputs = tiny_vistr(auxiliary_loss=False)(video(1, 2), labels=[labels_with_absences(2, 2)])
    names = ("loss_ce", "loss_bbox", "loss_giou", "loss_mask", "loss_dice", "class_error", "cardinality_error")
    assert set(outputs.loss_dict) == set(names)


def test_presence_of_the_assigned_instance_or_of_the_one_at_its_place():
    target = {"valid": torch.tensor([[True, False], [True, True], [False, True]])}
    real, instance = torch.tensor([True, True]), torch.tensor([2, 0])
    assert supervised_frames(target, instance, real, published=False).tolist() == [[False, True], [True, False]]
    assert supervised_frames(target, instance, real, published=True).tolist() == [[True, False], [True, True]]


def test_costs_by_hand():
    config = VistrConfig(num_labels=2, class_cost=1.0, bbox_cost=5.0, iou_cost=2.0)
    half = torch.tensor([0.5, 0.5, 0.2, 0.2])
    frame_logits = torch.tensor([0.7, 0.2, 0.1]).log().expand(1, 2, 1, 3)
    target = {
        "class_labels": torch.tensor([1]),
        "boxes": half.expand(1, 2, 4),
        "masks": torch.ones(1, 2, 4, 4, dtype=torch.bool),
        "valid": torch.tensor([[True, False]]),  # absent in the second frame: class 0 and a box of zeros
    }
    given = frame_logits, half.expand(1, 1, 2, 4), [target], torch.ones(1, 2, 2), config
    [cost] = matching_cost(*given)
    iou = (1 + 1e-6 / (0.04 + 1e-6)) / 2
    expected = -(0.2 + 0.7) / 2 + 5 * (0 + half.mean().item()) / 2 - 2 * iou
    assert cost.shape == (1, 1)
    assert cost.item() == pytest.approx(expected, abs=1e-5)
    [(query, instance)] = match_instances(*given)
    assert (query.tolist(), instance.tolist()) == ([0], [0])


def test_gradients_reach_logits_boxes_and_masks():
    config, target = VistrConfig(num_labels=3), labels_with_absences(2, T)
    logits, boxes = torch.randn(1, T, Q, 4, requires_grad=True), torch.rand(1, Q, T, 4, requires_grad=True)
    sizes = torch.full((1, T, 2), H)
    matches = match_instances(logits, boxes, [target], sizes, config)
    masks = torch.randn(2, T, H // 4, W // 4, requires_grad=True)
    total, _ = video_instance_segmentation_loss([logits], [boxes], [masks], [matches], [target], sizes, config)
    total.backward()
    assert all(tensor.grad.any() for tensor in (logits, boxes, masks))
    absent = ~target["valid"][matches[0][1]]
    assert not masks.grad[absent].any()


@pytest.mark.parametrize(("channels", "sizes"), [(384, (128, 128, 128)), (256, (88, 84, 84)), (64, (24, 20, 20))])
def test_positions_tell_frame_row_and_column(channels, sizes):
    mask = torch.ones(1, 3, 4, 5, dtype=torch.bool)
    embedding = video_position_embedding(mask, channels)
    assert embedding.shape == (1, 3, 4, 5, channels)
    for axis, part in enumerate(embedding.split(sizes, dim=-1), start=1):
        others = [other for other in (1, 2, 3) if other != axis]
        constant = part.movedim(axis, 0).flatten(1, 3)
        assert torch.equal(constant, constant[:, :1].expand_as(constant)), f"axis {axis} of {others}"
        first = part.movedim(axis, 0)[0, 0, 0, 0]
        assert first[0] == pytest.approx(math.sin(2 * math.pi / (mask.shape[axis] + 1e-6)), abs=1e-6)


def test_a_checkpoint_is_for_its_number_of_frames(model, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="query_embed"):
        VistrForVideoInstanceSegmentation.from_pretrained(tmp_path, num_frames=T + 1)


def test_defaults_are_the_published_ones(tmp_path):
    config = VistrConfig()
    assert (config.num_frames, config.num_queries, config.num_labels, config.d_model) == (36, 10, 41, 384)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in VistrForVideoInstanceSegmentation(config).state_dict().values())
    assert parameters == pytest.approx(57.2e6, rel=0.002)
    VistrConfig(num_labels=2).save_pretrained(tmp_path)
    assert VistrConfig.from_pretrained(tmp_path).num_labels == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"d_model": 100}, "d_model is 100; expected a multiple of 32"),
        ({"encoder_attention_heads": 7}, "encoder_attention_heads"),
        ({"num_frames": 0}, "num_frames is 0; expected at least 1"),
        ({"num_queries": 0}, "num_queries is 0"),
        ({"decoder_layers": 0}, "decoder_layers is 0"),
        ({"id2label": {}, "label2id": {}}, "num_labels is 0"),
        ({"eos_coefficient": -1}, "eos_coefficient is -1"),
        ({"backbone": "resnet50"}, "backbone is no argument of VistrConfig; expected .* in backbone_config"),
        ({"backbone_config": {"model_type": "resnot"}}, "model_type is 'resnot'"),
    ],
)
def test_wrong_configurations(settings, message):
    with pytest.raises(Exception, match=message):
        VistrConfig(**settings)


def test_first_weights_look_straight_and_average(model):
    fresh = VistrForVideoInstanceSegmentation(model.config)
    last = fresh.mask_head.steps[-1].convolution
    assert not any(parameter.any() for parameter in last.offsets.parameters())
    assert fresh.model.query_embed.weight.std().item() == pytest.approx(1, abs=0.1)
    assert (
        fresh.mask_head.steps[0].convolution.weight.abs().max()
        <= (3 / fresh.mask_head.steps[0].convolution.weight[0].numel()) ** 0.5
    )
    assert modeling_vistr.MASK_FRAMES["cpu"] == 1

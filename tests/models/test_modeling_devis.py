"""What is DeVIS's own: deformable attention over frames, clips run forward and backward, masks at two layers."""

import pytest
import torch

from tests.models.testers import BY_FRAME, H, W, assert_same, labels, labels_with_absences, model_of, video
from transformers_msstsvis import DevisConfig, DevisForVideoInstanceSegmentation, DevisVideoProcessor
from transformers_msstsvis.losses.common import smoothed_ious
from transformers_msstsvis.models.devis.loss_devis import (
    frame_boxes,
    layer_weight,
    match_instances,
    matching_cost,
    video_instance_segmentation_loss,
)
from transformers_msstsvis.models.devis.modeling_devis import other_frames
from transformers_msstsvis.models.devis.temporal_attention_devis import TemporalDeformableAttention
from transformers_msstsvis.models.vis.modeling_vis import clip_of_frames

T, Q = 4, 5


def tiny_devis(seed: int = 0, **changes) -> DevisForVideoInstanceSegmentation:
    return model_of("devis", seed, **{"num_frames": T, "num_queries": Q, **changes})


@pytest.fixture(scope="module")
def model():
    return tiny_devis()


def test_shapes_of_the_outputs(model):
    with torch.no_grad():
        outputs = model(video(2, 3))
    sizes = [-(-H // stride) * -(-W // stride) for stride in (8, 16, 32, 64)]
    assert outputs.frame_logits.shape == (2, 3, Q, 3)
    assert outputs.encoder_last_hidden_state.shape == (2, 3, sum(sizes), 64)
    assert outputs.pred_masks.shape == (2, Q, 3, H // 4, W // 4)
    assert [set(layer) for layer in outputs.auxiliary_outputs] == [{"frame_logits", "logits", "pred_boxes"}]


def test_logits_are_log_odds_of_the_mean_over_the_real_frames(model):
    mask = torch.ones(1, 3, H, W)
    mask[:, 2] = 0
    with torch.no_grad():
        outputs = model(video(1, 3), mask)
    assert_same(outputs.logits.sigmoid(), outputs.frame_logits[:, :2].sigmoid().mean(1), atol=1e-6)


@pytest.mark.parametrize(
    ("frames", "clip"), [(1, [0, 0, 0, 0, 0, 0]), (2, [0, 1, 0, 1, 0, 1]), (4, [0, 1, 2, 3, 2, 1])]
)
def test_a_short_video_runs_forward_and_backward(frames, clip):
    longer, short = tiny_devis(num_frames=6), video(1, frames)
    given, _ = clip_of_frames(torch.ones(1, frames, dtype=torch.bool), 6, mirrored=True)
    assert given.tolist() == [clip]
    with torch.no_grad():
        alone, run_through = longer(short), longer(short[:, clip])
    for name, axis in BY_FRAME.items():
        assert_same(alone[name], run_through[name].narrow(axis, 0, frames))


def test_frames_of_a_clip_are_mirrored_at_the_ends_of_the_real_ones():
    real = torch.tensor([[False, True, True, False, True], [True, False, False, False, False], [False] * 5])
    frames, places = clip_of_frames(real, 7, mirrored=True)
    assert frames.tolist() == [[1, 2, 4, 2, 1, 2, 4], [0] * 7, [0, 1, 2, 3, 4, 3, 2]]
    assert places[0, [1, 2, 4]].tolist() == [0, 1, 2]


@pytest.mark.parametrize(("window", "expected"), [(None, [1, 2, 3]), (2, [1, 1]), (4, [2, 1, 1, 2])])
def test_other_frames_of_the_first(window, expected):
    others = other_frames(4, torch.device("cpu"), window)
    assert others[0].tolist() == expected
    if window is None:
        assert [sorted([*row, frame]) for frame, row in enumerate(others.tolist())] == [[0, 1, 2, 3]] * 4
    elif window == 2:
        assert others.tolist() == [[1, 1], [0, 2], [1, 3], [2, 2]]


@pytest.mark.parametrize("changes", [{"encoder_temporal_window": 2}, {"encoder_n_temporal_points": 2}])
def test_windows_and_other_numbers_of_points(changes):
    small = tiny_devis(decoder_n_points=2, decoder_n_temporal_points=3, **changes)
    with torch.no_grad():
        assert small(video(1, T)).pred_masks.isfinite().all()


def test_what_a_query_sees_in_other_frames_follows_its_instance():
    """With identical frames and the same queries in all, only where queries look in other frames can differ."""
    torch.manual_seed(0)
    shapes = [(4, 5), (2, 3)]
    modules = [
        TemporalDeformableAttention(32, 4, 2, 3, 2, 2, temporal_reference=name) for name in ("same_query", "own")
    ]
    modules[1].load_state_dict(modules[0].state_dict())
    query, features = torch.randn(1, 3, 6, 32), torch.randn(1, 3, 26, 32)
    points = torch.rand(1, 3, 6, 2, 2)
    others = other_frames(3, points.device)
    moving = [module(query, points, features, shapes, others) for module in modules]
    still = [module(query, points[:, :1].expand_as(points), features, shapes, others) for module in modules]
    assert (moving[0] - moving[1]).abs().max() > 1e-2
    assert_same(still[0], still[1], atol=1e-6)
    with pytest.raises(ValueError, match="temporal_reference is 'level'; expected one of 'first_level', 'same_query'"):
        TemporalDeformableAttention(32, 4, 2, 3, 2, 2, temporal_reference="level")


def test_queries_of_other_instances_and_frames_matter(model):
    """Attention over time: what is in the last frame changes what is found in the first."""
    frames = video(1, T)
    changed = frames.clone()
    changed[:, -1] = -changed[:, -1]
    with torch.no_grad():
        a, b = model(frames), model(changed)
    assert (a.encoder_last_hidden_state[:, 0] - b.encoder_last_hidden_state[:, 0]).abs().max() > 1e-3
    assert (a.frame_logits[:, 0] - b.frame_logits[:, 0]).abs().max() > 1e-3


def test_frame_scores_are_those_of_the_label(model):
    with torch.no_grad():
        outputs = model(video(1, 3))
    [found] = DevisVideoProcessor().post_process_video_instance_segmentation(outputs, top_k=4)
    probability = outputs.frame_logits[0].sigmoid()
    best = outputs.logits[0].sigmoid().flatten().topk(4).indices
    for scores, pair in zip(found.frame_scores, best.tolist(), strict=True):
        assert_same(torch.from_numpy(scores), probability[:, pair // 3, pair % 3], atol=1e-6)
    assert_same(torch.from_numpy(found.scores), torch.from_numpy(found.frame_scores).mean(1), atol=1e-6)


def test_clips_of_a_long_video_start_four_frames_apart():
    assert DevisVideoProcessor().clip_plan(DevisConfig())[:3] == (6, 4, True)
    with pytest.raises(ValueError, match="devis knows clips of 6 frames only"):
        DevisVideoProcessor().clip_plan(DevisConfig(), max_frames=5)


def test_boxes_of_absent_frames_are_specks_at_the_nearest_present_one():
    boxes = torch.rand(2, 5, 4)
    valid = torch.tensor([[False, True, False, True, False], [False] * 5])
    found, present = frame_boxes({"boxes": boxes, "valid": valid}, torch.ones(5, dtype=torch.bool))
    assert torch.equal(present, valid)
    assert torch.equal(found[0, valid[0]], boxes[0, valid[0]])
    assert torch.equal(found[0, [0, 2, 4], :2], boxes[0, [1, 1, 3], :2])  # of two the earlier one
    assert (found[0, [0, 2, 4], 2:] == 1e-6).all()
    assert found.isfinite().all()


def test_costs_by_hand():
    config = DevisConfig(num_labels=2, class_cost=1.0, bbox_cost=5.0, giou_cost=2.0)
    box, absent = torch.tensor([0.5, 0.5, 0.2, 0.2]), torch.tensor([0.5, 0.5, 1e-6, 1e-6])
    p = torch.tensor([[0.7, 0.2], [0.4, 0.6]])  # (T, K)
    target = {
        "class_labels": torch.tensor([1]),
        "boxes": box.expand(1, 2, 4),
        "masks": torch.ones(1, 2, 4, 4, dtype=torch.bool),
        "valid": torch.tensor([[True, False]]),
    }
    given = p.logit()[None, :, None], box.expand(1, 1, 2, 4), [target], torch.ones(1, 2, 2), config
    [cost] = matching_cost(*given)
    p = p[:, 1]
    focal = (-0.25 * (1 - p) ** 2 * p.log() + 0.75 * p**2 * (1 - p).log()).mean()
    distance = (box - absent).abs().mean() / 2
    giou = smoothed_ious(box.expand(2, 4), torch.stack((box, absent)))[1].mean()
    assert cost.item() == pytest.approx((focal + 5 * distance - 2 * giou).item(), abs=1e-5)
    [(query, instance)] = match_instances(*given)
    assert (query.tolist(), instance.tolist()) == ([0], [0])


def test_weights_of_the_layers_are_the_published_ones():
    config = DevisConfig()
    assert [layer_weight(layer, 6, config) * 30 for layer in range(6)] == pytest.approx([1, 2, 3, 4, 5, 15])
    assert layer_weight(0, 6, DevisConfig(auxiliary_loss_weighting=False)) == 1
    assert layer_weight(0, 1, DevisConfig(auxiliary_loss=False)) == 1


def test_masks_are_learned_at_the_last_layer_and_at_those_of_the_configuration():
    target = labels_with_absences(2, 2)
    deep = tiny_devis(decoder_layers=4)
    terms = deep(video(1, 2), labels=[target]).loss_dict
    assert {"loss_mask", "loss_mask_2", "loss_dice", "loss_dice_2"} == {
        key for key in terms if "mask" in key or "dice" in key
    }
    alone = tiny_devis(auxiliary_loss=False)(video(1, 2), labels=[target]).loss_dict
    assert set(alone) == {"loss_ce", "loss_bbox", "loss_giou", "loss_mask", "loss_dice", "class_error"}


def test_an_instance_in_no_frame_teaches_neither_box_nor_mask(model):
    target = labels(2, 2)
    target["valid"] = torch.tensor([[True, True], [False, False]])
    matches = [(torch.tensor([1, 3]), torch.tensor([0, 1]))]
    masks = torch.randn(2, 2, H // 4, W // 4, requires_grad=True)
    boxes = torch.rand(1, Q, 2, 4, requires_grad=True)
    sizes = torch.full((1, 2, 2), H)
    logits = torch.randn(1, 2, Q, 3)
    total, _ = video_instance_segmentation_loss([logits], [boxes], [masks], [matches], [target], sizes, model.config)
    total.backward()
    assert (masks.grad[0].any(), masks.grad[1].any()) == (True, False)
    assert (boxes.grad[0, 1].any(), boxes.grad[0, 3].any()) == (True, False)


def test_boxes_of_a_layer_train_those_before_unless_told_otherwise():
    gradients = []
    for propagated in (True, False):
        model = tiny_devis(box_gradient_propagation=propagated, auxiliary_loss=False)
        model(video(1, 2), labels=[labels(2, 2)]).loss.backward()
        gradients.append(model.model.decoder.box_embed[0].layers[-1].weight.grad)
    assert gradients[0].any()
    assert gradients[1] is None or not gradients[1].any()


def test_a_checkpoint_is_for_its_number_of_frames(model, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"the shapes of .* of its weights differ"):
        DevisForVideoInstanceSegmentation.from_pretrained(tmp_path, num_frames=T + 1)


def test_defaults_are_the_published_ones(tmp_path):
    config = DevisConfig()
    assert (config.num_frames, config.num_queries, config.num_labels, config.d_model) == (6, 10, 40, 256)
    DevisConfig(num_labels=2).save_pretrained(tmp_path)
    assert DevisConfig.from_pretrained(tmp_path).num_labels == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"d_model": 100}, "d_model is 100; expected a multiple of 32"),
        ({"encoder_attention_heads": 7}, "encoder_attention_heads"),
        ({"num_frames": 1}, "num_frames is 1; expected at least 2"),
        ({"num_queries": 0}, "num_queries is 0"),
        ({"num_feature_levels": 2}, "num_feature_levels is 2; expected at least 3"),
        ({"encoder_temporal_window": 3}, "encoder_temporal_window is 3 and num_frames 6; expected an even number"),
        ({"encoder_temporal_window": 12}, "encoder_temporal_window is 12"),
        ({"giou_cost": -1}, "giou_cost is -1"),
        ({"backbone": "resnet50"}, "backbone is no argument of DevisConfig; expected .* in backbone_config"),
    ],
)
def test_wrong_configurations(settings, message):
    with pytest.raises(Exception, match=message):
        DevisConfig(**settings)


def test_first_weights_look_straight_ahead_in_all_frames(model):
    fresh = DevisForVideoInstanceSegmentation(model.config)
    attention = fresh.model.encoder.layers[0].self_attn
    own = attention.sampling_offsets.bias.view(4, 1, 4, 4, 2)
    assert torch.equal(
        attention.temporal_sampling_offsets.bias.view(4, T - 1, 4, 4, 2), own.expand(-1, T - 1, -1, -1, -1)
    )
    for convolution in (fresh.mask_head.steps[0].convolution, fresh.mask_output):
        assert not any(p.any() for part in (convolution.offsets, convolution.modulation) for p in part.parameters())
    assert not fresh.model.decoder.box_embed[1].layers[-1].weight.any()
    assert fresh.class_embed[0].bias[0].item() == pytest.approx(-4.595, abs=1e-3)

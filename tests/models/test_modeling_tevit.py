"""What is TeViT's own: messengers between frames, attention over time, boxes and masks in boxes, its matching."""

import copy

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch.nn import functional as F
from transformers import PvtV2Config
from transformers.backbone_utils import load_backbone

from tests.models.testers import (
    BY_FRAME,
    FOUR_MAPS,
    PVT,
    H,
    W,
    assert_same,
    labels,
    labels_with_absences,
    model_of,
    random_model,
    video,
)
from transformers_msstsvis import (
    TevitConfig,
    TevitForVideoInstanceSegmentation,
    TevitModel,
    TevitVideoProcessor,
    decode_mask,
)
from transformers_msstsvis.models.tevit.loss_tevit import (
    match_instances,
    matching_cost,
    video_instance_segmentation_loss,
)
from transformers_msstsvis.models.tevit.messenger_backbone_tevit import MessengerBackbone, shift, shifted_frames
from transformers_msstsvis.models.tevit.modeling_tevit import moved_boxes

T, Q = 4, 6


def tiny_tevit(seed: int = 3, **changes) -> TevitForVideoInstanceSegmentation:
    return model_of("tevit", seed, **{"num_queries": Q, **changes})


@pytest.fixture(scope="module")
def model():
    return tiny_tevit()


def test_published_values_are_the_defaults():
    config = TevitConfig()
    assert (config.num_frames, config.num_queries, config.num_labels, config.d_model) == (5, 100, 40, 256)
    assert (config.num_messengers, config.messenger_shifts, config.drop_path_rate) == (32, [1, -1, 2, -2], 0.1)
    assert config.backbone_config.hidden_sizes == [64, 128, 320, 512]
    assert config.backbone_config.drop_path_rate == 0.1
    assert (config.clip_length, config.freeze_backbone_stem, config.train_batch_norm_affine) == (None, False, True)
    with torch.device("meta"):
        model = TevitForVideoInstanceSegmentation(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == 161_832_616


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_messengers": 10}, r"num_messengers is 10 and messenger_shifts \[1, -1, 2, -2\]; expected as many"),
        (
            {"num_messengers": 4, "backbone_config": FOUR_MAPS},
            "the backbone 'resnet', which knows no messengers; expected 0",
        ),
        ({"d_model": 60, "decoder_attention_heads": 8}, "d_model is 60 and decoder_attention_heads 8; expected"),
        ({"drop_path_rate": 1.5}, "drop_path_rate is 1.5; expected at least 0 and at most 1"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        TevitConfig(**changes)


def test_messengers_wander_in_a_circle_of_the_real_frames():
    real = torch.tensor([[True] * 5, [True, True, True, False, False], [False, True, False, True, True]])
    sources = shifted_frames(real, [1, -1, 2, -2]).view(3, 5, 4)
    assert sources[0].tolist() == [[4, 1, 3, 2], [0, 2, 4, 3], [1, 3, 0, 4], [2, 4, 1, 0], [3, 0, 2, 1]]
    assert (sources[1] - 5).tolist() == [[2, 1, 1, 2], [0, 2, 2, 0], [1, 0, 0, 1], [3] * 4, [4] * 4]
    assert (sources[2, :, 0] - 10).tolist() == [0, 4, 2, 1, 3]
    messengers = torch.arange(15.0)[:, None, None].expand(-1, 8, 2)  # the number of the frame
    moved = shift(messengers, sources.flatten(0, 1))
    assert torch.equal(moved[..., 0], sources.flatten(0, 1).repeat_interleave(2, dim=1).float())


def test_one_frame_keeps_its_messengers_and_two_swap_by_one_only():
    assert shifted_frames(torch.ones(1, 1, dtype=torch.bool), [1, -1, 2, -2]).tolist() == [[0] * 4]
    assert shifted_frames(torch.ones(1, 2, dtype=torch.bool), [1, -1, 2, -2]).tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]


def test_the_backbone_without_messages_is_that_of_transformers(model):
    """Patches that read no messengers are those of PVTv2, weights and all."""
    config = PvtV2Config(**{name: value for name, value in PVT.items() if name != "model_type"})
    theirs = load_backbone(TevitConfig(backbone_config=config)).eval()
    silent = MessengerBackbone(TevitConfig(backbone_config=PVT, num_messengers=0, drop_path_rate=0.0)).eval()
    theirs.load_state_dict(silent.model.state_dict())
    frames = video(3)
    with torch.no_grad():
        expected = theirs(frames).feature_maps
        for given, wanted in zip(silent(frames, torch.ones(1, 3, dtype=torch.bool)), expected, strict=True):
            torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-5)


def test_a_message_reaches_two_frames_in_the_first_stage():
    backbone = random_model(TevitModel, tiny_tevit().config).backbone.eval()
    frames, real = video(9), torch.ones(1, 9, dtype=torch.bool)
    changed = frames.clone()
    changed[4] += 1
    with torch.no_grad():
        pairs = zip(backbone(frames, real), backbone(changed, real), strict=True)
        reach = [(a - b).abs().amax((1, 2, 3)).gt(1e-6).nonzero().flatten().tolist() for a, b in pairs]
    assert reach[0] == [2, 3, 4, 5, 6]
    assert reach[2] == list(range(9))


def test_videos_of_different_lengths_in_a_batch_are_as_alone(model):
    videos, mask, lengths = video(3, T), torch.ones(3, T, H, W, dtype=torch.int64), (T, 3, 1)
    for row, length in enumerate(lengths):
        mask[row, length:] = 0
    with torch.no_grad():
        together = model(videos, mask)
        alone = [model(videos[row : row + 1, :length]) for row, length in enumerate(lengths)]
    for row, length in enumerate(lengths):
        for name, axis in BY_FRAME.items():
            if together.get(name) is not None:
                assert_same(together[name][row : row + 1].narrow(axis, 0, length), alone[row][name], atol=1e-4)
        assert_same(together.logits[row : row + 1], alone[row].logits, atol=1e-4)


def test_any_number_of_frames(model):
    with torch.no_grad():
        outputs = model(video(1, 11))
    assert outputs.pred_masks.shape == (1, 10, 11, 28, 28)


def test_logits_are_log_odds_of_the_mean_over_the_real_frames(model):
    mask = torch.ones(1, 3, H, W)
    mask[:, 2] = 0
    with torch.no_grad():
        outputs = model(video(1, 3), mask)
    assert_same(outputs.logits.sigmoid(), outputs.frame_logits[:, :2].sigmoid().mean(1), atol=1e-6)


def test_attention_over_time_knows_no_order():
    """Without messengers, frames in another order give the same in that order."""
    model = tiny_tevit(backbone_config=FOUR_MAPS, num_messengers=0)
    frames, order = video(1, T), [2, 0, 3, 1]
    with torch.no_grad():
        a, b = model(frames), model(frames[:, order])
        c = model(frames[:, :1])
    assert_same(a.frame_logits[:, order], b.frame_logits)
    assert (a.frame_logits[:, :1] - c.frame_logits).abs().max() > 1e-3  # but other frames matter


def test_affine_parameters_of_frozen_batch_norms_are_trained_beyond_the_stem():
    model = tiny_tevit(backbone_config=FOUR_MAPS, num_messengers=0, freeze_backbone_stem=True).train()
    norms = {name: value for name, value in model.named_parameters() if "normalization" in name}
    statistics = {
        name: value.clone() for name, value in model.named_buffers() if "running" in name and "backbone" in name
    }
    model(video(1, 2), labels=[labels(2, 2)]).loss.backward()
    stem = ("embedder", "encoder.stages.0")
    for name, parameter in norms.items():
        frozen = any(f"model.backbone.model.{part}." in name for part in stem)
        assert parameter.requires_grad != frozen, name
        assert frozen or parameter.grad.any(), name
    assert sum("embedder" not in name for name in norms) > 6
    assert all(torch.equal(value, statistics[name]) for name, value in model.named_buffers() if name in statistics)
    fixed = tiny_tevit(backbone_config=FOUR_MAPS, num_messengers=0, train_batch_norm_affine=False)
    assert not any("normalization" in name for name, _ in fixed.named_parameters())
    fixed.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        assert_same(fixed(video(1, 2)).logits, model.eval()(video(1, 2)).logits)


def test_stochastic_depth_drops_frames_of_the_backbone_in_training_only():
    model = tiny_tevit(drop_path_rate=0.9)
    with torch.no_grad():
        assert_same(model(video(1, 2)).logits, model(video(1, 2)).logits, atol=0)
        backbone, real = model.model.backbone.train(), torch.ones(1, 2, dtype=torch.bool)
        torch.manual_seed(0)
        first, second = (backbone(video(2), real)[-1] for _ in range(2))
    assert (first - second).abs().max() > 1e-3


def test_mask_heads_learn_the_statistics_of_the_positives():
    model = tiny_tevit().train()
    before = [head.norms[0].running_mean.clone() for head in model.mask_heads]
    model(video(1, 2), labels=[labels(0, 2)]).loss.backward()
    assert all(
        torch.equal(head.norms[0].running_mean, mean) for head, mean in zip(model.mask_heads, before, strict=True)
    )
    model(video(1, 2), labels=[labels(2, 2)])
    assert not any(
        torch.equal(head.norms[0].running_mean, mean) for head, mean in zip(model.mask_heads, before, strict=True)
    )


def test_boxes_move_by_parts_of_themselves_and_leave_the_frame():
    boxes = torch.tensor([[10.0, 20, 30, 60], [30.0, 20, 10, 60]])  # the second one backwards
    delta = torch.tensor([1.0, -0.5, 0.0, 50.0])
    forwards, backwards = moved_boxes(boxes, delta)
    assert_same(forwards, torch.tensor([20.0, 30 - 1250, 40, 30 + 1250]))
    assert_same(backwards[[0, 2]], torch.tensor([20.0, 0]))


def test_boxes_outside_and_of_negative_sides_give_results(model):
    odd = copy.deepcopy(model)
    with torch.no_grad():
        odd.model.query_boxes.weight[:3] = torch.tensor(
            [[3.0, 3, 0.5, 0.5], [0.5, 0.5, -0.5, 0.5], [0.5, 0.5, -1, -1]]
        )
        outputs = odd(video(1, 2), mask_top_k=100)
    assert outputs.pred_masks.shape[1] == Q * 3
    for name in ("logits", "pred_boxes", "pred_masks"):
        assert outputs[name].isfinite().all()
    [found] = TevitVideoProcessor().post_process_video_instance_segmentation(outputs, [(90, 120)], boxes="model")
    shown = ~torch.from_numpy(found.boxes).isnan()
    assert (found.boxes[shown.numpy()] >= 0).all()
    odd.train()(video(1, 2), labels=[labels(3, 2)]).loss.backward()
    assert all(p.grad.isfinite().all() for p in odd.parameters() if p.grad is not None)


def test_masks_are_of_the_best_pairs(model):
    with torch.no_grad():
        outputs, more = model(video(2, 2)), model(video(2, 2), mask_top_k=12)
    K = outputs.logits.shape[-1]
    best = outputs.logits.flatten(1).topk(10).indices
    assert torch.equal(outputs.mask_query_indices, best // K)
    assert torch.equal(outputs.mask_label_indices, best % K)
    assert_same(more.pred_masks[:, :10], outputs.pred_masks)
    told = "computed for 10 pairs, but others are among the 11 best pairs; .* mask_top_k of at least top_k = 11$"
    with pytest.raises(ValueError, match=told):
        TevitVideoProcessor().post_process_video_instance_segmentation(outputs, top_k=11)


def test_masks_of_whole_frames_are_pasted_for_trackers(model):
    mask = torch.ones(1, 3, H, W)
    mask[:, 2], mask[:, :, 40:] = 0, 0
    with torch.no_grad():
        outputs = model(video(1, 3) * mask[:, :, None], mask)
    processor = TevitVideoProcessor()
    alone, pairs = processor.unpadded(outputs, 0), processor.candidates(outputs, 0, 0.0, 10)
    assert alone.pred_masks.shape == (1, 10, 2, 10, 16)
    masks = processor.masks_of(outputs, 0, pairs, (160, 256), 0.5)
    exact = [np.zeros((160, 256), bool) if mask is None else decode_mask(mask) for track in masks for mask in track]
    whole = F.interpolate(alone.pred_masks[0], size=(160, 256), mode="bilinear").flatten(0, 1) > 0
    assert 0.02 < np.mean(exact) < 0.98
    assert np.mean(whole.numpy() != exact) < 0.06  # from a coarser map


def given_outputs(n: int = 2):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(1, T, Q, 3, generator=generator)
    centres = torch.rand(1, Q, T, 4, generator=generator) * 0.4 + 0.2
    return logits, centres, [labels_with_absences(n, T)], torch.tensor([[[H, W]] * T])


def test_costs_are_means_over_the_frames_that_show_the_instance():
    logits, boxes, target, sizes = given_outputs()
    target[0]["valid"] = torch.tensor([[True, False, True, False], [False] * 4])
    config = TevitConfig(num_queries=Q)
    [cost] = matching_cost(logits, boxes, target, sizes, config)
    singles = []
    for frame in (0, 2):
        one = {**target[0], "valid": torch.arange(T).eq(frame).expand(2, -1)}
        singles.append(matching_cost(logits, boxes, [one], sizes, config)[0][:, 0])
    assert_same(cost[:, 0], torch.stack(singles).mean(0))
    assert (cost[:, 1] > 1e5).all()  # seen nowhere
    [(query, instance)] = match_instances(logits, boxes, target, sizes, config)
    assert query.tolist() == sorted(query.tolist())
    assert query[instance == 0] == cost[:, 0].argmin()


def test_a_query_is_a_negative_where_its_instance_is_absent():
    logits, boxes, target, sizes = given_outputs(1)
    target[0]["valid"] = torch.tensor([[True, False, True, True]])
    config, match = TevitConfig(num_queries=Q), [(torch.tensor([1]), torch.tensor([0]))]
    logits.requires_grad_()
    masks = torch.randn(1, T, 28, 28, requires_grad=True)
    total, _ = video_instance_segmentation_loss([logits], [boxes], [masks], [match], target, sizes, config)
    total.backward()
    label = target[0]["class_labels"][0]
    assert (logits.grad[0, :, 1, label] < 0).tolist() == [True, False, True, True]
    assert masks.grad.flatten(2).any(2).tolist() == [[True, False, True, True]]


def test_losses_of_padded_frames_and_given_numbers_of_positives():
    logits, boxes, target, sizes = given_outputs(1)
    target[0]["valid"] = torch.tensor([[True, False, False, False]])
    config, match = TevitConfig(num_queries=Q), [(torch.tensor([1]), torch.tensor([0]))]
    masks = torch.randn(1, T, 28, 28)
    _, terms = video_instance_segmentation_loss([logits], [boxes], [masks], [match], target, sizes, config)
    changed = [x.clone() for x in (logits, boxes, masks)]
    changed[0][:, 3], changed[1][:, :, 3], changed[2][:, 3] = torch.nan, torch.nan, torch.nan
    sizes[:, 3] = 0
    logits, boxes, masks = changed
    _, padded = video_instance_segmentation_loss([logits], [boxes], [masks], [match], target, sizes, config)
    for name in ("loss_bbox", "loss_giou", "loss_dice"):
        assert_same(padded[name], terms[name])
    assert padded["loss_ce"] < terms["loss_ce"]

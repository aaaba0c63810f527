"""What holds for every model, on tiny random weights: the contract of the family."""

import copy
import math
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import AutoConfig, AutoModel

from tests.models.testers import BY_FRAME, TESTERS, H, W, frame_masks, labels, model_of, skip_exempt, video
from transformers_msstsvis import AutoModelForVideoInstanceSegmentation
from transformers_msstsvis.models.auto import MODELS, class_of, video_processor_class
from transformers_msstsvis.models.vis.modeling_vis import in_frame_chunks

TENSORS = ("logits", "pred_boxes", "pred_masks")


@pytest.fixture(params=sorted(MODELS))
def name(request):
    """Of every model of the table."""
    skip_exempt(request.param, request.function.__name__)
    return request.param


@pytest.fixture
def tester(name):
    return TESTERS[name]


@pytest.fixture
def model(name):
    return model_of(name)


def assert_same(a, b, atol=2e-5):
    torch.testing.assert_close(a, b, atol=atol, rtol=1e-4)


def test_output_follows_the_contract(name, model, tester):
    B, T, Q, K, C = 2, 3, model.config.num_queries, model.config.num_labels, model.config.d_model
    with torch.no_grad():
        outputs = model(video(B, T))
    assert outputs.logits.shape == (B, Q, K)
    assert outputs.pred_boxes.shape == (B, Q, T, 4)
    P = 10 if tester.boxed else Q
    assert frame_masks(model, outputs).shape == (B, P, T, tester.mask_size(H), tester.mask_size(W))
    assert outputs.last_hidden_state.shape == tuple({"B": B, "Q": Q, "T": T, "C": C}[a] for a in tester.hidden_axes)
    assert outputs.frame_sizes.tolist() == [[[H, W]] * T] * B
    assert tester.boxed or ((outputs.pred_boxes >= 0) & (outputs.pred_boxes <= 1)).all()
    layers = [outputs, *outputs.auxiliary_outputs]
    assert len(layers) == model.config.decoder_layers
    if tester.no_object is None:
        assert outputs.frame_logits is None
    for layer in layers if tester.no_object is not None else ():
        assert layer["frame_logits"].shape == (B, T, Q, K + tester.no_object)
        assert layer["logits"].shape == (B, Q, K)
    if tester.boxed:
        assert outputs.pred_masks.shape == (B, P, T, tester.boxed, tester.boxed)
        assert outputs.mask_query_indices.shape == outputs.mask_label_indices.shape == (B, P)
    else:
        assert outputs.mask_query_indices is outputs.mask_label_indices is None
    assert outputs.loss is outputs.loss_dict is outputs.matches is outputs.matched_masks is None
    assert model.main_input_name == "pixel_values_videos"


@pytest.mark.parametrize("size", [(48, 64), (50, 70), (33, 41)])
def test_any_size_and_one_frame(model, tester, size):
    with torch.no_grad():
        outputs = model(torch.randn(1, 1, 3, *size))
    assert frame_masks(model, outputs).shape[-2:] == tuple(tester.mask_size(side) for side in size)
    assert all(torch.isfinite(outputs[key]).all() for key in TENSORS)


def test_training_gives_matches_and_their_masks(model, tester):
    model.train()
    outputs = model(video(2, 2), labels=[labels(2, 2), labels(1, 2)])
    assert [len(query) for query, _ in outputs.matches] == [2, 1]
    assert outputs.matched_masks.shape == (3, 2, *(tester.boxed or tester.mask_size(side) for side in (H, W)))
    assert outputs.pred_masks is None
    assert model(video(1, 2), labels=[labels(2, 2)], mask_top_k=3).pred_masks.shape[1] == 3
    with torch.no_grad():
        in_eval = model.eval()(video(1, 2), labels=[labels(2, 2)])
    assert torch.isfinite(in_eval.loss)
    assert in_eval.pred_masks is not None


def test_what_absent_labels_say_is_ignored(model):
    """Boxes and masks of frames in which an instance is not `valid` change nothing."""
    target = labels(2, 2)
    target["valid"] = torch.tensor([[True, False], [True, True]])
    other = {**target, "boxes": target["boxes"].clone(), "masks": target["masks"].clone()}
    other["boxes"][0, 1], other["masks"][0, 1] = 0.9, True
    with torch.no_grad():
        first, second = (model(video(1, 2), labels=[given]).loss_dict for given in (target, other))
    assert first.keys() == second.keys()
    for term, value in first.items():
        assert torch.equal(torch.as_tensor(second[term]), torch.as_tensor(value)), term


def test_batched_equals_alone_and_permuting_videos_permutes_outputs(model):
    videos = video(3, 2)
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        together, permuted = model(videos), model(videos[order])
        alone = [model(videos[index][None]) for index in range(3)]
    for key in TENSORS:
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
    for key in TENSORS:
        assert_same(together[key][:1], alone[key], atol=1e-4)


def test_mask_top_k_gives_the_masks_of_the_best_queries(model, tester):
    with torch.no_grad():
        all_masks, top = model(video(2, 2)), model(video(2, 2), mask_top_k=4)
    best = all_masks.logits.amax(-1).topk(4).indices
    assert top.pred_masks.shape[1] == 4
    if tester.boxed:  # of pairs, best first
        K = all_masks.logits.shape[-1]
        pairs, best = all_masks.logits.flatten(1).topk(4).indices, torch.arange(4).expand(2, 4)
        assert torch.equal(K * top.mask_query_indices + top.mask_label_indices, pairs)
    else:
        assert torch.equal(top.mask_query_indices, best)
    for row in range(2):
        assert_same(top.pred_masks[row], all_masks.pred_masks[row, best[row]], atol=1e-4)


def test_mask_top_k_of_nothing(model):
    with pytest.raises(ValueError, match="mask_top_k is 0; expected at least 1"):
        model(video(1, 1), mask_top_k=0)


def test_every_trainable_parameter_receives_a_gradient(model, tester):
    model.train()
    model(video(1, 2), labels=[labels(3, 2)]).loss.backward()
    without = [
        name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    assert [name for name in without if not any(re.fullmatch(known, name) for known in tester.no_gradient)] == []


def test_no_instances_still_trains(model):
    model.train()
    outputs = model(video(2, 2), labels=[labels(0, 2), labels(0, 2)])
    outputs.loss.backward()
    assert torch.isfinite(outputs.loss)
    assert outputs.loss_dict["loss_dice"] == 0
    # Distributed training waits for every one of them.
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("num_labels", [1, 3])
def test_more_instances_than_queries_and_few_classes(name, num_labels):
    names = {index: f"thing {index}" for index in range(num_labels)}
    model = model_of(name, id2label=names, label2id={thing: index for index, thing in names.items()})
    target = labels(model.config.num_queries + 3, 2, num_labels=num_labels)
    outputs = model(video(1, 2), labels=[target])
    assert outputs.logits.shape[-1] == num_labels
    assert torch.isfinite(outputs.loss)


def test_inference_in_chunks_of_frames_is_exact(model):
    video = torch.randn(2, 5, 3, 64, 96)  # ten frames: more than a chunk
    whole = model(video)  # with gradients, all frames at once
    with torch.no_grad():
        chunked = model(video)
    for name in TENSORS:
        torch.testing.assert_close(
            chunked[name], whole[name], rtol=1e-4, atol=1e-4 * float(whole[name].detach().abs().max())
        )


@pytest.mark.parametrize("argument", ["backbone", "backbone_kwargs", "use_pretrained_backbone", "use_timm_backbone"])
def test_older_arguments_of_backbones_are_refused_without_a_call_to_the_hub(tester, argument):
    message = f"{argument} is no argument of {type(tester.config()).__name__}; expected .* in backbone_config"
    with pytest.raises(ValueError, match=message):
        tester.config(**{argument: "resnet50"})


def test_configuration_keeps_its_values(tester, tmp_path):
    config = tester.config()
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is type(config)
    assert loaded.to_diff_dict() == config.to_diff_dict()


def test_learning_rate_groups(model):
    groups = {name: model.lr_group(name) for name, _ in model.named_parameters()}
    assert {group for name, group in groups.items() if name.startswith("model.backbone.")} == {"backbone"}
    assert "backbone" not in {group for name, group in groups.items() if not name.startswith("model.backbone.")}
    assert None in groups.values()


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
    for key in TENSORS:
        assert torch.isfinite(half[key]).all()
    assert (half.pred_boxes.float() - expected.pred_boxes).abs().median() < 0.02


def test_trains_in_mixed_precision(model):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.train()(video(1, 2), labels=[labels(2, 2)]).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_float64_is_close(model):
    pixels = video(1, 2)
    with torch.no_grad():
        double = copy.deepcopy(model).double()(pixels.double())
        assert double.logits.dtype == torch.float64
        torch.testing.assert_close(double.logits.float(), model(pixels).logits, atol=1e-4, rtol=1e-4)


def test_return_tuple(model):
    with torch.no_grad():
        outputs = model(video(1, 1), return_dict=False)
    assert isinstance(outputs, tuple)


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
        ({"valid": torch.ones(2, 3, dtype=torch.bool)}, r"\['valid'\] has shape \(2, 3\); expected \(2, 2\)"),
        ({"valid": torch.full((2, 2), 7)}, r"\['valid'\] reach from 7 to 7; expected 0 to 1"),
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
    with pytest.raises(ValueError, match=r"lacks \['boxes', 'masks', 'valid'\]; expected class_labels, boxes"):
        model(video(1, 1), labels=[{"class_labels": torch.tensor([0])}])


def test_compiles_to_one_graph(name, tester):
    model = class_of(name, "Model")(tester.config()).eval()
    with torch.no_grad():
        explanation = torch._dynamo.explain(model)(video(1, 2))
    assert explanation.graph_break_count == 0


def test_attention_written_out_gives_the_same(model):
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    mask = torch.ones(1, 3, H, W)
    mask[:, :, 20:] = 0
    with torch.no_grad():
        written_out, fused = eager(video(1, 3), mask, output_attentions=True), model(video(1, 3), mask)
    assert_same(written_out.pred_masks, fused.pred_masks, atol=1e-4)
    assert len(written_out.decoder_attentions) == model.config.decoder_layers


def test_a_video_without_a_real_pixel_stays_finite(model):
    mask = torch.ones(2, 2, H, W)
    mask[1] = 0
    with torch.no_grad():
        outputs = model(video(2, 2), mask)
    assert all(outputs[name].isfinite().all() for name in TENSORS)
    results = video_processor_class(model.config)().post_process_video_instance_segmentation(outputs)
    assert [result.num_frames for result in results] == [2, 0]


@pytest.fixture(params=[name for name in sorted(MODELS) if TESTERS[name].config().clip_length])
def of_one_length(request):
    """A model that knows clips of a single length."""
    return model_of(request.param)


def test_videos_of_different_lengths_in_a_batch_are_as_alone(of_one_length):
    T = of_one_length.config.num_frames
    videos, mask = video(3, T), torch.ones(3, T, H, W, dtype=torch.int64)
    lengths = (T, 2, 1)
    for row, length in enumerate(lengths):
        mask[row, length:] = 0
    with torch.no_grad():
        together = of_one_length(videos, mask)
        alone = [of_one_length(videos[row : row + 1, :length]) for row, length in enumerate(lengths)]
    for row, length in enumerate(lengths):
        for name, axis in BY_FRAME.items():
            assert_same(together[name][row : row + 1].narrow(axis, 0, length), alone[row][name], atol=1e-4)
        assert_same(together.logits[row : row + 1], alone[row].logits, atol=1e-4)


def test_a_longer_video_is_refused_with_the_way_out(of_one_length):
    T = of_one_length.config.num_frames
    told = f"has {T + 1} frames and the model knows {T}; expected at most as many: .* by the streaming predictor"
    with pytest.raises(ValueError, match=told):
        of_one_length(video(1, T + 1))


@pytest.mark.parametrize("name", ["devis", "msstsvis", "seqformer", "vistr"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradient_checkpointing_keeps_nothing_of_an_encoder_layer(name, checkpointing):
    model = model_of(name).train()
    if checkpointing:
        model.activation_checkpointing_enable()
    hidden = []
    for layer in model.model.encoder.layers:
        layer.feed_forward.fc1.register_forward_hook(
            lambda _, __, output: hidden.append(StorageWeakRef(output.untyped_storage()))
        )
    logits = model(video(1, 2)).logits
    assert {storage.expired() for storage in hidden} == {checkpointing}
    logits.sum().backward()


def test_frames_apart_in_training_are_the_same():
    frames, calls = torch.randn(5, 3, requires_grad=True), []
    weight = torch.randn(3, 2, requires_grad=True)

    def function(frames, others):
        calls.append(len(frames))
        return (frames @ weight).relu_() + others

    others = torch.randn(5, 2)
    for in_training, expected_calls in ((False, [5]), (True, [2, 2, 1])):
        given = in_frame_chunks(function, {"cpu": 2}, frames, others, in_training=in_training)
        gradients = torch.autograd.grad(given.square().sum(), (frames, weight))
        assert calls == expected_calls
        calls.clear()
        if not in_training:
            expected, expected_gradients = given, gradients
    torch.testing.assert_close(given, expected)
    torch.testing.assert_close(gradients, expected_gradients)

"""What training can be asked for: accumulation, checkpointing, half precision, other classes, other models."""

import pytest
import torch
from transformers import TrainerCallback

from tests.tiny import moving_square, tiny_config, tiny_model
from tests.training.training_runs import Gradients, SquareClips, make_trainer, tiny_for_training
from transformers_msstsvis import (
    MsstsVisForVideoInstanceSegmentation,
    MsstsVisVideoProcessor,
    SeqFormerConfig,
    SeqFormerForVideoInstanceSegmentation,
)
from transformers_msstsvis.data.clips import VideoClips
from transformers_msstsvis.data.collator import ClipCollator
from transformers_msstsvis.data.sampling import EpochCallback
from transformers_msstsvis.data.synthetic import make_synthetic
from transformers_msstsvis.training import load_for_training


def first_gradients(folder, **arguments):
    kept = Gradients()
    model = tiny_for_training(dropout=0.0, attention_dropout=0.0)
    # As many instances in each half, so that the halves weigh the same.
    settings = {"max_steps": 1, "per_device_train_batch_size": 4, "max_grad_norm": 0, "save_strategy": "no"}
    run = make_trainer(
        SquareClips([2, 2, 2, 2]),
        folder,
        model,
        {"callbacks": [kept], "adversarial": 0.5},
        **{**settings, **arguments},
    )
    run.train()
    return kept.steps[0], run.adversary.discriminator.state_dict()


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return first_gradients(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize(
    "arguments",
    [
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
        {"activation_checkpointing": True},
        pytest.param({"torch_compile": True}, marks=pytest.mark.slow),
    ],
    ids=["accumulation", "checkpointing", "compiled"],
)
def test_gradients_are_equal(expected, arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "no")  # TrainingArguments sets it for the process
    gradients, discriminator = first_gradients(tmp_path, **arguments)
    assert gradients.keys() == expected[0].keys()
    for name, gradient in expected[0].items():
        atol = 1e-6 + 1e-5 * float(gradient.abs().max())
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=atol, msg=name)
    for name, weight in expected[1].items():
        torch.testing.assert_close(discriminator[name], weight, rtol=1e-3, atol=1e-5, msg=name)


def test_half_precision_runs(expected, tmp_path):
    gradients, _ = first_gradients(tmp_path, bf16=True)
    for gradient in gradients.values():
        assert torch.isfinite(gradient).all()
    together = [torch.cat([g.flatten() for g in group.values()]) for group in (gradients, expected[0])]
    assert torch.cosine_similarity(*together, dim=0) > 0.95
    assert not torch.equal(*together)


def test_without_the_discriminator_nothing_of_it_is_made(tmp_path):
    run = make_trainer(SquareClips([1, 2]), tmp_path, max_steps=1)
    run.train()
    assert run.adversary is None
    assert not [name for name in run.state.log_history[0] if "adversarial" in name or "discriminator" in name]


def test_a_model_that_shows_no_masks_to_a_discriminator_is_refused(tmp_path):
    model = SeqFormerForVideoInstanceSegmentation(tiny_config(SeqFormerConfig))
    with pytest.raises(
        ValueError, match=r"adversarial is 0.1, and SeqFormer.* has no method foregrounds .* expected 0"
    ):
        make_trainer(None, tmp_path, model, trainer={"adversarial": 0.1})
    assert make_trainer(None, tmp_path, model).adversary is None


def test_every_loss_term_is_logged(tmp_path):
    run = make_trainer(SquareClips([1, 2]), tmp_path, max_steps=1, trainer={"adversarial": 0.1})
    run.train()
    logged = run.state.log_history[0]
    terms = ("loss_ce", "loss_bbox", "loss_giou", "loss_mask", "loss_dice", "cardinality_error")
    for name in (*terms, *(f"{term}_0" for term in terms), "class_error", "loss_adversarial", "loss_discriminator"):
        assert isinstance(logged[name], float)


def test_the_adversarial_loss_counts_by_its_weight(tmp_path):
    def logged(weight):
        run = make_trainer(SquareClips([1, 2]), tmp_path, max_steps=1, trainer={"adversarial": weight})
        run.train()
        return run.state.log_history[0]

    low, high = logged(0.5), logged(2.0)
    assert high["loss"] - low["loss"] == pytest.approx(1.5 * low["loss_adversarial"], abs=2e-3)


class Epochs(TrainerCallback):
    def __init__(self, clips):
        self.clips, self.seen = clips, []

    def on_step_end(self, args, state, control, **kwargs):
        self.seen.append(self.clips.epoch)


def test_the_trainer_tells_the_clips_their_epoch(tmp_path):
    clips = VideoClips(make_synthetic(tmp_path / "videos", 3, 2, height=64, width=64, max_frames=8), num_frames=2)
    epochs = Epochs(clips)
    run = make_trainer(clips, tmp_path / "out", max_steps=3, trainer={"callbacks": [epochs]}, save_strategy="no")
    run.train()
    assert epochs.seen == [0, 1, 2]
    own = make_trainer(clips, tmp_path / "out", trainer={"callbacks": [EpochCallback()]})
    assert sum(isinstance(callback, EpochCallback) for callback in own.callback_handler.callbacks) == 1


# ------------------------------------------------------------------------------------------------- what to start from


def named(*names):
    return {"id2label": dict(enumerate(names)), "label2id": {name: label for label, name in enumerate(names)}}


@pytest.mark.parametrize("names", [("thing",), ("cat", "dog", "bird")], ids=["one", "three"])
def test_own_classes_get_new_heads_and_train(names, tmp_path):
    source = tiny_model(**named("disk", "star"))
    source.save_pretrained(tmp_path / "source")
    model = load_for_training(tmp_path / "source", **named(*names))
    assert model.config.num_labels == len(names)
    assert model.class_embed[0].weight.shape == (len(names), 64)
    assert model.class_embed[0].bias.tolist() == pytest.approx([-4.59512] * len(names))
    assert torch.equal(model.controller.layers[0].weight, source.controller.layers[0].weight)
    run = make_trainer(SquareClips([1, 2], num_labels=len(names)), tmp_path, model, max_steps=1)
    assert torch.isfinite(torch.tensor(run.train().training_loss))


def test_from_seqformer_a_model_starts_as_it(tmp_path):
    torch.manual_seed(0)
    seqformer = SeqFormerForVideoInstanceSegmentation(tiny_config(SeqFormerConfig)).eval()
    with torch.no_grad():
        for parameter in seqformer.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    seqformer.save_pretrained(tmp_path / "seqformer")
    model = load_for_training(tmp_path / "seqformer", model_type="msstsvis")
    assert type(model) is MsstsVisForVideoInstanceSegmentation
    assert model.config.encoder_temporal_attention
    assert model.config.decoder_temporal_attention
    assert model.config.num_queries == 12
    pixels = torch.from_numpy(moving_square(3)).movedim(-1, 1)[None] / 255
    with torch.no_grad():
        before, after = seqformer(pixels), model.eval()(pixels)
    for name in ("logits", "pred_boxes", "pred_masks"):
        torch.testing.assert_close(after[name], before[name], rtol=1e-4, atol=1e-4)
    outputs = model.train()(**ClipCollator(MsstsVisVideoProcessor())([SquareClips([2])[0]]))
    outputs.loss.backward()
    gates = ("temporal_attn.up.weight", "box_temporal_attn.attention.o_proj.weight")
    new = [parameter for name, parameter in model.named_parameters() if name.endswith(gates)]
    assert len(new) == 3
    assert all(parameter.grad.abs().sum() > 0 for parameter in new)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "vistor"}, "model_type is 'vistor'; expected one such as"),
        ({"num_querries": 5}, "has no num_querries; expected arguments of it"),
        (
            {"model_type": "detr"},
            r"is a msstsvis, which has nothing to start a detr from; expected a checkpoint of a detr",
        ),
    ],
)
def test_wrong_settings(settings, message, tmp_path):
    tiny_model().config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_for_training(tmp_path, **settings)

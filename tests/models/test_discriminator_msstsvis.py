"""The discriminator of foregrounds: what it sees, and who learns from which loss."""

import math

import pytest
import torch

from tests.training.training_runs import SquareClips, tiny_for_training
from transformers_msstsvis import MsstsVisVideoProcessor
from transformers_msstsvis.data.collator import ClipCollator
from transformers_msstsvis.models.msstsvis.discriminator_msstsvis import (
    Adversary,
    Foregrounds,
    PatchDiscriminator,
    foreground_probability,
    foregrounds,
)

CPU = torch.device("cpu")
SIZES = [(5, 7), (3, 4), (2, 2)]


def seen(frames=2, channels=8, seed=0, predicted=None):
    generator = torch.Generator().manual_seed(seed)
    labelled = torch.zeros(frames, 1, 5, 7)
    labelled[:, :, 1:4, 2:5] = 1
    return Foregrounds(
        frames=torch.randn(frames, 3, 5, 7, generator=generator),
        features=[torch.randn(frames, channels, *size, generator=generator) for size in SIZES],
        labelled=labelled,
        predicted=torch.full_like(labelled, 0.5) if predicted is None else predicted,
        weights=torch.full((frames, 2, 2), 1 / (4 * frames)),
    )


@pytest.fixture
def batch():
    """Videos with two, no and one squares."""
    return ClipCollator(MsstsVisVideoProcessor())([SquareClips([2, 0, 1])[index] for index in range(3)])


def test_one_logit_per_patch_of_stride_32():
    discriminator, inputs = PatchDiscriminator(8), seen()
    assert discriminator(inputs.frames, inputs.features, inputs.labelled).shape == (2, 2, 2)


def test_every_input_matters():
    torch.manual_seed(0)
    discriminator, inputs = PatchDiscriminator(8), seen()
    logits = discriminator(inputs.frames, inputs.features, inputs.labelled)
    for changed in (
        discriminator(inputs.frames + 1, inputs.features, inputs.labelled),
        discriminator(inputs.frames, inputs.features, inputs.predicted),
        *(
            discriminator(inputs.frames, [f + (n == level) for n, f in enumerate(inputs.features)], inputs.labelled)
            for level in range(3)
        ),
    ):
        assert not torch.allclose(logits, changed, atol=1e-4)


def test_foreground_is_where_any_instance_is():
    infinity = 100.0
    masks = torch.tensor([[[[-infinity, 0.0, infinity]]], [[[-infinity, 0.0, -infinity]]]])  # (N=2, T=1, 1, 3)
    probability = foreground_probability(masks, torch.tensor([1, 1]), num_videos=2)
    torch.testing.assert_close(probability, torch.tensor([[[[0.0, 0.0, 0.0]]], [[[0.0, 0.75, 1.0]]]]))


def test_what_is_seen_of_a_batch(batch):
    batch["pixel_mask"][2, 1] = 0  # a padding frame
    model = tiny_for_training()
    inputs = foregrounds(model(**batch), **batch)
    assert inputs.frames.shape == (6, 3, 8, 8)
    assert [tuple(level.shape) for level in inputs.features] == [(6, 64, 8, 8), (6, 64, 4, 4), (6, 64, 2, 2)]
    assert inputs.predicted.shape == (6, 1, 8, 8)
    assert (inputs.predicted[2:4] == 0).all()
    assert (inputs.predicted[:2] > 0).all()
    # Squares of 12 pixels from (4, 4): one whole pixel of stride 8 and the half ones around it.
    columns = inputs.labelled[4, 0, 1]
    assert columns[:3].tolist() == [0.5, 1.0, 0.0]
    assert (inputs.weights > 0).flatten(1).all(1).tolist() == [True, True, False, False, True, False]
    assert inputs.weights.sum().item() == pytest.approx(1)


def test_only_outputs_of_training_hold_what_is_needed(batch):
    model = tiny_for_training().eval()
    assert model(**batch).matched_masks is None
    assert model.train()(**batch).matched_masks.shape == (3, 2, 16, 16)


def test_the_model_learns_from_one_loss_and_the_discriminator_from_the_other():
    adversary = Adversary(8, 1e-3, seed=0, device=CPU)
    predicted = torch.full((2, 1, 5, 7), 0.5, requires_grad=True)
    features = [level.requires_grad_() for level in seen().features]
    fooling, telling = adversary.losses(seen(predicted=predicted)._replace(features=features))
    assert not telling.requires_grad
    assert predicted.grad is None
    trained = [parameter.grad.clone() for parameter in adversary.discriminator.parameters()]
    assert all(gradient.abs().sum() > 0 for gradient in trained)
    fooling.backward()
    for tensor in (predicted, *features):
        assert tensor.grad.abs().sum() > 0
    for before, parameter in zip(trained, adversary.discriminator.parameters(), strict=True):
        assert torch.equal(before, parameter.grad)


def test_patches_without_weight_do_not_count():
    a, b = seen(), seen()
    b.predicted[1] = 0.9
    b.labelled[1] = 0
    weights = torch.stack((torch.full((2, 2), 0.25), torch.zeros(2, 2)))
    losses = [Adversary(8, 1e-3, 0, CPU).losses(x._replace(weights=weights)) for x in (a, b)]
    assert losses[0] == losses[1]


def test_it_learns_to_tell_and_masks_learn_to_fool():
    adversary = Adversary(8, 1e-2, seed=0, device=CPU)
    logits = torch.zeros(2, 1, 5, 7, requires_grad=True)
    for step in range(30):
        fooling, telling = adversary.losses(seen(predicted=logits.sigmoid()))
        if step == 0:
            assert telling.item() == pytest.approx(math.log(2), abs=0.1)
        adversary.step()
    assert telling < 0.1
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(30):
        now, _ = adversary.losses(seen(predicted=logits.sigmoid()))
        optimizer.zero_grad()
        now.backward()
        optimizer.step()
    assert now < fooling / 2


def test_accumulated_gradients_are_those_of_the_whole_batch():
    whole, halves = (Adversary(8, 1e-3, seed=0, device=CPU) for _ in range(2))
    inputs = seen(frames=4)
    whole.losses(inputs)
    for half in (slice(0, 2), slice(2, 4)):
        part = Foregrounds(
            inputs.frames[half],
            [level[half] for level in inputs.features],
            inputs.labelled[half],
            inputs.predicted[half],
            2 * inputs.weights[half],
        )
        halves.losses(part, accumulation_steps=2)
    for a, b in zip(whole.discriminator.parameters(), halves.discriminator.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_first_weights_follow_from_the_seed_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = Adversary(8, 1e-3, seed=1, device=CPU)
    assert torch.equal(torch.rand(3), expected)
    again, other = Adversary(8, 1e-3, seed=1, device=CPU), Adversary(8, 1e-3, seed=2, device=CPU)
    assert torch.equal(first.discriminator.head.weight, again.discriminator.head.weight)
    assert not torch.equal(first.discriminator.head.weight, other.discriminator.head.weight)


def scheduled(seed):
    adversary = Adversary(8, 1e-2, seed=seed, device=CPU)
    adversary.scheduler = torch.optim.lr_scheduler.StepLR(adversary.optimizer, step_size=1, gamma=0.5)
    return adversary


def test_it_goes_on_from_a_checkpoint(tmp_path):
    first, second = scheduled(0), scheduled(1)
    first.losses(seen())
    first.step()
    first.save(tmp_path)
    second.load(tmp_path)
    assert second.scheduler.get_last_lr() == [0.005]
    for adversary in (first, second):
        adversary.losses(seen())
        adversary.step()
    for a, b in zip(first.discriminator.parameters(), second.discriminator.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_without_discriminator(tmp_path, caplog):
    adversary = scheduled(0)
    before = adversary.discriminator.head.weight.clone()
    with caplog.at_level("WARNING"):
        adversary.load(tmp_path)
    assert torch.equal(before, adversary.discriminator.head.weight)
    assert "the discriminator starts anew" in caplog.text

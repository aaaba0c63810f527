"""Learning rates that fall in steps, as published."""

import pytest
import torch
from transformers import TrainerCallback

from tests.training.training_runs import SquareClips, make_trainer
from transformers_msstsvis.training.schedule import step_schedule

CLIPS = SquareClips([1, 2, 1, 2])  # two steps an epoch


class Fail(TrainerCallback):
    """Ends the run in the middle of a step."""

    def __init__(self, step: int):
        self.step = step

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise InterruptedError


def learning_rates(run) -> list[float]:
    return [entry["learning_rate"] for entry in run.state.log_history if "learning_rate" in entry]


def test_it_is_the_schedule_of_torch_after_a_warmup():
    weight = torch.zeros(1, requires_grad=True)
    optimizers = [torch.optim.SGD([{"params": [weight], "lr": 2.0}]) for _ in range(2)]
    own = step_schedule(optimizers[0], [4, 7], warmup_steps=2)
    expected = torch.optim.lr_scheduler.MultiStepLR(optimizers[1], [4, 7], gamma=0.1)
    rates = []
    for step in range(10):
        rates.append(own.get_last_lr()[0])
        assert rates[-1] == pytest.approx(expected.get_last_lr()[0] * min(step / 2, 1))
        for scheduler, optimizer in zip((own, expected), optimizers, strict=True):
            optimizer.step()
            scheduler.step()
    assert rates == pytest.approx([0, 1, 2, 2, 0.2, 0.2, 0.2, 0.02, 0.02, 0.02])


@pytest.mark.parametrize(
    ("drops", "length"),
    [
        ([2, 5], {"max_steps": 6}),
        (["1/3", "5/6"], {"max_steps": 6}),
        (["5/6", "1/3"], {"max_steps": -1, "num_train_epochs": 3}),
    ],
    ids=["steps", "shares", "epochs"],
)
def test_all_learning_rates_fall_to_a_tenth(drops, length, tmp_path):
    trainer = {"lr_drops": drops, "adversarial": 0.1, "discriminator_learning_rate": 3e-4}
    run = make_trainer(CLIPS, tmp_path, trainer=trainer, save_strategy="no", **length)
    run.train()
    assert learning_rates(run) == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-4, 1e-5])
    assert [group["lr"] for group in run.optimizer.param_groups] == pytest.approx([1e-5, 1e-6])
    assert run.adversary.scheduler.get_last_lr() == pytest.approx([3e-6])


def test_a_resumed_run_is_that_of_an_uninterrupted_one(tmp_path):
    def run(folder, **trainer):
        trainer = {"lr_drops": [3, "2/3"], **trainer}
        return make_trainer(CLIPS, folder, max_steps=6, warmup_steps=2, trainer=trainer)

    whole = run(tmp_path / "whole")
    whole.train()
    with pytest.raises(InterruptedError):
        run(tmp_path / "parts", callbacks=[Fail(3)]).train()
    resumed = run(tmp_path / "parts")
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.log_history[2]["step"] == 3
    assert learning_rates(resumed) == learning_rates(whole)
    assert learning_rates(whole) == pytest.approx([0, 5e-4, 1e-3, 1e-4, 1e-5, 1e-5])
    for (name, weight), other in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(other, weight, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("drops", [["late"], [0], [-3, 5], ["1/0"]])
def test_drops_that_are_no_positive_numbers(drops, tmp_path):
    with pytest.raises(ValueError, match=r"lr_drops is \[.*\]; expected steps such as 6000, or shares of the"):
        make_trainer(CLIPS, tmp_path, trainer={"lr_drops": drops})

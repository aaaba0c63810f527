"""Memory of a long training."""

import psutil
import pytest
from transformers import TrainerCallback

from tests.training.training_runs import SquareClips, make_trainer

WARM_UP, STEPS = 100, 500
ALLOWED = 8 * 2**20  # bytes; terms that keep the graph of their step cost 0.7 MiB each


class Memory(TrainerCallback):
    """Keeps the resident memory of this process after every step, in bytes."""

    def __init__(self):
        self.process, self.resident = psutil.Process(), []

    def on_step_end(self, args, state, control, **kwargs):
        self.resident.append(self.process.memory_info().rss)


@pytest.mark.slow
def test_memory_does_not_grow(tmp_path):
    """With all there is: every loss term logged, the discriminator, the average, several numbers of instances."""
    memory = Memory()
    trainer = {"adversarial": 0.1, "ema_decay": 0.99, "callbacks": [memory]}
    settings = {"per_device_train_batch_size": 1, "logging_steps": 200, "save_strategy": "no"}
    run = make_trainer(SquareClips([1, 2, 3, 0]), tmp_path, max_steps=WARM_UP + STEPS, trainer=trainer, **settings)
    run.train()
    logged = [entry for entry in run.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in logged] == [200, 400, 600]
    assert {"loss_ce", "loss_mask_0", "loss_dice", "loss_discriminator", "class_error"} <= logged[-1].keys()
    before = max(memory.resident[:WARM_UP])
    grown = [resident - before for resident in memory.resident[WARM_UP:]]
    assert len(grown) == STEPS
    assert max(grown) < ALLOWED, f"MiB every 50 steps: {[round(bytes_ / 2**20, 1) for bytes_ in grown[::50]]}"

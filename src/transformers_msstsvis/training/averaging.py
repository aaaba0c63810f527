"""An exponential moving average of the weights, kept beside those that are trained."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import TrainerCallback

if TYPE_CHECKING:
    from .trainer import VisTrainer

TRAINED_WEIGHTS_NAME = "trained_weights.safetensors"


def check_decay(decay: float, splitter: str | None = None) -> None:
    """
    Refuse a decay that is none, or one where the average can't be kept.

    Args:
        decay: of the average.
        splitter: what splits the weights over processes, such as `"FSDP"`, if anything does.

    Raises:
        ValueError: for a decay that is not between 0 and 1, or weights that are split.
    """
    if not 0 < decay < 1:
        raise ValueError(f"ema_decay is {decay}; expected a number from 0, for none, to below 1")
    if splitter is not None:
        raise ValueError(
            f"ema_decay is {decay} with {splitter}, whose processes hold parts of the weights; expected one process, "
            f"or several with DDP: leave ema_decay out, or start the processes without {splitter}"
        )


def new_average(model: torch.nn.Module, decay: float) -> AveragedModel:
    """An average that has seen no weights yet."""
    # Statistics of batch norms are averaged like the weights that they belong to.
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


@contextmanager
def averaged_weights(model: torch.nn.Module, average: AveragedModel | None) -> Iterator[None]:
    """The model with the average, where there is one, in the place of the weights in training."""
    if average is None:
        yield
        return
    trained = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(average.module.state_dict())
    try:
        yield
    finally:
        model.load_state_dict(trained)


class AveragingCallback(TrainerCallback):
    """Averages the weights of a [`VisTrainer`] after every step."""

    def __init__(self, trainer: "VisTrainer"):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.update_average()

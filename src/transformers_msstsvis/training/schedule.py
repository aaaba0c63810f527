"""Learning rates in the course of training."""

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from functools import partial

import torch
from torch.optim.lr_scheduler import LambdaLR


def read_drops(drops: Sequence[float | str]) -> list[Fraction]:
    """
    Numbers of steps, or shares of the training below 1.

    Raises:
        ValueError: for what is no positive number.
    """
    try:
        numbers = [Fraction(drop) for drop in drops]
    except (ValueError, ZeroDivisionError):
        numbers = [Fraction(0)]
    if any(number <= 0 for number in numbers):
        raise ValueError(
            f'lr_drops is {list(drops)}; expected steps such as 6000, or shares of the training such as "4/12" or 0.25'
        )
    return numbers


def step_schedule(optimizer: torch.optim.Optimizer, drops: list[int], warmup_steps: int) -> LambdaLR:
    """Learning rates that rise from 0 in `warmup_steps` and fall to a tenth after each of `drops`, ascending steps."""
    return LambdaLR(optimizer, partial(_step_factor, drops=drops, warmup_steps=warmup_steps))


def _step_factor(step: int, drops: list[int], warmup_steps: int) -> float:
    rise = step / warmup_steps if step < warmup_steps else 1.0
    return rise * 0.1 ** bisect_right(drops, step)

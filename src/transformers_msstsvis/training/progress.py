"""What a training says while it runs: progress bars, and a line at every log."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback
from transformers.utils import logging


class BarCallback(ProgressCallback):
    """The progress bar alone, without the logs."""

    def on_log(self, *args, **kwargs):
        pass


class StepCallback(TrainerCallback):
    """Says at every log of the loss how far the training is, and how long it will take."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.start = time.monotonic(), state.global_step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.start[1] + 1:  # the first step takes longer: it builds and loads what all need
            self.first_seconds = time.monotonic() - self.start[0]
            self.start_of_second = time.monotonic()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero:
            return
        if "loss" not in logs:
            return tqdm.write(str({name: value for name, value in logs.items() if name != "total_flos"}))
        steps = state.global_step - self.start[1]
        seconds = (time.monotonic() - self.start_of_second) / (steps - 1) if steps > 1 else self.first_seconds
        tqdm.write(step_line(state.global_step, state.max_steps, logs, seconds))


def step_line(step: int, steps: int, logs: dict[str, float], seconds: float) -> str:
    """Where a training is, as text: step, loss, learning rate, seconds of a step, and what is left at this speed."""
    left = round((steps - step) * seconds)
    hours, minutes = divmod(left // 60, 60)
    duration = f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{left} s"
    rate = f"  learning rate {logs['learning_rate']:.1e}" if "learning_rate" in logs else ""
    return f"step {step}/{steps}  loss {float(logs['loss']):.3f}{rate}  {seconds:.2f} s/step  {duration} left"


def report_steps(trainer: Trainer) -> None:
    """Let a trainer on a terminal say a line at every log, in the place of all its numbers."""
    if trainer.pop_callback(ProgressCallback):
        trainer.add_callback(BarCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(StepCallback)


@contextmanager
def progress_bars(shown: bool) -> Iterator[None]:
    """With or without progress bars, whatever the setting outside."""
    before = logging.is_progress_bar_enabled()
    (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
    try:
        yield
    finally:
        (logging.enable_progress_bar if before else logging.disable_progress_bar)()

"""Training with the Hugging Face Trainer: a run in one call, what to start from, the trainer, its checkpoints."""

from importlib import import_module
from typing import Any

# Imported on first use: the arguments of a run are wanted before PyTorch is loaded.
_MODULE_OF = {
    "Arguments": "arguments",
    "VisTrainer": "trainer",
    "last_checkpoint": "checkpoints",
    "load_for_training": "start",
    "new_model": "start",
    "train": "run",
}
__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)

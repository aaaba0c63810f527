"""Training with the Hugging Face Trainer: what to start from, the run, its checkpoints and its card."""

from .checkpoints import last_checkpoint
from .model_card import model_card
from .start import load_for_training
from .trainer import VisTrainer

__all__ = ["VisTrainer", "last_checkpoint", "load_for_training", "model_card"]

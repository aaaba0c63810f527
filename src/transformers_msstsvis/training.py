"""Training with the Hugging Face Trainer."""

import torch
from transformers import Trainer
from transformers.utils import logging

logger = logging.get_logger(__name__)

SLOW_MODULES = ("sampling_offsets", "reference_points")


class VisTrainer(Trainer):
    """
    [`~transformers.Trainer`] for video instance segmentation: the published parameter groups and every loss term
    logged.

    Args:
        backbone_lr_scale: learning rate of the backbone relative to the others'. Published: 0.1, with a pretrained
            backbone; 1 to train from scratch.
        sampling_lr_scale: learning rate of sampling offsets and reference points relative to the others'. Published:
            0.1.
        args, kwargs: of [`~transformers.Trainer`].
    """

    def __init__(self, *args, backbone_lr_scale: float = 0.1, sampling_lr_scale: float = 0.1, **kwargs):
        self.backbone_lr_scale, self.sampling_lr_scale = backbone_lr_scale, sampling_lr_scale
        self._term_sums: dict[str, torch.Tensor] = {}
        self._term_steps = 0
        super().__init__(*args, **kwargs)

    def create_optimizer(self, model=None):
        """Three groups: the rest, the backbone, and sampling offsets with reference points."""
        model = self.model if model is None else model
        if self.optimizer is None:
            groups: dict[float, list[torch.nn.Parameter]] = {}
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    groups.setdefault(self._lr_scale(name), []).append(parameter)
            optimizer_class, kwargs = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = optimizer_class(
                [
                    {
                        "params": parameters,
                        "lr": self.args.learning_rate * scale,
                        "weight_decay": self.args.weight_decay,
                    }
                    for scale, parameters in groups.items()
                ],
                **kwargs,
            )
        return self.optimizer

    def _lr_scale(self, name: str) -> float:
        if ".backbone." in name:
            return self.backbone_lr_scale
        return self.sampling_lr_scale if any(module in name for module in SLOW_MODULES) else 1.0

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The model's own loss; its terms are kept for the next log."""
        outputs = model(**inputs)
        if model.training:
            for name, value in outputs.loss_dict.items():
                self._term_sums[name] = self._term_sums.get(name, 0.0) + value.detach()
            self._term_steps += 1
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """Add the mean of every loss term of the last decoder layer since the last log."""
        if "loss" in logs and self._term_steps:
            for name, total in self._term_sums.items():
                if not name[-1].isdigit():
                    logs[name] = round(float(total) / self._term_steps, 4)
            self._term_sums, self._term_steps = {}, 0
        super().log(logs, *args, **kwargs)

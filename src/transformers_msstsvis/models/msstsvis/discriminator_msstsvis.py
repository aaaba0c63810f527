"""Foreground-background separability of MS-STS VIS: a discriminator of labelled and predicted masks, in training only.

The paper describes it and the published code never runs it, so the details are ours: one mask of everything in the
foreground per frame, patches at stride 32, the logarithmic loss of both sides.

Letters: B videos, T frames, N instances of the batch, F = B T frames of the batch, C channels, h w stride-8 pixels.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from transformers.utils import ModelOutput, logging

from ...layers.feature_levels import level_maps
from ...losses.common import flatten_matches, sum_over_processes
from ..seqformer.loss_seqformer import sample_mask_targets

logger = logging.get_logger(__name__)

WEIGHTS_NAME = "discriminator.safetensors"
STATE_NAME = "discriminator_optimizer.pt"
LEVELS = 3  # strides 8, 16 and 32


class PatchDiscriminator(nn.Module):
    """
    Tells labelled masks from predicted ones, patch by patch: a convolution over frame, encoder features and mask at
    stride 8, then twice a pooling by two, the encoder features of that stride added, and another convolution.

    Args:
        channels: C of the encoder.
    """

    def __init__(self, channels: int):
        super().__init__()
        inputs = [3 + channels + 1] + [channels] * (LEVELS - 1)
        self.convolutions = nn.ModuleList(nn.Conv2d(size, channels, 3, padding=1) for size in inputs)
        self.head = nn.Conv2d(channels, 1, 1)

    def forward(self, frames: torch.Tensor, features: list[torch.Tensor], masks: torch.Tensor) -> torch.Tensor:
        """
        Args:
            frames: `(F, 3, h, w)` normalised RGB.
            features: three maps `(F, C, h_l, w_l)` of the encoder, strides 8, 16 and 32.
            masks: `(F, 1, h, w)` in `[0, 1]`.

        Returns:
            `(F, h_2, w_2)` logits at stride 32: above zero for masks that look labelled.
        """
        first, *others = self.convolutions
        hidden = F.leaky_relu(first(torch.cat((frames, features[0], masks), dim=1)), 0.2)
        for convolution, level in zip(others, features[1:], strict=True):
            pooled = F.avg_pool2d(hidden, 2, ceil_mode=True)[..., : level.shape[-2], : level.shape[-1]]
            hidden = F.leaky_relu(convolution(pooled + level), 0.2)
        return self.head(hidden)[:, 0]


class Foregrounds(NamedTuple):
    """
    What the discriminator sees of a batch.

    Attributes:
        frames: `(F, 3, h, w)` normalised RGB at stride 8.
        features: three maps `(F, C, h_l, w_l)` of the encoder, strides 8, 16 and 32.
        labelled, predicted: `(F, 1, h, w)` in `[0, 1]`, the foreground at stride 8.
        weights: `(F, h_2, w_2)` of the patches: equal where there are real pixels and the video has instances, zero
            elsewhere. Their sum is 1 on average over processes, so that those with fewer such patches weigh less.
    """

    frames: torch.Tensor
    features: list[torch.Tensor]
    labelled: torch.Tensor
    predicted: torch.Tensor
    weights: torch.Tensor


def foreground_probability(masks: torch.Tensor, video: torch.Tensor, num_videos: int) -> torch.Tensor:
    """
    Probability that a pixel belongs to any instance, `1 - prod(1 - p)`.

    `masks (N, T, h, w)` logits, `video (N,)` the video of each, to `(num_videos, T, h, w)`; 0 without instances.
    """
    background = torch.zeros(num_videos, *masks.shape[1:], device=masks.device, dtype=torch.float32)
    background = background.index_add(0, video, F.logsigmoid(-masks.float()))
    return -torch.expm1(background)


def foregrounds(
    outputs: ModelOutput,
    pixel_values_videos: torch.Tensor,
    labels: list[dict[str, torch.Tensor]],
    pixel_mask: torch.Tensor | None = None,
) -> Foregrounds:
    """
    Labelled and predicted foreground of a training batch.

    Args:
        outputs: of a model in training with labels: `encoder_last_hidden_state (B, T, S, C)`, `spatial_shapes`,
            `matches` and `matched_masks (N, T, 2h, 2w)` of the last decoder layer.
        pixel_values_videos, pixel_mask, labels: of the batch, see [`MsstsVisForVideoInstanceSegmentation`].
    """
    B, T, _, H, W = pixel_values_videos.shape
    shapes = outputs.spatial_shapes
    features = [level.float() for level in level_maps(outputs.encoder_last_hidden_state, shapes)[:LEVELS]]

    masks = outputs.matched_masks
    video, _, _ = flatten_matches(outputs.matches)
    predicted = foreground_probability(masks, video, B)
    labelled = torch.stack([sample_mask_targets(target, *masks.shape[-2:]).sum(0).clamp(max=1) for target in labels])
    frames = pixel_values_videos.flatten(0, 1).float()
    real = torch.ones(B * T, H, W, device=frames.device) if pixel_mask is None else pixel_mask.flatten(0, 1).float()
    shown = torch.tensor([len(target["class_labels"]) > 0 for target in labels], device=frames.device)
    counted = F.interpolate(real[:, None], size=shapes[LEVELS - 1], mode="area")[:, 0] > 0
    counted = (counted & shown.repeat_interleave(T)[:, None, None]).float()
    num_patches, num_processes = sum_over_processes(counted.sum())
    return Foregrounds(
        frames=F.interpolate(frames, size=shapes[0], mode="area"),
        features=features,
        labelled=F.avg_pool2d(labelled.flatten(0, 1)[:, None], 2),
        predicted=F.avg_pool2d(predicted.flatten(0, 1)[:, None], 2),
        weights=counted * num_processes / num_patches.clamp(min=1),
    )


def patch_loss(logits: torch.Tensor, labelled: bool, weights: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of patches `(F, h_2, w_2)` with one answer for all, weighted and summed."""
    answer = torch.full_like(logits, float(labelled))
    return (F.binary_cross_entropy_with_logits(logits, answer, reduction="none") * weights).sum()


class Adversary:
    """
    The discriminator with its optimiser and schedule: trained alternately with a model that it is not a part of.

    In every micro-batch call [`~Adversary.losses`] and add the result to the loss of the model; after the last
    micro-batch of a step call [`~Adversary.step`].

    Args:
        channels: C of the encoder.
        learning_rate: of the discriminator, before its schedule.
        seed: of its first weights, the same in all processes. The random state of torch is left as it was.
        device: of the training.
    """

    def __init__(self, channels: int, learning_rate: float, seed: int, device: torch.device):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.discriminator = PatchDiscriminator(channels)
        self.discriminator.to(device)
        self.optimizer = torch.optim.AdamW(
            self.discriminator.parameters(), lr=learning_rate, betas=(0.5, 0.999), weight_decay=0.0
        )
        self.scheduler: torch.optim.lr_scheduler.LRScheduler | None = None

    def losses(self, seen: Foregrounds, accumulation_steps: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The loss of the model, which wants its masks to look labelled, with gradients to masks and features; and that
        of the discriminator, whose gradients are added up at once.

        Args:
            seen: what the discriminator sees of the micro-batch.
            accumulation_steps: micro-batches per step.
        """
        frozen = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        logits = functional_call(self.discriminator, frozen, (seen.frames, seen.features, seen.predicted))
        fooling = patch_loss(logits, True, seen.weights)

        features = [level.detach() for level in seen.features]
        labelled = self.discriminator(seen.frames, features, seen.labelled)
        predicted = self.discriminator(seen.frames, features, seen.predicted.detach())
        telling = (patch_loss(labelled, True, seen.weights) + patch_loss(predicted, False, seen.weights)) / 2
        (telling / accumulation_steps).backward()
        return fooling, telling.detach()

    def step(self) -> None:
        """Update the discriminator with its gradients, averaged over processes."""
        for parameter in self.discriminator.parameters():
            gradient, num_processes = sum_over_processes(parameter.grad)
            gradient /= num_processes
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        self.optimizer.zero_grad()

    def save(self, folder: str | Path) -> None:
        """Write weights, optimiser and schedule to two files of a checkpoint."""
        save_file(self.discriminator.state_dict(), Path(folder) / WEIGHTS_NAME)
        states = {"optimizer": self.optimizer.state_dict()}
        if self.scheduler is not None:
            states["scheduler"] = self.scheduler.state_dict()
        torch.save(states, Path(folder) / STATE_NAME)

    def load(self, folder: str | Path) -> None:
        """Go on from a checkpoint; from the start, with a warning, if it was saved without a discriminator."""
        if not (Path(folder) / STATE_NAME).is_file():
            logger.warning(f"{folder} has no {STATE_NAME}: the discriminator starts anew.")
            return
        device = str(next(self.discriminator.parameters()).device)
        self.discriminator.load_state_dict(load_file(Path(folder) / WEIGHTS_NAME, device=device))
        states = torch.load(Path(folder) / STATE_NAME, map_location="cpu", weights_only=True)
        self.optimizer.load_state_dict(states["optimizer"])
        if self.scheduler is not None and "scheduler" in states:
            self.scheduler.load_state_dict(states["scheduler"])


__all__ = ["Adversary", "Foregrounds", "PatchDiscriminator", "foregrounds"]

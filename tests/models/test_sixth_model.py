"""A model of another package, in three files: with its rows in two tables, everything works for it."""

import sys
from pathlib import Path

import pytest

import transformers_msstsvis
from tests.models.testers import TESTERS, Tester
from tests.models.use import check_evaluation, check_pipeline, check_training_step, save
from tests.tiny import BACKBONE, NAMES
from transformers_msstsvis.models.auto import MODELS, register_models

CONFIGURATION = """
from huggingface_hub.dataclasses import strict
from transformers_msstsvis.models.vis.configuration_vis import VisConfig


@strict
class ToyConfig(VisConfig):
    model_type = "toy"
    d_model: int = 32
    num_queries: int = 4
"""

LOSS = """
import torch
from torch.nn import functional as F
from transformers.loss.loss_utils import LOSS_MAPPING
from transformers_msstsvis.losses.common import assign, average_count, dice_loss, flatten_matches


def toy_loss(logits, boxes, masks, labels, **kwargs):
    matches = [
        assign((of_video[:, None] - target["boxes"][None]).abs().mean((2, 3)).detach())
        for of_video, target in zip(boxes, labels)
    ]
    video, query, _ = flatten_matches(matches)
    wanted = {
        name: torch.cat([target[name][instance] for target, (_, instance) in zip(labels, matches)])
        for name in ("class_labels", "boxes", "masks")
    }
    classes = torch.zeros_like(logits)
    classes[video, query, wanted["class_labels"]] = 1
    drawn = F.interpolate(masks[video, query], size=wanted["masks"].shape[-2:]).sigmoid()
    count = average_count(len(video), logits.device)
    terms = {
        "loss_ce": F.binary_cross_entropy_with_logits(logits, classes),
        "loss_bbox": (boxes[video, query] - wanted["boxes"]).abs().sum() / count,
        "loss_dice": dice_loss(drawn.flatten(1), wanted["masks"].float().flatten(1)).sum() / count,
    }
    return sum(terms.values()), {name: term.detach() for name, term in terms.items()}


LOSS_MAPPING["ToyForVideoInstanceSegmentation"] = toy_loss
"""

MODELING = """
import torch
from torch import nn
from torch.nn import functional as F
from transformers_msstsvis.layers.backbone import VisBackbone
from transformers_msstsvis.losses.common import check_labels
from transformers_msstsvis.models.vis.modeling_vis import (
    VideoInstanceSegmentationOutput, VisPreTrainedModel, best_queries, check_video, frame_sizes_of
)
from . import loss_toy
from .configuration_toy import ToyConfig


class ToyPreTrainedModel(VisPreTrainedModel):
    config: ToyConfig

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, ToyModel):
            nn.init.normal_(module.query_embed.weight)


class ToyModel(ToyPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.backbone = VisBackbone(config)
        self.projection = nn.Conv2d(self.backbone.channels[0], config.d_model, 1)
        self.query_embed = nn.Embedding(config.num_queries, config.d_model)
        self.post_init()

    def forward(self, pixel_values_videos, pixel_mask=None, **kwargs):
        pixel_mask = check_video(pixel_values_videos, pixel_mask)
        maps = self.projection(self.backbone(pixel_values_videos.flatten(0, 1))[0])
        return maps.unflatten(0, pixel_mask.shape[:2]), self.query_embed.weight, frame_sizes_of(pixel_mask)


class ToyForVideoInstanceSegmentation(ToyPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.model = ToyModel(config)
        self.class_embed = nn.Linear(config.d_model, config.num_labels)
        self.box_embed = nn.Linear(config.d_model, 4)
        self.post_init()

    def forward(self, pixel_values_videos, pixel_mask=None, labels=None, mask_top_k=None, **kwargs):
        maps, queries, frame_sizes = self.model(pixel_values_videos, pixel_mask)  # (B, T, C, h, w), (Q, C)
        states = maps.mean((3, 4))[:, None] + queries[None, :, None]  # (B, Q, T, C)
        real = (frame_sizes[..., 0] > 0)[:, None, :, None]
        logits = self.class_embed((states * real).sum(2) / real.sum(2))
        boxes = self.box_embed(states).sigmoid()
        masks = torch.einsum("bqtc,btchw->bqthw", states, maps)
        size = [-(-side // 4) for side in pixel_values_videos.shape[-2:]]
        masks = F.interpolate(masks.flatten(0, 1), size=size).unflatten(0, masks.shape[:2])
        loss = loss_dict = None
        if labels is not None:
            check_labels(labels, pixel_values_videos.shape, self.config.num_labels)
            loss, loss_dict = self.loss_function(logits=logits, boxes=boxes, masks=masks, labels=labels)
        best = best_queries(logits, mask_top_k)
        if best is not None:
            masks = torch.stack([of_video[rows] for of_video, rows in zip(masks, best)])
        return VideoInstanceSegmentationOutput(
            loss=loss, loss_dict=loss_dict, logits=logits, pred_boxes=boxes, pred_masks=masks,
            mask_query_indices=best, frame_sizes=frame_sizes,
        )
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Its name in the tables."""
    folder = tmp_path / "toys" / "toy"
    folder.mkdir(parents=True)
    for name, source in (("configuration", CONFIGURATION), ("loss", LOSS), ("modeling", MODELING)):
        (folder / f"{name}_toy.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(MODELS, "toys.toy", "Toy")
    from toys.toy.configuration_toy import ToyConfig

    labels = {name: label for label, name in NAMES.items()}
    changes = {"backbone_config": BACKBONE, "id2label": NAMES, "label2id": labels}
    row = Tester(config=lambda **more: ToyConfig(**{**changes, **more}), mask_size=lambda side: -(-side // 4))
    monkeypatch.setitem(TESTERS, "toys.toy", row)
    register_models()
    yield "toys.toy"
    for module in [module for module in sys.modules if module.startswith("toys")]:
        del sys.modules[module]


def test_everything_works_for_it(toy, tmp_path: Path):
    assert transformers_msstsvis.ToyConfig.model_type == "toy"
    folder = save(toy, tmp_path / "model")
    check_pipeline(folder)
    check_training_step(toy, tmp_path / "run")
    check_evaluation(folder, tmp_path / "data")

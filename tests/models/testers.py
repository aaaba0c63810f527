"""One row for every model: a configuration of the smallest size, and what it does differently, each with the reason.

The suites of all models run over this table.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from tests.tiny import BACKBONE, NAMES, tiny_config
from transformers_msstsvis import DevisConfig, MsstsVisConfig, SeqFormerConfig, TevitConfig, VistrConfig
from transformers_msstsvis.models.auto import class_of, video_processor_class


@dataclass
class Tester:
    """
    Attributes:
        config: changes to a configuration of the smallest size, with three classes.
        mask_size: rows or columns of the masks of a frame with so many pixels.
        hidden_axes: those of `last_hidden_state`: sizes by letter.
        boxed: rows and columns of masks that lie in boxes, and are of pairs of a query and a class; None for masks of
            whole frames, of queries.
        no_object: 1 if every frame has a logit more, of no object; 0 if not; None for models without frame logits.
        seed: of random weights with which masks have pixels, and are not everything.
        published_size: height and width of a 720x1280 frame as the published test has it.
        no_gradient: pattern of parameters that get no gradient -> the reason.
        exempt: name of a common test that the model can't pass -> the reason.
    """

    __test__ = False  # not a test itself

    config: Callable[..., PreTrainedConfig]
    mask_size: Callable[[int], int]
    hidden_axes: str = "BQC"
    no_object: int | None = None
    boxed: int | None = None
    seed: int = 0
    published_size: tuple[int, int] = (360, 640)
    no_gradient: dict[str, str] = field(default_factory=dict)
    exempt: dict[str, str] = field(default_factory=dict)


FOUR_MAPS = {**BACKBONE, "out_features": ["stage1", "stage2", "stage3", "stage4"]}
PVT = {
    "model_type": "pvt_v2",
    "hidden_sizes": [8, 16, 24, 32],
    "num_attention_heads": [1, 2, 3, 4],
    "depths": [2, 1, 2, 1],
    "mlp_ratios": [2, 2, 2, 2],
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}

TESTERS = {
    "seqformer": Tester(
        config=lambda **changes: tiny_config(SeqFormerConfig, **changes),
        mask_size=lambda side: 2 * -(-side // 8),
        no_gradient={r".*k_proj\.bias": "it shifts all scores of a query alike, to which softmax is blind"},
    ),
    "msstsvis": Tester(
        config=lambda **changes: tiny_config(MsstsVisConfig, **changes),
        mask_size=lambda side: 2 * -(-side // 8),
        no_gradient={r".*k_proj\.bias": "it shifts all scores of a query alike, to which softmax is blind"},
    ),
    "vistr": Tester(
        config=lambda **changes: tiny_config(
            VistrConfig, **{"backbone_config": FOUR_MAPS, "num_frames": 5, "num_queries": 6, **changes}
        ),
        mask_size=lambda side: -(-side // 4),
        hidden_axes="BQTC",
        no_object=1,
        seed=1,
        published_size=(300, 533),
        no_gradient={
            r".*k_proj\.bias": "it shifts all scores of a query alike, to which softmax is blind",
            r"model\.decoder\.layers\.0\.self_attn\.v_proj\.weight": "it is multiplied by queries that start as zeros",
        },
    ),
    "devis": Tester(
        config=lambda **changes: tiny_config(
            DevisConfig, **{"backbone_config": FOUR_MAPS, "num_frames": 5, "num_queries": 6, **changes}
        ),
        mask_size=lambda side: -(-side // 4),
        hidden_axes="BQTC",
        no_object=0,
        no_gradient={r".*k_proj\.bias": "it shifts all scores of a query alike, to which softmax is blind"},
    ),
    "tevit": Tester(
        config=lambda **changes: TevitConfig(
            **{
                "backbone_config": PVT,
                "num_messengers": 8,
                "drop_path_rate": 0.0,
                "num_queries": 12,
                "d_model": 64,
                "dynamic_dim": 8,
                "decoder_layers": 2,
                "decoder_attention_heads": 4,
                "decoder_ffn_dim": 64,
                "id2label": NAMES,
                "label2id": {name: label for label, name in NAMES.items()},
                **changes,
            }
        ),
        mask_size=lambda side: -(-side // 4),
        hidden_axes="BQTC",
        no_object=0,
        boxed=28,
        published_size=(384, 640),
        no_gradient={
            r".*k(_proj|ey)\.bias": "it shifts all scores of a query alike, to which softmax is blind",
            r"model\.feature_pyramid\.output_convolutions\.[1-3]\..*": "boxes this small are read from the finest map",
        },
    ),
}

H, W = 48, 64

# Outputs of models whose frames have queries of their own, and their axis of frames.
BY_FRAME = {
    "frame_logits": 1,
    "pred_boxes": 2,
    "pred_masks": 2,
    "last_hidden_state": 2,
    "encoder_last_hidden_state": 1,
}


def random_model(model_class, config, seed=0):
    """A model whose every weight matters: fresh ones are nearly constant and start with zero projections."""
    torch.manual_seed(seed)
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def video(*frames, seed=0):
    return torch.randn(*frames, 3, H, W, generator=torch.Generator().manual_seed(seed))


def labels(n, T, num_labels=3, seed=0, h=H, w=W):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(n, T, h, w, generator=generator) > 0.5
    return {
        "class_labels": torch.randint(0, num_labels, (n,), generator=generator),
        "boxes": torch.rand(n, T, 4, generator=generator) * 0.4 + 0.2,
        "masks": masks,
        "valid": masks.flatten(2).any(2),
    }


def labels_with_absences(n: int, frames: int) -> dict[str, torch.Tensor]:
    return {**labels(n, frames), "valid": torch.rand(n, frames, generator=torch.Generator().manual_seed(n)) > 0.3}


def assert_same(a: torch.Tensor, b: torch.Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(a, b, atol=atol, rtol=1e-4)


def model_of(name: str, seed: int | None = None, **changes) -> PreTrainedModel:
    """A model of a row, of random weights that all matter."""
    model_class, tester = class_of(name, "ForVideoInstanceSegmentation"), TESTERS[name]
    return random_model(model_class, tester.config(**changes), tester.seed if seed is None else seed)


def frame_masks(model: PreTrainedModel, outputs: ModelOutput) -> torch.Tensor:
    """Mask logits of whole frames, of all videos of a batch: what they are of, the processor knows."""
    processor = video_processor_class(model.config)()
    return torch.cat([processor.unpadded(outputs, video).pred_masks for video in range(len(outputs.logits))])


def skip_exempt(name: str, test: str) -> None:
    if reason := TESTERS[name].exempt.get(test):
        pytest.skip(reason)

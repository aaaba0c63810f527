"""Precisions and `torch.compile` side by side: time, weights, how far outputs are off, and mask AP."""

import argparse
import copy
import io
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from ..commands.command_line import say
from ..data.loading import load_vis_dataset
from ..data.synthetic import make_synthetic
from ..evaluation.evaluate import measure
from ..pipelines import SAMPLE_MODEL
from ..precision import is_native
from ..predict import load_segmenter
from .models import MODELS
from .timing import compare, cpu_seconds, relative_error

SEEDS = (20261121, 424242, 31337, 90210)  # of videos that the bundled checkpoint has not seen in training
BUNDLED = "msstsvis-tiny"
CLIPS = {BUNDLED: (16, 3, 224, 224), "msstsvis-r50": (5, 3, 360, 640)}
TOP_K = 10  # masks, as of predict


def int8(model: PreTrainedModel) -> PreTrainedModel:
    """Linear layers of encoder and decoder by PyTorch's own dynamic quantisation; places to look at stay exact."""
    names = set()
    for name, module in model.named_modules():
        is_inner = "encoder.layers." in name or "decoder.layers." in name
        if isinstance(module, nn.Linear) and is_inner and not name.endswith("sampling_offsets"):
            module.__class__ = nn.Linear  # the only class that it knows
            names.add(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # all of it is deprecated
        config = dict.fromkeys(names, torch.ao.quantization.default_dynamic_qconfig)
        return torch.ao.quantization.quantize_dynamic(model, config)


def compiled(model: PreTrainedModel) -> PreTrainedModel:
    model.compile()
    return model


# What is made of a float32 model. The first one is the baseline.
SIDES: dict[str, Callable[[PreTrainedModel], PreTrainedModel]] = {
    "float32": lambda model: model,
    "bfloat16": lambda model: model.to(torch.bfloat16),
    "int8 linears": int8,
    "float32, compiled": compiled,
    "bfloat16, compiled": lambda model: compiled(model.to(torch.bfloat16)),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", choices=list(CLIPS), default=list(CLIPS))
    parser.add_argument("--sides", nargs="+", choices=list(SIDES)[1:], default=list(SIDES)[1:], help="beside float32")
    parser.add_argument("--videos", type=int, default=25, help="of each seed for the mask AP (default 25; 0: none)")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="of the synthetic videos")
    parser.add_argument("--repeats", type=int, default=3)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """
    By model and side: CPU seconds of a frame, all measured in turns in one process, how many times as fast that is as
    float32, seconds of the first clip, which holds what `torch.compile` takes, bytes of the weights, relative errors
    of the outputs, and of the bundled checkpoint mask AP of 100 on the videos of every seed.
    """
    sides = ["float32", *arguments.sides]
    report: dict[str, Any] = {"native_bfloat16": is_native(torch.bfloat16), "models": {}}
    for name in arguments.models:
        torch.manual_seed(0)
        model, clip = MODELS[name]().eval(), torch.randn(1, *CLIPS[name])
        models = {side: SIDES[side](copy.deepcopy(model)) for side in sides}
        with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=folder):
            rows = report["models"][name] = compare_models(models, clip, arguments.repeats)
        if name == BUNDLED and arguments.videos:
            # What is compiled has the outputs of what is not, whose errors are told.
            plain = {side: model for side, model in models.items() if "compiled" not in side}
            for side, found in average_precisions(plain, arguments.seeds, arguments.videos).items():
                rows[side] |= {"AP_by_seed": found, "AP": sum(found) / len(found)}
        say(f"{name}\n{table(rows)}\n")
    return report


@torch.inference_mode()
def compare_models(models: dict[str, PreTrainedModel], clip: torch.Tensor, repeats: int) -> dict[str, dict[str, Any]]:
    """A row for each of the models, the first of which is the baseline."""
    rows, outputs = {}, {}
    for side, model in models.items():
        cpu, wall = cpu_seconds(), time.perf_counter()
        outputs[side] = model(clip, mask_top_k=TOP_K)
        rows[side] = {
            "first_clip_cpu_s": cpu_seconds() - cpu,
            "first_clip_wall_s": time.perf_counter() - wall,
            "weights_bytes": _bytes_of(model),
        }
    timed = compare({side: partial(model, clip, mask_top_k=TOP_K) for side, model in models.items()}, repeats)
    baseline, *others = models
    for side, row in rows.items():
        row["cpu_s_per_frame"] = timed[side]["cpu_s"]["median"] / clip.shape[1]
    for side in others:
        rows[side]["ratio"] = timed["ratio"][side]
        rows[side]["error"] = _errors(outputs[side], outputs[baseline])
    return rows


def _bytes_of(model: PreTrainedModel) -> int:
    """Of the weights in a file, as many as in memory."""
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return file.tell()


def _errors(given: ModelOutput, expected: ModelOutput) -> dict[str, float]:
    """Relative errors; of the masks, those of the queries that both chose."""
    errors = {name: relative_error(given[name], expected[name]) for name in ("logits", "pred_boxes")}
    rows, of_expected = (given.mask_query_indices[0][:, None] == expected.mask_query_indices[0]).nonzero(as_tuple=True)
    if len(rows):
        errors["pred_masks"] = relative_error(given.pred_masks[0, rows], expected.pred_masks[0, of_expected])
    return errors


def average_precisions(
    models: dict[str, PreTrainedModel], seeds: Sequence[int], videos: int
) -> dict[str, list[float]]:
    """Mask AP of 100 of each of the models on synthetic videos, as many of every seed."""
    segmenter, found = load_segmenter(SAMPLE_MODEL, device="cpu"), {side: [] for side in models}
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            data = load_vis_dataset(make_synthetic(folder, seed, videos))
            for side, model in models.items():
                segmenter.model = model
                found[side].append(100 * measure(segmenter, data)["AP"])
    return found


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The rows of a model in Markdown."""
    lines = [
        "| | CPU s per frame | times as fast | first clip, CPU s | weights, MB | logits, boxes, masks off | mask AP |",
        "|---|---|---|---|---|---|---|",
    ]
    for side, row in rows.items():
        ratio = f"{row['ratio']['median']:.2f}" if "ratio" in row else ""
        errors = ", ".join(f"{error:.1e}" for error in row.get("error", {}).values())
        precision = f"{row['AP']:.1f}" if "AP" in row else ""
        cells = [side, f"{row['cpu_s_per_frame']:.4f}", ratio, f"{row['first_clip_cpu_s']:.1f}"]
        lines.append("| " + " | ".join([*cells, f"{row['weights_bytes'] / 1e6:.1f}", errors, precision]) + " |")
    return "\n".join(lines)

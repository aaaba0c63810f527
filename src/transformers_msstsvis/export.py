"""Models as programs of their own: `torch.export` and ONNX, of one size or of any number and size of frames."""

from os import PathLike
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from .extras import require
from .files import check_writable, written_aside
from .ops.multi_scale_deformable_attention import pytorch_only

INPUTS = ("pixel_values_videos", "pixel_mask")
OUTPUTS = ("logits", "pred_boxes", "pred_masks", "mask_query_indices", "mask_label_indices", "frame_logits")
STRIDE = 32  # of the coarsest map of the backbones, in pixels
FORMATS = (".pt2", ".onnx")


class Exportable(nn.Module):
    """
    A model whose outputs are tensors, those of [`OUTPUTS`] that it has.

    Args:
        model: in eval mode.
        top_k: queries (or pairs of a query and a class) that get masks.
    """

    def __init__(self, model: PreTrainedModel, top_k: int):
        super().__init__()
        self.model, self.top_k = model, top_k

    def forward(self, pixel_values_videos: torch.Tensor, pixel_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = self.model(pixel_values_videos, pixel_mask, mask_top_k=self.top_k)
        return {name: outputs[name] for name in OUTPUTS if outputs.get(name) is not None}


def export_program(
    model: PreTrainedModel, num_frames: int, height: int, width: int, dynamic: bool = False, top_k: int = 10
) -> torch.export.ExportedProgram:
    """
    A model as a program of `torch.export`: `(1, T, 3, H, W)` frames and `(1, T, H, W)` mask to a dict of tensors.

    Args:
        model: with heads.
        num_frames, height, width: of the example; without `dynamic` the program takes these only.
        dynamic: take any number of frames (of a model that knows no other length) and sizes that are multiples of 32.
        top_k: queries that get masks.

    Raises:
        ValueError: for a number of frames that the model does not know, or `dynamic` sizes that are no multiples of
            32.
    """
    fixed = model.config.clip_length
    if fixed is not None and num_frames != fixed:
        raise ValueError(f"num_frames is {num_frames}; expected {fixed}, that {model.config.model_type} knows only")
    if dynamic and (height % STRIDE or width % STRIDE):
        raise ValueError(f"the example has {height}x{width} pixels; expected multiples of {STRIDE} with dynamic sizes")
    example = (torch.rand(1, num_frames, 3, height, width), torch.ones(1, num_frames, height, width, dtype=torch.long))
    shapes = None
    if dynamic:
        of_frames = torch.export.Dim.STATIC if fixed is not None else torch.export.Dim("frames", min=1, max=1024)
        sides = [STRIDE * torch.export.Dim(name, min=2, max=128) for name in ("rows", "columns")]
        shapes = (
            {1: of_frames, 3: sides[0], 4: sides[1]},
            {1: of_frames, 2: sides[0], 3: sides[1]},
        )
    with pytorch_only(), torch.no_grad():
        return torch.export.export(Exportable(model.eval(), top_k), example, dynamic_shapes=shapes, strict=False)


def export_model(
    model: PreTrainedModel,
    path: str | PathLike,
    num_frames: int,
    height: int,
    width: int,
    dynamic: bool = False,
    top_k: int = 10,
) -> Path:
    """
    Write a model as a program for other runtimes.

    Args:
        path: `.onnx`, or `.pt2` for `torch.export.load`.
        model, num_frames, height, width, dynamic, top_k: as of [`export_program`].

    Raises:
        ValueError: as [`export_program`], or for another suffix.
        ModuleNotFoundError: for ONNX without its packages, the extra `export`.
    """
    path = Path(path).expanduser()
    if path.suffix not in FORMATS:
        raise ValueError(f"{path} ends in {path.suffix or 'nothing'}; expected {' or '.join(FORMATS)}")
    if path.suffix == ".onnx":
        require("onnx", "onnxscript")
    check_writable(path)
    program = export_program(model, num_frames, height, width, dynamic, top_k)
    with written_aside(path) as unfinished:
        if path.suffix == ".pt2":
            torch.export.save(program, unfinished)
        else:
            names = list(program.call_spec.out_spec.context)
            onnx_program = torch.onnx.export(
                program, (), dynamo=True, input_names=list(INPUTS), output_names=names, verbose=False
            )
            onnx_program.save(str(unfinished), external_data=False)
    return path

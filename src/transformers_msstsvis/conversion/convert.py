"""Published checkpoints to models of this package.

Every system has one key map: an ordered list of rules from published parameter names to ours. What a checkpoint holds
beyond the map is an error; what is dropped on purpose is listed with the reason.
"""

import pickle
import re
from argparse import Namespace
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedModel

from ..checkpoint_files import check_weights_file
from ..files import check_distinct, check_writable_folder, files_of, folder_written_aside
from ..models.auto import video_processor_class
from . import SYSTEMS
from .key_map import ConversionReport, rename


def read_checkpoint(path: str | Path) -> dict:
    """
    Content of a .safetensors or PyTorch file. Only tensors and plain containers are read, no code is ever executed.
    The command line arguments that the published training scripts save along are such a container.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is no checkpoint, holds anything but weights, or is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    check_weights_file(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"{path} can't be read as plain weights: it is incomplete, or holds more than tensors and is not opened, "
            "because it could run code; fetch it again, or save its state dict alone, where you trust it"
        ) from error


def convert_checkpoint(system: str, checkpoint: str | Path, output: str | Path, **hints) -> ConversionReport:
    """
    Convert a published file and write safetensors, configuration and video processor to the folder `output`.

    `system` and `hints` are those of [`convert_state_dict`], and so are the errors; the file is read by
    [`read_checkpoint`]. Files in the folder from before stay until all new ones are written.

    Raises:
        ValueError: for an output that would replace the checkpoint.
        OSError: when a file can't be written; the message names it.
    """
    check_distinct([output], files_of(checkpoint))
    check_writable_folder(output)
    model = convert_state_dict(system, read_checkpoint(checkpoint), **hints)
    with folder_written_aside(output) as unfinished:
        model.save_pretrained(unfinished)
        video_processor_class(model.config)().save_pretrained(unfinished)
    return model.conversion_report


def unwrap(checkpoint: Mapping) -> dict[str, torch.Tensor]:
    """The state dict inside a checkpoint file's content: under `model` or `state_dict`, without a `module.` prefix."""
    for key in ("model", "state_dict"):
        if isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
            break
    try:
        tensors = {key.removeprefix("module."): torch.as_tensor(value) for key, value in checkpoint.items()}
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ValueError(
            f"the checkpoint holds more than named tensors ({error}); expected a state dict, bare or under 'model' or "
            "'state_dict'"
        ) from error
    if not tensors:
        raise ValueError("the checkpoint is empty; expected a state dict, bare or under 'model' or 'state_dict'")
    return tensors


def convert_state_dict(system: str, state_dict: Mapping, **hints) -> PreTrainedModel:
    """
    Build the model that a published checkpoint describes and load its weights.

    Args:
        system: one of [`SYSTEMS`].
        state_dict: published names to tensors or arrays; may be wrapped as `{"model": ...}`.
        hints: what shapes can't tell: `id2label`, any other configuration argument.

    Returns:
        The model in eval mode, with its [`ConversionReport`] as `conversion_report`.

    Raises:
        ValueError: for an unknown system, keys of another system, missing weights, or weights of another shape.
    """
    if system not in SYSTEMS:
        raise ValueError(f"unknown system {system!r}; expected one of {tuple(SYSTEMS)}")
    module = SYSTEMS[system]
    key_map = import_module(module if "." in module else f"{__package__}.{module}").KEY_MAP
    published = unwrap(state_dict)
    model = key_map.build(published, **hints)
    converted, report = rename(published, key_map, model, system)
    expected = model.state_dict()
    unknown = sorted(set(converted) - set(expected))
    if unknown:
        raise ValueError(f"keys without a place in the model: {unknown[:5]}; the checkpoint is not one of {system!r}")
    for key, value in converted.items():
        if tuple(value.shape) != tuple(expected[key].shape):
            raise ValueError(
                f"{key} has shape {tuple(value.shape)} in the checkpoint; "
                f"the model expects {tuple(expected[key].shape)}"
            )
    report.missing = sorted(
        key for key in expected if key not in converted and not key.endswith(("num_batches_tracked", "_index"))
    )
    lacking = [key for key in report.missing if not any(re.fullmatch(pattern, key) for pattern in key_map.optional)]
    if lacking:
        raise ValueError(
            f"the checkpoint lacks {len(lacking)} weights of the model, e.g. {lacking[:3]}; expected a whole "
            f"published {system} checkpoint: was the file cut, or saved in parts?"
        )
    model.load_state_dict(converted, strict=False)
    model.eval()
    model.conversion_report = report
    return model

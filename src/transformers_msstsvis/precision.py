"""Which half precisions a CPU multiplies in, and which it only imitates."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers.utils import logging

logger = logging.get_logger(__name__)

# The instructions that a precision is native with, as `torch.cpu.get_capabilities` names them, of x86 and of Arm.
INSTRUCTIONS = {
    torch.bfloat16: ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"),
    torch.float16: ("avx512_fp16", "amx_fp16", "fp16_arith"),
}


def cpu_capabilities() -> Mapping[str, Any] | None:
    """What this CPU can do, by name; None where this version of PyTorch does not tell."""
    tell = getattr(torch.cpu, "get_capabilities", None)
    return None if tell is None else tell()


def is_native(dtype: torch.dtype) -> bool | None:
    """Whether this CPU has instructions that multiply in a precision; None where PyTorch does not tell."""
    if dtype not in INSTRUCTIONS:
        return True
    capabilities = cpu_capabilities()
    if capabilities is None:
        return None
    return any(capabilities.get(name, False) for name in INSTRUCTIONS[dtype])


def warn_if_imitated(dtype: torch.dtype, device: torch.device) -> None:
    """Say so, in one line, where a model is in a precision that makes it slower on its device."""
    if device.type == "cpu" and is_native(dtype) is False:
        name = str(dtype).removeprefix("torch.")
        logger.warning(
            f"The model is in {name}, for which this CPU has no instructions: it is slower than in float32. Load it "
            'with dtype="float32" (predict: --dtype float32).'
        )

"""Multi-scale deformable attention, compiled: as a Hub kernel, or as the operators of `transformers_msstsvis`."""

import importlib.util

from .operators import NAME, register

__all__ = ["NAME", "register"]

# kernel-builder adds _ops.py, the operators of its build. A checkout compiles its own on first use.
if importlib.util.find_spec(f"{__name__}._ops"):
    from ._ops import add_op_namespace_prefix, ops

    _library = register(add_op_namespace_prefix("").removesuffix("::"))
    multi_scale_deformable_attention = ops.multi_scale_deformable_attention
    multi_scale_deformable_attention_backward = ops.multi_scale_deformable_attention_backward
    __all__ += ["multi_scale_deformable_attention", "multi_scale_deformable_attention_backward"]

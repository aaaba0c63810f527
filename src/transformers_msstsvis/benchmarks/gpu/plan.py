"""What is done, and in which order."""

import argparse
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import checks, device, operator_speed, system_speed

DTYPES = ("float32", "bfloat16")
SECTIONS = ("checks", "operator", "inference", "training")
BUILD, EVERY_KERNEL, OPCHECK, GRADCHECK = "build", "every kernel against the formula", "opcheck", "gradcheck"


@dataclass
class Step:
    """
    One guarded part of the run.

    Attributes:
        section: one of `SECTIONS`.
        of: what tells it from the others of its section, for the tables.
        function: what it does; runs in another process.
        arguments: of `function`.
    """

    section: str
    of: dict[str, Any]
    function: Callable[..., Any]
    arguments: tuple

    @property
    def name(self) -> str:
        compiled = ["compiled"] if self.of.get("compiled") else []
        return ", ".join(map(str, [self.section, *(v for k, v in self.of.items() if k != "compiled"), *compiled]))


def plan(arguments: argparse.Namespace) -> list[Step]:
    """
    All steps, the most important first: checks, the operator, inference, training. What is compiled by `torch.compile`
    comes after all that is not, as compiling takes many times as long as measuring, and of that first what is asked
    for most: the operator at its smallest size, models in bfloat16.
    """
    steps = [
        *_checks(arguments.device),
        *_operator(arguments),
        *_systems("inference", system_speed.measure_inference, arguments),
        *_systems("training", system_speed.measure_training, arguments),
    ]
    if arguments.no_compile:
        return [step for step in steps if not step.of.get("compiled")]

    def rank(step: Step) -> int:
        if not step.of.get("compiled"):
            return 0
        first = step.of.get("frames") == min(arguments.operator_frames) or step.of.get("precision") == "bfloat16"
        return 1 if first else 2

    return sorted(steps, key=rank)


def _checks(where: str) -> list[Step]:
    steps = [
        ("device", device.describe, (where,)),
        (BUILD, checks.check_build, (where,)),
        (EVERY_KERNEL, checks.check_every_kernel, (where,)),
        (OPCHECK, checks.check_operators, (where,)),
        (GRADCHECK, checks.check_gradients, (where,)),
        ("tests marked gpu", checks.run_tests, ()),
        ("compute-sanitizer", checks.run_sanitizer, (where,)),
    ]
    return [Step("checks", {"check": name}, function, given) for name, function, given in steps]


def _operator(arguments: argparse.Namespace) -> list[Step]:
    height, width = arguments.height or system_speed.CLIP[1], arguments.width or system_speed.CLIP[2]
    steps = []
    for compiled, frames, (workload, queries), dtype, gradients in itertools.product(
        (False, True),
        arguments.operator_frames,
        (("encoder", None), ("decoder", arguments.queries)),
        DTYPES,
        (False, True),
    ):
        of = {
            "workload": workload,
            "frames": frames,
            "dtype": dtype,
            "pass": "forward + backward" if gradients else "forward",
            "compiled": compiled,
        }
        size = (frames, height, width)
        given = (size, queries, dtype, gradients, compiled, arguments.device, arguments.repeats)
        steps.append(Step("operator", of, operator_speed.measure_operator, given))
    return steps


def _systems(section: str, function: Callable[..., Any], arguments: argparse.Namespace) -> list[Step]:
    steps = []
    for compiled, name, precision in itertools.product((False, True), arguments.models, system_speed.PRECISIONS):
        size = system_speed.clip_size(name, arguments.frames, arguments.height, arguments.width)
        of = {"model": name, "precision": precision, "compiled": compiled}
        given = (name, size, precision, compiled, arguments.device, arguments.repeats)
        steps.append(Step(section, of, function, given))
    return steps

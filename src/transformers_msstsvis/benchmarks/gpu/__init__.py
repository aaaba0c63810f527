"""
All that a GPU has to show, in one run of minutes: whether the kernel is built and right, and how fast the operator and
every model are. Each step is guarded: what one lacks or breaks is told in the report, and costs no other. DIR gets
gpu.json and gpu.md after each step, and gpu.png at the end. The exit status is 1 if a check of correctness failed.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from ...commands.command_line import reason, say
from ...files import check_writable_folder, written_aside
from .. import models
from ..report import setting
from .picture import plot
from .plan import BUILD, EVERY_KERNEL, GRADCHECK, OPCHECK, Step, plan
from .tables import markdown
from .worker import Worker

LONGEST_STEP = 0.25  # of the time

__all__ = ["add_arguments", "failed_checks", "plot", "run", "show"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", metavar="DIR", required=True, help="folder for gpu.json, gpu.md and gpu.png")
    parser.add_argument(
        "--device", default="cuda", choices=["cuda", "cpu"], help="cpu: a dry run of the same steps (default cuda)"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=9.0,
        help="no step begins after these, and none takes more than a quarter of them (default 9)",
    )
    parser.add_argument(
        "--models",
        nargs="+",
        choices=list(models.MODELS),
        default=list(models.SYSTEMS.values()),
        help="which to measure (default: every system)",
    )
    parser.add_argument("--operator_frames", type=int, nargs="+", default=[5, 36], help="(default 5 36)")
    parser.add_argument("--queries", type=int, default=300, help="of the decoder (default 300)")
    as_published = "of the clips (default: as published, or else 5 frames of 360x640)"
    parser.add_argument("--frames", type=int, help=as_published)
    parser.add_argument("--height", type=int, help="as --frames")
    parser.add_argument("--width", type=int, help="as --frames")
    parser.add_argument("--repeats", type=int, default=5, help="runs of which the median counts (default 5)")
    parser.add_argument("--no_compile", action="store_true", help="leave out all that torch.compile does")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """
    Do all steps for which there is time.

    Returns:
        `steps`: a list of dicts with `section`, what tells the step from others, and `status`: "done" with `result`,
        "absent" or "failed" with `message`, or "left out". With a kernel that is not there, or breaks its process, the
        models are measured without it: `without_kernel_after` has the name of the check then.

    Raises:
        RuntimeError: there is no CUDA device, and no other was asked for.
    """
    folder = Path(arguments.output).expanduser()
    check_writable_folder(folder)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("there is no CUDA device that PyTorch can use; --device cpu does the same steps on the CPU")
    steps: list[dict[str, Any]] = []
    report = {**setting("gpu"), "device": arguments.device, "minutes": arguments.minutes, "steps": steps}
    start = time.monotonic()
    deadline = start + 60 * arguments.minutes
    try:
        with Worker(arguments.threads) as worker:
            for step in plan(arguments):
                left = deadline - time.monotonic()
                outcome: dict[str, Any] = {"status": "left out"}
                if left > 0:
                    limit = min(left, 60 * LONGEST_STEP * arguments.minutes)
                    outcome = worker.run(step.function, step.arguments, limit)
                if _kernel_is_unusable(step, outcome) and not worker.environment:
                    worker.environment["MSSTSVIS_KERNELS"] = "off"
                    worker.stop()
                    report["without_kernel_after"] = step.name
                steps.append({"section": step.section, **step.of, "name": step.name, **outcome})
                report["seconds"] = time.monotonic() - start
                _tell(steps[-1])
                _write(report, folder)
    finally:  # also of a run that is interrupted
        _draw(report, folder)
    return report


def failed_checks(report: dict[str, Any]) -> list[str]:
    """Names of the checks of correctness that failed."""
    return [step["name"] for step in report["steps"] if step["section"] == "checks" and step["status"] == "failed"]


def show(report: dict[str, Any]) -> str:
    """The report for a reader."""
    return markdown(report)


def _kernel_is_unusable(step: Step, outcome: dict[str, Any]) -> bool:
    """Whether the models would fail with the kernel, too: it is not there, or its faults stay with the process."""
    check = step.of.get("check")
    if check == BUILD and outcome["status"] == "failed":
        return True
    return check in (BUILD, EVERY_KERNEL, OPCHECK, GRADCHECK) and outcome.get("spoilt", False)


def _tell(step: dict[str, Any]) -> None:
    seconds = f" ({step['seconds']:.0f} s)" if "seconds" in step else ""
    message = f": {step['message']}" if "message" in step else ""
    say(f"{step['name']}: {step['status']}{seconds}{message}")


def _write(report: dict[str, Any], folder: Path) -> None:
    for name, text in (("gpu.json", json.dumps(report, indent=2)), ("gpu.md", markdown(report))):
        with written_aside(folder / name) as unfinished:
            unfinished.write_text(text.rstrip("\n") + "\n", encoding="utf-8")


def _draw(report: dict[str, Any], folder: Path) -> None:
    try:
        plot(report, str(folder / "gpu.png"))
    except Exception as error:  # the figures are written
        say(f"gpu.png was not drawn: {reason(error)}")
        report["picture"] = reason(error)
        _write(report, folder)

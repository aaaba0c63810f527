"""Is the operator right on this device? Every check raises, if it finds that it is not."""

import functools
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

from ...commands.command_line import reason
from ...kernels import build
from ...kernels import deformable_attention_kernel as kernels
from ...ops.multi_scale_deformable_attention import multi_scale_deformable_attention_reference as reference
from .worker import Absent

PACKAGE = Path(__file__).parents[2]
CHECKOUTS = (PACKAGE.parents[1], Path.cwd())  # of the package that runs, and where the command was started
FLOAT32_TOLERANCE = 4e-6  # of the largest element, times the pixels of the largest side
HALF_TOLERANCE = {torch.bfloat16: 2**-8, torch.float16: 2**-11}  # one rounding of a result
SANITIZER = "compute-sanitizer"
TOLD_LINES = 6  # of a tool's complaint


def compiled_kernel(device: str) -> Callable[..., torch.Tensor]:
    """
    The compiled operator, and nothing in its place.

    Raises:
        RuntimeError: it can't be built, loaded, is wrong on a tiny input, or is switched off.
    """
    if os.environ.get("MSSTSVIS_KERNELS") == "off":
        raise RuntimeError("the kernel is switched off (MSSTSVIS_KERNELS=off)")
    error = _try_kernel(device)
    if error is not None:
        raise RuntimeError(f"the kernel can't be used: {reason(error)}") from error
    return torch.ops.msstsvis.multi_scale_deformable_attention


@functools.cache  # a build that fails takes its time
def _try_kernel(device: str) -> Exception | None:
    try:
        kernels.load_and_check(device, reference)
    except Exception as error:
        return error
    return None


def check_build(device: str) -> dict[str, Any]:
    """Build, load and try the kernel."""
    before = set(build.cache_dir().glob("*.so"))
    compiled_kernel(device)
    made = set(build.cache_dir().glob("*.so")) - before
    return {"built_now": bool(made)}


def check_every_kernel(device: str) -> dict[str, Any]:
    """
    Every kernel that a call can choose, with its gradients, against the formula in float64: by dtype, channels of a
    head (what a thread holds), and whether queries are pixels (tiles) or few.
    """
    operator = compiled_kernel(device)
    shapes, heads, points = [(7, 9), (4, 5), (1, 2)], 4, 3
    pixels = sum(height * width for height, width in shapes)
    dtypes = [torch.float32, torch.bfloat16, *([torch.float16] if device == "cuda" else [])]
    worst = {}
    for dtype in dtypes:
        for channels in (5, 16, 32, 64, 128):
            for queries in (7, pixels):
                inputs = random_inputs(2, shapes, heads, channels, queries, points)
                inputs[0] = inputs[0].to(dtype)
                generator = torch.Generator().manual_seed(1)
                grad_output = torch.randn(2, queries, heads * channels, generator=generator).to(dtype)
                expected = _with_gradients(reference, shapes, [x.double() for x in (*inputs, grad_output)])
                given = _with_gradients(operator, _flat(shapes), [x.to(device) for x in (*inputs, grad_output)])
                what = f"{dtype}, {channels} channels, {queries} queries"
                worst[what] = _compare(what, given, expected, dtype, max(max(shape) for shape in shapes))
    return {"cases": len(worst), "largest_error": max(worst.values())}


def _with_gradients(function: Callable, shapes: list, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    inputs = [tensor.requires_grad_() for tensor in tensors[:3]]
    output = function(inputs[0], shapes, *inputs[1:])
    return [output, *torch.autograd.grad(output, inputs, tensors[3])]


def _compare(what: str, given: list, expected: list, dtype: torch.dtype, side: int) -> float:
    """The largest error, as a share of the largest element."""
    float32 = FLOAT32_TOLERANCE * side
    half = HALF_TOLERANCE.get(dtype, float32)
    errors = []
    names = ("output", "gradient of value", "gradient of locations", "gradient of weights")
    for name, a, b, tolerance in zip(names, given, expected, (half, half, float32, float32), strict=True):
        error = (a.detach().cpu().double() - b).abs().max().item() / max(1.0, b.abs().max().item())
        if not error <= tolerance:
            raise ArithmeticError(f"{what}: the {name} is off by {error:.1e} of its largest element")
        errors.append(error)
    return max(errors)


def check_operators(device: str) -> None:
    """`torch.library.opcheck`: schemas, shapes for tracing and registered gradients."""
    operator = compiled_kernel(device)
    inputs = [tensor.to(device) for tensor in random_inputs(2, [(3, 4), (2, 2)], 2, 8, 3, 2)]
    arguments = (inputs[0], [3, 4, 2, 2], *inputs[1:])
    with_grad = tuple(x.clone().requires_grad_() if isinstance(x, torch.Tensor) else x for x in arguments)
    torch.library.opcheck(operator, with_grad)
    grad_output = torch.randn(2, 3, 16, device=device)
    backward = torch.ops.msstsvis.multi_scale_deformable_attention_backward
    torch.library.opcheck(backward, (grad_output, *arguments), atol=1e-5, rtol=1e-5)


def check_gradients(device: str) -> None:
    """`gradcheck` in float32: linear in value and weights, bilinear in a location within its cell, differences are
    exact there, whatever their step."""
    operator = compiled_kernel(device)
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(1, 32, 2, 4, generator=generator)
    cells = torch.stack([torch.randint(-1, side, (1, 3, 2, 1, 2), generator=generator) for side in (8, 4)], -1)
    locations = (cells + 0.75 + 0.5 * torch.rand(cells.shape, generator=generator)) / torch.tensor([8.0, 4.0])
    weights = torch.rand(1, 3, 2, 1, 2, generator=generator)
    inputs = [tensor.to(device).requires_grad_() for tensor in (value, locations, weights)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*double precision")
        torch.autograd.gradcheck(
            lambda v, l, w: operator(v, [4, 8], l, w), inputs, eps=2**-6, atol=2e-3, rtol=2e-3, nondet_tol=1e-5
        )


def run_tests(checkouts: tuple[Path, ...] = CHECKOUTS) -> dict[str, Any]:
    """
    The tests marked `gpu`.

    Raises:
        Absent: there is no checkout, or no pytest.
        AssertionError: tests failed; the message has their names.
    """
    root = next((folder for folder in checkouts if (folder / "tests" / "ops").is_dir()), None)
    if root is None:
        raise Absent("the tests are in the checkout, and this package was installed without it")
    files = sorted(path for path in (root / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text("utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        options = ["-q", "-m", "gpu", f"--rootdir={root}", f"--junitxml={report}"]
        command = [sys.executable, "-m", "pytest", *options, *map(str, files)]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, errors="replace")
        if "No module named pytest" in done.stderr:
            raise Absent("the tests need pytest: pip install pytest")
        if not report.exists():
            raise AssertionError(f"pytest ended with exit status {done.returncode}: {_last_lines(done)}")
        return _read_report(report)


def _read_report(path: Path) -> dict[str, Any]:
    cases = list(ElementTree.parse(path).iter("testcase"))  # written by the pytest that was just run
    failed = {
        f"{case.get('classname')}::{case.get('name')}": (fault.get("message") or "").splitlines()[:1]
        for case in cases
        for fault in (*case.iter("failure"), *case.iter("error"))
    }
    skipped = sum(case.find("skipped") is not None for case in cases)
    if failed:
        told = "; ".join(f"{name} ({' '.join(why)})" for name, why in failed.items())
        raise AssertionError(f"{len(failed)} of {len(cases)} tests failed: {told}")
    return {"passed": len(cases) - skipped, "skipped": skipped}


def run_sanitizer(device: str) -> dict[str, Any]:
    """
    All kernels once under `compute-sanitizer --tool memcheck`.

    Raises:
        Absent: there is no such program, or nothing for it to check.
        AssertionError: it found something; the message has the last of its lines.
    """
    if device == "cpu":
        raise Absent("it checks CUDA kernels")
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    program = shutil.which(SANITIZER) or shutil.which(f"{home}/bin/{SANITIZER}")
    if program is None:
        raise Absent(f"{SANITIZER}, a part of the CUDA toolkit, is not here")
    command = [
        program,
        "--tool",
        "memcheck",
        "--error-exitcode",
        "9",
        sys.executable,
        "-m",
        f"{__package__}.sanitized",
    ]
    # Memory of its own for every tensor: a step beyond it is then seen.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        raise AssertionError(f"{SANITIZER} ended with exit status {done.returncode}: {_last_lines(done)}")
    return {"errors": 0}


def _last_lines(done: subprocess.CompletedProcess) -> str:
    lines = [line.strip("= ") for line in (done.stdout + done.stderr).splitlines()]
    return "; ".join([line for line in lines if line][-TOLD_LINES:])


def random_inputs(
    batch: int, shapes: list[tuple[int, int]], heads: int, channels: int, queries: int, points: int
) -> list[torch.Tensor]:
    """Value, locations, some of them outside of the levels, and weights, float32 on the CPU."""
    generator = torch.Generator().manual_seed(0)
    pixels = sum(height * width for height, width in shapes)
    return [
        torch.randn(batch, pixels, heads, channels, generator=generator),
        torch.rand(batch, queries, heads, len(shapes), points, 2, generator=generator) * 1.4 - 0.2,
        torch.rand(batch, queries, heads, len(shapes), points, generator=generator),
    ]


def _flat(shapes: list[tuple[int, int]]) -> list[int]:
    return [side for shape in shapes for side in shape]

"""What a wheel holds: all that the commands need where there is no clone."""

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from transformers_msstsvis.commands import main

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def names(tmp_path_factory) -> set[str]:
    """The files that a wheel is packed from, by the same step of setuptools."""
    pytest.importorskip("setuptools", reason="it builds the wheel")
    folder = tmp_path_factory.mktemp("wheel")
    code = f"import setuptools; setuptools.setup(script_args=['-q', 'build_py', '--build-lib', {str(folder)!r}])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def files(folder: Path, *patterns: str) -> list[str]:
    found = sorted(str(path.relative_to(folder)) for pattern in patterns for path in folder.rglob(pattern))
    assert found
    return found


def test_every_module_is_there(names):
    package = ROOT / "src" / "transformers_msstsvis"
    assert {f"transformers_msstsvis/{path}" for path in files(package, "*.py")} <= names


def test_recipes_are_there(names):
    recipes = files(ROOT / "scripts" / "configs", "*.yaml", "*.json")
    assert {f"transformers_msstsvis/recipes/{path}" for path in recipes} <= names


def test_sources_of_the_kernels_are_there(names):
    sources = files(ROOT / "kernels" / "multi_scale_deformable_attention" / "csrc", "*.h", "*.cpp", "*.cu", "*.cuh")
    assert {f"transformers_msstsvis/kernels/csrc/{path}" for path in sources} <= names
    assert "transformers_msstsvis/kernels/multi_scale_deformable_attention/operators.py" in names


def test_checkpoint_and_clip_are_there(names):
    checkpoints = ROOT / "src" / "transformers_msstsvis" / "checkpoints"
    assert {f"transformers_msstsvis/checkpoints/{path}" for path in files(checkpoints, "*.*")} <= names


def test_the_command_is_there():
    [command] = entry_points(group="console_scripts", name="transformers-msstsvis")
    assert command.load() is main


def test_nothing_else_is_there(names):
    tops = {name.split("/")[0] for name in names}
    assert tops == {"transformers_msstsvis"}

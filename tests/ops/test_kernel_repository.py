"""The folder of the kernel, as kernel-builder and the Hub read it."""

import re
import runpy
import sys
import types
from pathlib import Path

import jinja2
import pytest
from huggingface_hub import ModelCard

from transformers_msstsvis.ops.multi_scale_deformable_attention import multi_scale_deformable_attention

KERNEL = Path(__file__).parents[2] / "kernels" / "multi_scale_deformable_attention"

# What kernel-builder reads of a build.toml of edition 5; any other key is an error there.
SCHEMA = {
    "general": {"name", "version", "edition", "license", "backends", "hub", "upstream", "python-depends", "cuda"},
    "torch": {"src", "include", "stable-abi", "pyext", "data"},
}
KERNEL_KEYS = {"backend", "depends", "src", "include", "cxx-flags", "cuda-flags", "cuda-capabilities", "cuda-minver"}


def test_build_file_is_of_the_current_format():
    tomllib = pytest.importorskip("tomllib", reason="comes with Python 3.11")
    content = tomllib.loads((KERNEL / "build.toml").read_text())
    assert set(content) == {"general", "torch", "kernel"}
    for section, known in SCHEMA.items():
        assert set(content[section]) <= known
    general = content["general"]
    assert (general["edition"], general["license"], general["version"]) == (5, "Apache-2.0", 1)
    assert re.fullmatch("[a-z][-a-z0-9]*[a-z0-9]", general["name"])
    assert set(content["torch"]["stable-abi"]) == set(general["backends"]) == {"cpu", "cuda"}
    for kernel in content["kernel"].values():
        assert set(kernel) <= KERNEL_KEYS
        assert kernel["backend"] in general["backends"]
    sources = [*content["torch"]["src"], *(path for kernel in content["kernel"].values() for path in kernel["src"])]
    assert all((KERNEL / path).is_file() for path in sources)
    package = KERNEL / "torch-ext" / general["name"].replace("-", "_")
    assert (package / "__init__.py").is_file()
    assert {path.name for path in KERNEL.iterdir()} >= {"flake.nix", "CARD.md", "example.py", "tests", "benchmarks"}


def test_the_card_and_the_example_of_the_kernel(monkeypatch, capsys):
    """As kernel-builder fills the card in, and with the operator of this package in place of that of the Hub."""
    values = {
        "license": "apache-2.0",
        "repo_id": "someone/kernel",
        "functions": ["multi_scale_deformable_attention"],
        "has_benchmark": True,
    }
    card = jinja2.Template((KERNEL / "CARD.md").read_text()).render(**values)
    assert ModelCard(card).data.to_dict()["license"] == "apache-2.0"
    assert 'get_kernel("someone/kernel", version=1)' in card

    def get_kernel(repository, version, trust_remote_code):
        assert (repository, version, trust_remote_code) == ("someone/kernel", 1, ["someone/kernel"])
        return types.SimpleNamespace(multi_scale_deformable_attention=of_package)

    def of_package(value, sides, locations, weights):
        shapes = list(zip(sides[::2], sides[1::2], strict=True))
        return multi_scale_deformable_attention(value, shapes, locations, weights)

    monkeypatch.setitem(sys.modules, "kernels", types.SimpleNamespace(get_kernel=get_kernel))
    monkeypatch.setattr(sys, "argv", ["example.py", "someone/kernel"])
    runpy.run_path(str(KERNEL / "example.py"), run_name="__main__")
    told = capsys.readouterr().out
    assert told.startswith("(1, 300, 256) on ")
    assert float(told.split()[-1]) < 1e-4

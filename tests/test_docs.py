"""The README and the pages of docs: links lead somewhere, commands exist, and the site is built strictly."""

import importlib
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from transformers_msstsvis.commands import COMMANDS, main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [*sorted((ROOT / "model_cards").glob("*.md")), ROOT / "spaces" / "README.md"]
ANY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"```bash\n(.*?)```", re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Of the headings, as they are named on the Hub and on GitHub."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@ANY_PAGE
def test_links_lead_somewhere(page):
    dead = []
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"\w+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert dead == []


def flags(command: str, capsys) -> set[str]:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    return set(re.findall(r"--[\w-]+", capsys.readouterr().out.replace("_", "-")))


def test_commands_exist(capsys):
    """All of `transformers-msstsvis`, with their flags."""
    used: dict[str, set[str]] = {}
    for page in PAGES:
        for block in BLOCK.findall(page.read_text(encoding="utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                for part in re.split(r"&&|;", line):
                    words = shlex.split(part, comments=True)
                    if "transformers-msstsvis" in words:
                        command, *rest = words[words.index("transformers-msstsvis") + 1 :]
                        given = {word.partition("=")[0].replace("_", "-") for word in rest if word.startswith("--")}
                        used.setdefault(command, set()).update(given)
    assert {"predict", "demo", "train", "evaluate", "convert", "export"} <= set(used) <= set(COMMANDS) | {"--version"}
    for command in used:
        if command in COMMANDS and importlib.util.find_spec("accelerate" if command == "train" else "argparse"):
            assert used[command] <= flags(command, capsys), command


def test_the_readme_is_one_page():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 130
    assert "<!-- test command -->" in lines


def test_objects_of_the_api_pages_exist():
    names = [
        name
        for page in (ROOT / "docs" / "api").glob("*.md")
        for name in re.findall(r"^::: (\S+)", page.read_text(), re.M)
    ]
    assert len(names) > 20
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert getattr(importlib.import_module(module), attribute).__doc__, name


@pytest.mark.skipif(find_spec("mkdocs") is None or find_spec("mkdocstrings") is None, reason="they build the pages")
def test_the_site_is_built_strictly(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    page = (tmp_path / "api" / "results" / "index.html").read_text()
    assert "VideoInstances" in page
    assert "class names by label" in page  # from its docstring

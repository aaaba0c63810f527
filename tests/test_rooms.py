"""Who imports whom in the package: no room imports one above it, and no imports run in a circle."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

import transformers_msstsvis
from transformers_msstsvis.conversion import SYSTEMS
from transformers_msstsvis.models.auto import MODELS, PARTS

PACKAGE = Path(transformers_msstsvis.__file__).parent
GROUND = {"extras", "files", "checkpoint_files", "precision", "recomputation", "startup"}

# Room -> the rooms that it may import, beside the ground floor.
MAY_IMPORT = {
    "extras": set(),
    "files": set(),
    "checkpoint_files": set(),
    "precision": set(),
    "recomputation": set(),
    "startup": set(),
    "video": set(),
    "results": set(),
    "kernels": set(),
    "ops": {"kernels"},
    "layers": {"ops"},
    "losses": set(),
    "models": {"layers", "losses", "results", "video"},
    "conversion": {"models"},
    "adapters": {"models"},
    "tracking": {"results"},
    "data": {"video", "results"},
    "metrics": {"results", "data"},
    "pipelines": {"models", "tracking", "results", "video"},
    "attention_maps": {"pipelines", "models", "layers", "tracking", "results"},
    "prediction": {"results", "video"},
    "predict": {"prediction", "attention_maps", "pipelines", "models", "tracking", "results", "video"},
    "bulk": {"predict", "results"},
    "evaluation": {"pipelines", "predict", "metrics", "data", "tracking", "results", "video"},
    "training": {
        "adapters",
        "evaluation",
        "pipelines",
        "conversion",
        "metrics",
        "data",
        "models",
        "losses",
        "results",
        "video",
    },
    "hub": {"pipelines", "models"},
    "export": {"ops"},
    "registration": {"adapters", "hub", "models", "pipelines"},
}
TOP = {"", "__main__", "commands", "demo", "benchmarks", "recipes"}  # these may import everything


def modules() -> dict[str, Path]:
    paths = [path for path in PACKAGE.rglob("*.py") if "kernels" not in path.parts]
    names = {}
    for path in paths:
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imports(name: str, path: Path, known: dict[str, Path]) -> list[tuple[str, int]]:
    """
    Modules of the package that a module imports, wherever in the file, and the lines; but for annotations, and for
    what it runs when it is itself the program.
    """
    tree = ast.parse(path.read_text())
    not_imported = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and re.search("TYPE_CHECKING|__main__", ast.unparse(block.test))
        for node in ast.walk(block)
    }
    folder = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or id(node) in not_imported:
            continue
        if node.level:
            base = folder[: len(folder) - node.level + 1]
        elif (node.module or "").split(".")[0] == PACKAGE.name:
            base = []
        else:
            continue
        module = (node.module or "").split(".") if node.level else node.module.split(".")[1:]
        target = ".".join(part for part in (*base, *module) if part)
        for alias in node.names:
            deeper = f"{target}.{alias.name}".strip(".")
            found.append((deeper if deeper in known else target, node.lineno))
    return found


MODULES = modules()
IMPORTS = {name: imports(name, path, MODULES) for name, path in MODULES.items()}


def room(name: str) -> str:
    return name.split(".")[0]


def test_no_room_imports_one_above_it():
    wrong = [
        f"{MODULES[name].relative_to(PACKAGE)}:{line} imports {target}"
        for name, found in IMPORTS.items()
        for target, line in found
        if room(name) not in TOP and room(target) != room(name) and room(target) not in MAY_IMPORT[room(name)] | GROUND
    ]
    assert wrong == []


def test_every_room_has_its_rule():
    assert {room(name) for name in MODULES} <= set(MAY_IMPORT) | TOP


def test_no_imports_run_in_a_circle():
    circles, done = [], set()

    def walk(name: str, trail: tuple[str, ...]) -> None:
        if name in trail:
            circles.append(" -> ".join((*trail[trail.index(name) :], name)))
        elif name not in done:
            for target, _ in IMPORTS.get(name, ()):
                if target:  # the package itself
                    walk(target, (*trail, name))
            done.add(name)

    for name in IMPORTS:
        walk(name, ())
    assert circles == []


def test_the_rules_are_no_circle():
    for name, allowed in MAY_IMPORT.items():
        for other in allowed:
            assert name not in MAY_IMPORT[other], f"{name} and {other} may import each other"


@pytest.mark.parametrize("model", sorted(MODELS))
def test_a_model_is_named_in_its_own_rooms_only(model):
    """Beside its folder, its key map and what stands on it, only the tables and the benchmarks know it."""
    classes = "|".join(MODELS[model] + ending for endings in PARTS.values() for ending in endings)
    words = re.compile(rf"{classes}|.*\bmodels\.{model}\b.*")
    told = []
    for name, path in MODULES.items():
        if room(name) in ("models", "conversion", "benchmarks"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            spelled = [getattr(node, field, None) for field in ("id", "attr", "module")]
            spelled += [alias.name for alias in getattr(node, "names", ()) if isinstance(alias, ast.alias)]
            if any(isinstance(word, str) and words.fullmatch(word) for word in spelled):
                told.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert told == []


def test_models_stand_on_older_ones_only():
    """SeqFormer knows nothing of MS-STS VIS, which is built on it."""
    order = ["vis", *MODELS]
    wrong = [
        f"{MODULES[name].relative_to(PACKAGE)}:{line} imports {target}"
        for name, found in IMPORTS.items()
        if name.startswith("models.") and name.count(".") > 1
        for target, line in found
        if target.startswith("models.")
        and target.count(".") > 1
        and order.index(target.split(".")[1]) > order.index(name.split(".")[1])
    ]
    assert wrong == []


def test_what_a_checkpoint_may_bring_has_names_of_its_own():
    """Code for the Hub lies side by side in one folder."""
    rooms = {"models", "layers", "losses", "ops", "results", "video", "tracking", "pipelines"} | GROUND
    names = [
        name.split(".")[-1] for name, path in MODULES.items() if path.name != "__init__.py" and room(name) in rooms
    ]
    assert sorted(name for name in names if names.count(name) > 1) == []


@pytest.mark.parametrize("system", sorted(SYSTEMS))
def test_every_system_is_a_model_with_a_key_map(system):
    assert system in MODELS
    assert importlib.util.find_spec(f"transformers_msstsvis.conversion.{SYSTEMS[system]}")

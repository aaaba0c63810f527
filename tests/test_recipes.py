"""The recipes in scripts/configs: what scripts/train.py makes of them, and how it reads them."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from transformers import AutoConfig, HfArgumentParser, TrainingArguments

import transformers_msstsvis  # noqa: F401 (makes the configurations known)
from transformers_msstsvis.commands import train as script
from transformers_msstsvis.data.augmentation import ClipAugmentation
from transformers_msstsvis.data.pseudo_clips import COCO_TO_YTVIS_2019
from transformers_msstsvis.data.sampling import SAMPLINGS

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "scripts" / "configs"
RECIPES = sorted(path for path in CONFIGS.iterdir() if path.suffix in (".yaml", ".json"))
PUBLISHED = ["ytvis2019-r50", "ytvis2019-r101", "ytvis2019-swin-l", "joint-coco-r50"]


def parse(*flags: str, folder: Path):
    """As the script does, on a CPU whatever the recipe is for."""
    flags = [*flags, "--dataset", "train.json", "--output_dir", str(folder), "--use_cpu", "True"]
    parser = HfArgumentParser((script.Arguments, TrainingArguments))
    return parser.parse_args_into_dataclasses(script.read_recipe(flags))


def read(path: Path) -> dict:
    return json.loads(path.read_text()) if path.suffix == ".json" else yaml.safe_load(path.read_text())


def test_all_recipes_are_there():
    names = {path.stem for path in RECIPES}
    others = {"coco-images-r50", "coco-clips-r50", "ovis-r50", "own-data-small", "synthetic-cpu"}
    others |= {"ytvis2019-vistr-r50", "synthetic-cpu-vistr", "ytvis2019-devis-r50", "synthetic-cpu-devis"}
    others |= {"ytvis2019-tevit-msgshift", "ytvis2019-tevit-r50", "synthetic-cpu-tevit"}
    assert names >= {*PUBLISHED, *others, *(f"synthetic-cpu-{stage}" for stage in range(1, 5))}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_key_is_an_argument_and_every_value_arrives(path, tmp_path):
    recipe = read(path)
    arguments, training = parse("--config", str(path), folder=tmp_path)
    names = {field.name for kind in (script.Arguments, TrainingArguments) for field in fields(kind)}
    assert recipe.keys() <= names
    for name, given in recipe.items():
        value = getattr(arguments, name) if hasattr(arguments, name) else getattr(training, name)
        if isinstance(given, dict):
            value = json.loads(value)
        elif isinstance(value, float):
            given = float(given)
        assert value == given, name


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_nested_settings_are_valid(path):
    recipe = read(path)
    settings = dict(recipe.get("model_config", {}))
    config = AutoConfig.for_model(settings.pop("model_type", "msstsvis"), **settings)
    assert all(hasattr(config, name) for name in settings)
    assert len(config.backbone_config.out_features) == (4 if config.model_type in ("vistr", "devis", "tevit") else 3)
    assert recipe.get("num_frames") in (None, getattr(config, "num_frames", None) or recipe.get("num_frames"))
    ClipAugmentation.from_dict(recipe.get("augmentation", {}))
    assert recipe.get("sampling", "window") in SAMPLINGS


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_values(name, tmp_path):
    drops = ["2/12", "10/12"] if name == "ytvis2019-r50" else ["4/12", "10/12"]
    arguments, training = parse("--config", str(CONFIGS / f"{name}.yaml"), folder=tmp_path)
    assert (arguments.num_frames, arguments.sampling, arguments.augmentation) == (5, "published", "{}")
    assert (training.learning_rate, training.weight_decay, training.max_grad_norm) == (2e-4, 1e-4, 0.1)
    assert (arguments.backbone_lr_scale, arguments.sampling_lr_scale, arguments.lr_drops) == (0.1, 0.1, drops)
    assert (training.num_train_epochs, training.per_device_train_batch_size) == (12, 1)


def test_published_values_of_vistr(tmp_path):
    arguments, training = parse("--config", str(CONFIGS / "ytvis2019-vistr-r50.yaml"), folder=tmp_path)
    assert (arguments.num_frames, arguments.sampling, arguments.backbone_lr_scale) == (36, "wrapped", 0.1)
    assert (training.learning_rate, training.weight_decay, training.max_grad_norm) == (1e-4, 1e-4, 0.1)
    assert (training.num_train_epochs, arguments.lr_drops) == (18, ["12/18"])
    assert arguments.init_from == "facebook/detr-resnet-50"


def test_published_values_of_devis(tmp_path):
    arguments, training = parse("--config", str(CONFIGS / "ytvis2019-devis-r50.yaml"), folder=tmp_path)
    assert (arguments.num_frames, arguments.sampling) == (6, "sliding")
    assert (arguments.backbone_lr_scale, arguments.sampling_lr_scale) == (0.1, 0.1)
    assert (training.learning_rate, training.weight_decay, training.max_grad_norm) == (1e-4, 1e-4, 0.1)
    assert (training.num_train_epochs, arguments.lr_drops) == (9, ["3/9", "7/9"])
    assert arguments.init_from == "SenseTime/deformable-detr-with-box-refine"


@pytest.mark.parametrize("backbone", ["msgshift", "r50"])
def test_published_values_of_tevit(backbone, tmp_path):
    arguments, training = parse("--config", str(CONFIGS / f"ytvis2019-tevit-{backbone}.yaml"), folder=tmp_path)
    assert (arguments.num_frames, arguments.backbone_lr_scale, arguments.lr_drops) == (
        5,
        0.1,
        ["6100/9200", "8500/9200"],
    )
    assert (training.learning_rate, training.weight_decay, training.max_grad_norm) == (2.5e-4, 1e-4, 0.1)
    assert (training.max_steps, training.warmup_steps, training.per_device_train_batch_size) == (9200, 770, 2)


def test_classes_of_the_joint_training():
    assert read(CONFIGS / "joint-coco-r50.yaml")["stills_classes"] == COCO_TO_YTVIS_2019


@pytest.mark.parametrize("path", [path for path in RECIPES if path.suffix == ".yaml"], ids=lambda path: path.name)
def test_the_head_tells_cost_and_command(path):
    head = re.match(r"(?:#.*\n)+", path.read_text())[0]
    assert re.search(r"^# Cost: ", head, re.M)
    assert re.search(r"not measured|measured on", head)
    command = " ".join(line.lstrip("# ").rstrip("\\ ") for line in head.splitlines())
    assert f"scripts/train.py --config scripts/configs/{path.name}" in re.sub(r"\s+", " ", command)
    for file in re.findall(r"scripts/[\w/.-]+\.(?:yaml|py)", head):
        assert (ROOT / file).is_file(), file
    flags = {f"--{field.name}" for kind in (script.Arguments, TrainingArguments) for field in fields(kind)}
    launch = {"--config_file", "--config", "--machine_rank", "--main_process_ip", "--ovis"}
    of_make_synthetic = {"--output", "--seed", "--videos"}
    assert set(re.findall(r"--\w+", head)) <= flags | launch | of_make_synthetic


def test_flags_come_after_the_recipe_and_win(tmp_path):
    path = CONFIGS / "own-data-small.yaml"
    arguments, training = parse("--num_frames", "2", "--config", str(path), "--bf16", "no", folder=tmp_path)
    assert (arguments.num_frames, training.bf16) == (2, False)
    assert json.loads(arguments.augmentation) == {"scale": 0.625}


def test_yaml_and_json_are_read_alike(tmp_path):
    values = {"num_frames": 3, "model_config": {"d_model": 64}, "label_names": ["a", "b"], "bf16": True}
    flags = []
    for file, text in (("r.json", json.dumps(values)), ("r.yaml", yaml.safe_dump(values))):
        (tmp_path / file).write_text(text)
        flags.append(script.read_recipe(["--config", str(tmp_path / file), "--seed", "1"]))
    expected = ["--num_frames", "3", "--model_config", '{"d_model": 64}', "--label_names", "a", "b", "--bf16", "True"]
    assert sorted(flags[0][:-2]) == sorted(flags[1][:-2]) == sorted(expected)
    assert flags[0][-2:] == ["--seed", "1"]


@pytest.mark.parametrize("flag", [["--config", "{}"], ["--config={}"]])
@pytest.mark.parametrize("name", ["ytvis2019-r50", "ytvis2019-r50.yaml", str(CONFIGS / "ytvis2019-r50.yaml")])
def test_a_recipe_by_name_or_path(flag, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = [part.format(name) for part in flag]
    assert script.read_recipe([*flags, "--seed", "1"]) == script.read_recipe(
        ["--config", str(CONFIGS / "ytvis2019-r50.yaml"), "--seed", "1"]
    )
    # A file of the user comes before one of the package.
    (tmp_path / "ytvis2019-r50.yaml").write_text("num_frames: 7")
    mine = ["--num_frames", "7", "--seed", "1"]
    assert (script.read_recipe([*flags, "--seed", "1"]) == mine) == (name == "ytvis2019-r50.yaml")


def test_an_unknown_recipe_names_those_of_the_package():
    with pytest.raises(FileNotFoundError, match=r"no recipe ovis; expected a file, or one of .*, ovis-r50, "):
        script.read_recipe(["--config", "ovis"])


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("r.yaml", "num_frames: [1", r"r.yaml cannot be read .* expected YAML, or JSON"),
        ("r.json", "{", r"r.json cannot be read .* expected YAML, or JSON"),
        ("r.yaml", "- num_frames", "r.yaml is no recipe; expected names of arguments and their values"),
        ("r.yaml", "", "r.yaml is no recipe"),
    ],
)
def test_a_broken_recipe_is_named(tmp_path, file, text, message):
    (tmp_path / file).write_text(text)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        script.read_recipe(["--config", str(tmp_path / file)])


def test_an_unknown_argument_is_refused(tmp_path):
    (tmp_path / "r.yaml").write_text("num_framse: 3")
    with pytest.raises(ValueError, match="num_framse"):
        parse("--config", str(tmp_path / "r.yaml"), folder=tmp_path)


def test_processes_are_launched_as_the_recipes_say():
    for path in sorted((CONFIGS / "accelerate").iterdir()):
        head = re.match(r"(?:#.*\n)+", path.read_text())[0]
        assert f"scripts/configs/accelerate/{path.name}" in head
        assert yaml.safe_load(path.read_text())["num_processes"] > 1
    one, two = (
        yaml.safe_load((CONFIGS / "accelerate" / name).read_text())["fsdp_config"]
        for name in ("fsdp.yaml", "fsdp-cpu.yaml")
    )
    assert one == two

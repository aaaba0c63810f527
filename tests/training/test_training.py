"""Training and evaluating from the command line, on a tiny model: the scripts, not the result."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainingArguments

from tests.tiny import tiny_config, tiny_model
from transformers_msstsvis import (
    AutoModelForVideoInstanceSegmentation,
    MsstsVisForVideoInstanceSegmentation,
    MsstsVisVideoProcessor,
)
from transformers_msstsvis.commands import train
from transformers_msstsvis.data.clips import VideoClips
from transformers_msstsvis.data.collator import ClipCollator
from transformers_msstsvis.data.synthetic import make_synthetic
from transformers_msstsvis.evaluation import category_ids
from transformers_msstsvis.pipelines import SAMPLE_MODEL
from transformers_msstsvis.training import VisTrainer
from transformers_msstsvis.training import train as train_in_one_call
from transformers_msstsvis.training.arguments import flags_of
from transformers_msstsvis.training.progress import step_line

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def annotations(tmp_path_factory):
    sizes = {"height": 64, "width": 64, "min_frames": 4, "max_frames": 6, "min_objects": 1, "max_objects": 2}
    return make_synthetic(tmp_path_factory.mktemp("synthetic"), seed=3, num_videos=6, **sizes)


def trainer(annotations, folder, steps, **arguments):
    torch.manual_seed(0)
    clips = VideoClips(annotations, num_frames=2)
    labels = {"id2label": clips.id2label, "label2id": {name: index for index, name in clips.id2label.items()}}
    settings = {
        "output_dir": str(folder),
        "max_steps": steps,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "use_cpu": True,
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "save_steps": 2,
        "logging_steps": 2,
        "seed": 0,
    }
    return VisTrainer(
        model=MsstsVisForVideoInstanceSegmentation(tiny_config(**labels)),
        args=TrainingArguments(**{**settings, **arguments}),
        train_dataset=clips,
        data_collator=ClipCollator(MsstsVisVideoProcessor()),
    )


def test_private_methods_that_are_overridden_are_those_of_transformers():
    own = [name for name in vars(VisTrainer) if name.startswith("_") and not name.startswith("__")]
    overridden = {
        "_load_best_model",
        "_load_from_checkpoint",
        "_load_optimizer_and_scheduler",
        "_load_rng_state",
        "_save_checkpoint",
        "_save_optimizer_and_scheduler",
        "_save_rng_state",
    }
    assert all(callable(getattr(Trainer, name)) for name in overridden)
    assert {name for name in own if hasattr(Trainer, name)} == overridden


def test_parameter_groups(annotations, tmp_path):
    optimizer = trainer(annotations, tmp_path, 2).create_optimizer()
    sizes = {group["lr"]: len(group["params"]) for group in optimizer.param_groups}
    assert len(optimizer.param_groups) == 2  # backbone and sampling share one factor by default
    assert set(sizes) == {1e-3, 1e-4}


def test_loss_terms_are_logged(annotations, tmp_path):
    run = trainer(annotations, tmp_path, 2)
    run.train()
    logged = next(entry for entry in run.state.log_history if "loss" in entry)
    assert {"loss_ce", "loss_bbox", "loss_giou", "loss_mask", "loss_dice"} <= set(logged)


def test_resuming_gives_the_parameters_of_an_uninterrupted_run(annotations, tmp_path):
    # a constant rate, so that the first part does not decay to its own end
    trainer(annotations, tmp_path / "parts", 2, lr_scheduler_type="constant").train()
    whole = trainer(annotations, tmp_path / "whole", 4, lr_scheduler_type="constant")
    whole.train()
    resumed = trainer(annotations, tmp_path / "parts", 4, lr_scheduler_type="constant")
    resumed.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-2"))
    for (name, a), b in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)


def run(script, *arguments):
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def train_script():
    """The command in this process: arguments to exit status."""

    def call(*arguments):
        return train.main([*map(str, arguments)])

    return call


def test_train_script_with_a_recipe_then_evaluate_script(annotations, tmp_path, train_script):
    recipe = json.loads((SCRIPTS / "configs" / "synthetic-cpu-1.json").read_text())
    recipe["model_config"] |= {"d_model": 64, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    recipe["model_config"] |= {"encoder_layers": 1, "decoder_layers": 1, "num_queries": 5}
    recipe |= {"max_steps": 2, "save_steps": 2, "dataloader_num_workers": 0, "per_device_train_batch_size": 2}
    recipe |= {"adversarial": 0.1, "logging_steps": 2, "eval_dataset": str(annotations), "num_samples": 1}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    out = tmp_path / "out"
    flags = ("--config", tmp_path / "recipe.json", "--dataset", annotations, "--output_dir", out)
    assert train_script(*flags) == 0
    assert "eval_AP50" in json.loads((out / "eval_results.json").read_text())
    assert (out / "samples" / "step-2" / "video-1.png").is_file()
    assert (out / "checkpoint-2" / "discriminator.safetensors").is_file()
    assert train_script(*flags, "--resume_from_checkpoint", "last", "--max_steps", 4) == 0
    state = json.loads((out / "checkpoint-4" / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "loss" in entry] == [1, 2, 4]
    model = AutoModelForVideoInstanceSegmentation.from_pretrained(out)
    assert model.config.id2label[0] == "disk"

    done = run("evaluate.py", "--model", out, "--dataset", annotations, "--output", tmp_path / "new" / "results.json")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[:3] == ["AP", "AP50", "AP75"]
    again = run("evaluate.py", "--results", tmp_path / "new" / "results.json", "--dataset", annotations)
    assert again.stdout == done.stdout


def test_one_call_trains_as_the_command_does(annotations, tmp_path, train_script):
    tiny_model(id2label={0: "disk"}, label2id={"disk": 0}).save_pretrained(tmp_path / "model")
    settings = {"dataset": annotations, "model": tmp_path / "model", "model_config": {"num_queries": 7}}
    settings |= {"max_steps": 1, "num_frames": 2, "use_cpu": True, "report_to": "none", "lr_drops": ["1/2"]}
    settings |= {"per_device_train_batch_size": 1, "dataloader_num_workers": 0}
    run = train_in_one_call("synthetic-cpu-1", **settings, output_dir=tmp_path / "call")
    assert run.state.global_step == 1
    assert (
        train_script("--config", "synthetic-cpu-1", *flags_of({**settings, "output_dir": tmp_path / "command"})) == 0
    )
    written = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("call", "command")]
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"num_frame": 3}, TypeError, "train has no argument num_frame; expected those of the command"),
        ({"num_frames": "many"}, ValueError, "invalid int value: 'many'"),
        ({"config": "synthetic-cpu-1", "dataset": "no.json"}, FileNotFoundError, r"no annotation file .* at no\.json"),
    ],
)
def test_wrong_arguments_of_the_call(settings, error, message, tmp_path):
    with pytest.raises(error, match=message):
        train_in_one_call(**settings, output_dir=tmp_path, use_cpu=True)


def test_evaluate_script_on_the_ground_truth_itself(annotations, tmp_path):
    dataset = json.loads(annotations.read_text())
    results = [{**a, "score": 1.0} for a in dataset["annotations"]]
    (tmp_path / "results.json").write_text(json.dumps(results))
    done = run("evaluate.py", "--results", tmp_path / "results.json", "--dataset", annotations)
    assert done.stdout.splitlines()[1].split()[:3] == ["100.0", "100.0", "100.0"]


def test_evaluate_script_survives_a_missing_frame(annotations, tmp_path):
    dataset = json.loads(annotations.read_text())
    dataset["videos"][0]["file_names"][0] = "missing/00000.jpg"
    broken = annotations.with_name("broken.json")
    broken.write_text(json.dumps(dataset))
    tiny_model().save_pretrained(tmp_path)
    MsstsVisVideoProcessor(size={"shortest_edge": 64, "longest_edge": 64}).save_pretrained(tmp_path)
    done = run("evaluate.py", "--model", tmp_path, "--dataset", broken)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "is skipped, 1 frames are missing" in done.stderr


def test_categories_are_found_by_name_or_order():
    categories = [{"id": 7, "name": "star"}, {"id": 3, "name": "disk"}]
    assert category_ids({0: "star", 1: "disk"}, categories) == {0: 7, 1: 3}
    assert category_ids({0: "disk"}, categories) == {0: 3}
    assert category_ids({0: "LABEL_0", 1: "LABEL_1"}, categories) == {0: 3, 1: 7}
    with pytest.raises(ValueError, match="lists only 2 of the 3 classes of the model; expected all of them: add ring"):
        category_ids({0: "disk", 1: "ring", 2: "star"}, categories)
    with pytest.raises(ValueError, match=r"the model has 1 classes \(ring, ...\) and the dataset 2 categories"):
        category_ids({0: "ring"}, categories)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--dataset", "nothing.json", "--output_dir", "out"],
            "error: no annotation file or folder of masks at nothing.json",
        ),
        (
            ["--config", "nothing.json"],
            "error: there is no recipe nothing.json; expected a file, or one of coco-clips-r50, ",
        ),
        (["--config"], "error: --config comes without a file"),
        (
            "--dataset DATA --model MODEL --output_dir none --use_cpu True --resume_from_checkpoint last".split(),
            "error: none has no complete checkpoint to resume from",
        ),
    ],
)
def test_train_script_with_wrong_arguments(
    arguments, message, annotations, train_script, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    paths = {"DATA": str(annotations), "MODEL": str(SAMPLE_MODEL)}
    arguments = [paths.get(argument, argument) for argument in arguments]
    assert train_script(*arguments) == 1
    told = capsys.readouterr().err
    assert told.strip().splitlines()[-1].startswith(message)
    assert "Traceback" not in told
    if "--dataset" in arguments:  # the others do not come to the log level
        assert train_script(*arguments, "--log_level", "info") == 1
        assert "Traceback" in capsys.readouterr().err


def test_training_says_how_it_goes(annotations, tmp_path, train_script, capsys):
    flags = "--num_frames 2 --max_steps 12 --per_device_train_batch_size 1 --use_cpu True --report_to none --no_flip"
    tiny_model(id2label={0: "disk"}, label2id={"disk": 0}).save_pretrained(tmp_path / "model")
    places = ("--dataset", annotations, "--model", tmp_path / "model", "--output_dir", tmp_path / "out")
    assert train_script(*places, *flags.split()) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in lines] == ["1/12", "10/12"]
    form = r"step \d+/12  loss \d+\.\d{3}  learning rate \d\.\de-\d\d  \d+\.\d\d s/step  \d+ (s|min) left"
    assert all(re.fullmatch(form, line) for line in lines)


@pytest.mark.parametrize(
    ("step", "seconds", "left"),
    [(10, 1.0, "1 h 33 min left"), (5000, 0.05, "30 s left"), (5580, 3.0, "1 min left"), (5600, 9.0, "0 s left")],
)
def test_time_left(step, seconds, left):
    line = step_line(step, 5600, {"loss": 1.25}, seconds)
    assert line == f"step {step}/5600  loss 1.250  {seconds:.2f} s/step  {left}"


def test_evaluate_script_without_a_dataset(tmp_path):
    done = run("evaluate.py", "--dataset", tmp_path / "nothing.json")
    assert done.returncode == 1
    assert done.stderr.startswith("error: no annotation file at")

"""scripts/ablation.py with the tiny model."""

import importlib.util
import json
from pathlib import Path

import datasets
import pytest
import torch
from transformers import set_seed

from tests.tiny import tiny_model
from tests.training.training_runs import named
from transformers_msstsvis.data.synthetic import CLASSES
from transformers_msstsvis.training import load_for_training

SMALL = "--start_steps 1 --steps 1 --videos 3 --eval_videos 2 --num_frames 2 --seeds 0".split()


@pytest.fixture
def script(monkeypatch, tmp_path):
    path = Path(__file__).parents[1] / "scripts" / "ablation.py"
    spec = importlib.util.spec_from_file_location("ablation", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "SIZE", 64)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return module


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """With temporal attentions that change the outputs, as trained ones do."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_model(**named(*CLASSES)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def start(checkpoint, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    load_for_training(checkpoint, model_type="seqformer").save_pretrained(folder)
    return folder


def outputs(model):
    video = torch.rand(1, 3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.eval()(video).to_tuple()


def test_a_stopped_run_goes_on_to_the_table(script, checkpoint, tmp_path, monkeypatch, capsys):
    arguments = ["--output", str(tmp_path / "out"), "--model", str(checkpoint), *SMALL]
    evaluate, evaluated = script.evaluate, []

    def stop_at_third(folder, annotations):
        evaluated.append(folder.name)
        if len(evaluated) == 3:
            raise KeyboardInterrupt
        return evaluate(folder, annotations)

    monkeypatch.setattr(script, "evaluate", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        script.main(arguments)
    results = tmp_path / "out" / "results.json"
    before = json.loads(results.read_text())["runs"]
    assert [run["variant"] for run in before] == ["trunk", "encoder"]

    assert script.main(arguments) == 0
    assert evaluated == ["trunk-0", "encoder-0", "decoder-0", "decoder-0", "adversarial-0"]
    runs = json.loads(results.read_text())["runs"]
    assert runs[:2] == before
    assert all(0 <= run[number] <= 1 for run in runs for number in script.OVERALL)
    parameters = [run["parameters"] for run in runs]
    assert parameters[0] < parameters[1] < parameters[2] == parameters[3]

    table = (tmp_path / "out" / "table.md").read_text()
    assert capsys.readouterr().out.endswith(table)
    titles = [line.split(" | ")[0].strip("| ") for line in table.splitlines()[2:]]
    assert titles == [variant.title for variant in script.VARIANTS.values()]

    assert script.main([*arguments, "--steps", "2"]) == 1
    assert "has runs with steps 1, not 2; expected the same settings" in capsys.readouterr().err


def test_variants_start_as_the_trunk_and_not_with_the_attention_of_the_checkpoint(script, checkpoint, start):
    trunk = outputs(load_for_training(start))
    for name in script.VARIANTS:
        for given, expected in zip(outputs(script.load_variant(name, start)), trunk, strict=True):
            torch.testing.assert_close(given, expected, rtol=0, atol=0)
    assert not torch.allclose(outputs(load_for_training(checkpoint))[0], trunk[0], atol=1e-3)


def test_variants_of_a_seed_see_the_same_clips(script, start, tmp_path):
    videos = script.make_videos(tmp_path / "videos", 0, 6, max_frames=8)
    args = script.parse_arguments(["--output", str(tmp_path), *SMALL])

    def clips(name, seed):
        model = script.load_variant(name, start)
        trainer = script.make_trainer(model, videos, tmp_path / "run", seed, 1, args)
        return [batch["pixel_values_videos"] for batch in trainer.get_train_dataloader()]

    trunk = clips("trunk", 1)
    assert all(map(torch.equal, clips("decoder", 1), trunk))
    assert not any(map(torch.equal, clips("trunk", 2), trunk))


def test_a_seed_decides_the_weights_of_new_modules_only(script, start):
    states = []
    for seed in (1, 1, 2):
        set_seed(seed)
        states.append(script.load_variant("decoder", start).state_dict())
    first, again, other = states
    assert all(torch.equal(again[name], weight) for name, weight in first.items())
    changed = [name for name, weight in first.items() if not torch.equal(other[name], weight)]
    assert {name.split(".")[4] for name in changed} == {"temporal_attn", "box_temporal_attn"}


def test_the_table_has_means_and_half_the_range(script):
    numbers = [(0, 0.10, 0.30, 0.20), (1, 0.14, 0.40, 0.30), (2, 0.12, 0.50, 0.40)]
    runs = [
        {"variant": name, "seed": seed, "AP": AP, "AP50": AP50, "AP75": 0, "AR1": 0, "AR10": AR10, "parameters": 1234}
        for name in script.VARIANTS
        for seed, AP, AP50, AR10 in numbers
    ]
    assert script.format_table(runs).splitlines()[:3] == [
        "| variant | AP | AP50 | AR10 | parameters |",
        "|---|---|---|---|---|",
        "| trunk (SeqFormer) | 12.0 ± 2.0 | 40.0 | 30.0 | 1,234 |",
    ]


def test_no_steps_are_refused(script, tmp_path, capsys):
    with pytest.raises(SystemExit):
        script.parse_arguments(["--output", str(tmp_path), "--steps", "0"])
    assert "--steps is 0; expected at least 1" in capsys.readouterr().err

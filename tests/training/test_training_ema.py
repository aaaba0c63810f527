"""
The exponential moving average of the weights: what it is, where it is used, how it goes on after a stop. With several
processes:

    torchrun --nproc_per_node 2 -m tests.test_training_ema FOLDER
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, TrainerCallback

from tests.training.training_runs import ROOT, SquareClips, make_trainer, tiny_for_training
from transformers_msstsvis import AutoModelForVideoInstanceSegmentation, MsstsVisVideoProcessor
from transformers_msstsvis.data.loading import load_vis_dataset
from transformers_msstsvis.data.synthetic import make_synthetic
from transformers_msstsvis.pipelines import SAMPLE_MODEL
from transformers_msstsvis.training import VisTrainer
from transformers_msstsvis.training.averaging import TRAINED_WEIGHTS_NAME

CLIPS = SquareClips([1, 2, 1])
DECAY = 0.7


class Weights(TrainerCallback):
    """Keeps the weights and buffers after every step."""

    def __init__(self):
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.steps.append({name: value.clone() for name, value in model.state_dict().items()})


class Fail(TrainerCallback):
    """Ends the run in the middle of a step."""

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise InterruptedError


def run(folder, decay=DECAY, model=None, callbacks=(), trainer=None, **arguments):
    trainer = {"ema_decay": decay, "callbacks": list(callbacks), **(trainer or {})}
    return make_trainer(CLIPS, folder, model, trainer, **{"max_steps": 4, **arguments})


def assert_equal(state, expected, atol=0.0):
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=atol, msg=name)


def test_the_average_is_saved_and_the_trained_weights_beside_it(tmp_path):
    weights = Weights()
    # Batch norms that learn: their statistics are averaged as well.
    model = tiny_for_training(freeze_batch_norm=False, freeze_backbone_stem=False)
    training = run(tmp_path, model=model, callbacks=[weights])
    training.train()
    average = weights.steps[0]
    for state in weights.steps[1:]:
        floating = {name: value for name, value in state.items() if value.is_floating_point()}
        average = {name: DECAY * average[name] + (1 - DECAY) * value for name, value in floating.items()}
    folder = tmp_path / "checkpoint-4"
    saved = load_file(folder / "model.safetensors")
    assert "running_mean" in " ".join(average)
    for name, value in average.items():
        torch.testing.assert_close(saved[name], value, msg=name)
    assert any((saved[name] - weights.steps[-1][name]).abs().max() > 1e-5 for name in average)
    assert_equal(load_file(folder / TRAINED_WEIGHTS_NAME), weights.steps[-1])

    training.save_model()
    assert_equal(load_file(tmp_path / "model.safetensors"), saved)
    assert_equal(dict(training.model.state_dict()), saved)
    assert not (tmp_path / TRAINED_WEIGHTS_NAME).exists()
    assert_equal(dict(AutoModelForVideoInstanceSegmentation.from_pretrained(folder).state_dict()), saved)


def test_without_it_nothing_of_it_is_made(tmp_path):
    training = run(tmp_path, decay=0.0, max_steps=2)
    training.train()
    assert training.averaged is None
    assert not (tmp_path / "checkpoint-2" / TRAINED_WEIGHTS_NAME).exists()


# ------------------------------------------------------------------------------------------------------- evaluation


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    sizes = {"height": 96, "width": 96, "min_frames": 3, "max_frames": 4, "min_objects": 1, "max_objects": 2}
    return load_vis_dataset(make_synthetic(tmp_path_factory.mktemp("synthetic"), seed=5, num_videos=3, **sizes))


def spoil_the_bundled_model(folder, videos, decay, **arguments):
    """Two steps: a first one that changes nothing, as the warmup starts at 0, and one that changes far too much."""
    processor = MsstsVisVideoProcessor.from_pretrained(SAMPLE_MODEL)
    trainer = {"eval_dataset": videos, "processing_class": processor, "num_samples": 0}
    settings = {"max_steps": 2, "warmup_steps": 1, "lr_scheduler_type": "constant_with_warmup", "learning_rate": 0.1}
    settings |= {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "weight_decay": 0.0}
    return run(folder, decay, AutoModel.from_pretrained(SAMPLE_MODEL), trainer=trainer, **settings, **arguments)


def evaluated(training) -> list[float]:
    return [entry["eval_AP"] for entry in training.state.log_history if "eval_AP" in entry]


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
def test_the_average_is_evaluated(videos, half, tmp_path):
    training = spoil_the_bundled_model(tmp_path, videos, 1 - 1e-6, bf16=half)
    training.train()
    first, second = evaluated(training)
    assert first > 0.3
    assert second == pytest.approx(first, abs=0.05)
    assert training.evaluate()["eval_AP"] == second
    raw = spoil_the_bundled_model(tmp_path / "raw", videos, 0.0, bf16=half)
    raw.train()
    assert evaluated(raw)[1] < 0.1


def test_other_data_is_evaluated_with_the_average_too(tmp_path):
    """One batch that is trained on and evaluated, without dropout: its loss before a step is that of the weights."""
    model = tiny_for_training(dropout=0.0, attention_dropout=0.0)
    settings = {"eval_strategy": "steps", "eval_steps": 1, "per_device_train_batch_size": 3, "max_steps": 3}
    settings |= {"per_device_eval_batch_size": 3, "learning_rate": 1e-2, "warmup_steps": 1}
    settings |= {"lr_scheduler_type": "constant_with_warmup", "prediction_loss_only": True}
    training = run(tmp_path, 1 - 1e-6, model, trainer={"eval_dataset": CLIPS}, **settings)
    training.train()
    losses = [entry["eval_loss"] for entry in training.state.log_history if "eval_loss" in entry]
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-2)
    trained = [entry["loss"] for entry in training.state.log_history if "loss" in entry]
    assert abs(trained[2] - trained[0]) > 0.1


def test_the_best_checkpoint_keeps_its_own_average(videos, tmp_path):
    settings = {"load_best_model_at_end": True, "metric_for_best_model": "AP"}
    training = spoil_the_bundled_model(tmp_path, videos, 0.1, **settings)
    training.train()
    first, second = evaluated(training)
    assert second < 0.1 < 0.3 < first
    training.save_model()
    saved = load_file(tmp_path / "model.safetensors")
    assert_equal(saved, load_file(tmp_path / "checkpoint-1" / "model.safetensors"))
    assert training.evaluate()["eval_AP"] == first


# ---------------------------------------------------------------------------------------------------------- resuming


def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path):
    whole, resumed = Weights(), Weights()
    run(tmp_path / "whole", callbacks=[whole], max_steps=6).train()
    with pytest.raises(InterruptedError):
        run(tmp_path / "parts", callbacks=[Fail()], max_steps=6).train()
    training = run(tmp_path / "parts", callbacks=[resumed], max_steps=6)
    training.train(resume_from_checkpoint=True)
    assert len(resumed.steps) == 4
    assert_equal(resumed.steps[0], whole.steps[2], atol=1e-6)
    assert_equal(resumed.steps[-1], whole.steps[-1], atol=1e-6)
    for step in (4, 6):
        for name in ("model.safetensors", TRAINED_WEIGHTS_NAME):
            files = [load_file(tmp_path / part / f"checkpoint-{step}" / name) for part in ("parts", "whole")]
            assert_equal(*files, atol=1e-6)


def test_the_trained_weights_go_on_without_the_average(tmp_path):
    weights = Weights()
    run(tmp_path / "whole", decay=0.0, callbacks=[weights]).train()
    run(tmp_path / "parts", max_steps=2).train()
    resumed = run(tmp_path / "parts", decay=0.0)
    resumed.train(resume_from_checkpoint=True)
    assert_equal(dict(resumed.model.state_dict()), weights.steps[-1], atol=1e-6)


def test_the_average_starts_anew_after_a_checkpoint_without(tmp_path, caplog):
    run(tmp_path, decay=0.0, max_steps=2).train()
    weights = Weights()
    resumed = run(tmp_path, max_steps=3, save_steps=3, callbacks=[weights])
    resumed.train(resume_from_checkpoint=True)
    assert f"checkpoint-2 has no {TRAINED_WEIGHTS_NAME}: the average starts anew" in caplog.text
    assert_equal(dict(resumed.model.state_dict()), weights.steps[0])


# --------------------------------------------------------------------------------------------------------- processes


def average_of_two_videos(folder: str) -> None:
    """Train on two videos, one or two per process, and let every process write its average."""
    model = tiny_for_training(dropout=0.0, attention_dropout=0.0)
    settings = {"optim": "sgd", "learning_rate": 1e-4, "max_grad_norm": 0, "max_steps": 3, "save_strategy": "no"}
    settings |= {"per_device_train_batch_size": 2 // int(os.environ.get("WORLD_SIZE", 1))}
    training = make_trainer(SquareClips([2, 2]), folder, model, {"ema_decay": DECAY}, **settings)
    training.train()
    torch.save(training.model.state_dict(), Path(folder, f"rank-{training.args.process_index}.pt"))


def test_two_processes_have_the_average_of_one(tmp_path):
    torchrun = str(Path(sys.executable).with_name("torchrun"))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    command = [
        torchrun,
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "tests.training.test_training_ema",
        tmp_path / "two",
    ]
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    average_of_two_videos(str(tmp_path / "one"))
    start = tiny_for_training().state_dict()
    one, *two = (torch.load(tmp_path / name) for name in ("one/rank-0.pt", "two/rank-0.pt", "two/rank-1.pt"))
    assert_equal(two[0], two[1])
    assert_equal(two[0], one, atol=1e-6)
    assert max((one[name] - start[name]).abs().max() for name in one) > 1e-4


@pytest.mark.parametrize(("flag", "name"), [("is_fsdp_enabled", "FSDP"), ("is_deepspeed_enabled", "DeepSpeed")])
def test_it_is_refused_where_weights_are_split(flag, name, tmp_path, monkeypatch):
    prepare = VisTrainer.create_accelerator_and_postprocess

    def prepare_in_parts(trainer):
        prepare(trainer)
        setattr(trainer, flag, True)

    monkeypatch.setattr(VisTrainer, "create_accelerator_and_postprocess", prepare_in_parts)
    with pytest.raises(ValueError, match=f"ema_decay is 0.7 with {name}, whose processes hold parts of the weights;"):
        run(tmp_path)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_range(decay, tmp_path):
    with pytest.raises(ValueError, match=f"ema_decay is {decay}; expected a number from 0"):
        run(tmp_path, decay)


if __name__ == "__main__":
    average_of_two_videos(sys.argv[1])

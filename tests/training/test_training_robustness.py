"""Training that is hit by bad numbers, bad files, a full disk or the end of its process."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from safetensors import SafetensorError
from transformers import TrainerCallback

from tests.training.training_runs import ROOT, SquareClips, adversarial_run, make_trainer
from transformers_msstsvis.data.clips import ClipError, VideoClips
from transformers_msstsvis.data.synthetic import make_synthetic
from transformers_msstsvis.models.msstsvis.discriminator_msstsvis import STATE_NAME, WEIGHTS_NAME
from transformers_msstsvis.training.checkpoints import last_checkpoint, output_lock


@pytest.fixture(scope="module")
def annotations(tmp_path_factory):
    sizes = {"height": 64, "width": 64, "min_frames": 4, "max_frames": 6, "min_objects": 1, "max_objects": 2}
    return make_synthetic(tmp_path_factory.mktemp("synthetic"), seed=3, num_videos=5, **sizes)


# ------------------------------------------------------------------------------------------------------ bad numbers


class Spoil(TrainerCallback):
    """Makes a weight NaN before the second step."""

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == 1:
            with torch.no_grad():
                model.class_embed[-1].weight[0, 0] = torch.nan


def test_a_loss_that_is_not_a_number_stops_the_run_and_leaves_the_videos(tmp_path):
    run = make_trainer(SquareClips([1, 2]), tmp_path, trainer={"callbacks": [Spoil()]})
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 1 \(loss_ce.*videos \[10\d, 10\d\], see"):
        run.train()
    report = json.loads((tmp_path / "nan_batch.json").read_text())
    assert sorted(report["video_ids"]) == [100, 101]
    assert report["step"] == 1
    assert report["terms"]["loss_ce"] == "nan"
    assert isinstance(report["terms"]["loss_bbox"], float)
    assert all(torch.isfinite(parameter).all() for parameter in run.model.model.parameters())


def test_clips_without_instances_train(tmp_path):
    run = make_trainer(SquareClips([0, 0]), tmp_path, max_steps=1, trainer={"adversarial": 0.1})
    before = run.model.class_embed[-1].bias.clone()
    discriminator = run.adversary.discriminator.head.weight.clone()
    run.train()
    logged = run.state.log_history[0]
    assert logged["loss_ce"] > 0
    assert logged["loss_mask"] == logged["loss_adversarial"] == logged["loss_discriminator"] == 0
    assert not torch.equal(before, run.model.class_embed[-1].bias)
    assert torch.equal(discriminator, run.adversary.discriminator.head.weight)


# -------------------------------------------------------------------------------------------------------- bad files


def test_an_error_of_a_data_worker_names_the_file(tmp_path):
    file = make_synthetic(tmp_path / "videos", seed=3, num_videos=1, height=64, width=64, min_frames=4, max_frames=4)
    clips = VideoClips(file, num_frames=4)
    frame = next((tmp_path / "videos").rglob("00002.jpg"))
    frame.write_bytes(b"no image")
    run = make_trainer(clips, tmp_path / "out", dataloader_num_workers=1, per_device_train_batch_size=1)
    with pytest.raises(
        ClipError, match=rf"(?s)DataLoader worker process 0.*frame {frame} of video 1 cannot be decoded"
    ):
        run.train()


# -------------------------------------------------------------------------------------------------------- full disk


def test_a_full_disk_while_saving_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    run = make_trainer(SquareClips([1, 2]), tmp_path, max_steps=4)
    save = run._save_optimizer_and_scheduler

    def fill_up(folder):
        if folder.endswith("checkpoint-4"):
            raise OSError(errno.ENOSPC, "No space left on device")
        save(folder)

    monkeypatch.setattr(run, "_save_optimizer_and_scheduler", fill_up)
    with pytest.raises(OSError, match="No space left"):
        run.train()
    assert [folder.name for folder in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    resumed = make_trainer(SquareClips([1, 2]), tmp_path, max_steps=4)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 4
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")


def test_an_unfinished_checkpoint_is_passed_over(tmp_path):
    for name, state in (("checkpoint-2", "{}"), ("checkpoint-10", "{}"), ("checkpoint-12", '{"epoch": 1')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer_state.json").write_text(state)
    (tmp_path / "checkpoint-14").mkdir()
    (tmp_path / "checkpoint-14" / "model.safetensors").write_bytes(b"")
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


CUT = {
    "optimizer.pt": "ends too early",
    "scheduler.pt": "ends too early",
    "rng_state.pth": "ends too early",
    "model.safetensors": "incomplete",
    WEIGHTS_NAME: "incomplete",
}


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    make_trainer(SquareClips([1, 2]), folder, max_steps=4, trainer={"adversarial": 0.1}).train()
    return folder


@pytest.mark.parametrize("name", CUT)
def test_a_checkpoint_with_a_cut_file_is_passed_over(two_checkpoints, tmp_path, name, caplog):
    folder = shutil.copytree(two_checkpoints, tmp_path / "run")
    path = folder / "checkpoint-4" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert last_checkpoint(folder) == str(folder / "checkpoint-2")
    run = make_trainer(SquareClips([1, 2]), folder, max_steps=3, trainer={"adversarial": 0.1})
    run.train(resume_from_checkpoint=True)
    assert run.state.global_step == 3
    assert f"checkpoint-4 is passed over: {path}" in caplog.text
    assert CUT[name] in caplog.text
    with pytest.raises(ValueError, match=rf"checkpoint-4 can't be resumed from: {path} .*{CUT[name]}"):
        run.train(resume_from_checkpoint=str(folder / "checkpoint-4"))


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_what_a_checkpoint_lacks_is_told(two_checkpoints, tmp_path, name, caplog):
    folder = shutil.copytree(two_checkpoints, tmp_path / "run")
    make_trainer(SquareClips([1, 2]), folder, max_steps=5).train(resume_from_checkpoint=str(folder / "checkpoint-4"))
    assert "starts anew" not in caplog.text.replace("discriminator starts anew", "")
    (folder / "checkpoint-4" / name).unlink()
    make_trainer(SquareClips([1, 2]), folder, max_steps=5).train(resume_from_checkpoint=str(folder / "checkpoint-4"))
    assert f"checkpoint-4 has no {name}: what belongs there starts anew" in caplog.text


def test_code_in_the_state_of_an_optimizer_is_not_executed(two_checkpoints, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(two_checkpoints, tmp_path / "run")
    torch.save({"state": Bomb()}, folder / "checkpoint-4" / "optimizer.pt")
    with pytest.raises(ValueError, match=r"the optimizer of .*checkpoint-4 can't be read as plain weights"):
        make_trainer(SquareClips([1, 2]), folder, max_steps=5).train(resume_from_checkpoint=True)
    assert not (tmp_path / "exploded").exists()


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 19898176 vs 19898064"),
        RuntimeError("[enforce fail at inline_container.cc:668] . PytorchStreamWriter failed writing file data/3"),
    ],
)
def test_errors_of_a_full_disk_are_one_line(tmp_path, monkeypatch, error):
    run = make_trainer(SquareClips([1, 2]), tmp_path, max_steps=4)
    save = run._save_optimizer_and_scheduler

    def fill_up(folder):
        if folder.endswith("checkpoint-4"):
            raise error
        save(folder)

    monkeypatch.setattr(run, "_save_optimizer_and_scheduler", fill_up)
    with pytest.raises(
        OSError, match=r"checkpoint-4 can't be saved \(.*\); the checkpoints before it are kept: "
    ) as told:
        run.train()
    assert "\n" not in str(told.value)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")


HOLD = """
import sys
from transformers_msstsvis.training.checkpoints import output_lock
with output_lock(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_two_runs_do_not_share_an_output_folder(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"locked\n"
    run = make_trainer(SquareClips([1, 2]), tmp_path)
    with pytest.raises(ValueError, match=f"another run is writing into {tmp_path}: choose another output_dir"):
        run.train()
    other.kill()  # no clean-up of its own
    other.wait()
    with output_lock(tmp_path):  # as the command does
        run.train()
    assert run.state.global_step == 2
    assert not list(tmp_path.glob(".*"))


def test_resuming_without_a_checkpoint(tmp_path):
    run = make_trainer(SquareClips([1, 2]), tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path} has no complete checkpoint to resume from; expected a folder"):
        run.train(resume_from_checkpoint=True)


# ----------------------------------------------------------------------------------------------- end of the process


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_a_finished_run_has_nothing_left_to_train(ema_decay, tmp_path, caplog):
    def run():
        clips, trainer = SquareClips([1, 2, 1]), {"ema_decay": ema_decay}  # 5 steps end inside an epoch
        return make_trainer(clips, tmp_path, None, trainer, max_steps=5, per_device_train_batch_size=1)

    first, again = run(), run()
    first.train()
    assert again.train(resume_from_checkpoint=True).global_step == 5
    assert "has all of its 5 steps: there is nothing left to train" in caplog.text
    for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert (a == b).all()
    assert not (tmp_path / "checkpoint-6").exists()
    assert again.step_of_weights == 5


def test_checkpoints_of_an_earlier_run_are_told(tmp_path, caplog):
    make_trainer(SquareClips([1, 2]), tmp_path).train()
    assert "earlier run" not in caplog.text
    make_trainer(SquareClips([1, 2]), tmp_path, seed=1).train()
    assert "checkpoint-2 is of an earlier run" in caplog.text


def test_a_killed_run_goes_on_as_if_it_had_not_been(annotations, tmp_path):
    """Epochs have three steps, checkpoints two, and the run is killed anywhere after the first one."""
    steps, at = 7, random.randint(2, 6)
    arguments = {"annotations": str(annotations), "folder": str(tmp_path / "parts"), "steps": steps, "at": at}
    command = [sys.executable, "-m", "tests.training.training_runs", "kill", json.dumps(arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]

    resumed = adversarial_run(str(annotations), str(tmp_path / "parts"), steps)
    torch.manual_seed(random.randint(0, 1000))  # neither the order of clips nor dropout depends on it
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.log_history[0]["step"] == 1
    whole = adversarial_run(str(annotations), str(tmp_path / "whole"), steps)
    whole.train()
    for a, b in ((whole.model, resumed.model), (whole.adversary.discriminator, resumed.adversary.discriminator)):
        for (name, value), other in zip(a.named_parameters(), b.parameters(), strict=True):
            torch.testing.assert_close(other, value, rtol=0, atol=1e-6, msg=f"{name}, killed at {at}")
    names = {path.name for path in (tmp_path / "parts" / "checkpoint-6").iterdir()}
    assert {"model.safetensors", WEIGHTS_NAME, STATE_NAME} <= names


def test_the_saved_model_has_no_discriminator(tmp_path):
    run = make_trainer(SquareClips([1, 2]), tmp_path, max_steps=1, trainer={"adversarial": 0.1})
    run.save_model(str(tmp_path / "model"))
    assert not list((tmp_path / "model").glob("*discriminator*"))
    assert not [name for name in run.model.state_dict() if "discriminator" in name]

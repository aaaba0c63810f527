"""
Short training runs of the tiny model, in this process or in others:

    python -m tests.training.training_runs FUNCTION 'JSON object of its arguments'
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from transformers import AutoModel, TrainerCallback, TrainingArguments

from tests.tiny import tiny_config
from transformers_msstsvis import MsstsVisForVideoInstanceSegmentation, MsstsVisVideoProcessor
from transformers_msstsvis.data.clips import VideoClips, make_labels
from transformers_msstsvis.data.collator import ClipCollator
from transformers_msstsvis.data.loading import load_vis_dataset
from transformers_msstsvis.pipelines import SAMPLE_MODEL
from transformers_msstsvis.training import VisTrainer

ROOT = Path(__file__).parents[2]


class SquareClips(torch.utils.data.Dataset):
    """Clips of two frames of 64x64 pixels; clip i shows `counts[i]` squares, of the classes 0, 1, 2, 0, 1, ..."""

    def __init__(self, counts: list[int], num_labels: int = 3):
        self.counts, self.num_labels = counts, num_labels

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, index: int) -> dict:
        count = self.counts[index]
        masks = torch.zeros(count, 2, 64, 64, dtype=torch.bool)
        for n in range(count):
            for frame in range(2):
                top, left = 4 + 20 * (n // 3), 4 + 20 * (n % 3) + 3 * frame
                masks[n, frame, top : top + 12, left : left + 12] = True
        pixels = torch.randint(0, 120, (2, 3, 64, 64), generator=torch.Generator().manual_seed(index))
        frames = (pixels + 120 * masks.any(0)[:, None]).to(torch.uint8)
        labels = make_labels(torch.arange(count) % self.num_labels, masks)
        return {"frames": frames, "labels": labels, "video_id": 100 + index}


def tiny_for_training(seed: int = 0, **config) -> MsstsVisForVideoInstanceSegmentation:
    torch.manual_seed(seed)
    return MsstsVisForVideoInstanceSegmentation(tiny_config(**config))


def named(*classes: str) -> dict[str, dict]:
    """The arguments of a configuration that name the classes."""
    return {"id2label": dict(enumerate(classes)), "label2id": {name: label for label, name in enumerate(classes)}}


def make_trainer(clips, folder, model=None, trainer=None, **arguments) -> VisTrainer:
    """A trainer of the tiny model, that saves every second step; `trainer` are arguments of `VisTrainer`."""
    settings = {
        "output_dir": str(folder),
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "use_cpu": True,
        "disable_tqdm": True,
        "save_steps": 2,
        "logging_steps": 1,
        "seed": 0,
    }
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        settings["ddp_backend"] = "gloo"
    if model is None:
        model = (
            tiny_for_training(**named(*clips.id2label.values())) if hasattr(clips, "id2label") else tiny_for_training()
        )
    return VisTrainer(
        model=model,
        args=TrainingArguments(**{**settings, **arguments}),
        train_dataset=clips,
        data_collator=ClipCollator(MsstsVisVideoProcessor()),
        **(trainer or {}),
    )


class Gradients(TrainerCallback):
    """Keeps the gradients of every step, and ends the run there."""

    def __init__(self):
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.steps.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})


class Kill(TrainerCallback):
    """Ends the process without warning, in the middle of a step."""

    def __init__(self, step: int):
        self.step = step

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def adversarial_run(annotations: str, folder: str, steps: int, **trainer) -> VisTrainer:
    """With dropout, random clips, several epochs, accumulation and the discriminator."""
    clips = VideoClips(annotations, num_frames=2)
    trainer = {"adversarial": 0.1, "discriminator_learning_rate": 1e-3, **trainer}
    return make_trainer(
        clips, folder, max_steps=steps, trainer=trainer, per_device_train_batch_size=1, gradient_accumulation_steps=2
    )


def kill(annotations: str, folder: str, steps: int, at: int) -> None:
    adversarial_run(annotations, folder, steps, callbacks=[Kill(at)]).train()


def gradients_and_numbers(folder: str, annotations: str, batch_size: int, result: str) -> None:
    """
    Gradients and discriminator of two steps on four clips, one of them without instances; numbers of the bundled
    checkpoint on three videos. Every process writes its own `result`.
    """
    gradients = Gradients()
    run = make_trainer(
        SquareClips([0, 0, 1, 2]),
        folder,
        tiny_for_training(dropout=0.0, attention_dropout=0.0),
        trainer={"adversarial": 0.5, "callbacks": [gradients]},
        per_device_train_batch_size=batch_size,
        optim="sgd",
        learning_rate=1e-5,
        max_grad_norm=0,
    )
    run.adversary.optimizer = torch.optim.SGD(run.adversary.discriminator.parameters(), lr=1.0)
    run.train()
    logged = [entry for entry in run.state.log_history if "loss_ce" in entry]
    evaluation = make_trainer(
        None,
        folder,
        AutoModel.from_pretrained(SAMPLE_MODEL),
        trainer={
            "eval_dataset": load_vis_dataset(annotations),
            "processing_class": MsstsVisVideoProcessor.from_pretrained(SAMPLE_MODEL),
        },
    )
    numbers = {name: value for name, value in evaluation.evaluate().items() if "AP" in name or "AR" in name}
    contents = {
        "gradients": gradients.steps,
        "discriminator": run.adversary.discriminator.state_dict(),
        "logged": logged,
        "numbers": numbers,
        "processes": run.args.world_size,
    }
    torch.save(contents, f"{result}-{run.args.process_index}.pt")


if __name__ == "__main__":
    {"kill": kill, "gradients_and_numbers": gradients_and_numbers}[sys.argv[1]](**json.loads(sys.argv[2]))

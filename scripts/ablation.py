#!/usr/bin/env python
"""What each part of MS-STS VIS adds to its trunk, measured on synthetic videos: the rows of the paper's ablation.

python scripts/ablation.py --output DIR --steps 400 --seeds 0 1

All runs start from one trunk without temporal attention, fine-tuned from --model on ordinary synthetic videos; the new
modules start as the identity. They see the same clips of look-alikes (objects of one class and one texture) in the
same order, which a seed decides together with the new modules' weights. Numbers are the official ones, on videos of
another seed. results.json is written after every run: the same command goes on where it stopped, and seeds can
be added.
"""

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel, TrainingArguments, set_seed

from transformers_msstsvis import MsstsVisVideoProcessor
from transformers_msstsvis.data.clips import VideoClips
from transformers_msstsvis.data.collator import ClipCollator
from transformers_msstsvis.data.synthetic import make_synthetic
from transformers_msstsvis.evaluation import evaluate_model
from transformers_msstsvis.evaluation.tables import OVERALL
from transformers_msstsvis.pipelines import SAMPLE_MODEL
from transformers_msstsvis.training import VisTrainer, load_for_training


class Variant(NamedTuple):
    title: str
    encoder: bool
    decoder: bool
    adversarial: bool


VARIANTS = {
    "trunk": Variant("trunk (SeqFormer)", encoder=False, decoder=False, adversarial=False),
    "encoder": Variant("+ encoder temporal attention", encoder=True, decoder=False, adversarial=False),
    "decoder": Variant("+ decoder temporal attention", encoder=True, decoder=True, adversarial=False),
    "adversarial": Variant("+ adversarial loss", encoder=True, decoder=True, adversarial=True),
}
# The bundled checkpoint has seen the seeds 0 to 2.
START_SEED, TRAIN_SEED, EVAL_SEED = 101, 102, 103
SIZE = 128  # pixels, height and width
LOOK_ALIKES = {"min_objects": 3, "max_objects": 5, "look_alikes": True}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of videos, models, results and table")
    parser.add_argument("--model", default=str(SAMPLE_MODEL), help="where the trunk is from; bundled by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="one run of each variant per seed")
    parser.add_argument("--start_steps", type=int, default=300, help="of the common trunk, without temporal attention")
    parser.add_argument("--steps", type=int, default=400, help="of every run")
    parser.add_argument("--videos", type=int, default=500, help="to train on, and as many for the common trunk")
    parser.add_argument("--eval_videos", type=int, default=50)
    parser.add_argument("--num_frames", type=int, default=6, help="of a clip in training")
    parser.add_argument("--batch_size", type=int, default=2, help="clips of a step")
    parser.add_argument("--learning_rate", type=float, default=3e-4, help="falls to 0 as a cosine")
    parser.add_argument("--adversarial_weight", type=float, default=1.0)
    parsed = parser.parse_args(arguments)
    for name in ("start_steps", "steps", "videos", "eval_videos", "num_frames", "batch_size"):
        if getattr(parsed, name) < 1:
            parser.error(f"--{name} is {getattr(parsed, name)}; expected at least 1")
    return parsed


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    try:
        runs = ablate(args)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    table = format_table(runs)
    (args.output / "table.md").write_text(table)
    print(table, end="")
    return 0


def ablate(args: argparse.Namespace) -> list[dict[str, Any]]:
    """All runs, those that `results.json` has from before included."""
    settings = {name: value for name, value in vars(args).items() if name not in ("output", "seeds")}
    file = args.output / "results.json"
    runs = read_runs(file, settings)
    ordinary = make_videos(args.output / "ordinary", START_SEED, args.videos)
    train_videos = make_videos(args.output / "train", TRAIN_SEED, args.videos, **LOOK_ALIKES)
    eval_videos = make_videos(args.output / "eval", EVAL_SEED, args.eval_videos, **LOOK_ALIKES)
    start = args.output / "start"
    if not start.exists():
        set_seed(START_SEED)
        unfinished = args.output / "start.part"
        trunk = load_for_training(args.model, model_type="seqformer")
        train(make_trainer(trunk, ordinary, unfinished, START_SEED, args.start_steps, args))
        os.replace(unfinished, start)

    for seed in args.seeds:
        for name in VARIANTS:
            if not any(run["variant"] == name and run["seed"] == seed for run in runs):
                begin = time.monotonic()
                set_seed(seed)
                model, folder = load_variant(name, start), args.output / f"{name}-{seed}"
                weight = args.adversarial_weight if VARIANTS[name].adversarial else 0.0
                train(make_trainer(model, train_videos, folder, seed, args.steps, args, adversarial=weight))
                run = {"variant": name, "seed": seed, **evaluate(folder, eval_videos)}
                run |= {"parameters": model.num_parameters(), "seconds": round(time.monotonic() - begin)}
                runs.append(run)
                write_runs(file, settings, runs)
                print(json.dumps(run), flush=True)
    return [run for run in runs if run["seed"] in args.seeds]


def read_runs(file: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """
    The runs of an earlier call, none if there was none.

    Raises:
        ValueError: when they had other settings.
    """
    if not file.exists():
        return []
    results = json.loads(file.read_text())
    for name, value in settings.items():
        if results["settings"].get(name) != value:
            raise ValueError(
                f"{file} has runs with {name} {results['settings'].get(name)}, not {value}; expected the same "
                "settings for the whole table: choose another output"
            )
    return results["runs"]


def write_runs(file: Path, settings: dict[str, Any], runs: list[dict[str, Any]]) -> None:
    unfinished = file.with_name(f"{file.name}.part")
    unfinished.write_text(json.dumps({"settings": settings, "runs": runs}, indent=2) + "\n")
    os.replace(unfinished, file)


def make_videos(folder: Path, seed: int, number: int, **settings) -> Path:
    """The annotation file of a set of videos, which is made unless it is complete."""
    annotations = folder / "annotations.json"
    if not annotations.exists():
        make_synthetic(folder, seed, number, height=SIZE, width=SIZE, overwrite=True, **settings)
    return annotations


def load_variant(name: str, start: Path) -> PreTrainedModel:
    """The trunk at `start` with the new modules of a variant, which change none of its outputs yet."""
    variant = VARIANTS[name]
    return load_for_training(
        start,
        model_type="msstsvis",
        encoder_temporal_attention=variant.encoder,
        decoder_temporal_attention=variant.decoder,
    )


def train(trainer: VisTrainer) -> None:
    shutil.rmtree(trainer.args.output_dir, ignore_errors=True)  # what a stopped run left
    trainer.train()
    trainer.save_model()


def make_trainer(
    model: PreTrainedModel, videos: Path, folder: Path, seed: int, steps: int, args: argparse.Namespace, **settings
) -> VisTrainer:
    training = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=min(20, steps // 10),
        weight_decay=1e-4,
        max_grad_norm=0.1,
        bf16=True,
        optim="adamw_torch_fused",
        use_cpu=not torch.cuda.is_available(),
        seed=seed,
        save_strategy="no",
        logging_steps=50,
        report_to="none",
        disable_tqdm=True,
    )
    processor = MsstsVisVideoProcessor(size={"shortest_edge": SIZE, "longest_edge": SIZE})
    return VisTrainer(
        model=model,
        args=training,
        train_dataset=VideoClips(videos, num_frames=args.num_frames, seed=seed),
        data_collator=ClipCollator(processor),
        processing_class=processor,
        backbone_lr_scale=1.0,
        sampling_lr_scale=0.5,
        **settings,
    )


def evaluate(folder: Path, annotations: Path) -> dict[str, float]:
    """The official numbers of the model in `folder`."""
    numbers = evaluate_model(annotations, folder)
    return {name: numbers[name] for name in OVERALL}


def format_table(runs: list[dict[str, Any]]) -> str:
    """Means over seeds in percent, AP with half the range between the best seed and the worst, as Markdown."""
    lines = ["| variant | AP | AP50 | AR10 | parameters |", "|---|---|---|---|---|"]
    for name, variant in VARIANTS.items():
        chosen = [run for run in runs if run["variant"] == name]
        values = {number: [100 * run[number] for run in chosen] for number in OVERALL}
        spread = (max(values["AP"]) - min(values["AP"])) / 2
        cells = [variant.title, f"{mean(values['AP']):.1f} ± {spread:.1f}"]
        cells += [f"{mean(values[number]):.1f}" for number in ("AP50", "AR10")]
        lines.append(f"| {' | '.join(cells)} | {chosen[0]['parameters']:,} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())

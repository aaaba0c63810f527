#!/usr/bin/env python
"""Train a model for video instance segmentation on a YouTube-VIS annotation file.

    python scripts/train.py --config scripts/configs/synthetic-cpu-1.json --dataset annotations.json --output_dir out

Every argument of transformers' TrainingArguments is a flag as well; flags override the recipe given with --config.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from transformers import AutoConfig, HfArgumentParser, TrainingArguments, set_seed

from transformers_msstsvis import AutoModelForVideoInstanceSegmentation, MsstsVisVideoProcessor
from transformers_msstsvis.data.clips import ClipCollator, VideoClips
from transformers_msstsvis.training import VisTrainer


@dataclass
class Arguments:
    dataset: str = field(metadata={"help": "YouTube-VIS annotation file with the training videos."})
    frames_dir: str | None = field(
        default=None, metadata={"help": "Folder of the frames; JPEGImages beside the file."}
    )
    model: str | None = field(default=None, metadata={"help": "Checkpoint to start from; from scratch when left out."})
    model_config: str | None = field(
        default=None, metadata={"help": "JSON object of configuration arguments; with --model, what to change."}
    )
    pretrained_backbone: str | None = field(
        default=None, metadata={"help": "Backbone weights to start from: Hub name, folder, or timm name of weights."}
    )
    num_frames: int = field(default=5, metadata={"help": "Frames of a clip."})
    flip: bool = field(default=True, metadata={"help": "Mirror half of the clips."})
    shortest_edge: int | None = field(
        default=None, metadata={"help": "Resize frames to this; their own size if unset."}
    )
    backbone_lr_scale: float = field(default=0.1, metadata={"help": "Backbone learning rate relative to the others."})
    sampling_lr_scale: float = field(default=0.1, metadata={"help": "The same for sampling offsets."})


def main() -> int:
    parser = HfArgumentParser((Arguments, TrainingArguments))
    try:
        arguments, training = parser.parse_args_into_dataclasses(read_recipe(sys.argv[1:]))
        trainer = make_trainer(arguments, training)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.save_model()
    trainer.save_state()
    return 0


def make_trainer(arguments: Arguments, training: TrainingArguments) -> VisTrainer:
    """The trainer that the command line asks for."""
    set_seed(training.seed)
    clips = VideoClips(
        arguments.dataset,
        arguments.frames_dir,
        arguments.num_frames,
        arguments.flip,
        arguments.shortest_edge,
        training.seed,
    )
    settings = json.loads(arguments.model_config or "{}")
    settings |= {"id2label": clips.id2label, "label2id": {name: index for index, name in clips.id2label.items()}}
    if arguments.model is None:
        config = AutoConfig.for_model(settings.pop("model_type", "msstsvis"), **settings)
        model = AutoModelForVideoInstanceSegmentation.from_config(config)
    else:
        model = AutoModelForVideoInstanceSegmentation.from_pretrained(
            arguments.model, **settings, ignore_mismatched_sizes=True
        )
    if arguments.pretrained_backbone:
        model.model.backbone.load_pretrained(arguments.pretrained_backbone)
    shortest = arguments.shortest_edge or min(min(video["height"], video["width"]) for video in clips.videos)
    processor = MsstsVisVideoProcessor(size={"shortest_edge": shortest, "longest_edge": shortest * 16 // 9})
    training.remove_unused_columns = False
    return VisTrainer(
        model=model,
        args=training,
        train_dataset=clips,
        data_collator=ClipCollator(),
        processing_class=processor,
        backbone_lr_scale=arguments.backbone_lr_scale,
        sampling_lr_scale=arguments.sampling_lr_scale,
    )


def read_recipe(argv: list[str]) -> list[str]:
    """Put the arguments of a JSON recipe (--config FILE) before those of the command line."""
    if "--config" not in argv:
        return argv
    at = argv.index("--config")
    if at + 1 == len(argv):
        raise ValueError("--config comes without a file; expected --config FILE")
    recipe = json.loads(Path(argv[at + 1]).read_text())
    flags = []
    for name, value in recipe.items():
        flags += [f"--{name}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return flags + argv[:at] + argv[at + 2 :]


if __name__ == "__main__":
    sys.exit(main())

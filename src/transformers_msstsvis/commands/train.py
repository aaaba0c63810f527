"""Trains a model for video instance segmentation on annotated videos, and on single images beside them.

    transformers-msstsvis train --config synthetic-cpu-1 --dataset annotations.json --output_dir out
    transformers-msstsvis train --model DIR --dataset train.json --output_dir out --eval_dataset valid.json \
        --eval_strategy steps --save_strategy steps --load_best_model_at_end --metric_for_best_model AP
    transformers-msstsvis train --stills instances.json --stills_dir images --output_dir out    on clips made of images
    transformers-msstsvis train ... --resume_from_checkpoint last      goes on where a run was stopped

Every argument of transformers' TrainingArguments is a flag as well; flags override the recipe given with --config, a
file or the name of one that comes with the package.
With --log_level info an error comes with its traceback.
"""

import argparse
import json
import sys
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from ..extras import require
from .command_line import EitherSpelling, run

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import TrainingArguments

    from ..data.sampling import Clips
    from ..training.trainer import VisTrainer

# Inside this package when it is installed, in scripts of a checkout.
_FOLDERS = (Path(__file__).parents[1] / "recipes", Path(__file__).parents[3] / "scripts" / "configs")
RECIPES = next((folder for folder in _FOLDERS if folder.is_dir()), _FOLDERS[0])


@dataclass
class Arguments:
    dataset: str | None = field(
        default=None,
        metadata={"help": "Annotation file of the training videos, or a folder of masks; not needed with --stills."},
    )
    frames_dir: str | None = field(
        default=None, metadata={"help": "Folder of the frames; found around the annotation file if unset."}
    )
    eval_dataset: str | None = field(
        default=None, metadata={"help": "The same of videos to evaluate on, with --eval_strategy or at the end."}
    )
    eval_frames_dir: str | None = field(default=None, metadata={"help": "Folder of their frames."})
    eval_max_frames: int = field(default=36, metadata={"help": "Longest clip that the model sees in evaluation."})
    eval_top_k: int = field(
        default=10, metadata={"help": "Results per video in evaluation; more for videos of many instances."}
    )
    num_samples: int = field(default=4, metadata={"help": "Videos to draw at each evaluation."})
    model: str | None = field(default=None, metadata={"help": "Checkpoint to start from; from scratch when left out."})
    model_config: str | None = field(
        default=None,
        metadata={
            "help": "JSON object of configuration arguments; with --model, what to change, such as "
            '{"model_type": "msstsvis"} to start MS-STS VIS from a SeqFormer.'
        },
    )
    pretrained_backbone: str | None = field(
        default=None, metadata={"help": "Backbone weights to start from: Hub name, folder, or timm name of weights."}
    )
    num_frames: int = field(default=5, metadata={"help": "Frames of a clip."})
    flip: bool = field(default=True, metadata={"help": "Mirror half of the clips."})
    shortest_edge: int | None = field(
        default=None, metadata={"help": "Resize frames to this; their own size if unset."}
    )
    sampling: str = field(
        default="window",
        metadata={"help": "How frames are drawn: window, published, strided, wrapped or consecutive."},
    )
    stride: int = field(default=1, metadata={"help": "Frames from one frame of a clip to the next, with strided."})
    augmentation: str | None = field(
        default=None,
        metadata={
            "help": "JSON object of arguments of ClipAugmentation, {} as published; takes the place of flip and "
            "shortest_edge."
        },
    )
    on_error: str = field(
        default="raise",
        metadata={"help": "skip: leave out annotations with errors, replace clips that can't be read by others."},
    )
    allow_outside: bool = field(default=False, metadata={"help": "Frames may lie outside of their folder."})
    tracks: str | None = field(
        default=None, metadata={"help": "yes or no: whether the images of a COCO file are videos; told by the file."}
    )
    stills: str | None = field(
        default=None,
        metadata={"help": "Annotation file of single images, such as COCO's, to make clips of, alone or with videos."},
    )
    stills_dir: str | None = field(default=None, metadata={"help": "Folder of the single images."})
    stills_share: float | None = field(
        default=None, metadata={"help": "Share of their clips, 0 to 1; as many as there are images if unset."}
    )
    stills_classes: str | None = field(
        default=None,
        metadata={
            "help": "JSON object from their class names to those of the videos where they differ, null for one to "
            "leave out. Classes that the videos lack are left out."
        },
    )
    backbone_lr_scale: float = field(default=0.1, metadata={"help": "Backbone learning rate relative to the others."})
    sampling_lr_scale: float = field(default=0.1, metadata={"help": "The same for sampling offsets."})
    adversarial: float = field(
        default=0.0, metadata={"help": "Weight of the adversarial mask loss, which trains a discriminator as well."}
    )
    discriminator_learning_rate: float = field(default=1e-4, metadata={"help": "Learning rate of the discriminator."})
    lr_drops: list[str] = field(
        default_factory=list,
        metadata={
            "help": "When learning rates fall to a tenth, in the place of lr_scheduler_type: steps, or shares of the "
            "training such as 4/12 10/12."
        },
    )
    ema_decay: float = field(
        default=0.0, metadata={"help": "Evaluate and save a moving average of the weights, such as 0.999; 0 for none."}
    )


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults are shown, and examples stay as they are."""


def main(arguments: list[str] | None = None) -> int:
    parsed = []

    def work() -> None:
        parsed.extend(parse_arguments(arguments))
        train(*parsed)

    return run(work, verbose=lambda: bool(parsed) and parsed[1].log_level in ("debug", "info"))


def parse_arguments(arguments: list[str] | None = None) -> "tuple[Arguments, TrainingArguments]":
    """
    The arguments of the command line, those of its recipe included.

    Raises:
        ValueError: for a recipe that can't be read, and arguments that are unknown or do not fit together.
        ModuleNotFoundError: when a library of the extra "train" is missing.
    """
    from transformers import HfArgumentParser, TrainingArguments
    from transformers.integrations import is_tensorboard_available

    class TrainParser(EitherSpelling, HfArgumentParser):
        pass

    description, _, examples = __doc__.partition("\n")
    parser = TrainParser(
        (Arguments, TrainingArguments),
        prog="transformers-msstsvis train",
        description=f"{description} --config FILE takes a recipe, whose values flags override.",
        epilog=examples,
        formatter_class=HelpFormatter,
    )
    if is_tensorboard_available():
        parser.set_defaults(report_to="tensorboard")
    parser.set_defaults(logging_first_step=True, logging_steps=10)  # a run of a few hundred steps says how it goes
    arguments = sys.argv[1:] if arguments is None else arguments
    if not {"-h", "--help"}.intersection(arguments):
        require("accelerate", "datasets", "yaml")
        arguments = read_recipe(arguments)
    *parsed, unknown = parser.parse_args_into_dataclasses(
        arguments, return_remaining_strings=True, look_for_args_file=False
    )
    flags = [argument for argument in unknown if argument.startswith("--")]
    if unknown:
        known = [option for option in parser._option_string_actions if option.startswith("--")]
        words = (flags or unknown)[0].lstrip("-").replace("-", "_")
        near = [option for option in known if words in option] or get_close_matches(f"--{words}", known, 3)
        hint = f"; did you mean {' or '.join(near[:3])}?" if near else "; --help lists all flags"
        raise ValueError(f"there is no flag {', '.join(flags or unknown)}{hint}")
    return tuple(parsed)


def train(arguments: Arguments, training: "TrainingArguments") -> None:
    """Train, save, evaluate, and write the model card."""
    from ..files import check_distinct, check_writable_folder, files_of
    from ..training.checkpoints import output_lock

    check_writable_folder(training.output_dir)
    if arguments.model and not training.resume_from_checkpoint:
        check_distinct([training.output_dir], files_of(arguments.model))
    trainer = make_trainer(arguments, training)
    if trainer.is_world_process_zero():
        size = f"{trainer.model.num_parameters() / 1e6:.1f} M parameters"
        start = arguments.model or "random weights (--model starts from a checkpoint)"
        print(f"training {trainer.model.config.model_type}, {size}, from {start} into {training.output_dir}")
    with output_lock(training.output_dir, trainer.is_world_process_zero()):
        train_and_save(trainer, arguments, training)


def train_and_save(trainer: "VisTrainer", arguments: Arguments, training: "TrainingArguments") -> None:
    resume = training.resume_from_checkpoint
    trainer.train(resume_from_checkpoint=True if resume in ("last", "True") else resume)
    trainer.save_model()
    trainer.save_state()
    if arguments.eval_dataset:
        trainer.save_metrics("eval", trainer.evaluate())
    names = {
        "dataset": [short_name(path) for path in (arguments.dataset, arguments.stills) if path],
        "eval_dataset_name": short_name(arguments.eval_dataset or ""),
    }
    if training.push_to_hub:
        trainer.push_to_hub(**names)
    else:
        trainer.create_model_card(**names)
    if trainer.is_world_process_zero():
        print(f"wrote the model and its card to {training.output_dir}")


def short_name(path: str) -> str:
    """A file and its folder, which tell data sets apart."""
    return "/".join(Path(path).parts[-2:])


def make_trainer(arguments: Arguments, training: "TrainingArguments") -> "VisTrainer":
    """The trainer that the command line asks for."""
    from transformers import AutoConfig, set_seed

    from .. import AutoModelForVideoInstanceSegmentation, MsstsVisVideoProcessor
    from ..data.collator import ClipCollator
    from ..training import VisTrainer, load_for_training
    from ..training.progress import report_steps

    set_seed(training.seed)
    clips = make_clips(arguments, training.seed)
    settings = read_object("model_config", arguments.model_config or "{}")
    settings |= {"id2label": clips.id2label, "label2id": {name: index for index, name in clips.id2label.items()}}
    if arguments.model is None:
        config = AutoConfig.for_model(settings.pop("model_type", "msstsvis"))
        unknown = [name for name in settings if not hasattr(config, name)]
        if unknown:
            raise ValueError(f"--model_config has {', '.join(unknown)}; expected arguments of {type(config).__name__}")
        config = type(config)(**settings)
        model = AutoModelForVideoInstanceSegmentation.from_config(config)
    else:
        model = load_for_training(arguments.model, **settings)
    if arguments.pretrained_backbone:
        model.load_pretrained_backbone(arguments.pretrained_backbone)
    processor = MsstsVisVideoProcessor(size=inference_size(arguments, clips))
    videos = None
    if arguments.eval_dataset:
        videos = read_dataset(arguments, arguments.eval_dataset, arguments.eval_frames_dir)
    trainer = VisTrainer(
        model=model,
        args=training,
        train_dataset=clips,
        eval_dataset=videos,
        data_collator=ClipCollator(processor),
        processing_class=processor,
        backbone_lr_scale=arguments.backbone_lr_scale,
        sampling_lr_scale=arguments.sampling_lr_scale,
        adversarial=arguments.adversarial,
        discriminator_learning_rate=arguments.discriminator_learning_rate,
        lr_drops=arguments.lr_drops,
        ema_decay=arguments.ema_decay,
        eval_max_frames=arguments.eval_max_frames,
        eval_top_k=arguments.eval_top_k,
        num_samples=arguments.num_samples,
    )
    report_steps(trainer)
    return trainer


def make_clips(arguments: Arguments, seed: int) -> "Clips":
    """The training clips that the command line asks for."""
    from ..data.augmentation import ClipAugmentation
    from ..data.clips import VideoClips
    from ..data.pseudo_clips import PseudoClips
    from ..data.sampling import JointClips

    if not (arguments.dataset or arguments.stills):
        raise ValueError("there is no training data; expected --dataset with videos, --stills with images, or both")
    of_both = {name: value for name in ("stills_share", "stills_classes") if (value := getattr(arguments, name))}
    if of_both and not (arguments.dataset and arguments.stills):
        raise ValueError(f"{', '.join(of_both)} is for images beside videos; expected --dataset and --stills as well")
    common = {
        "num_frames": arguments.num_frames,
        "flip": arguments.flip,
        "shortest_edge": arguments.shortest_edge,
        "seed": seed,
        "on_error": arguments.on_error,
    }
    augmentation = stills_augmentation = None
    if arguments.augmentation is not None:
        settings = read_object("augmentation", arguments.augmentation)
        augmentation = ClipAugmentation.from_dict(settings)
        # The frames of a pseudo clip differ in their colours already.
        stills_augmentation = ClipAugmentation.from_dict(settings | {"photometric_probability": 0})
    videos = stills = None
    if arguments.dataset:
        videos = VideoClips(
            read_dataset(arguments, arguments.dataset, arguments.frames_dir),
            sampling=arguments.sampling,
            stride=arguments.stride,
            augmentation=augmentation,
            **common,
        )
    if arguments.stills:
        images = read_dataset(arguments, arguments.stills, arguments.stills_dir)
        stills = PseudoClips(images, augmentation=stills_augmentation, **common)
    if videos is None or stills is None:
        return stills if videos is None else videos
    share = arguments.stills_share
    return JointClips(
        [videos, stills],
        weights=None if share is None else [1 - share, share],
        renames=[None, read_object("stills_classes", arguments.stills_classes or "{}")],
        unmatched="drop",
        seed=seed,
    )


def read_dataset(arguments: Arguments, path: str, frames_dir: str | None) -> "Dataset":
    """Annotated videos or images, read as the command line asks for."""
    from ..data.loading import load_vis_dataset

    if arguments.tracks not in (None, "yes", "no"):
        raise ValueError(f"--tracks is {arguments.tracks}; expected yes or no")
    return load_vis_dataset(
        path,
        frames_dir,
        on_error=arguments.on_error,
        allow_outside=arguments.allow_outside,
        tracks=None if arguments.tracks is None else arguments.tracks == "yes",
    )


def inference_size(arguments: Arguments, clips: "Clips") -> dict[str, int]:
    """The frame size that the processor is saved with: that of training, or as published with the augmentation."""
    if arguments.augmentation is not None:
        scale = read_object("augmentation", arguments.augmentation).get("scale", 1)
        return {"shortest_edge": round(360 * scale), "longest_edge": round(640 * scale)}
    videos = getattr(clips, "sources", [clips])[0].dataset
    sides = [sorted(size) for size in zip(videos["height"], videos["width"], strict=True)]
    shortest = arguments.shortest_edge or int(median(short for short, _ in sides))
    aspect = max(16 / 9, *(long / short for short, long in sides))
    return {"shortest_edge": shortest, "longest_edge": int(shortest * aspect)}


def read_object(name: str, text: str) -> dict[str, Any]:
    """The JSON object that a flag holds."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"--{name} is {text!r}, which is not JSON ({error}); expected a JSON object") from error
    if not isinstance(value, dict):
        raise ValueError(f"--{name} is {text!r}; expected a JSON object, such as {{}}")
    return value


def read_recipe(argv: list[str]) -> list[str]:
    """
    Put the arguments of a YAML or JSON recipe (--config FILE) before those of the command line.

    Raises:
        ValueError: without a file, for an unknown one, and for what is no recipe.
    """
    import yaml

    given = [argument.partition("=") for argument in argv]
    at = next((position for position, (name, _, _) in enumerate(given) if name == "--config"), None)
    if at is None:
        return argv
    _, equals, name = given[at]
    rest = argv[at + 1 :]
    if not equals:
        if not rest:
            raise ValueError("--config comes without a file; expected --config FILE")
        name, *rest = rest
    path = find_recipe(name)
    try:
        text = path.read_text(encoding="utf-8")
        # JSON as well is YAML, but for numbers such as 1e-4.
        recipe = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read ({error}); expected YAML, or JSON in a file named .json") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} is no recipe; expected names of arguments and their values")
    flags = []
    for name, value in recipe.items():
        if value is None or value == []:  # as if it were left out
            continue
        values = value if isinstance(value, list) else [value]
        flags += [f"--{name}", *(json.dumps(value) if isinstance(value, dict) else str(value) for value in values)]
    return flags + argv[:at] + rest


def find_recipe(name: str) -> Path:
    """
    A recipe by its path, or one that comes with the package by its name, with or without the suffix.

    Raises:
        FileNotFoundError: there is none.
    """
    bundled = sorted(path for path in RECIPES.glob("*.*") if path.suffix in (".yaml", ".json"))
    if Path(name).is_file():
        return Path(name)
    for path in bundled:
        if name in (path.stem, path.name):
            return path
    raise FileNotFoundError(
        f"there is no recipe {name}; expected a file, or one of {', '.join(path.stem for path in bundled)}"
    )


if __name__ == "__main__":
    raise SystemExit(main())

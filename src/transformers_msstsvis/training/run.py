"""A whole training run by the names of its arguments: clips, model, processor, trainer, and what is saved."""

import json
from dataclasses import fields
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, HfArgumentParser, TrainingArguments, set_seed
from transformers.models.auto import CONFIG_MAPPING

from ..checkpoint_files import check_checkpoint
from ..conversion.detectors import init_from_pretrained
from ..data.augmentation import ClipAugmentation
from ..data.clips import VideoClips
from ..data.collator import ClipCollator
from ..data.loading import load_vis_dataset
from ..data.pseudo_clips import PseudoClips
from ..data.sampling import Clips, JointClips
from ..files import check_distinct, check_writable_folder, files_of
from ..models.auto import video_processor_class
from .arguments import Arguments, flags_of, load_recipe, training_defaults
from .checkpoints import output_lock
from .progress import report_steps
from .start import load_for_training, new_model
from .trainer import VisTrainer

if TYPE_CHECKING:
    from datasets import Dataset


# Arguments that are those of VisTrainer by the same names.
_OF_THE_TRAINER = (
    *("backbone_lr_scale", "sampling_lr_scale", "adversarial", "discriminator_learning_rate", "lr_drops", "ema_decay"),
    *("eval_max_frames", "eval_top_k", "num_samples"),
)


class _ArgumentParser(HfArgumentParser):
    def error(self, message: str) -> None:
        raise ValueError(message)


def train(config: str | None = None, **arguments: Any) -> VisTrainer:
    """
    Train, save, evaluate, and write the model card, as the command `transformers-msstsvis train` does.

    Args:
        config: recipe, as a file or by the name of one that comes with the package; `arguments` override it.
        arguments: of [`Arguments`] and of [`~transformers.TrainingArguments`], such as `dataset`, `output_dir` and
            `max_steps`. Where the command takes JSON, it may be a dict.

    Returns:
        The trainer, with the model as it was saved.

    Raises:
        TypeError: for an argument that there is not.
        ValueError: for values that are wrong or do not fit together, data with errors, and as [`VisTrainer`].
        FileNotFoundError: when a file is missing.
    """
    settings = (load_recipe(config) if config else {}) | arguments
    known = {field.name for kind in (Arguments, TrainingArguments) for field in fields(kind)}
    if unknown := settings.keys() - known:
        raise TypeError(f"train has no argument {', '.join(sorted(unknown))}; expected those of the command")
    if isinstance(settings.get("tracks"), bool):
        settings["tracks"] = "yes" if settings["tracks"] else "no"
    parser = _ArgumentParser((Arguments, TrainingArguments))
    parser.set_defaults(**training_defaults())
    return run_training(*parser.parse_args_into_dataclasses(flags_of(settings)))


def run_training(arguments: Arguments, training: TrainingArguments) -> VisTrainer:
    """As [`train`]."""
    check_writable_folder(training.output_dir)
    if arguments.model and not training.resume_from_checkpoint:
        check_distinct([training.output_dir], files_of(arguments.model))
    trainer = make_trainer(arguments, training)
    if trainer.is_world_process_zero():
        size = f"{trainer.model.num_parameters() / 1e6:.1f} M parameters"
        start = arguments.model or "random weights (--model starts from a checkpoint)"
        print(f"training {trainer.model.config.model_type}, {size}, from {start} into {training.output_dir}")
    with output_lock(training.output_dir, trainer.is_world_process_zero()):
        _train_and_save(trainer, arguments, training)
    return trainer


def _train_and_save(trainer: VisTrainer, arguments: Arguments, training: TrainingArguments) -> None:
    resume = training.resume_from_checkpoint
    trainer.train(resume_from_checkpoint=True if resume in ("last", "True") else resume)
    trainer.save_model()
    trainer.save_state()
    if arguments.eval_dataset:
        trainer.save_metrics("eval", trainer.evaluate())
    names = {
        "dataset": [_short_name(path) for path in (arguments.dataset, arguments.stills) if path],
        "eval_dataset_name": _short_name(arguments.eval_dataset or ""),
    }
    if training.push_to_hub:
        trainer.push_to_hub(**names)
    else:
        trainer.create_model_card(**names)
    if trainer.is_world_process_zero():
        print(f"wrote the model and its card to {training.output_dir}")


def _short_name(path: str) -> str:
    """A file and its folder, which tell data sets apart."""
    return "/".join(Path(path).parts[-2:])


def make_trainer(arguments: Arguments, training: TrainingArguments) -> VisTrainer:
    """The trainer that is asked for, with its model, clips and processor."""
    set_seed(training.seed)
    clips = make_clips(arguments, training.seed)
    settings = read_object("model_config", arguments.model_config or "{}")
    settings |= {"id2label": clips.id2label, "label2id": {name: index for index, name in clips.id2label.items()}}
    if arguments.model is None:
        model = new_model(**settings)
    else:
        model = load_for_training(arguments.model, **settings)
    if arguments.pretrained_backbone:
        model.load_pretrained_backbone(arguments.pretrained_backbone)
    if arguments.init_from:
        # A recipe may name what --model takes the place of.
        told = f"left out, as the training starts from {arguments.model}"
        if arguments.model is None:
            told = init_from_pretrained(model, arguments.init_from).summary()
        if training.process_index == 0:
            print(f"from {arguments.init_from}: {told}")
    processor_class = video_processor_class(model.config)
    processor = processor_class(size=inference_size(arguments, clips, processor_class))
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
        **{name: getattr(arguments, name) for name in _OF_THE_TRAINER},
    )
    report_steps(trainer)
    return trainer


def make_clips(arguments: Arguments, seed: int) -> Clips:
    """The training clips that are asked for."""
    if not (arguments.dataset or arguments.stills):
        raise ValueError("there is no training data; expected --dataset with videos, --stills with images, or both")
    of_both = {name: value for name in ("stills_share", "stills_classes") if (value := getattr(arguments, name))}
    if of_both and not (arguments.dataset and arguments.stills):
        raise ValueError(f"{', '.join(of_both)} is for images beside videos; expected --dataset and --stills as well")
    common = {
        "num_frames": arguments.num_frames or only_length(arguments) or 5,
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


def only_length(arguments: Arguments) -> int | None:
    """The clips that the model knows, if it knows a single length."""
    settings = read_object("model_config", arguments.model_config or "{}")
    if arguments.model and "model_type" not in settings:
        check_checkpoint(arguments.model)
        config = AutoConfig.from_pretrained(arguments.model)
    elif settings.get("model_type") in CONFIG_MAPPING:
        config = CONFIG_MAPPING[settings["model_type"]]()
    else:
        return settings.get("num_frames")
    return settings.get("num_frames", getattr(config, "num_frames", None))


def read_dataset(arguments: Arguments, path: str, frames_dir: str | None) -> "Dataset":
    """Annotated videos or images, read as it is asked for."""
    if arguments.tracks not in (None, "yes", "no"):
        raise ValueError(f"--tracks is {arguments.tracks}; expected yes or no")
    return load_vis_dataset(
        path,
        frames_dir,
        on_error=arguments.on_error,
        allow_outside=arguments.allow_outside,
        tracks=None if arguments.tracks is None else arguments.tracks == "yes",
    )


def inference_size(arguments: Arguments, clips: Clips, processor_class: type) -> dict[str, int]:
    """The frame size that the processor is saved with: that of training, or as published with the augmentation."""
    if arguments.augmentation is not None:
        scale = read_object("augmentation", arguments.augmentation).get("scale", 1)
        return {edge: round(scale * pixels) for edge, pixels in dict(processor_class.size).items()}
    videos = getattr(clips, "sources", [clips])[0].dataset
    sides = [sorted(size) for size in zip(videos["height"], videos["width"], strict=True)]
    shortest = arguments.shortest_edge or int(median(short for short, _ in sides))
    aspect = max(16 / 9, *(long / short for short, long in sides))
    return {"shortest_edge": shortest, "longest_edge": int(shortest * aspect)}


def read_object(name: str, text: str) -> dict[str, Any]:
    """The JSON object that an argument holds."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"--{name} is {text!r}, which is not JSON ({error}); expected a JSON object") from error
    if not isinstance(value, dict):
        raise ValueError(f"--{name} is {text!r}; expected a JSON object, such as {{}}")
    return value

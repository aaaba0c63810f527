"""What a training can be asked for, by name, and recipes that come with the package."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Inside this package when it is installed, in scripts of a checkout.
_FOLDERS = (Path(__file__).parents[1] / "recipes", Path(__file__).parents[3] / "scripts" / "configs")
RECIPES = next((folder for folder in _FOLDERS if folder.is_dir()), _FOLDERS[0])


@dataclass
class Arguments:
    """
    What a run trains on and how, beside [`~transformers.TrainingArguments`]; the flags of the command, each with its
    help.
    """

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
    eval_max_frames: int | None = field(
        default=None, metadata={"help": "Longest clip that the model sees in evaluation; 36, or its only length."}
    )
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
    init_from: str | None = field(
        default=None,
        metadata={
            "help": "Image detector of transformers to start from, by Hub name or folder, as far as its weights fit: "
            "a DETR, such as facebook/detr-resnet-50, for VisTR; a Deformable DETR, such as "
            "SenseTime/deformable-detr-with-box-refine, for DeVIS, SeqFormer and MS-STS VIS. Not with --model."
        },
    )
    num_frames: int | None = field(
        default=None, metadata={"help": "Frames of a clip; 5, or the only length that the model knows."}
    )
    flip: bool = field(default=True, metadata={"help": "Mirror half of the clips."})
    shortest_edge: int | None = field(
        default=None, metadata={"help": "Resize frames to this; their own size if unset."}
    )
    sampling: str = field(
        default="window",
        metadata={"help": "How frames are drawn: window, published, strided, wrapped, sliding or consecutive."},
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


def training_defaults() -> dict[str, Any]:
    """Where a run differs from the defaults of [`~transformers.TrainingArguments`]."""
    from transformers.integrations import is_tensorboard_available

    defaults = {"logging_first_step": True, "logging_steps": 10}  # a run of a few hundred steps says how it goes
    return {**defaults, "report_to": "tensorboard"} if is_tensorboard_available() else defaults


def flags_of(settings: Mapping[str, Any]) -> list[str]:
    """Names of arguments and their values as the flags of a command line; None and empty lists are left out."""
    flags = []
    for name, value in settings.items():
        if value is None or value == []:  # as if it were left out
            continue
        values = value if isinstance(value, list | tuple) else [value]
        flags += [f"--{name}", *(json.dumps(value) if isinstance(value, dict) else str(value) for value in values)]
    return flags


def load_recipe(name: str) -> dict[str, Any]:
    """
    The arguments in a recipe in YAML or JSON, by its path or name, see [`find_recipe`].

    Raises:
        FileNotFoundError: there is none.
        ValueError: for what is no recipe.
    """
    import yaml

    path = find_recipe(name)
    try:
        text = path.read_text(encoding="utf-8")
        # JSON as well is YAML, but for numbers such as 1e-4.
        recipe = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read ({error}); expected YAML, or JSON in a file named .json") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} is no recipe; expected names of arguments and their values")
    return recipe


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

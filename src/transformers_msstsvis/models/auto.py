"""Auto class of the task, and the table of all models."""

from collections import OrderedDict
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoVideoProcessor, PreTrainedConfig
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

# Folder of a model -> what the names of its classes begin with. A name without a dot is a folder here.
MODELS = {"seqformer": "SeqFormer", "msstsvis": "MsstsVis", "vistr": "Vistr", "devis": "Devis", "tevit": "Tevit"}
# Trained from scratch where none is named.
DEFAULT_MODEL = "msstsvis"

# File of a model -> what the names of its classes end with. Processors that a model does not have are the shared ones.
PARTS = {
    "configuration": ("Config",),
    "modeling": ("ForVideoInstanceSegmentation", "Model"),
    "video_processing": ("VideoProcessor",),
    "image_processing": ("ImageProcessor", "ImageProcessorPil"),
}


class AutoModelForVideoInstanceSegmentation(_BaseAutoModelClass):
    """Any model for video instance segmentation, chosen by the checkpoint's `model_type`."""

    _model_mapping = _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())


def public_names(model: str) -> dict[str, str]:
    """The public classes of a model in [`MODELS`] and the modules that have them, without importing these."""
    package = _package(model)
    own = {
        f"{MODELS[model]}{ending}": f"{package}.{part}_{package.rpartition('.')[2]}"
        for part, endings in PARTS.items()
        for ending in endings
    }
    return {name: module for name, module in own.items() if find_spec(module) is not None}


def class_of(model: str, ending: str) -> Any:
    """A class of a model by how its name ends, see [`PARTS`]; of the processors the shared one if it has none."""
    modules = public_names(model)
    name = f"{MODELS[model]}{ending}"
    if name in modules:
        return getattr(import_module(modules[name]), name)
    part = next(part for part, endings in PARTS.items() if ending in endings)
    return getattr(import_module(f".vis.{part}_vis", __package__), f"Vis{ending}")


def register_models() -> None:
    """Make all models known to the Auto classes; `AutoModel` gives head or base model, as the checkpoint says."""
    for model in MODELS:
        config_class, base_class = class_of(model, "Config"), class_of(model, "Model")
        model_class = class_of(model, "ForVideoInstanceSegmentation")
        image_processors = {
            "torchvision": class_of(model, "ImageProcessor"),
            "pil": class_of(model, "ImageProcessorPil"),
        }
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        AutoModel.register(config_class, (model_class, base_class), exist_ok=True)
        AutoModelForVideoInstanceSegmentation.register(config_class, model_class, exist_ok=True)
        AutoVideoProcessor.register(config_class, class_of(model, "VideoProcessor"), exist_ok=True)
        AutoImageProcessor.register(config_class, image_processor_classes=image_processors, exist_ok=True)


def video_processor_class(config: PreTrainedConfig) -> type:
    """The class of the video processor that belongs to a model's configuration."""
    for model in MODELS:
        if class_of(model, "Config") is type(config):
            return class_of(model, "VideoProcessor")
    known = ", ".join(f"{prefix}Config" for prefix in MODELS.values())
    raise ValueError(f"{type(config).__name__} belongs to none of the models; expected one of {known}")


def _package(model: str) -> str:
    return model if "." in model else f"{__package__}.{model}"

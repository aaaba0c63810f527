"""Auto class of the task, and registration of every model of the package."""

from collections import OrderedDict

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoVideoProcessor
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES


class AutoModelForVideoInstanceSegmentation(_BaseAutoModelClass):
    """Any model for video instance segmentation, chosen by the checkpoint's `model_type`."""

    _model_mapping = _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())


def register(config_class, model_class, base_class, video_processor_class, image_processor_classes) -> None:
    """Make a model known to the Auto classes; `AutoModel` gives the head or the base model, as the checkpoint says."""
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModel.register(config_class, (model_class, base_class), exist_ok=True)
    AutoModelForVideoInstanceSegmentation.register(config_class, model_class, exist_ok=True)
    AutoVideoProcessor.register(config_class, video_processor_class, exist_ok=True)
    AutoImageProcessor.register(config_class, image_processor_classes=image_processor_classes, exist_ok=True)

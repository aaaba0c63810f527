"""What a training starts from."""

from pathlib import Path

from transformers import AutoConfig, PreTrainedModel
from transformers.models.auto import CONFIG_MAPPING

from ..adapters import ADAPTERS
from ..checkpoint_files import check_checkpoint
from ..models.auto import DEFAULT_MODEL, MODELS, AutoModelForVideoInstanceSegmentation


def load_for_training(checkpoint: str | Path, **settings) -> PreTrainedModel:
    """
    A model to fine-tune. Heads of another number of classes start anew.

    Args:
        checkpoint: folder or Hub name.
        settings: what to change in its configuration, such as `id2label`. With another `model_type` than the
            checkpoint's the model is of that type and its default settings, and has the weights that both have in
            common: an MS-STS VIS model starts as exactly the SeqFormer of the checkpoint. One of the two has to build
            on the other, by their configuration classes.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: for a `model_type` or a setting that is not known, or a type that has nothing in common with the
            checkpoint's.
    """
    check_checkpoint(checkpoint)
    config = AutoConfig.from_pretrained(checkpoint)
    if config.model_type in {adapter.config_class.model_type for adapter in ADAPTERS}:
        raise ValueError(
            f"{checkpoint} is a {config.model_type}, which can be used, but not trained; expected a checkpoint of one "
            f"of {', '.join(MODELS)}"
        )
    model_type = settings.pop("model_type", config.model_type)
    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"model_type is {model_type!r}; expected one such as {' or '.join(MODELS)}")
    wanted = CONFIG_MAPPING[model_type]
    if not (issubclass(wanted, type(config)) or issubclass(type(config), wanted)):
        raise ValueError(
            f"{checkpoint} is a {config.model_type}, which has nothing to start a {model_type} from; expected a "
            f"checkpoint of a {model_type} or of what it builds on, or no model_type to train a {config.model_type}"
        )
    known = config if model_type == config.model_type else wanted()
    unknown = [name for name in settings if not hasattr(known, name)]
    if unknown:
        raise ValueError(f"the configuration of {checkpoint} has no {', '.join(unknown)}; expected arguments of it")
    if model_type == config.model_type:
        config = AutoConfig.from_pretrained(checkpoint, **settings)
    else:
        defaults = type(config)().to_dict()
        chosen = {
            name: value
            for name, value in config.to_dict().items()
            if value != defaults.get(name) and hasattr(known, name)
        }
        for name in ("architectures", "transformers_version"):
            chosen.pop(name, None)
        config = wanted(**(chosen | settings))
    return AutoModelForVideoInstanceSegmentation.from_pretrained(
        checkpoint, config=config, ignore_mismatched_sizes=True
    )


def new_model(model_type: str = DEFAULT_MODEL, **settings) -> PreTrainedModel:
    """
    A model with random weights.

    Args:
        model_type: which model.
        settings: arguments of its configuration.

    Raises:
        ValueError: for a `model_type` or a setting that is not known.
    """
    config = AutoConfig.for_model(model_type)
    unknown = [name for name in settings if not hasattr(config, name)]
    if unknown:
        raise ValueError(f"--model_config has {', '.join(unknown)}; expected arguments of {type(config).__name__}")
    return AutoModelForVideoInstanceSegmentation.from_config(type(config)(**settings))

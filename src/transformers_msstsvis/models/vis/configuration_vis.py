"""What the configurations of all models for video instance segmentation share."""

from dataclasses import fields
from difflib import get_close_matches
from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec
from transformers.models.auto import CONFIG_MAPPING, AutoConfig
from transformers.utils import logging

logger = logging.get_logger(__name__)

# By these, older models of transformers fetch a backbone from the Hub or from timm, whatever the weights of the model.
LEGACY_NAMES = ("backbone", "backbone_kwargs", "use_pretrained_backbone", "use_timm_backbone")
BACKBONE_LAYERS = ("depths", "num_hidden_layers", "num_layers")
BACKBONE_WIDTHS = ("hidden_sizes", "embedding_size", "embed_dim", "hidden_size", "intermediate_size")


def resnet_of_stages(*stages: int) -> dict[str, SubConfigSpec]:
    """`sub_configs_defaults` with a ResNet-50 that returns the feature maps of these stages, 1 to 4."""
    out_features = {"out_features": [f"stage{stage}" for stage in stages]}
    return {"backbone_config": SubConfigSpec(config_class=AutoConfig, model_type="resnet", init_kwargs=out_features)}


@strict
class VisConfig(PreTrainedConfig):
    """
    Base of all configurations. A subclass declares its arguments, their `ranges`, in `sub_configs_defaults` another
    default backbone than a ResNet-50 with maps of strides 8, 16 and 32, and in `validate_architecture` what has to fit
    together.

    Class names belong in `id2label` and `label2id`; the number of labels is theirs.

    Args:
        backbone_config (`dict` or `PreTrainedConfig`, *optional*):
            Configuration of any backbone of the Auto backbone API, native or timm. A dict needs `model_type`. Weights
            are random until a checkpoint is loaded.
        freeze_batch_norm (`bool`, *optional*, defaults to `True`):
            Replace the backbone's batch norms by ones with fixed statistics and affine parameters. Switch it off to
            train a backbone from scratch.
        train_batch_norm_affine (`bool`, *optional*, defaults to `False`):
            Of frozen batch norms fix the statistics only, and train the affine parameters.
        freeze_backbone_stem (`bool`, *optional*, defaults to `True`):
            Do not train the backbone's layers up to and including stride 4, as published for ResNets.
        num_frames (`int`, *optional*):
            Frames of a clip, for a model that knows no other number; None for one that takes any, or with
            `takes_any_length` the number that it is trained with.

    Attributes:
        takes_any_length: whether videos need not have `num_frames`.
        default_num_labels: how many there are unless they are told, where transformers' two are not meant.
        ranges: smallest and largest value by argument, beyond any model that was ever trained: a larger one is a
            mistake, and would be built for hours.

    Raises:
        ValueError: for values out of range, an unknown backbone, and the arguments that name a backbone in older
            models of transformers, such as `backbone`.
    """

    sub_configs_defaults = resnet_of_stages(2, 3, 4)
    keys_to_ignore_at_inference = ["loss_dict", "auxiliary_outputs", "last_hidden_state", "encoder_last_hidden_state"]
    takes_any_length: ClassVar[bool] = False
    default_num_labels: ClassVar[int | None] = None
    ranges: ClassVar[dict[str, tuple[float, float]]] = {"num_labels": (1, 1_000_000)}

    backbone_config: dict | PreTrainedConfig | None = None
    freeze_batch_norm: bool = True
    train_batch_norm_affine: bool = False
    freeze_backbone_stem: bool = True
    num_frames: int | None = None

    def __post_init__(self, **kwargs):
        if not __name__.startswith("transformers_modules"):
            # Of a checkpoint that brings its code: where this package is, nobody is to be asked to trust that.
            kwargs.pop("custom_pipelines", None)
        for name in LEGACY_NAMES:
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"{name} is no argument of {type(self).__name__}; expected the architecture of the backbone in "
                    'backbone_config, such as {"model_type": "resnet", "depths": [3, 4, 23, 3], "out_features": '
                    '["stage2", "stage3", "stage4"]}, and its weights by load_pretrained of the backbone'
                )
        known = [field.name for field in fields(self)]
        for name in kwargs.keys() - self.attribute_map.keys():
            if meant := get_close_matches(name, known, n=1, cutoff=0.85):
                logger.warning(f"{name} is no argument of {type(self).__name__}, without effect: {meant[0]} is meant?")
        if self.default_num_labels and self.id2label is None and kwargs.get("num_labels") is None:
            kwargs["num_labels"] = self.default_num_labels
        if getattr(self, "architectures", None) is None:
            self.architectures = []  # the Auto classes choose between head and base model by it
        if isinstance(self.backbone_config, dict) and self.backbone_config.get("model_type") not in CONFIG_MAPPING:
            raise ValueError(
                f"the backbone's model_type is {self.backbone_config.get('model_type')!r}; expected one that "
                'transformers knows, such as "resnet", "swin" or "timm_backbone"'
            )
        super().__post_init__(**kwargs)

    @property
    def clip_length(self) -> int | None:
        """Frames of every clip, of a model that knows no other number; None if it takes any."""
        return None if self.takes_any_length else self.num_frames

    def to_diff_dict(self) -> dict:
        """What is written to a file; names of two classes too, where two are not the default."""
        if self.default_num_labels is None:
            return super().to_diff_dict()
        names = {name: value for name, value in self.to_dict().items() if name in ("id2label", "label2id")}
        return {**super().to_diff_dict(), **names}

    def validate_architecture(self) -> None:
        """Check that values are in range; run at construction and at every save."""
        for name, (smallest, largest) in self.ranges.items():
            if not smallest <= getattr(self, name) <= largest:  # nor is NaN
                raise ValueError(
                    f"{name} is {getattr(self, name)}; expected at least {smallest} and at most {largest}"
                )
        for names, largest in ((BACKBONE_LAYERS, 256), (BACKBONE_WIDTHS, 65_536)):
            for name in names:
                given = getattr(self.backbone_config, name, 1)
                numbers = given if isinstance(given, list | tuple) else [given]
                if any(isinstance(number, int) and not 0 <= number <= largest for number in numbers):
                    raise ValueError(f"{name} of the backbone is {given}; expected numbers of 0 to {largest}")

    def check_heads(self, width: str, *heads: str) -> None:
        """
        Raises:
            ValueError: if the argument named `width` is no multiple of each of the arguments named `heads`.
        """
        for name in heads:
            if getattr(self, width) % getattr(self, name):
                raise ValueError(
                    f"{width} is {getattr(self, width)} and {name} {getattr(self, name)}; expected the former to be "
                    "a multiple of the latter"
                )


__all__ = ["VisConfig"]

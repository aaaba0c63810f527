"""TeViT model configuration."""

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto import AutoConfig

from ..vis.configuration_vis import VisConfig

MESSENGERS = "pvt_v2"  # type of the backbone whose frames talk through messenger tokens
PVT_V2_B1 = {
    "hidden_sizes": [64, 128, 320, 512],
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}


@strict
class TevitConfig(VisConfig):
    r"""
    Configuration of [`TevitModel`] and [`TevitForVideoInstanceSegmentation`]. The defaults are the MsgShifT model of
    the TeViT paper (2022) for YouTube-VIS 2019: a PVTv2-B1 with messenger tokens.

    Class names belong in `id2label` and `label2id`; the number of labels is theirs, 40 by default.

    Args:
        backbone_config:
            As in [`VisConfig`]; the backbone returns four feature maps, of strides 4, 8, 16 and 32. Published: a
            PVTv2-B1, a ResNet-50 and a Swin-L.
        freeze_batch_norm, train_batch_norm_affine (`bool`, *optional*, defaults to `True`):
            As in [`VisConfig`]: as published for the ResNet-50, the statistics of batch norms are fixed and their
            affine parameters trained.
        freeze_backbone_stem (`bool`, *optional*, defaults to `False`):
            As in [`VisConfig`]. Published for the ResNet-50: True. A PVTv2 is trained as a whole.
        drop_path_rate (`float`, *optional*, defaults to 0.1):
            Largest rate of stochastic depth in the backbone, of which it becomes the `drop_path_rate`. Published for
            Swin-L: 0.2. Without effect on a ResNet.
        num_messengers (`int`, *optional*):
            Messenger tokens M of a frame, 32 by default for a PVTv2 and none for other backbones, which know none.
        messenger_shifts (`list[int]`, *optional*, defaults to `[1, -1, 2, -2]`):
            By how many frames each group of messengers is shifted after the first block of a stage, and back after
            the second.
        num_frames (`int`, *optional*, defaults to 5):
            Frames of a clip in training. The model itself takes any number.
        num_queries (`int`, *optional*, defaults to 100):
            Number Q of queries. Published for Swin-L: 300.
        d_model (`int`, *optional*, defaults to 256): Width C of features and queries.
        dynamic_dim (`int`, *optional*, defaults to 64): Inner width D of the dynamic convolutions.
        decoder_layers (`int`, *optional*, defaults to 6): Number of stages of the head.
        decoder_attention_heads (`int`, *optional*, defaults to 8): Heads of the attention over queries and frames.
        decoder_ffn_dim (`int`, *optional*, defaults to 2048): Width of the feed-forward networks.
        class_cost (`float`, *optional*, defaults to 2.0): Weight of the focal class cost in the matching.
        class_loss_coefficient (`float`, *optional*, defaults to 2.0): Weight of the focal class loss.
        bbox_cost (`float`, *optional*, defaults to 5.0): Weight of the box distance in the matching.
        bbox_loss_coefficient (`float`, *optional*, defaults to 5.0): Weight of the L1 box loss.
        giou_cost (`float`, *optional*, defaults to 2.0): Weight of the generalised IoU in the matching.
        giou_loss_coefficient (`float`, *optional*, defaults to 2.0): Weight of the generalised IoU loss.
        dice_loss_coefficient (`float`, *optional*, defaults to 8.0): Weight of the dice mask loss.
        focal_alpha (`float`, *optional*, defaults to 0.25): Alpha of the focal class loss.

    Raises:
        ValueError: for widths, heads or counts that do not fit together or are out of range, messengers in a backbone
            that knows none, an unknown backbone, and the arguments that name a backbone in older models of
            transformers, such as `backbone`.

    Example:

    ```python
    >>> from transformers_msstsvis import TevitConfig, TevitForVideoInstanceSegmentation

    >>> config = TevitConfig(id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1})
    >>> model = TevitForVideoInstanceSegmentation(config)
    ```
    """

    model_type = "tevit"
    default_num_labels = 40
    takes_any_length = True
    sub_configs_defaults = {
        "backbone_config": SubConfigSpec(config_class=AutoConfig, model_type=MESSENGERS, init_kwargs=PVT_V2_B1)
    }
    attribute_map = {
        "hidden_size": "d_model",
        "num_attention_heads": "decoder_attention_heads",
        "num_hidden_layers": "decoder_layers",
    }

    ranges = {
        **VisConfig.ranges,
        "num_frames": (1, 10_000),
        "num_queries": (1, 100_000),
        "num_messengers": (0, 10_000),
        "decoder_layers": (1, 256),
        **dict.fromkeys(("d_model", "dynamic_dim"), (1, 8192)),
        "decoder_attention_heads": (1, 1024),
        "decoder_ffn_dim": (1, 65_536),
        **dict.fromkeys(("focal_alpha", "drop_path_rate"), (0, 1)),
        **dict.fromkeys(("class_cost", "bbox_cost", "giou_cost"), (0, float("inf"))),
        **dict.fromkeys((f"{name}_loss_coefficient" for name in ("class", "bbox", "giou", "dice")), (0, float("inf"))),
    }

    train_batch_norm_affine: bool = True
    freeze_backbone_stem: bool = False
    drop_path_rate: float | int = 0.1
    num_messengers: int | None = None
    messenger_shifts: list[int] | None = None
    num_frames: int = 5
    num_queries: int = 100
    d_model: int = 256
    dynamic_dim: int = 64
    decoder_layers: int = 6
    decoder_attention_heads: int = 8
    decoder_ffn_dim: int = 2048
    class_cost: float | int = 2.0
    class_loss_coefficient: float | int = 2.0
    bbox_cost: float | int = 5.0
    bbox_loss_coefficient: float | int = 5.0
    giou_cost: float | int = 2.0
    giou_loss_coefficient: float | int = 2.0
    dice_loss_coefficient: float | int = 8.0
    focal_alpha: float | int = 0.25

    def __post_init__(self, **kwargs):
        if self.messenger_shifts is None:
            self.messenger_shifts = [1, -1, 2, -2]
        super().__post_init__(**kwargs)
        if self.num_messengers is None:
            self.num_messengers = 32 if self.backbone_config.model_type == MESSENGERS else 0
        if hasattr(self.backbone_config, "drop_path_rate"):
            self.backbone_config.drop_path_rate = self.drop_path_rate

    def validate_architecture(self) -> None:
        """Check that widths, heads and counts fit together; run at construction and at every save."""
        super().validate_architecture()
        self.check_heads("d_model", "decoder_attention_heads")
        if self.num_messengers and self.backbone_config.model_type != MESSENGERS:
            raise ValueError(
                f"num_messengers is {self.num_messengers} and the backbone {self.backbone_config.model_type!r}, which "
                f"knows no messengers; expected 0, or a backbone of type {MESSENGERS!r}"
            )
        groups = len(self.messenger_shifts)
        if groups < 1 or self.num_messengers % groups:
            raise ValueError(
                f"num_messengers is {self.num_messengers} and messenger_shifts {self.messenger_shifts}; expected as "
                "many messengers for every shift"
            )


__all__ = ["TevitConfig"]

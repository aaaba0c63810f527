"""SeqFormer model configuration."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from ..vis.configuration_vis import VisConfig

# In checkpoints of version 0.1, where SeqFormer was MS-STS VIS with the first two switched off.
ONLY_MSSTSVIS = (
    "encoder_temporal_attention",
    "decoder_temporal_attention",
    "temporal_hidden_size",
    "temporal_attention_heads",
    "temporal_position_embedding",
)


@strict
class SeqFormerConfig(VisConfig):
    r"""
    Configuration of [`SeqFormerModel`] and [`SeqFormerForVideoInstanceSegmentation`] (SeqFormer, ECCV 2022). The
    defaults are the published ResNet-50 model: 6 encoder and 6 decoder layers, 300 queries. This is also what the
    published MS-STS VIS code runs.

    Class names belong in `id2label` and `label2id`; the number of labels is theirs.

    Args:
        backbone_config (`dict` or `PreTrainedConfig`, *optional*, defaults to a ResNet-50):
            Configuration of any backbone of the Auto backbone API, native or timm, that returns three feature maps of
            strides 8, 16 and 32. A dict needs `model_type`. Weights are random until a checkpoint is loaded.
        freeze_batch_norm (`bool`, *optional*, defaults to `True`):
            Replace the backbone's batch norms by ones with fixed statistics and affine parameters. Switch it off to
            train a backbone from scratch.
        freeze_backbone_stem (`bool`, *optional*, defaults to `True`):
            Do not train the backbone's layers up to and including stride 4, as published for ResNets.
        d_model (`int`, *optional*, defaults to 256):
            Width C of the transformer. A multiple of 32 (group norm) and of the numbers of heads.
        num_feature_levels (`int`, *optional*, defaults to 4):
            Number L of feature levels: the three of the backbone and further ones of half the size each.
        encoder_layers (`int`, *optional*, defaults to 6): Number of encoder layers.
        encoder_attention_heads (`int`, *optional*, defaults to 8): Heads of the encoder's deformable attention.
        encoder_ffn_dim (`int`, *optional*, defaults to 1024): Width of the encoder's feed-forward networks.
        encoder_n_points (`int`, *optional*, defaults to 4): Sampling points per head and level in the encoder.
        decoder_layers (`int`, *optional*, defaults to 6): Number of decoder layers.
        decoder_attention_heads (`int`, *optional*, defaults to 8): Heads of every attention of the decoder.
        decoder_ffn_dim (`int`, *optional*, defaults to 1024): Width of the decoder's feed-forward networks.
        decoder_n_points (`int`, *optional*, defaults to 4): Sampling points per head and level in the decoder.
        num_queries (`int`, *optional*, defaults to 300): Number Q of instance queries, the most instances in a video.
        activation_function (`str`, *optional*, defaults to `"relu"`): Activation of the feed-forward networks.
        dropout (`float`, *optional*, defaults to 0.1): Dropout after attentions and in feed-forward networks.
        attention_dropout (`float`, *optional*, defaults to 0.1): Dropout on the self-attention weights.
        mask_feature_channels (`int`, *optional*):
            Channels of the mask features that the dynamic convolutions read; `d_model // 32`, as published, when left
            out. Narrow models need more than that.
        mask_channels (`int`, *optional*, defaults to 8): Channels of the dynamic convolutions of the mask head.
        mask_layers (`int`, *optional*, defaults to 3): Number of dynamic convolutions.
        auxiliary_loss (`bool`, *optional*, defaults to `True`): Apply the losses at every decoder layer.
        class_cost (`float`, *optional*, defaults to 2.0): Weight of the focal class cost in the matching.
        bbox_cost (`float`, *optional*, defaults to 5.0): Weight of the box distance in the matching.
        giou_cost (`float`, *optional*, defaults to 2.0): Weight of the generalised IoU in the matching.
        class_loss_coefficient (`float`, *optional*, defaults to 2.0): Weight of the focal class loss.
        bbox_loss_coefficient (`float`, *optional*, defaults to 5.0): Weight of the L1 box loss.
        giou_loss_coefficient (`float`, *optional*, defaults to 2.0): Weight of the generalised IoU loss.
        mask_loss_coefficient (`float`, *optional*, defaults to 2.0): Weight of the focal mask loss.
        dice_loss_coefficient (`float`, *optional*, defaults to 5.0): Weight of the dice mask loss.
        focal_alpha (`float`, *optional*, defaults to 0.25): Alpha of the focal class loss.

    Raises:
        ValueError: for widths, heads or counts that do not fit together or are out of range, an unknown backbone, and
            the arguments that name a backbone in older models of transformers, such as `backbone`; for temporal
            attentions, which make an MS-STS VIS.

    Example:

    ```python
    >>> from transformers_msstsvis import SeqFormerConfig, SeqFormerForVideoInstanceSegmentation

    >>> config = SeqFormerConfig(id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1})
    >>> model = SeqFormerForVideoInstanceSegmentation(config)
    ```
    """

    model_type = "seqformer"
    attribute_map = {
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
        "num_hidden_layers": "encoder_layers",
    }
    ranges: ClassVar = {
        **VisConfig.ranges,
        "d_model": (1, 8192),
        "num_feature_levels": (3, 16),  # the backbone has three
        "encoder_layers": (0, 256),
        "encoder_attention_heads": (1, 1024),
        "encoder_ffn_dim": (1, 65_536),
        "encoder_n_points": (1, 256),
        "decoder_layers": (1, 256),
        "decoder_attention_heads": (1, 1024),
        "decoder_ffn_dim": (1, 65_536),
        "decoder_n_points": (1, 256),
        "num_queries": (1, 100_000),
        "dropout": (0, 1),
        "attention_dropout": (0, 1),
        "mask_feature_channels": (1, 8192),
        "mask_channels": (1, 1024),
        "mask_layers": (1, 64),
        "focal_alpha": (0, 1),
        **dict.fromkeys(("class_cost", "bbox_cost", "giou_cost"), (0, float("inf"))),
        **dict.fromkeys(
            (f"{name}_loss_coefficient" for name in ("class", "bbox", "giou", "mask", "dice")), (0, float("inf"))
        ),
    }

    d_model: int = 256
    num_feature_levels: int = 4
    encoder_layers: int = 6
    encoder_attention_heads: int = 8
    encoder_ffn_dim: int = 1024
    encoder_n_points: int = 4
    decoder_layers: int = 6
    decoder_attention_heads: int = 8
    decoder_ffn_dim: int = 1024
    decoder_n_points: int = 4
    num_queries: int = 300
    activation_function: str = "relu"
    dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    mask_feature_channels: int | None = None
    mask_channels: int = 8
    mask_layers: int = 3
    auxiliary_loss: bool = True
    class_cost: float | int = 2.0
    bbox_cost: float | int = 5.0
    giou_cost: float | int = 2.0
    class_loss_coefficient: float | int = 2.0
    bbox_loss_coefficient: float | int = 5.0
    giou_loss_coefficient: float | int = 2.0
    mask_loss_coefficient: float | int = 2.0
    dice_loss_coefficient: float | int = 5.0
    focal_alpha: float | int = 0.25
    is_encoder_decoder: bool = True

    def __post_init__(self, **kwargs):
        for name in ONLY_MSSTSVIS:
            if kwargs.pop(name, False) is True:
                raise ValueError(
                    f"{name} is True, which makes the model an MS-STS VIS; expected {type(self).__name__} without it: "
                    "use MsstsVisConfig"
                )
        if self.mask_feature_channels is None:
            self.mask_feature_channels = max(self.d_model // 32, 1)
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Check that widths, heads and counts fit together; run at construction and at every save."""
        super().validate_architecture()
        if self.d_model % 32:
            raise ValueError(
                f"d_model is {self.d_model}; expected a multiple of 32, the number of groups of group norm"
            )
        self.check_heads("d_model", "encoder_attention_heads", "decoder_attention_heads")


__all__ = ["SeqFormerConfig"]

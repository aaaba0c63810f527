"""DeVIS model configuration."""

from huggingface_hub.dataclasses import strict

from ..vis.configuration_vis import VisConfig, resnet_of_stages


@strict
class DevisConfig(VisConfig):
    r"""
    Configuration of [`DevisModel`] and [`DevisForVideoInstanceSegmentation`]. The defaults are the ResNet-50 model of
    the DeVIS paper (2022) for YouTube-VIS 2019: 6 frames, 10 instances.

    Class names belong in `id2label` and `label2id`; the number of labels is theirs, 40 by default.

    Args:
        backbone_config, freeze_batch_norm, freeze_backbone_stem:
            As in [`VisConfig`]; the backbone returns four feature maps, of strides 4, 8, 16 and 32.
        num_frames (`int`, *optional*, defaults to 6):
            Number T of frames that the model knows, at least 2; every query belongs to one of them. A shorter video is
            run through forward and backward in turns.
        num_queries (`int`, *optional*, defaults to 10):
            Queries Q of a frame, the most instances in a clip. Published for YouTube-VIS 2021 and OVIS: 30.
        d_model (`int`, *optional*, defaults to 256): Width C. A multiple of 32 and of the numbers of heads.
        num_feature_levels (`int`, *optional*, defaults to 4):
            Number L of feature levels: strides 8, 16 and 32, and further ones of half the size each.
        encoder_layers (`int`, *optional*, defaults to 6): Number of encoder layers.
        encoder_attention_heads (`int`, *optional*, defaults to 8):
            Heads of the encoder's attention and of the attention maps of the mask head.
        encoder_ffn_dim (`int`, *optional*, defaults to 1024): Width of the encoder's feed-forward networks.
        encoder_n_points (`int`, *optional*, defaults to 4):
            Points per head and level at which a pixel looks in its own frame.
        encoder_n_temporal_points (`int`, *optional*, defaults to 4): The same in each other frame.
        encoder_temporal_window (`int`, *optional*):
            Number of neighbouring frames, even, at which a pixel looks: as many before as after its own, mirrored at
            the ends of the clip. All other frames when left out, as published.
        decoder_layers (`int`, *optional*, defaults to 6): Number of decoder layers.
        decoder_attention_heads (`int`, *optional*, defaults to 8): Heads of the decoder's attentions.
        decoder_ffn_dim (`int`, *optional*, defaults to 1024): Width of the decoder's feed-forward networks.
        decoder_n_points (`int`, *optional*, defaults to 4):
            Points per head and level at which a query looks in its own frame.
        decoder_n_temporal_points (`int`, *optional*, defaults to 4): The same in each other frame.
        instance_aware_attention (`bool`, *optional*, defaults to `True`):
            A query looks, in another frame, where the query of its instance in that frame stands; otherwise where it
            stands itself.
        box_gradient_propagation (`bool`, *optional*, defaults to `True`):
            Let the losses of a decoder layer train the boxes of all layers before, too.
        activation_function (`str`, *optional*, defaults to `"relu"`): Activation of the feed-forward networks.
        dropout (`float`, *optional*, defaults to 0.1): Dropout after attentions and in feed-forward networks.
        attention_dropout (`float`, *optional*, defaults to 0.1): Dropout on the self-attention weights.
        auxiliary_loss (`bool`, *optional*, defaults to `True`): Apply losses after every decoder layer.
        auxiliary_loss_weighting (`bool`, *optional*, defaults to `True`):
            Weigh class and box losses: the last layer by 1/2, layer i before it by (i + 1) / 30.
        auxiliary_mask_layers (`list[int]`, *optional*, defaults to `[2]`):
            Layers but the last, from 0, after which there are mask losses, too. Those the model has not are none.
        class_cost (`float`, *optional*, defaults to 1.0): Weight of the focal class cost in the matching.
        bbox_cost (`float`, *optional*, defaults to 5.0): Weight of the box distance in the matching.
        giou_cost (`float`, *optional*, defaults to 2.0): Weight of the generalised IoU in the matching.
        class_loss_coefficient (`float`, *optional*, defaults to 2.0): Weight of the focal class loss.
        bbox_loss_coefficient (`float`, *optional*, defaults to 5.0): Weight of the L1 box loss.
        giou_loss_coefficient (`float`, *optional*, defaults to 2.0): Weight of the generalised IoU loss.
        mask_loss_coefficient (`float`, *optional*, defaults to 1.0): Weight of the focal mask loss.
        dice_loss_coefficient (`float`, *optional*, defaults to 1.0): Weight of the dice mask loss.
        focal_alpha (`float`, *optional*, defaults to 0.25): Alpha of the focal class loss.

    Raises:
        ValueError: for widths, heads or counts that do not fit together or are out of range, an unknown backbone, and
            the arguments that name a backbone in older models of transformers, such as `backbone`.

    Example:

    ```python
    >>> from transformers_msstsvis import DevisConfig, DevisForVideoInstanceSegmentation

    >>> config = DevisConfig(id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1})
    >>> model = DevisForVideoInstanceSegmentation(config)
    ```
    """

    model_type = "devis"
    default_num_labels = 40
    sub_configs_defaults = resnet_of_stages(1, 2, 3, 4)
    attribute_map = {
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
        "num_hidden_layers": "encoder_layers",
    }

    ranges = {
        **VisConfig.ranges,
        "num_frames": (2, 10_000),
        "num_queries": (1, 100_000),
        "d_model": (32, 8192),
        "num_feature_levels": (3, 16),  # the mask head reads three
        "focal_alpha": (0, 1),
        **dict.fromkeys(("encoder_layers", "decoder_layers"), (1, 256)),
        **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), (1, 1024)),
        **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), (1, 65_536)),
        **dict.fromkeys(("encoder_n_points", "encoder_n_temporal_points"), (1, 256)),
        **dict.fromkeys(("decoder_n_points", "decoder_n_temporal_points"), (1, 256)),
        **dict.fromkeys(("dropout", "attention_dropout"), (0, 1)),
        **dict.fromkeys(("class_cost", "bbox_cost", "giou_cost"), (0, float("inf"))),
        **dict.fromkeys(
            (f"{name}_loss_coefficient" for name in ("class", "bbox", "giou", "mask", "dice")), (0, float("inf"))
        ),
    }

    num_frames: int = 6
    num_queries: int = 10
    d_model: int = 256
    num_feature_levels: int = 4
    encoder_layers: int = 6
    encoder_attention_heads: int = 8
    encoder_ffn_dim: int = 1024
    encoder_n_points: int = 4
    encoder_n_temporal_points: int = 4
    encoder_temporal_window: int | None = None
    decoder_layers: int = 6
    decoder_attention_heads: int = 8
    decoder_ffn_dim: int = 1024
    decoder_n_points: int = 4
    decoder_n_temporal_points: int = 4
    instance_aware_attention: bool = True
    box_gradient_propagation: bool = True
    activation_function: str = "relu"
    dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    auxiliary_loss: bool = True
    auxiliary_loss_weighting: bool = True
    auxiliary_mask_layers: list[int] | None = None
    class_cost: float | int = 1.0
    bbox_cost: float | int = 5.0
    giou_cost: float | int = 2.0
    class_loss_coefficient: float | int = 2.0
    bbox_loss_coefficient: float | int = 5.0
    giou_loss_coefficient: float | int = 2.0
    mask_loss_coefficient: float | int = 1.0
    dice_loss_coefficient: float | int = 1.0
    focal_alpha: float | int = 0.25
    is_encoder_decoder: bool = True

    def __post_init__(self, **kwargs):
        if self.auxiliary_mask_layers is None:
            self.auxiliary_mask_layers = [2]
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Check that widths, heads and counts fit together; run at construction and at every save."""
        super().validate_architecture()
        if self.d_model % 32:
            raise ValueError(
                f"d_model is {self.d_model}; expected a multiple of 32, the number of groups of group norm"
            )
        self.check_heads("d_model", "encoder_attention_heads", "decoder_attention_heads")
        window = self.encoder_temporal_window
        if window is not None and (window < 2 or window % 2 or window // 2 >= self.num_frames):
            raise ValueError(
                f"encoder_temporal_window is {window} and num_frames {self.num_frames}; expected an even number of at "
                "least 2 whose half is less than num_frames, or None for all other frames"
            )


__all__ = ["DevisConfig"]

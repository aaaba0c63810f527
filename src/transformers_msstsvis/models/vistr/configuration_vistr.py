"""VisTR model configuration."""

from huggingface_hub.dataclasses import strict

from ..vis.configuration_vis import VisConfig, resnet_of_stages


@strict
class VistrConfig(VisConfig):
    r"""
    Configuration of [`VistrModel`] and [`VistrForVideoInstanceSegmentation`]. The defaults are the ResNet-50 model of
    the VisTR paper (CVPR 2021): 36 frames, 10 instances.

    Class names belong in `id2label` and `label2id`; the number of labels is theirs, 41 by default: the published
    models use the category ids of YouTube-VIS 2019, 1 to 40, as labels, and 0 never occurs.

    Args:
        backbone_config (`dict` or `PreTrainedConfig`, *optional*, defaults to a ResNet-50):
            Configuration of any backbone of the Auto backbone API, native or timm, that returns four feature maps of
            strides 4, 8, 16 and 32. A dict needs `model_type`. Weights are random until a checkpoint is loaded.
        freeze_batch_norm (`bool`, *optional*, defaults to `True`):
            Replace the backbone's batch norms by ones with fixed statistics and affine parameters. Switch it off to
            train a backbone from scratch.
        freeze_backbone_stem (`bool`, *optional*, defaults to `True`):
            Do not train the backbone's layers up to and including stride 4, as published.
        num_frames (`int`, *optional*, defaults to 36):
            Number T of frames that the model knows; every query belongs to one of them. A shorter video is repeated.
        num_queries (`int`, *optional*, defaults to 10): Queries Q of a frame, the most instances in a video.
        d_model (`int`, *optional*, defaults to 384):
            Width C of the transformer. A multiple of 32 and of the numbers of heads. Of its channels `2 * (C // 6)`
            each tell the row and the column in the position embedding, and the others the frame.
        encoder_layers (`int`, *optional*, defaults to 6): Number of encoder layers.
        encoder_attention_heads (`int`, *optional*, defaults to 8):
            Heads of the encoder's attention and of the attention maps of the mask head.
        encoder_ffn_dim (`int`, *optional*, defaults to 2048): Width of the encoder's feed-forward networks.
        decoder_layers (`int`, *optional*, defaults to 6): Number of decoder layers.
        decoder_attention_heads (`int`, *optional*, defaults to 8): Heads of the decoder's attentions.
        decoder_ffn_dim (`int`, *optional*, defaults to 2048): Width of the decoder's feed-forward networks.
        activation_function (`str`, *optional*, defaults to `"relu"`): Activation of the feed-forward networks.
        dropout (`float`, *optional*, defaults to 0.1): Dropout after attentions and in feed-forward networks.
        attention_dropout (`float`, *optional*, defaults to 0.1): Dropout on the attention weights.
        auxiliary_loss (`bool`, *optional*, defaults to `True`): Apply class and box losses at every decoder layer.
        published_presence_flags (`bool`, *optional*, defaults to `False`):
            Supervise a matched query in the frames of another instance, as the published code does by mistake: of the
            instance whose number is the query's place among the matched ones.
        class_cost (`float`, *optional*, defaults to 1.0): Weight of the class probability in the matching.
        bbox_cost (`float`, *optional*, defaults to 5.0): Weight of the box distance in the matching.
        iou_cost (`float`, *optional*, defaults to 2.0): Weight of the IoU, which is not generalised, in the matching.
        class_loss_coefficient (`float`, *optional*, defaults to 1.0): Weight of the cross-entropy.
        bbox_loss_coefficient (`float`, *optional*, defaults to 5.0): Weight of the L1 box loss.
        giou_loss_coefficient (`float`, *optional*, defaults to 2.0): Weight of the generalised IoU loss.
        mask_loss_coefficient (`float`, *optional*, defaults to 1.0): Weight of the focal mask loss.
        dice_loss_coefficient (`float`, *optional*, defaults to 1.0): Weight of the dice mask loss.
        eos_coefficient (`float`, *optional*, defaults to 0.1): Weight of "no object" in the cross-entropy.

    Raises:
        ValueError: for widths, heads or counts that do not fit together or are out of range, an unknown backbone, and
            the arguments that name a backbone in older models of transformers, such as `backbone`.

    Example:

    ```python
    >>> from transformers_msstsvis import VistrConfig, VistrForVideoInstanceSegmentation

    >>> config = VistrConfig(id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1})
    >>> model = VistrForVideoInstanceSegmentation(config)
    ```
    """

    model_type = "vistr"
    default_num_labels = 41
    sub_configs_defaults = resnet_of_stages(1, 2, 3, 4)
    attribute_map = {
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
        "num_hidden_layers": "encoder_layers",
    }

    ranges = {
        **VisConfig.ranges,
        "num_frames": (1, 10_000),
        "num_queries": (1, 100_000),
        "d_model": (32, 8192),
        "encoder_layers": (0, 256),
        "encoder_attention_heads": (1, 1024),
        "encoder_ffn_dim": (1, 65_536),
        "decoder_layers": (1, 256),
        "decoder_attention_heads": (1, 1024),
        "decoder_ffn_dim": (1, 65_536),
        "dropout": (0, 1),
        "attention_dropout": (0, 1),
        **dict.fromkeys(("class_cost", "bbox_cost", "iou_cost", "eos_coefficient"), (0, float("inf"))),
        **dict.fromkeys(
            (f"{name}_loss_coefficient" for name in ("class", "bbox", "giou", "mask", "dice")), (0, float("inf"))
        ),
    }

    num_frames: int = 36
    num_queries: int = 10
    d_model: int = 384
    encoder_layers: int = 6
    encoder_attention_heads: int = 8
    encoder_ffn_dim: int = 2048
    decoder_layers: int = 6
    decoder_attention_heads: int = 8
    decoder_ffn_dim: int = 2048
    activation_function: str = "relu"
    dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    auxiliary_loss: bool = True
    published_presence_flags: bool = False
    class_cost: float | int = 1.0
    bbox_cost: float | int = 5.0
    iou_cost: float | int = 2.0
    class_loss_coefficient: float | int = 1.0
    bbox_loss_coefficient: float | int = 5.0
    giou_loss_coefficient: float | int = 2.0
    mask_loss_coefficient: float | int = 1.0
    dice_loss_coefficient: float | int = 1.0
    eos_coefficient: float | int = 0.1
    is_encoder_decoder: bool = True

    def validate_architecture(self) -> None:
        """Check that widths, heads and counts fit together; run at construction and at every save."""
        super().validate_architecture()
        if self.d_model % 32:
            raise ValueError(
                f"d_model is {self.d_model}; expected a multiple of 32, by which the mask head divides it"
            )
        self.check_heads("d_model", "encoder_attention_heads", "decoder_attention_heads")


__all__ = ["VistrConfig"]

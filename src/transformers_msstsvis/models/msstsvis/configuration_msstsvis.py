"""MS-STS VIS model configuration."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from ..seqformer.configuration_seqformer import SeqFormerConfig


@strict
class MsstsVisConfig(SeqFormerConfig):
    r"""
    Configuration of [`MsstsVisModel`] and [`MsstsVisForVideoInstanceSegmentation`]. The defaults are the ResNet-50
    model of the MS-STS VIS paper (ECCV 2022). With both temporal attentions off the model is SeqFormer (ECCV 2022),
    which is also what the published MS-STS VIS code runs.

    The arguments are those of [`SeqFormerConfig`] and:

    Args:
        encoder_temporal_attention (`bool`, *optional*, defaults to `True`):
            Add the multi-scale spatio-temporal split attention module to every encoder layer.
        decoder_temporal_attention (`bool`, *optional*, defaults to `True`):
            Let the box queries of one instance attend over the frames in every decoder layer.
        temporal_hidden_size (`int`, *optional*, defaults to 64):
            Bottleneck width of the encoder's temporal attention.
        temporal_attention_heads (`int`, *optional*, defaults to 4): Heads of the encoder's temporal attention.
        temporal_position_embedding (`bool`, *optional*, defaults to `False`):
            Add a sine embedding of the frame index to the queries and keys of the temporal attentions. The published
            code has no notion of temporal order.

    Raises:
        ValueError: as [`SeqFormerConfig`].

    Example:

    ```python
    >>> from transformers_msstsvis import MsstsVisConfig, MsstsVisForVideoInstanceSegmentation

    >>> config = MsstsVisConfig(id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1})
    >>> model = MsstsVisForVideoInstanceSegmentation(config)
    ```
    """

    model_type = "msstsvis"
    ranges: ClassVar = {
        **SeqFormerConfig.ranges,
        "temporal_hidden_size": (1, 8192),
        "temporal_attention_heads": (1, 1024),
    }

    encoder_temporal_attention: bool = True
    decoder_temporal_attention: bool = True
    temporal_hidden_size: int = 64
    temporal_attention_heads: int = 4
    temporal_position_embedding: bool = False

    def validate_architecture(self) -> None:
        """Check that widths, heads and counts fit together; run at construction and at every save."""
        super().validate_architecture()
        self.check_heads("temporal_hidden_size", "temporal_attention_heads")


__all__ = ["MsstsVisConfig"]

"""SeqFormer model configuration."""

from huggingface_hub.dataclasses import strict

from ..msstsvis.configuration_msstsvis import MsstsVisConfig


@strict
class SeqFormerConfig(MsstsVisConfig):
    r"""
    Configuration of [`SeqFormerForVideoInstanceSegmentation`] (SeqFormer, ECCV 2022): the trunk of MS-STS VIS without
    its temporal attentions. The arguments are those of [`MsstsVisConfig`]; the defaults are the published ResNet-50
    model.

    Example:

    ```python
    >>> from transformers_msstsvis import SeqFormerConfig, SeqFormerForVideoInstanceSegmentation

    >>> model = SeqFormerForVideoInstanceSegmentation(SeqFormerConfig())
    ```
    """

    model_type = "seqformer"

    encoder_temporal_attention: bool = False
    decoder_temporal_attention: bool = False


__all__ = ["SeqFormerConfig"]

"""What all models for video instance segmentation share: base class, output, checks of the input.

Letters: B videos, T frames, Q queries, K labels, C channels, S pixels over all levels, h w pixels of the masks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput

from ...checkpoint_files import LOADING_LOG, check_loaded, check_weights, held_back, told_in_words
from .configuration_vis import VisConfig

# At a time in inference: what a CPU's caches hold; elsewhere more than 4 cost memory and gain nothing.
BACKBONE_FRAMES = {"cpu": 2}


@dataclass
class VideoInstanceSegmentationOutput(ModelOutput):
    """
    Output of every model for video instance segmentation. A query is an instance: it keeps its index in all frames.
    What a model does not have is None.

    Args:
        loss: weighted sum of the losses, with `labels` only.
        loss_dict: every loss term, unweighted; suffix `_i` = after decoder layer i, none = last layer.
        logits: `(B, Q, K)` log-odds of each class for the whole video: `logits.sigmoid()` is the score of a query and
            a class, whatever the model was trained with.
        frame_logits: `(B, T, Q, K')` class logits of models that classify frame by frame, as they were trained: K' is
            K, or K + 1 where the last one is "no object".
        pred_boxes: `(B, Q, T, 4)` cx cy w h in `[0, 1]` of the real pixels; some models let boxes leave the frame.
        pred_masks: `(B, Q, T, h, w)` mask logits at stride 4, or `(B, k, T, h, w)` with `mask_top_k=k`. Absent in
            training with labels, where only matched queries get masks, unless `mask_top_k` is given. Masks of some
            models lie in boxes, `(B, k, T, 28, 28)`, always of k pairs of a query and a class; their processor pastes
            them.
        mask_query_indices: `(B, k)` the query of every mask, with `mask_top_k` or where masks are of pairs.
        mask_label_indices: `(B, k)` the class of every mask, where masks are of pairs of a query and a class.
        frame_sizes: `(B, T, 2)` height and width of the real pixels of every frame; zero for padding frames.
        matches: per video the matched query and instance indices of the last layer, in training with labels.
        matched_masks: `(N, T, h, w)` mask logits of the matched queries, video by video, in training with labels.
        auxiliary_outputs: one dict with `logits` and `pred_boxes` (and `frame_logits`) per decoder layer but the last.
        last_hidden_state: queries after the last decoder layer, `(B, Q, C)`, or `(B, Q, T, C)` where every frame has
            its own.
        encoder_last_hidden_state: `(B, T, S, C)` encoder features.
        decoder_hidden_states, decoder_attentions, encoder_hidden_states: per layer, on request.
    """

    loss: torch.FloatTensor | None = None
    loss_dict: dict | None = None
    logits: torch.FloatTensor | None = None
    frame_logits: torch.FloatTensor | None = None
    pred_boxes: torch.FloatTensor | None = None
    pred_masks: torch.FloatTensor | None = None
    mask_query_indices: torch.LongTensor | None = None
    mask_label_indices: torch.LongTensor | None = None
    frame_sizes: torch.LongTensor | None = None
    matches: list | None = None
    matched_masks: torch.FloatTensor | None = None
    auxiliary_outputs: list[dict] | None = None
    last_hidden_state: torch.FloatTensor | None = None
    encoder_last_hidden_state: torch.FloatTensor | None = None
    decoder_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    decoder_attentions: tuple[torch.FloatTensor, ...] | None = None
    encoder_hidden_states: tuple[torch.FloatTensor, ...] | None = None

    @classmethod
    def of_layers(cls, outputs: ModelOutput, layers: list[dict], **fields) -> "VideoInstanceSegmentationOutput":
        """From the output of the base model, what its heads predict after every layer, and further `fields`."""
        states = ("frame_sizes", "last_hidden_state", "encoder_last_hidden_state")
        states += ("decoder_hidden_states", "decoder_attentions", "encoder_hidden_states")
        kept = {name: getattr(outputs, name) for name in states}
        return cls(**layers[-1], **kept, **fields, auxiliary_outputs=layers[:-1])


class CheckedLoading:
    """Mixin for models whose checkpoints are looked at before and after loading."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """
        As of every model of transformers.

        Raises:
            ValueError: for weights that are no checkpoint, incomplete, more than plain tensors, of another model, or
                not of the shapes that the configuration says.
            OSError: when there is no such checkpoint.
        """
        folder = Path(str(pretrained_model_name_or_path), kwargs.get("subfolder", ""))
        if folder.is_dir() and kwargs.get("variant") is None:
            check_weights(folder)
        wants_info = kwargs.pop("output_loading_info", False)
        kwargs, fits = {**kwargs, "ignore_mismatched_sizes": True}, not kwargs.get("ignore_mismatched_sizes")
        with told_in_words(pretrained_model_name_or_path), held_back(LOADING_LOG):
            model, info = super().from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
            )
            if pretrained_model_name_or_path is not None:  # nor its weights are those of a checkpoint
                check_loaded(model, info, str(pretrained_model_name_or_path), fits)
        return (model, info) if wants_info else model


class VisPreTrainedModel(CheckedLoading, PreTrainedModel):
    """
    Base of all models. A subclass keeps its backbone, a [`VisBackbone`] or a module with `load_pretrained`, under the
    name `backbone`, initialises its modules in `_init_weights`, and names its layers in `_no_split_modules`.
    """

    config: VisConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _supports_attention_backend = True

    def get_input_embeddings(self) -> None:
        """None: frames are no tokens. Sharding by accelerate asks for it."""
        return None

    def load_pretrained_backbone(self, name_or_path: str) -> None:
        """Start from pretrained weights of the backbone, see [`VisBackbone.load_pretrained`]."""
        self.base_model.backbone.load_pretrained(name_or_path)

    @classmethod
    def lr_group(cls, name: str) -> str | None:
        """
        Which learning rate a parameter wants: `"backbone"`, `"sampling"` (where deformable attention looks), or None,
        the rate of all others.
        """
        if ".backbone." in f".{name}":
            return "backbone"
        return "sampling" if "sampling_offsets" in name or "reference_points" in name else None

    def _initialize_weights(self, module, is_custom_code: bool = False):
        # transformers skips containers of external models, and with them special values of subclasses
        super()._initialize_weights(module, is_custom_code=False)

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif hasattr(module, "init_layer_weights"):
            module.init_layer_weights()


def clip_of_frames(real: torch.Tensor, num_frames: int, mirrored: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """
    A clip of T = `num_frames` frames from the real ones of a video. If they are too few, they are repeated from the
    start, or `mirrored`: forward and backward in turns (0 1 2 3 2 1 0 ...).

    Args:
        real: `(B, F)` bool, True = real frame. A video without any counts as real.
        num_frames: T.
        mirrored: see above.

    Returns:
        `(B, T)` the frame of the video of every frame of the clip, and `(B, F)` where the clip has the video's frames.

    Raises:
        ValueError: when a video has more real frames than the clip.
    """
    real = real | ~real.any(1, keepdim=True)
    length = real.sum(1, keepdim=True)
    if real.shape[1] > num_frames and (longest := int(length.max())) > num_frames:
        raise ValueError(
            f"pixel_values_videos has {longest} frames and the model knows {num_frames}; expected at most as many: a "
            "longer video is cut, and the results joined, by the streaming predictor of "
            'pipeline("video-instance-segmentation")'
        )
    in_order = real_frames_first(real)
    place = torch.arange(num_frames, device=real.device)
    turn = (2 * length - 2).clamp(min=1)
    place = torch.minimum(place % turn, turn - place % turn) if mirrored else place % length
    frames = in_order.gather(1, place)
    return frames, (real.cumsum(1) - 1).clamp(min=0)


def take(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Entries of the second axis, video by video: `x (B, T, ...)`, `index (B, F)` to `(B, F, ...)`."""
    return x[torch.arange(len(x), device=x.device)[:, None], index]


def mean_log_odds(probability: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """
    Log-odds of the classes of a video, whose probabilities are the means over its real frames.
    `probability (B, F, Q, K)`, `real (B, F)` to `(B, Q, K)`.
    """
    mean = (probability * real[..., None, None]).sum(1) / real.sum(1).clamp(min=1)[:, None, None]
    return torch.logit(mean, eps=1e-7)


def best_queries(logits: torch.Tensor, mask_top_k: int | None) -> torch.Tensor | None:
    """
    The queries that get masks.

    Args:
        logits: `(B, Q, K)`.
        mask_top_k: how many; None for all.

    Returns:
        `(B, k)` those of the best classes, k at most Q; None for all.

    Raises:
        ValueError: for a `mask_top_k` below 1.
    """
    if mask_top_k is None:
        return None
    if mask_top_k < 1:
        raise ValueError(f"mask_top_k is {mask_top_k}; expected at least 1, or None for all masks")
    return logits.amax(-1).topk(min(mask_top_k, logits.shape[1]), dim=1).indices


def in_frame_chunks(
    function: Callable[..., torch.Tensor | list[torch.Tensor]],
    sizes: dict[str, int],
    *tensors: torch.Tensor,
    in_training: bool = False,
) -> torch.Tensor | list[torch.Tensor]:
    """
    `function` of tensors `(N, ...)` that treats every frame alone, and gives a tensor `(N, ...)` or a list of such.
    Without gradients as many frames at a time as `sizes` has for their device: the same result with a fraction of the
    memory. With gradients only where `in_training` says that a CPU gains from it, of a function that gives one tensor:
    what is computed on the way takes memory of one frame, which the next one uses again.
    """
    number, device = len(tensors[0]), tensors[0].device.type
    size = sizes.get(device, 4)
    if number <= size or torch.compiler.is_compiling():  # a loop would fix the number of frames
        return function(*tensors)
    if torch.is_grad_enabled():
        if device != "cpu" or not in_training:
            return function(*tensors)
        return torch.cat([function(*chunk) for chunk in zip(*(tensor.split(size) for tensor in tensors), strict=True)])
    results = None
    for start in range(0, number, size):
        given = function(*(tensor[start : start + size] for tensor in tensors))
        parts = [given] if isinstance(given, torch.Tensor) else given
        if results is None:  # written part by part: a list of the parts would need the memory twice
            results = [part.new_empty(number, *part.shape[1:]) for part in parts]
        for result, part in zip(results, parts, strict=True):
            result[start : start + size] = part
    return results[0] if isinstance(given, torch.Tensor) else results


def real_frames_first(real: torch.Tensor) -> torch.Tensor:
    """
    Frames `(B, T)` of every video, those that are real first, all in their order.

    Args:
        real: `(B, T)` bool.
    """
    T = real.shape[1]
    return ((~real).long() * T + torch.arange(T, device=real.device)).argsort(dim=1)


def check_video(pixel_values_videos: torch.Tensor, pixel_mask: torch.Tensor | None) -> torch.Tensor:
    """
    Check the shapes of a batch and return its mask as `(B, T, H, W)` bool, all real when None.

    Raises:
        TypeError: for anything but a tensor.
        ValueError: naming the shape given, the one expected and the way out.
    """
    if not isinstance(pixel_values_videos, torch.Tensor):
        raise TypeError(
            f"pixel_values_videos is of type {type(pixel_values_videos).__name__}; expected a tensor (batch, frames, "
            '3, height, width), as the video processor gives with return_tensors="pt"'
        )
    shape = tuple(pixel_values_videos.shape)
    expected = "expected (batch, frames, 3, height, width)"
    if len(shape) == 4:
        raise ValueError(f"pixel_values_videos has shape {shape}; {expected}: add a batch dimension with [None]")
    if len(shape) != 5:
        raise ValueError(f"pixel_values_videos has shape {shape}; {expected}")
    if shape[2] != 3:
        hint = ": move the channels with .movedim(-1, 2)" if shape[-1] == 3 else ""
        hint = ": swap frames and channels with .transpose(1, 2)" if shape[1] == 3 and not hint else hint
        raise ValueError(f"pixel_values_videos has shape {shape}; {expected}{hint}")
    if 0 in shape:
        raise ValueError(f"pixel_values_videos has shape {shape}, an empty video; {expected} with at least one frame")
    if pixel_mask is None:
        return torch.ones(shape[:2] + shape[3:], dtype=torch.bool, device=pixel_values_videos.device)
    if tuple(pixel_mask.shape) != shape[:2] + shape[3:]:
        raise ValueError(
            f"pixel_mask has shape {tuple(pixel_mask.shape)} and pixel_values_videos {shape}; expected the mask to be "
            "(batch, frames, height, width) of the same sizes"
        )
    return pixel_mask.bool()


def frame_sizes_of(pixel_mask: torch.Tensor) -> torch.Tensor:
    """Height and width of the real pixels of every frame, zero for padding frames: `(B, T, H, W)` to `(B, T, 2)`."""
    return torch.stack((pixel_mask.any(3).sum(2), pixel_mask.any(2).sum(2)), dim=-1)


__all__ = ["CheckedLoading", "VideoInstanceSegmentationOutput", "VisPreTrainedModel"]

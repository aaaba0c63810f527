"""Transformer video instance segmentation for the Hugging Face ecosystem.

Importing the package makes its models known to the Auto classes, and the task `"video-instance-segmentation"` to
`transformers.pipeline`. Everything else is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .startup import is_command, prepare_process

if TYPE_CHECKING:
    from .data.loading import categories_of, dataset_to_ytvis, embed_frames, id2label_of, load_vis_dataset
    from .models.auto import AutoModelForVideoInstanceSegmentation
    from .models.msstsvis.configuration_msstsvis import MsstsVisConfig
    from .models.msstsvis.modeling_msstsvis import (
        MsstsVisForVideoInstanceSegmentation,
        MsstsVisModel,
        VideoInstanceSegmentationOutput,
    )
    from .models.seqformer.configuration_seqformer import SeqFormerConfig
    from .models.seqformer.modeling_seqformer import SeqFormerForVideoInstanceSegmentation, SeqFormerModel
    from .models.vis.image_processing_vis import MsstsVisImageProcessor, MsstsVisImageProcessorPil
    from .models.vis.post_processing_vis import post_process_video_instance_segmentation
    from .models.vis.video_processing_vis import MsstsVisVideoProcessor
    from .pipelines import VideoInstanceSegmentationPipeline
    from .predict import predict_video, predict_videos
    from .results.drawing import contact_sheet, draw_instances, draw_video
    from .results.rle import decode_mask, encode_mask
    from .results.video_instances import VideoInstances
    from .tracking.stitching import TrackStitcher
    from .training.trainer import VisTrainer, load_for_training
    from .video.reader import VideoReader
    from .video.writer import VideoWriter, write_video

__version__ = "0.1.0.dev0"

# Public name -> module; each is imported on first use.
_LAZY = {
    "AutoModelForVideoInstanceSegmentation": "models.auto",
    "MsstsVisConfig": "models.msstsvis.configuration_msstsvis",
    "MsstsVisForVideoInstanceSegmentation": "models.msstsvis.modeling_msstsvis",
    "MsstsVisImageProcessor": "models.vis.image_processing_vis",
    "MsstsVisImageProcessorPil": "models.vis.image_processing_vis",
    "MsstsVisModel": "models.msstsvis.modeling_msstsvis",
    "MsstsVisVideoProcessor": "models.vis.video_processing_vis",
    "SeqFormerConfig": "models.seqformer.configuration_seqformer",
    "SeqFormerForVideoInstanceSegmentation": "models.seqformer.modeling_seqformer",
    "SeqFormerModel": "models.seqformer.modeling_seqformer",
    "TrackStitcher": "tracking.stitching",
    "VideoInstanceSegmentationOutput": "models.msstsvis.modeling_msstsvis",
    "VideoInstanceSegmentationPipeline": "pipelines",
    "VideoInstances": "results.video_instances",
    "VideoReader": "video.reader",
    "VideoWriter": "video.writer",
    "VisTrainer": "training.trainer",
    "categories_of": "data.loading",
    "contact_sheet": "results.drawing",
    "dataset_to_ytvis": "data.loading",
    "decode_mask": "results.rle",
    "draw_instances": "results.drawing",
    "draw_video": "results.drawing",
    "embed_frames": "data.loading",
    "encode_mask": "results.rle",
    "id2label_of": "data.loading",
    "load_for_training": "training.trainer",
    "load_vis_dataset": "data.loading",
    "post_process_video_instance_segmentation": "models.vis.post_processing_vis",
    "predict_video": "predict",
    "predict_videos": "predict",
    "write_video": "video.writer",
}
__all__ = [
    "AutoModelForVideoInstanceSegmentation",
    "MsstsVisConfig",
    "MsstsVisForVideoInstanceSegmentation",
    "MsstsVisImageProcessor",
    "MsstsVisImageProcessorPil",
    "MsstsVisModel",
    "MsstsVisVideoProcessor",
    "SeqFormerConfig",
    "SeqFormerForVideoInstanceSegmentation",
    "SeqFormerModel",
    "TrackStitcher",
    "VideoInstanceSegmentationOutput",
    "VideoInstanceSegmentationPipeline",
    "VideoInstances",
    "VideoReader",
    "VideoWriter",
    "VisTrainer",
    "categories_of",
    "contact_sheet",
    "dataset_to_ytvis",
    "decode_mask",
    "draw_instances",
    "draw_video",
    "embed_frames",
    "encode_mask",
    "id2label_of",
    "load_for_training",
    "load_vis_dataset",
    "post_process_video_instance_segmentation",
    "predict_video",
    "predict_videos",
    "write_video",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_module(".registration", __name__)
    return getattr(import_module(f".{_LAZY[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


# A command answers --help before anything heavy is loaded, and registers the models when its work begins.
if is_command():
    prepare_process()
else:
    from . import registration  # noqa: F401

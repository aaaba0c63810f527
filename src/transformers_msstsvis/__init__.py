"""Transformer video instance segmentation for the Hugging Face ecosystem.

Importing the package makes its models known to the Auto classes, and the task `"video-instance-segmentation"` to
`transformers.pipeline`. Everything else is imported when it is first used.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .startup import is_command, prepare_process

try:
    __version__ = version(__name__)
except PackageNotFoundError:  # a folder on the path, not installed
    __version__ = "0"

# Module -> its public names. Those of the models come from the table of the models.
_PUBLIC = {
    "adapters.mask2former": ("Mask2FormerForVideoInstanceSegmentation", "Mask2FormerVideoProcessor"),
    "adapters.videomt": ("VideomtForVideoInstanceSegmentation", "VideomtVisVideoProcessor"),
    "conversion": ("convert_checkpoint", "convert_state_dict"),
    "conversion.detectors": ("init_from_pretrained",),
    "data.clips": ("VideoClips",),
    "data.collator": ("ClipCollator",),
    "data.loading": ("categories_of", "dataset_to_ytvis", "embed_frames", "id2label_of", "load_vis_dataset"),
    "data.synthetic": ("make_synthetic",),
    "evaluation": ("evaluate_model",),
    "hub": ("export_remote_code", "push_to_hub"),
    "metrics.ytvis_map": ("YtvisMeanAveragePrecision",),
    "models.auto": ("AutoModelForVideoInstanceSegmentation",),
    "models.vis.modeling_vis": ("VideoInstanceSegmentationOutput",),
    "pipelines": ("VideoInstanceSegmentationPipeline",),
    "predict": ("predict_video", "predict_videos", "stream_video"),
    "results.attention_drawing": ("draw_attention",),
    "results.drawing": ("contact_sheet", "draw_instances", "draw_video"),
    "results": ("open_sink", "read_json_lines", "without_overlap"),
    "results.rle": ("decode_mask", "encode_mask"),
    "results.video_instances": ("VideoInstances",),
    "tracking": ("DevisTracker", "MultiCueStitcher", "StreamingPredictor", "TrackStitcher"),
    "training": ("VisTrainer", "load_for_training"),
    "video.reader": ("VideoReader",),
    "video.writer": ("VideoWriter", "write_video"),
}
_MODULE_OF = {name: f"{__name__}.{module}" for module, names in _PUBLIC.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return sorted(_modules())
    if name.startswith("_") or name not in (modules := _modules()):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_module(".registration", __name__)
    return getattr(import_module(modules[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_modules()})


def _modules() -> dict[str, str]:
    from .models.auto import MODELS, public_names

    modules = dict(_MODULE_OF)
    for model in MODELS:
        modules |= public_names(model)
    return modules


# A command answers --help before anything heavy is loaded, and registers the models when its work begins.
if is_command():
    prepare_process()
else:
    from . import registration  # noqa: F401

"""Models for those without this package: a folder with weights, processors and the code that they need."""

import ast
import json
import re
from os import PathLike
from pathlib import Path

from transformers import BaseVideoProcessor, PreTrainedModel

from .files import written_aside
from .models.auto import MODELS, class_of, video_processor_class
from .pipelines import TASK, VideoInstanceSegmentationPipeline

PACKAGE = Path(__file__).parent
_FROM_OURS = re.compile(r"^(\s*from )\.[\w.]*?(\w+) import", re.MULTILINE)


def export_remote_code(
    model: PreTrainedModel, folder: str | PathLike, video_processor: BaseVideoProcessor | None = None
) -> list[str]:
    """
    Write a model, its processors and a copy of the code that they need into one folder, which loads without this
    package: `AutoModel.from_pretrained(folder, trust_remote_code=True)`, and so do `AutoConfig`, `AutoVideoProcessor`,
    `AutoImageProcessor` and `pipeline("video-instance-segmentation", model=folder, trust_remote_code=True)`. There,
    videos in files need PyAV, and arrays, images and folders of frames do not.

    The code lies flat, as transformers copies it: every module beside the others, its imports of this package
    rewritten to them. The compiled kernels are not a part of it; without them deformable attention runs in PyTorch.

    Args:
        model: of one of the models of this package, with or without its heads.
        folder: of the checkpoint; files of the same names are replaced.
        video_processor: of the model; by default that of the published test.

    Returns:
        The names of the modules.

    Raises:
        ValueError: for a model of another package.
    """
    folder = Path(folder)
    [name] = [name for name in MODELS if class_of(name, "Config") is type(model.config)] or [None]
    if name is None:
        raise ValueError(
            f"the model is a {type(model).__name__}, not one of this package; expected one of {', '.join(MODELS)}"
        )
    video_processor = video_processor or video_processor_class(model.config)()
    image_processors = [class_of(name, ending) for ending in ("ImageProcessor", "ImageProcessorPil")]
    classes = [type(model.config), type(model), type(video_processor), *image_processors]
    pipeline = VideoInstanceSegmentationPipeline
    modules = closure({class_.__module__ for class_ in (*classes, pipeline)})

    model.save_pretrained(folder)
    video_processor.save_pretrained(folder)
    image_processors[0]().save_pretrained(folder)
    for module in modules:
        with written_aside(folder / f"{module.rpartition('.')[2]}.py") as unfinished:
            unfinished.write_text(flattened(_path(module).read_text(encoding="utf-8")), encoding="utf-8")
    config, of_model, of_videos, *of_images = (
        f"{class_.__module__.rpartition('.')[2]}.{class_.__name__}" for class_ in classes
    )
    task = {"impl": f"pipelines.{pipeline.__name__}", "pt": ["AutoModel"], "type": "video"}
    auto_map = {"AutoConfig": config, "AutoModel": of_model}
    _add(folder / "config.json", auto_map=auto_map, custom_pipelines={TASK: task})
    _add(folder / "video_preprocessor_config.json", auto_map={"AutoVideoProcessor": of_videos})
    image_map = {"AutoImageProcessor": dict(zip(("torchvision", "pil"), of_images, strict=True))}
    _add(folder / "preprocessor_config.json", auto_map=image_map)
    return sorted(module.rpartition(".")[2] for module in modules)


def closure(modules: set[str]) -> set[str]:
    """
    Modules and all that they import of this package, by their full names.

    Raises:
        ValueError: when two of them have the same last name, so that they can't lie in one folder.
    """
    found, waiting = set(), set(modules)
    while waiting:
        module = waiting.pop()
        found.add(module)
        folder = module.split(".")[:-1]
        for node in ast.walk(ast.parse(_path(module).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                waiting.add(".".join((*folder[: len(folder) - node.level + 1], node.module)))
        waiting -= found
    names = [module.rpartition(".")[2] for module in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"several modules are called {', '.join(sorted(twice))}; expected one of each name")
    return found


def flattened(source: str) -> str:
    """The source of a module of this package whose imports of others find them beside it."""
    return _FROM_OURS.sub(r"\1.\2 import", source)


def _path(module: str) -> Path:
    return PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")


def _add(path: Path, **entries: dict) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    with written_aside(path) as unfinished:
        unfinished.write_text(json.dumps({**content, **entries}, indent=2) + "\n", encoding="utf-8")


__all__ = ["export_remote_code"]

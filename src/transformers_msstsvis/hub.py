"""Models for those without this package: a folder with weights, processors and the code that they need."""

import ast
import json
import re
import tempfile
from os import PathLike
from pathlib import Path

from huggingface_hub import HfApi, ModelCard, ModelCardData
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


def push_to_hub(
    model: PreTrainedModel,
    repo_id: str,
    *,
    video_processor: BaseVideoProcessor | None = None,
    card: ModelCard | str | None = None,
    license: str | None = None,
    remote_code: bool = False,
    commit_message: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> str:
    """
    Upload a model with its processors and its card, in one commit; a method of all models of this package.

    Args:
        model: of one of the models of this package.
        repo_id: of the repository, which is made if there is none.
        video_processor: of the model; by default that in the folder that it was loaded from, or else that of the
            published test.
        card: text of the card, or the card; by default that in the folder of the model, or else a short one.
        license: of the weights, for a card that does not say.
        remote_code: upload the code too, as of [`export_remote_code`], for those without this package.
        commit_message, private, token, revision, create_pr: as of every `push_to_hub`.

    Returns:
        The address of the commit.

    Raises:
        ValueError: for a card without a licence.
        OSError: if the Hub can't be reached, or refuses.
    """
    source = Path(model.name_or_path or "")
    if video_processor is None:
        known = (source / "video_preprocessor_config.json").is_file()
        kind = video_processor_class(model.config)
        video_processor = kind.from_pretrained(source) if known else kind()
    card = _card(model, repo_id, source, card, license)
    api = HfApi(token=token if isinstance(token, str) else None)
    with tempfile.TemporaryDirectory() as folder:
        if remote_code:
            export_remote_code(model, folder, video_processor)
        else:
            model.save_pretrained(folder)
            video_processor.save_pretrained(folder)
        card.save(Path(folder, "README.md"))
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        done = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=commit_message or f"Upload {type(model).__name__}",
            revision=revision,
            create_pr=create_pr,
        )
    return done.commit_url


def _card(
    model: PreTrainedModel, repo_id: str, source: Path, card: ModelCard | str | None, license: str | None
) -> ModelCard:
    if card is None and (source / "README.md").is_file():
        card = (source / "README.md").read_text(encoding="utf-8")
    if card is None:
        card = _short_card(model, repo_id)
    card = card if isinstance(card, ModelCard) else ModelCard(card, ignore_metadata_errors=True)
    card.data.license = license or card.data.license
    if not card.data.license:
        raise ValueError(
            f"the card of {repo_id} names no licence, and nobody could use the weights; pass one, such as "
            'license="apache-2.0", that of the data and weights that they were trained from'
        )
    return card


def _short_card(model: PreTrainedModel, repo_id: str) -> str:
    data = ModelCardData(library_name="transformers", pipeline_tag=TASK, tags=[TASK, model.config.model_type])
    return f"""---
{data.to_yaml()}
---

# {repo_id.rpartition("/")[2]}

A `{model.config.model_type}` model of transformers_msstsvis, for video instance segmentation of
{model.config.num_labels} classes: {", ".join(model.config.id2label.values())}.

```python
from transformers import pipeline
import transformers_msstsvis

segmenter = pipeline("{TASK}", model="{repo_id}")
tracks = segmenter("clip.mp4")
```
"""


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


__all__ = ["export_remote_code", "push_to_hub"]

"""The card of a trained model: what was measured and how it was trained, and nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id
from transformers.utils import logging

from ..evaluation.tables import OF_A_CATEGORY, OVERALL, percent
from ..pipelines import TASK

logger = logging.get_logger(__name__)

MARK = "<!-- Written by VisTrainer, and anew with every run. Delete this line to keep the file as you edit it. -->"


@dataclass(frozen=True)
class Evaluation:
    """
    What an evaluation measured.

    Attributes:
        dataset: name of the videos.
        num_videos: how many there are.
        step: step of the training that the weights are from.
        top_k: results per video.
        numbers: of [`YtvisMeanAveragePrecision`], in `[0, 1]`, -1 where there is no such ground truth.
        categories: names by the category ids in `numbers["per_category"]`.
    """

    dataset: str
    num_videos: int
    step: int
    top_k: int
    numbers: dict[str, Any]
    categories: dict[int, str]

    def results(self) -> list[EvalResult]:
        """The numbers that were measured, in percent, for the `model-index` of a card."""
        named = [(name, self.numbers[name]) for name in OVERALL]
        named += [(f"AP of {self.categories[k]}", of["AP"]) for k, of in self.numbers["per_category"].items()]
        return [
            EvalResult(
                task_type=TASK,
                dataset_type=self.dataset,
                dataset_name=self.dataset,
                metric_type="mean_average_recall" if name.startswith("AR") else "mean_average_precision",
                metric_name=name,
                metric_value=round(100 * value, 2),
            )
            for name, value in named
            if value >= 0
        ]

    def text(self) -> str:
        """The numbers as two tables."""
        overall = [[self.dataset, self.num_videos, *(percent(self.numbers[name]) for name in OVERALL)]]
        lines = [
            f"Mask AP by the official YouTube-VIS definition, in percent, of whole videos, {self.top_k} results each, "
            f"after {self.step} steps of training.",
            "",
            table(["data", "videos", *OVERALL], overall),
            "",
            table(
                ["class", *OF_A_CATEGORY],
                [
                    [self.categories[k], *(percent(of[name]) for name in OF_A_CATEGORY)]
                    for k, of in self.numbers["per_category"].items()
                ],
            ),
        ]
        return "\n".join(lines)


def model_card(
    model_name: str,
    model_type: str,
    num_parameters: int,
    classes: Sequence[str],
    training: dict[str, Any],
    evaluations: Sequence[Evaluation] = (),
    **metadata: Any,
) -> ModelCard:
    """
    The card of a model that was trained with [`VisTrainer`].

    Args:
        model_name: title.
        model_type: such as `"msstsvis"`, a tag of the card.
        num_parameters: of the model.
        classes: names, in the order of the labels.
        training: facts to list, by their names, such as those of [`VisTrainer.training_facts`].
        evaluations: what was measured with these weights.
        metadata: more of [`~huggingface_hub.ModelCardData`], such as `license` and `tags`; None is left out.
    """
    tags = [TASK, model_type, "generated_from_trainer", *(metadata.pop("tags", None) or [])]
    data = ModelCardData(
        model_name=model_name,
        library_name="transformers",
        pipeline_tag=TASK,
        tags=tags,
        eval_results=[result for evaluation in evaluations for result in evaluation.results()] or None,
        **metadata,
    )
    shown = ", ".join(classes)
    measured = "\n\n".join(evaluation.text() for evaluation in evaluations) or "Not measured."
    text = f"""---
{data.to_yaml()}
---

{MARK}

# {model_name}

A `{model_type}` model of transformers_msstsvis with {num_parameters / 1e6:.1f} M parameters, for video instance
segmentation of {len(classes)} {"class" if len(classes) == 1 else "classes"}: {shown}.

```python
import transformers_msstsvis
from transformers import pipeline

segmenter = pipeline("{TASK}", model="path/to/this/model")
instances = segmenter("clip.mp4")
```

## Results

{measured}

## Training

{table(["what", "value"], list(training.items()))}
"""
    return ModelCard(text)


def is_hub_name(name: str) -> bool:
    """Whether a checkpoint is named as on the Hub, and is no folder."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not Path(name).exists()


def write_card(card: ModelCard, path: str | Path) -> None:
    """Write a card, with license and tags of the one it replaces; leave one alone that was edited (see `MARK`)."""
    path = Path(path)
    if path.is_file():
        before = ModelCard.load(path, ignore_metadata_errors=True)
        if MARK not in before.text:
            logger.warning(f"{path} is not written anew: it has been edited, or has another origin.")
            return
        card.data.license = card.data.license or before.data.license
        card.data.tags = list(dict.fromkeys([*card.data.tags, *(before.data.tags or [])]))
    path.parent.mkdir(parents=True, exist_ok=True)
    card.save(path)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown."""
    cells = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in cells)


__all__ = ["Evaluation", "is_hub_name", "model_card", "write_card"]

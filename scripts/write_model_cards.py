"""Writes model_cards/ from model_cards/models.yaml: a card for each model and size, and their list.

python scripts/write_model_cards.py            the cards
python scripts/write_model_cards.py --check    exit with 1 if a card is not as the table has it
"""

import argparse
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

TASK = "video-instance-segmentation"
CARDS = Path(__file__).parents[1] / "model_cards"
METRICS = ("AP", "AP50", "AP75", "AR1", "AR10")
NOT_FOUND = "not found"
OTHERS = {
    "msstsvis-tiny-synthetic.md": "MS-STS VIS, tiny, trained here on synthetic videos: comes with the package",
    "ablation.md": "what the modules of MS-STS VIS add, on synthetic videos",
}


def rows() -> list[tuple[str, str, dict[str, Any]]]:
    """Model type, size and what the table says of them."""
    table = yaml.safe_load((CARDS / "models.yaml").read_text(encoding="utf-8"))
    return [
        (system, size, {**facts, **of_size})
        for system, facts in table["systems"].items()
        for size, of_size in facts["sizes"].items()
    ]


def card(system: str, size: str, facts: dict[str, Any]) -> ModelCard:
    """The card of a model as it is converted from the published weights."""
    name = f"{facts['title']}, {facts['backbone']}"
    data = ModelCardData(
        model_name=f"{system}-{size}",
        library_name="transformers",
        pipeline_tag=TASK,
        license="unknown",
        tags=[TASK, system],
        eval_results=[
            EvalResult(
                task_type=TASK,
                dataset_type=dataset.lower().replace(" ", "-"),
                dataset_name=dataset,
                metric_type="mean_average_recall" if metric.startswith("AR") else "mean_average_precision",
                metric_name=metric,
                metric_value=value,
                source_name=f"published: {facts['numbers']}",
                source_url=facts["code"],
            )
            for dataset, numbers in facts["results"].items()
            for metric, value in numbers.items()
        ],
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text(name, system, size, facts)}")


def text(name: str, system: str, size: str, facts: dict[str, Any]) -> str:
    paper = f"[{facts['paper']}]({facts['paper_url']})" if facts["paper_url"] else facts["paper"]
    numbers = "\n".join(
        f"| {dataset} | " + " | ".join(str(values.get(metric, "-")) for metric in METRICS) + " |"
        for dataset, values in facts["results"].items()
    )
    note = f" {facts['weights_note']}" if "weights_note" in facts else ""
    return f"""<!-- Written by scripts/write_model_cards.py from models.yaml. -->

# {name}

{paper}, as `model_type` `{system}` of transformers_msstsvis. This card is for the model as it is
converted from the published weights; no weights come with it.

## Intended use

Video instance segmentation: find every object of the classes of its training, segment it in each frame and keep its
identity. {facts["use"]}

## Published numbers

Mask AP in percent, by {facts["numbers"]}. None was reproduced here.

| data | {" | ".join(METRICS)} |
|---|{"---|" * len(METRICS)}
{numbers}
{more(facts)}
## Measured parity

{facts["parity"]}

## Weights and licences

| | |
|---|---|
| code | {facts["code"]} |
| licence of the code | {facts["code_license"] or NOT_FOUND} |
| weights | {facts["weights"] or NOT_FOUND}{note and "."}{note} |
| licence of the weights | {NOT_FOUND} |
| parameters | {facts.get("parameters", NOT_FOUND)} |

The licence in the head of this card is that of the weights. Look at it with their publisher before you share converted
ones: `push_to_hub` asks for one.

## Convert

```bash
transformers-msstsvis convert --system {system} --checkpoint {system}-{size}.pth --output {system}-{size}
transformers-msstsvis predict clip.mp4 --model {system}-{size}
```

## Start without them

{start(system, facts)}

## Limits

It knows the classes of its training only, and videos of some seconds, as its data sets have them. Trained on others it
is a new model with numbers of its own. What the original code does and a reader would not expect:
[its README](../src/transformers_msstsvis/models/{system}/README.md).
"""


def more(facts: dict[str, Any]) -> str:
    return f"\n{facts['more']}\n" if "more" in facts else ""


def start(system: str, facts: dict[str, Any]) -> str:
    parts = [f"{facts['start_means']}"]
    if facts["start"]:
        parts = [f"`{facts['start']}` of `transformers-msstsvis train` starts from {facts['start_means']}."]
    if "recipe" in facts:
        parts.append(
            f"The recipe is `transformers-msstsvis train --config {facts['recipe']}`; what it costs and reaches is in "
            "its head."
        )
    else:
        parts.append("There is no recipe of this size.")
    return " ".join(parts)


def index(cards: list[tuple[str, str, dict[str, Any]]]) -> str:
    lines = [
        f"| [{facts['title']}, {facts['backbone']}]({system}-{size}.md) | "
        + " / ".join(f"{name}: {numbers['AP']}" for name, numbers in facts["results"].items())
        + f" | {facts['weights'] or NOT_FOUND} | {facts['code_license'] or NOT_FOUND} |"
        for system, size, facts in cards
    ]
    others = "\n".join(f"- [{name}]({name}): {what}" for name, what in OTHERS.items())
    return f"""# Model cards

A card for each model and size, written by `scripts/write_model_cards.py` from [models.yaml](models.yaml). Mask AP is
as published, and not reproduced here.

| model | mask AP, published | weights | licence of the code |
|---|---|---|---|
{chr(10).join(lines)}

Measured here:

{others}
"""


def files() -> dict[Path, str]:
    """All cards and their list, by the file."""
    cards = rows()
    written = {CARDS / f"{system}-{size}.md": str(card(system, size, facts)) for system, size, facts in cards}
    return {**written, CARDS / "README.md": index(cards)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    other = [
        path for path, content in files().items() if not path.exists() or path.read_text(encoding="utf-8") != content
    ]
    for path in other:
        if check:
            print(f"{path.name} is not as models.yaml has it; run scripts/write_model_cards.py")
        else:
            path.write_text(files()[path], encoding="utf-8")
            print(f"wrote {path.name}")
    return int(check and bool(other))


if __name__ == "__main__":
    raise SystemExit(main())

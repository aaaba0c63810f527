"""The cards of the published models: as their table has them, with metadata that the Hub reads."""

import re

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from scripts.write_model_cards import CARDS, METRICS, files, rows
from transformers_msstsvis.conversion import SYSTEMS

ROWS = rows()


def test_cards_are_as_the_table_has_them():
    for path, content in files().items():
        assert path.read_text(encoding="utf-8") == content, f"{path.name}: run scripts/write_model_cards.py"


def test_every_system_has_its_cards():
    assert {system for system, *_ in ROWS} == set(SYSTEMS)


@pytest.mark.parametrize(("system", "size", "facts"), ROWS, ids=lambda value: value if isinstance(value, str) else "")
def test_card(system, size, facts):
    card = ModelCard.load(CARDS / f"{system}-{size}.md", ignore_metadata_errors=False)
    data = card.data.to_dict()
    assert (data["library_name"], data["pipeline_tag"], data["license"]) == (
        "transformers",
        "video-instance-segmentation",
        "unknown",
    )
    name, results = model_index_to_eval_results(data["model-index"])
    assert name == f"{system}-{size}"
    assert {(result.dataset_name, result.metric_name, result.metric_value) for result in results} == {
        (dataset, metric, value) for dataset, numbers in facts["results"].items() for metric, value in numbers.items()
    }
    assert all(result.source_url == facts["code"] and result.verified is None for result in results)
    for heading in (
        "Intended use",
        "Published numbers",
        "Measured parity",
        "Weights and licences",
        "Convert",
        "Limits",
    ):
        assert f"\n## {heading}\n" in card.text
    assert not re.search(r"None\b(?! was)|null", card.text)


@pytest.mark.parametrize(("system", "size", "facts"), ROWS, ids=lambda value: value if isinstance(value, str) else "")
def test_facts(system, size, facts):
    assert all(set(numbers) <= set(METRICS) for numbers in facts["results"].values())
    if "recipe" in facts:
        assert (CARDS.parent / "scripts" / "configs" / f"{facts['recipe']}.yaml").is_file()

"""The card that is written beside a trained model."""

import pytest
from huggingface_hub import ModelCard
from transformers import AutoModel

from tests.training.training_runs import SquareClips, make_trainer, tiny_for_training
from transformers_msstsvis import MsstsVisVideoProcessor
from transformers_msstsvis.data.loading import load_vis_dataset
from transformers_msstsvis.data.synthetic import make_synthetic
from transformers_msstsvis.pipelines import SAMPLE_MODEL
from transformers_msstsvis.training.model_card import MARK, Evaluation, is_hub_name, model_card, write_card

NUMBERS = {"AP": 0.4567, "AP50": 0.8, "AP75": 0.5, "AR1": 0.3, "AR10": 0.55, "APs": -1.0}
OF_A_DISK = {"AP": 0.25, "AP50": 0.5, "AP75": 0.125, "AR1": 0.3, "AR10": 0.3}


def evaluation(**changes) -> Evaluation:
    values = {"dataset": "valid", "num_videos": 7, "step": 40, "top_k": 10, "categories": {3: "disk", 5: "star"}}
    return Evaluation(**{**values, "numbers": {**NUMBERS, "per_category": {3: OF_A_DISK}}, **changes})


def card(*evaluations, **metadata) -> ModelCard:
    return model_card("mine", "msstsvis", 3_300_000, ["disk", "star"], {"steps": 40}, evaluations, **metadata)


def measured(card: ModelCard) -> dict[str, float]:
    return {result.metric_name: result.metric_value for result in card.data.eval_results or []}


def test_metadata():
    data = card(evaluation(), license="mit", tags=["shapes"], datasets=["someone/shapes"]).data
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "video-instance-segmentation"
    assert data.tags == ["video-instance-segmentation", "msstsvis", "generated_from_trainer", "shapes"]
    assert (data.license, data.datasets, data.model_name) == ("mit", ["someone/shapes"], "mine")
    assert "license" not in card().data.to_dict()


def test_numbers_come_in_percent_as_the_hub_reads_them(tmp_path):
    write_card(card(evaluation()), tmp_path / "README.md")
    (index,) = ModelCard.load(tmp_path / "README.md").data.to_dict()["model-index"]
    assert index["name"] == "mine"
    (result,) = index["results"]
    assert result["task"] == {"type": "video-instance-segmentation"}
    assert result["dataset"] == {"name": "valid", "type": "valid"}
    assert {"type": "mean_average_precision", "value": 45.67, "name": "AP"} in result["metrics"]
    assert {"type": "mean_average_recall", "value": 55.0, "name": "AR10"} in result["metrics"]
    assert {"type": "mean_average_precision", "value": 25.0, "name": "AP of disk"} in result["metrics"]
    assert len(result["metrics"]) == 6


def test_tables():
    text = card(evaluation()).text
    assert "| data | videos | AP | AP50 | AP75 | AR1 | AR10 |" in text
    assert "| valid | 7 | 45.7 | 80.0 | 50.0 | 30.0 | 55.0 |" in text
    assert "| disk | 25.0 | 50.0 | 12.5 |" in text
    assert "| star |" not in text
    assert "3.3 M parameters" in text
    assert "2 classes: disk, star." in text


def test_several_sets_have_results_of_their_own():
    results = card(evaluation(), evaluation(dataset="long")).data.to_dict()["model-index"][0]["results"]
    assert [result["dataset"]["name"] for result in results] == ["valid", "long"]


def test_what_was_not_measured_is_left_out():
    without = {**NUMBERS, "AP75": -1.0, "per_category": {}}
    shown = card(evaluation(numbers=without))
    assert measured(shown).keys() == {"AP", "AP50", "AR1", "AR10"}
    assert "| valid | 7 | 45.7 | 80.0 | - | 30.0 | 55.0 |" in shown.text
    nothing = card()
    assert "model-index" not in nothing.data.to_dict()
    assert "Not measured." in nothing.text
    assert "AP" not in nothing.text


def test_license_and_tags_of_an_earlier_card_are_kept(tmp_path):
    path = tmp_path / "README.md"
    write_card(card(license="mit", tags=["shapes"]), path)
    write_card(card(evaluation()), path)
    data = ModelCard.load(path).data
    assert data.license == "mit"
    assert "shapes" in data.tags
    assert measured(ModelCard.load(path))["AP"] == 45.67


def test_an_edited_card_is_left_alone(tmp_path, caplog):
    path = tmp_path / "README.md"
    write_card(card(), path)
    own = path.read_text().replace(MARK, "My own words.")
    path.write_text(own)
    write_card(card(evaluation()), path)
    assert path.read_text() == own
    assert "README.md is not written anew: it has been edited" in caplog.text


@pytest.mark.parametrize(("name", "expected"), [("someone/model", True), ("", False), ("/a/b/c", False), (".", False)])
def test_names_of_the_hub(name, expected):
    assert is_hub_name(name) is expected


# ------------------------------------------------------------------------------------------------------- of a trainer


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    sizes = {"height": 96, "width": 96, "min_frames": 3, "max_frames": 4, "min_objects": 1, "max_objects": 2}
    return load_vis_dataset(make_synthetic(tmp_path_factory.mktemp("synthetic"), seed=5, num_videos=3, **sizes))


def bundled(folder, videos, trainer=None, **arguments):
    processor = MsstsVisVideoProcessor.from_pretrained(SAMPLE_MODEL)
    trainer = {"eval_dataset": videos, "processing_class": processor, "num_samples": 0, **(trainer or {})}
    settings = {"learning_rate": 0.1, "warmup_steps": 1, "lr_scheduler_type": "constant_with_warmup"}
    model = AutoModel.from_pretrained(SAMPLE_MODEL)
    return make_trainer(SquareClips([1, 2]), folder, model, trainer, **settings, **arguments)


def load(folder) -> ModelCard:
    return ModelCard.load(folder / "README.md")


def test_the_last_evaluation_and_the_training_are_told(videos, tmp_path):
    run = bundled(tmp_path / "mine", videos, {"lr_drops": ["1/2"], "ema_decay": 0.5}, max_steps=1)
    run.train()
    metrics = run.evaluate()
    run.create_model_card(dataset="shapes", eval_dataset_name="three videos")
    written = load(tmp_path / "mine")
    shown = measured(written)
    for name in ("AP", "AP50", "AP75", "AR1", "AR10"):
        assert shown[name] == round(100 * metrics[f"eval_{name}"], 2)
    present = {annotation["label"] for video in videos for annotation in video["annotations"]}
    assert {name for name in shown if name.startswith("AP of ")} == {
        f"AP of {run.model.config.id2label[label]}" for label in present
    }
    assert written.data.eval_results[0].dataset_name == "three videos"
    assert "license" not in written.data.to_dict()
    assert "base_model" not in written.data.to_dict()  # it is a folder
    for line in (
        "| data | shapes |",
        f"| started from | {SAMPLE_MODEL.name} |",
        "| steps | 1 |",
        "| clips a step | 2 |",
        "| schedule | a tenth after 1/2 (steps, or shares of the training), warmup 1 |",
        "| average of the weights | 0.5 |",
        "| seed | 0 |",
    ):
        assert line in written.text
    assert " minutes for 1 steps |" in written.text
    assert "adversarial loss" not in written.text
    assert str(tmp_path) not in str(written)


def test_numbers_of_other_weights_are_not_told(videos, tmp_path):
    run = bundled(tmp_path, videos, max_steps=1)
    run.evaluate()
    run.train()
    run.create_model_card()
    assert measured(load(tmp_path)) == {}
    assert "Not measured." in load(tmp_path).text


def test_numbers_of_the_best_checkpoint_are_its_own(videos, tmp_path):
    settings = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "load_best_model_at_end": True}
    run = bundled(tmp_path, {"valid": videos}, max_steps=2, metric_for_best_model="valid_AP", **settings)
    run.train()
    before, after = (entry["eval_valid_AP"] for entry in run.state.log_history if "eval_valid_AP" in entry)
    assert after < before
    run.create_model_card()
    assert measured(load(tmp_path)) == {}  # the second step was measured last, and has been left behind
    run.evaluate()
    run.create_model_card()
    assert measured(load(tmp_path))["AP"] == round(100 * before, 2)
    assert "| valid | 3 |" in load(tmp_path).text
    assert "after 1 steps of training" in load(tmp_path).text


def test_a_run_without_videos_to_evaluate(tmp_path):
    run = make_trainer(SquareClips([1, 2]), tmp_path, tiny_for_training(), max_steps=1)
    run.train()
    run.create_model_card(license="mit")
    assert load(tmp_path).data.license == "mit"
    assert "Not measured." in load(tmp_path).text


def test_it_goes_to_the_hub_with_the_model(videos, tmp_path, monkeypatch):
    sent = {}

    class Hub:
        def upload_folder(self, folder_path, **kwargs):
            sent.update(kwargs, card=ModelCard.load(f"{folder_path}/README.md"))

    monkeypatch.setattr("transformers.trainer.hf_api", Hub)
    run = bundled(tmp_path, videos, max_steps=1, hub_model_id="someone/shapes-model")
    run.hub_model_id = "someone/shapes-model"
    metrics = run.evaluate()
    run.push_to_hub(license="mit")
    assert sent["repo_id"] == "someone/shapes-model"
    assert sent["card"].data.license == "mit"
    assert sent["card"].data.model_name == "shapes-model"
    assert measured(sent["card"])["AP50"] == round(100 * metrics["eval_AP50"], 2)

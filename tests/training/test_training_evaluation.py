"""Evaluation in the course of training: the official numbers, the best checkpoint, pictures."""

import numpy as np
import pytest
from PIL import Image
from transformers import AutoModel, EarlyStoppingCallback, TrainerCallback

from tests.training.training_runs import SquareClips, make_trainer, named, tiny_for_training
from transformers_msstsvis import MsstsVisVideoProcessor
from transformers_msstsvis.data.clips import VideoClips
from transformers_msstsvis.data.loading import embed_frames, id2label_of, load_vis_dataset
from transformers_msstsvis.data.synthetic import make_synthetic
from transformers_msstsvis.evaluation import evaluate_model
from transformers_msstsvis.pipelines import SAMPLE_MODEL
from transformers_msstsvis.training import VisTrainer

SMALL = MsstsVisVideoProcessor(size={"shortest_edge": 64, "longest_edge": 64})


@pytest.fixture(scope="module")
def annotations(tmp_path_factory):
    sizes = {"height": 96, "width": 96, "min_frames": 3, "max_frames": 4, "min_objects": 1, "max_objects": 2}
    return make_synthetic(tmp_path_factory.mktemp("synthetic"), seed=5, num_videos=3, **sizes)


@pytest.fixture(scope="module")
def videos(annotations):
    return load_vis_dataset(annotations)


def bundled(folder, videos, **trainer):
    processor = MsstsVisVideoProcessor.from_pretrained(SAMPLE_MODEL)
    trainer = {"eval_dataset": videos, "processing_class": processor, **trainer}
    return make_trainer(None, folder, AutoModel.from_pretrained(SAMPLE_MODEL), trainer)


class Board(TrainerCallback):
    """Stands in for TensorBoard's callback."""

    def __init__(self):
        self.tb_writer, self.images = self, {}

    def add_image(self, tag, image, step, dataformats):
        assert dataformats == "HWC"
        self.images[tag, step] = image


def test_official_numbers_and_pictures(annotations, videos, tmp_path):
    board = Board()
    run = bundled(tmp_path, videos, num_samples=2, callbacks=[board])
    metrics = run.evaluate()
    expected = evaluate_model(annotations, SAMPLE_MODEL, device="cpu")
    assert metrics["eval_AP"] > 0.3
    for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"):
        assert metrics[f"eval_{name}"] == expected[name]
    assert run.state.log_history[-1]["eval_AP"] == metrics["eval_AP"]

    ids = videos["video_id"][:2]
    files = sorted((tmp_path / "samples" / "step-0").iterdir())
    assert [file.name for file in files] == [f"video-{video}.png" for video in ids]
    assert list(board.images) == [(f"samples/{video}", 0) for video in ids]
    sheet = np.asarray(Image.open(files[0]))
    length = min(videos[0]["length"], 4)
    assert sheet.shape == (96, 96 * length + 4 * (length - 1), 3)
    assert np.array_equal(sheet, board.images[f"samples/{ids[0]}", 0])
    plain = np.asarray(Image.open(next(annotations.parent.rglob("*.jpg"))).convert("RGB"))
    assert not np.array_equal(sheet[:, :96], plain)


def test_results_per_video(videos, tmp_path):
    assert max(len(video["annotations"]) for video in videos) == 2
    one, ten = (bundled(tmp_path, videos, eval_top_k=top_k, num_samples=0).evaluate() for top_k in (1, 10))
    assert one["eval_AR10"] < ten["eval_AR10"]


def test_several_sets_and_clips_of_one(videos, tmp_path):
    run = bundled(tmp_path, {"valid": VideoClips(videos), "first": videos.select([0])}, num_samples=1)
    metrics = run.evaluate()
    assert metrics["eval_valid_AP"] == bundled(tmp_path, videos, num_samples=0).evaluate()["eval_AP"]
    assert metrics["eval_first_AP"] != metrics["eval_valid_AP"]
    assert {path.name for path in tmp_path.iterdir()} >= {"samples_valid", "samples_first"}


def test_a_missing_frame_costs_its_video_only(annotations, videos, tmp_path, caplog):
    def rename(row):
        return {"file_names": ["nothing.jpg", *row["file_names"][1:]]} if row["video_id"] == missing else row

    missing = videos[0]["video_id"]
    metrics = bundled(tmp_path, videos.map(rename, load_from_cache_file=False)).evaluate()
    assert 0 < metrics["eval_AP"] < 1
    assert f"video {missing} is skipped, 1 frames are missing" in caplog.text
    assert not (tmp_path / "samples" / "step-0" / f"video-{missing}.png").exists()


@pytest.fixture
def numbers(monkeypatch):
    """AP of successive evaluations, without looking at any video."""
    values = iter([0.1, 0.3, 0.2, 0.25, 0.9])
    monkeypatch.setattr(VisTrainer, "_measure", lambda *args: {"AP": next(values), "per_category": {}})


def test_best_checkpoint_and_early_stopping(numbers, videos, tmp_path):
    run = make_trainer(
        SquareClips([1, 2]),
        tmp_path,
        tiny_for_training(**named(*id2label_of(videos).values())),
        trainer={"eval_dataset": videos, "processing_class": SMALL, "callbacks": [EarlyStoppingCallback(2)]},
        max_steps=9,
        eval_strategy="steps",
        eval_steps=1,
        save_steps=1,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="AP",
    )
    run.train()
    assert run.state.global_step == 4
    assert run.state.best_metric == 0.3
    assert run.state.best_model_checkpoint == str(tmp_path / "checkpoint-2")
    best = AutoModel.from_pretrained(tmp_path / "checkpoint-2")
    for a, b in zip(run.model.parameters(), best.parameters(), strict=True):
        assert (a == b).all()


def best(videos, folder, **settings) -> VisTrainer:
    """A run that keeps its best step and is evaluated after each."""
    return make_trainer(
        SquareClips([1, 2]),
        folder,
        tiny_for_training(**named(*id2label_of(videos).values())),
        trainer={"eval_dataset": videos, "processing_class": SMALL},
        **{"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True, **settings},
    )


def test_the_best_checkpoint_is_that_of_the_highest_precision(videos, tmp_path):
    run = best(videos, tmp_path, save_steps=1)
    assert (run.args.metric_for_best_model, run.args.greater_is_better) == ("AP", True)
    with pytest.raises(ValueError, match="metric_for_best_model is 'Ap'; expected one of AP, AP50, AP75, APs"):
        best(videos, tmp_path, save_steps=1, metric_for_best_model="Ap")


@pytest.mark.parametrize(
    ("values", "steps", "kept"), [([0.1, 0.3, 0.9, 0.2, 0.2], 5, 2), ([0.9, 0.3, 0.2], 3, 3), ([0.1, 0.9], 2, 2)]
)
def test_steps_that_are_not_saved_are_not_taken_for_the_best(values, steps, kept, videos, tmp_path, caplog):
    run = best(videos, tmp_path, max_steps=steps, save_steps=2)
    assert "eval_steps is 1 and save_steps 2: only an evaluation at a step that is saved" in caplog.text
    numbers = iter(values)
    run._measure = lambda *args: {"AP": next(numbers), "per_category": {}}
    run.train()
    assert run.step_of_weights == kept
    lost = values.index(max(values)) == 0
    assert ("the weights are those of the last step, not of the best" in caplog.text) == lost


@pytest.mark.parametrize("setting", ["eval_top_k", "eval_max_frames"])
def test_settings_that_evaluate_nothing_are_refused(setting, tmp_path):
    with pytest.raises(ValueError, match=f"{setting} is 0; expected at least 1"):
        make_trainer(None, tmp_path, trainer={setting: 0})


def test_wrong_sets_are_refused_before_training(videos, tmp_path):
    pets = tiny_for_training(**named("cat", "dog"))
    with pytest.raises(ValueError, match=r"the model has 2 classes \(cat, dog, ...\) and the dataset 8 categories"):
        make_trainer(None, tmp_path, pets, trainer={"eval_dataset": videos, "processing_class": SMALL})
    model = tiny_for_training(**named(*id2label_of(videos).values()))
    with pytest.raises(ValueError, match="no processing_class; expected a video processor"):
        make_trainer(None, tmp_path, model, trainer={"eval_dataset": videos})
    embedded = {"eval_dataset": embed_frames(videos), "processing_class": SMALL}
    with pytest.raises(ValueError, match="embedded frames; expected frames as files"):
        make_trainer(None, tmp_path, model, trainer=embedded)


def test_another_data_set_is_evaluated_as_in_every_trainer(tmp_path):
    run = make_trainer(None, tmp_path, trainer={"eval_dataset": SquareClips([1, 2])})
    assert run.evaluate()["eval_loss"] > 0

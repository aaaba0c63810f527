"""What users do with a model, in the smallest size: pipeline on short and long videos, training step, evaluation."""

from pathlib import Path

import torch
from transformers import AutoModel, pipeline

from tests.models.testers import model_of
from tests.tiny import moving_square
from tests.training.training_runs import SquareClips, make_trainer
from transformers_msstsvis import VideoInstances
from transformers_msstsvis.data.synthetic import make_synthetic
from transformers_msstsvis.evaluation import evaluate_model
from transformers_msstsvis.models.auto import video_processor_class


def save(name: str, folder: Path) -> str:
    """A checkpoint of a model of the table, with its processor for small frames."""
    model = model_of(name)
    model.save_pretrained(folder)
    video_processor_class(model.config)(size={"shortest_edge": 48, "longest_edge": 64}).save_pretrained(folder)
    return str(folder)


def segmenter_of(folder: str, **arguments):
    return pipeline("video-instance-segmentation", model=folder, threshold=0.0, duplicate_iou=1.0, **arguments)


def check_pipeline(folder: str) -> None:
    """Short videos, several at once, and one so long that it is cut into clips whose results are joined."""
    segmenter = segmenter_of(folder, top_k=3)
    longest = segmenter.model.config.clip_length or 6
    [alone, again] = segmenter([moving_square(2), moving_square(longest)], batch_size=2)
    assert 0 < len(alone) <= 3
    assert {len(track["masks"]) for track in alone} == {2}
    assert {len(track["masks"]) for track in again} == {longest}
    frames = 2 * longest + 1
    lengths = {} if segmenter.model.config.clip_length else {"max_frames": longest}
    tracks = segmenter(moving_square(frames), return_instances=True, **lengths)
    assert isinstance(tracks, VideoInstances)
    assert tracks.num_frames == frames
    assert len(tracks) > 0
    assert any(masks[-1] is not None for masks in tracks.masks)


def check_training_step(name: str, folder: Path) -> None:
    """One step changes the weights; what is saved loads, and goes on."""
    model = model_of(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trainer = make_trainer(SquareClips([1, 2, 0, 1]), folder, model, max_steps=1, save_steps=1)
    trainer.train()
    [entry] = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert torch.isfinite(torch.tensor(entry["loss"]))
    assert any(not torch.equal(value, before[key]) for key, value in model.state_dict().items())
    saved = AutoModel.from_pretrained(folder / "checkpoint-1").state_dict()
    assert all(torch.equal(value, saved[key]) for key, value in model.state_dict().items())
    resumed = make_trainer(SquareClips([1, 2, 0, 1]), folder, model_of(name), max_steps=2)
    resumed.train(resume_from_checkpoint=str(folder / "checkpoint-1"))
    assert resumed.state.global_step == 2


def check_evaluation(folder: str, data: Path) -> None:
    """All twelve numbers, of videos that are shorter and longer than a clip."""
    sizes = {"height": 64, "width": 64, "min_frames": 3, "max_frames": 8, "min_objects": 1, "max_objects": 1}
    make_synthetic(data, num_videos=2, seed=1, **sizes)
    numbers = evaluate_model(data / "annotations.json", folder)
    assert {"AP", "AP50", "AP75", "AR1", "AR10"} <= set(numbers)
    assert 0 <= numbers["AP"] <= 1

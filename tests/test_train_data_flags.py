"""Which clips the flags of scripts/train.py make."""

import json

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import TrainingArguments

from tests.conversion.test_detr import tiny_detr
from tests.data.vis_rows import rle
from tests.models.testers import TESTERS
from transformers_msstsvis import MsstsVisVideoProcessor, VistrConfig, VistrVideoProcessor
from transformers_msstsvis.commands.train import read_recipe
from transformers_msstsvis.data.clips import VideoClips
from transformers_msstsvis.data.pseudo_clips import PseudoClips
from transformers_msstsvis.data.sampling import JointClips
from transformers_msstsvis.data.synthetic import make_synthetic
from transformers_msstsvis.pipelines import SAMPLE_MODEL
from transformers_msstsvis.training import run as script
from transformers_msstsvis.training.arguments import Arguments


@pytest.fixture
def annotations(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    sizes = {"height": 64, "width": 96, "min_frames": 4, "max_frames": 6, "max_objects": 2}
    return make_synthetic(tmp_path / "videos", seed=3, num_videos=3, **sizes)


@pytest.fixture
def stills(tmp_path):
    """Two images with a star and a chair each, as COCO has them."""
    folder = tmp_path / "stills"
    (folder / "images").mkdir(parents=True)
    mask = np.zeros((40, 60), dtype=bool)
    mask[10:30, 20:40] = True
    images, tracks = [], []
    for image in (1, 2):
        Image.new("RGB", (60, 40), (200, 100, 50)).save(folder / "images" / f"{image}.jpg")
        images.append({"id": image, "file_name": f"{image}.jpg", "height": 40, "width": 60})
        for category in (5, 9):
            track = {"id": len(tracks) + 1, "image_id": image, "category_id": category, "iscrowd": 0}
            tracks.append(track | {"segmentation": rle(mask), "area": 400, "bbox": [20, 10, 20, 20]})
    categories = [{"id": 5, "name": "asterisk"}, {"id": 9, "name": "chair"}]
    (folder / "stills.json").write_text(
        json.dumps({"images": images, "annotations": tracks, "categories": categories})
    )
    return folder


def test_defaults(annotations):
    arguments = Arguments(dataset=str(annotations))
    clips = script.make_clips(arguments, seed=1)
    assert isinstance(clips, VideoClips)
    assert (clips.sampling, clips.num_frames, clips.flip, clips.seed) == ("window", 5, True, 1)
    assert script.inference_size(arguments, clips, MsstsVisVideoProcessor) == {
        "shortest_edge": 64,
        "longest_edge": 113,
    }


def test_the_processor_shows_frames_as_large_as_in_training():
    class Clips:
        dataset = {"height": [128, 384, 384], "width": [128, 384, 1152]}

    assert script.inference_size(Arguments(), Clips, MsstsVisVideoProcessor) == {
        "shortest_edge": 384,
        "longest_edge": 1152,
    }
    assert script.inference_size(Arguments(shortest_edge=100), Clips, MsstsVisVideoProcessor)["longest_edge"] == 300


def test_training_starts_from_a_detector_and_keeps_the_processor_of_its_model(annotations, tmp_path, capsys):
    detr = tiny_detr()
    detr.save_pretrained(tmp_path / "detr")
    settings = {"model_type": "vistr", **TESTERS["vistr"].config().to_diff_dict()}
    settings = {name: value for name, value in settings.items() if name in VistrConfig().to_dict()}
    arguments = Arguments(
        dataset=str(annotations), model_config=json.dumps(settings), init_from=str(tmp_path / "detr")
    )
    training = TrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True)
    trainer = script.make_trainer(arguments, training)
    norm = trainer.model.model.decoder.norm.weight
    assert torch.equal(norm.cpu(), detr.model.decoder.layernorm.weight)
    assert "left out; new in query_embed, class_embed" in capsys.readouterr().out
    assert type(trainer.processing_class) is VistrVideoProcessor


def test_a_recipe_may_leave_out_values(tmp_path):
    (tmp_path / "recipe.yaml").write_text("frames_dir:\nlr_drops: []\nmax_steps: 3\n")
    assert read_recipe(["--config", str(tmp_path / "recipe.yaml")]) == ["--max_steps", "3"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"model_config": '{"num_querys": 5}'}, "--model_config has num_querys; expected arguments of MsstsVisConfig"),
        ({"model_config": "[1]"}, r"--model_config is '\[1\]'; expected a JSON object"),
        ({"model_config": "{num_queries: 5}"}, "--model_config is .*, which is not JSON"),
        ({"augmentation": ""}, "--augmentation is '', which is not JSON"),
        ({"augmentation": "null"}, "--augmentation is 'null'; expected a JSON object"),
        ({"augmentation": '{"scale": "x"}'}, "scale is 'x'; expected a number"),
        ({"augmentation": '{"short_sides": 100}'}, "short_sides is 100; expected a list of numbers"),
        ({"adversarial": -1.0, "model": str(SAMPLE_MODEL)}, "adversarial is -1.0; expected a weight"),
    ],
)
def test_wrong_values_of_flags(annotations, tmp_path, flags, message):
    training = TrainingArguments(str(tmp_path / "out"), use_cpu=True, report_to="none")
    with pytest.raises(ValueError, match=message):
        script.make_trainer(Arguments(str(annotations), **flags), training)


def test_published_training_at_a_small_scale(annotations):
    arguments = Arguments(str(annotations), sampling="published", augmentation='{"scale": 0.1}')
    clips = script.make_clips(arguments, seed=0)
    assert len(clips) == clips.lengths.sum()
    assert 28 <= min(clips[0]["frames"].shape[-2:]) <= 52
    assert script.inference_size(arguments, clips, MsstsVisVideoProcessor) == {"shortest_edge": 36, "longest_edge": 64}


def test_stills_beside_videos(annotations, stills):
    arguments = Arguments(
        str(annotations),
        num_frames=2,
        stills=str(stills / "stills.json"),
        stills_dir=str(stills / "images"),
        stills_share=0.4,
        stills_classes='{"asterisk": "star"}',
    )
    clips = script.make_clips(arguments, seed=0)
    assert isinstance(clips, JointClips)
    star = next(label for label, name in clips.id2label.items() if name == "star")
    found = [clip["labels"]["class_labels"].tolist() for clip in map(clips.__getitem__, range(len(clips)))]
    assert len(found) == 5
    assert sum(classes == [star] for classes in found) >= 2  # without the chairs
    assert script.inference_size(arguments, clips, MsstsVisVideoProcessor)["shortest_edge"] == 64


def test_stills_alone_keep_all_their_classes(stills):
    arguments = Arguments(stills=str(stills / "stills.json"), stills_dir=str(stills / "images"), num_frames=3)
    clips = script.make_clips(arguments, seed=0)
    assert isinstance(clips, PseudoClips)
    assert clips.id2label == {0: "asterisk", 1: "chair"}
    assert [clips[index]["frames"].shape for index in range(len(clips))] == [(3, 3, 40, 60)] * 2
    assert clips[0]["labels"]["class_labels"].tolist() == [0, 1]
    assert script.inference_size(arguments, clips, MsstsVisVideoProcessor) == {"shortest_edge": 40, "longest_edge": 71}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "there is no training data; expected --dataset with videos, --stills with images, or both"),
        (
            {"stills": "stills.json", "stills_share": 0.5},
            "stills_share is for images beside videos; expected",
        ),
        ({"dataset": "train.json", "stills_classes": "{}"}, "stills_classes is for images beside videos"),
    ],
)
def test_flags_that_do_not_go_together(flags, message):
    with pytest.raises(ValueError, match=message):
        script.make_clips(Arguments(**flags), seed=0)


def test_what_is_skipped_in_training_is_skipped_in_evaluation(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "judo"
    folder.mkdir()
    for frame in range(3):
        Image.new("RGB", (60, 40)).save(folder / f"{frame}.jpg")
        mask = np.zeros((40, 60 - (frame == 1)), np.uint8)  # one is too narrow
        mask[10:30, 20:40] = 1
        Image.fromarray(mask).save(folder / f"{frame}.png")
    arguments = Arguments(
        str(folder), eval_dataset=str(folder), model=str(SAMPLE_MODEL), num_frames=2, on_error="skip"
    )
    training = TrainingArguments(str(tmp_path / "out"), use_cpu=True, report_to="none")
    trainer = script.make_trainer(arguments, training)
    assert trainer.train_dataset.dataset["length"] == [2]
    assert trainer.eval_dataset["length"] == [2]
    arguments.on_error = "raise"
    with pytest.raises(ValueError, match=r"frame 1\.png: the mask has size \[40, 59\]"):
        script.make_trainer(arguments, training)

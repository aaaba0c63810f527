"""
Fine-tuning of the bundled checkpoint to one clip until it has learned it by heart: one class, three classes, twenty
objects. What does not learn a single clip learns nothing else.

The clips are small and shown enlarged: an AP of 0.95 takes masks with an IoU of 0.95, and the model draws them at a
quarter of the size that it sees.

    MSSTSVIS_TEST_CLIP=DAVIS/judo python -m pytest -m slow tests/test_training_overfit.py -k real

does the same with a short real clip, a folder of frames and palette masks (some minutes on a CPU).
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle_codec

from tests.training.training_runs import make_trainer, named
from transformers_msstsvis import MsstsVisVideoProcessor, id2label_of
from transformers_msstsvis.data.clips import VideoClips
from transformers_msstsvis.data.loading import load_vis_dataset
from transformers_msstsvis.data.synthetic import CLASSES, SyntheticVideo, synthetic_video
from transformers_msstsvis.pipelines import SAMPLE_MODEL
from transformers_msstsvis.training import VisTrainer, load_for_training

TILE = 64  # pixels of a synthetic video


def write_video(folder: Path, video: SyntheticVideo, classes: tuple[str, ...]) -> Path:
    """As a YouTube-VIS file."""
    names = [f"{frame}.png" for frame in range(len(video.frames))]
    for name, frame in zip(names, video.frames, strict=True):
        Image.fromarray(frame).save(folder / name)
    length, height, width = video.masks.shape[1:]
    size = {"height": height, "width": width, "length": length}
    annotations = []
    for number, (label, masks) in enumerate(zip(video.labels, video.masks, strict=True), start=1):
        rles = [rle_codec.encode(np.asfortranarray(mask, np.uint8)) if mask.any() else None for mask in masks]
        annotation = {
            "id": number,
            "video_id": 1,
            "category_id": int(label) + 1,
            "iscrowd": 0,
            "segmentations": [rle and {**rle, "counts": rle["counts"].decode()} for rle in rles],
            "areas": [rle and int(rle_codec.area(rle)) for rle in rles],
            "bboxes": [rle and rle_codec.toBbox(rle).tolist() for rle in rles],
        }
        annotations.append(annotation)
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    document = {"videos": [{"id": 1, **size, "file_names": names}], "categories": categories}
    (folder / "annotations.json").write_text(json.dumps({**document, "annotations": annotations}))
    return folder / "annotations.json"


def few_objects(classes: int) -> SyntheticVideo:
    """Three objects whose shapes tell nothing of their classes."""
    size = {"height": TILE, "width": TILE, "min_frames": 6, "max_frames": 6, "min_objects": 3, "max_objects": 3}
    video = synthetic_video(0, **size)
    return SyntheticVideo(video.frames, video.masks, np.arange(3) % classes)


def twenty_objects() -> SyntheticVideo:
    """Four videos of five objects, side by side and above each other."""
    size = {"height": TILE, "width": TILE, "min_frames": 4, "max_frames": 4, "min_objects": 5, "max_objects": 5}
    tiles = [synthetic_video(seed, **size) for seed in range(4)]
    frames = np.zeros((4, 2 * TILE, 2 * TILE, 3), np.uint8)
    masks = np.zeros((20, 4, 2 * TILE, 2 * TILE), bool)
    for tile, video in enumerate(tiles):
        rows, columns = (slice(at * TILE, (at + 1) * TILE) for at in divmod(tile, 2))
        frames[:, rows, columns] = video.frames
        masks[5 * tile : 5 * tile + 5, :, rows, columns] = video.masks
    return SyntheticVideo(frames, masks, np.concatenate([video.labels for video in tiles]))


def make_run(dataset, model, folder: Path, frames: int, shortest: int, longest: int, **schedule) -> VisTrainer:
    """Training and evaluation on the same videos, shown with a shorter side of `shortest` pixels."""
    trainer = {
        "eval_dataset": dataset,
        "processing_class": MsstsVisVideoProcessor(size={"shortest_edge": shortest, "longest_edge": longest}),
        "eval_top_k": 10 + max(len(video["annotations"]) for video in dataset),
        "backbone_lr_scale": 1.0,
        "sampling_lr_scale": 1.0,
        "num_samples": 0,
    }
    return make_trainer(
        VideoClips(dataset, num_frames=frames, flip=False, shortest_edge=shortest),
        folder,
        model,
        trainer,
        per_device_train_batch_size=1,
        lr_scheduler_type="cosine",
        warmup_steps=10,
        max_grad_norm=0.1,
        logging_steps=50,
        save_strategy="no",
        **schedule,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("video", "classes", "shown", "steps"),
    [
        (few_objects(1), ("thing",), 256, 100),
        (few_objects(3), ("one", "two", "three"), 256, 100),
        (twenty_objects(), CLASSES, 512, 200),
    ],
    ids=["one class", "three classes", "twenty objects"],
)
def test_a_clip_is_learned_by_heart(video, classes, shown, steps, tmp_path):
    dataset = load_vis_dataset(write_video(tmp_path, video, classes))
    model = load_for_training(SAMPLE_MODEL, **named(*classes))
    run = make_run(dataset, model, tmp_path / "out", 2, shown, shown, max_steps=steps, learning_rate=5e-4)
    run.train()
    metrics = run.evaluate()
    assert run.model.config.num_queries >= len(video.labels)
    assert metrics["eval_AP"] >= 0.95


@pytest.mark.slow
@pytest.mark.skipif("MSSTSVIS_TEST_CLIP" not in os.environ, reason="MSSTSVIS_TEST_CLIP names no folder of a real clip")
def test_a_real_clip_is_learned_by_heart(tmp_path):
    """Frame by frame first: what is in which frame is learned in a third of the time."""
    dataset = load_vis_dataset(os.environ["MSSTSVIS_TEST_CLIP"], on_error="skip")
    length = min(dataset[0]["length"], 4)  # of a clip in training
    model = load_for_training(SAMPLE_MODEL, **named(*id2label_of(dataset).values()))
    for frames, steps in ((1, 200), (length, 250)):
        schedule = {"max_steps": steps, "learning_rate": 3e-4}
        run = make_run(dataset, model, tmp_path / str(frames), frames, 360, 640, **schedule)
        run.train()
    assert run.evaluate()["eval_AP"] >= 0.95

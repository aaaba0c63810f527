"""Small videos as rows of a data set, for the tests of this folder."""

from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, List, Value
from PIL import Image
from pycocotools import mask as rle_codec

RLE = {"size": List(Value("int32")), "counts": Value("string")}


def rle(mask: np.ndarray) -> dict:
    encoded = rle_codec.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def vis_dataset(folder: Path, videos: list[tuple[np.ndarray, list[tuple[int, list]]]], names: list[str]) -> Dataset:
    """Videos as frames `(L, H, W, 3)` and instances, each its label and a `(H, W)` mask or None for every frame."""
    rows = []
    for index, (frames, instances) in enumerate(videos):
        file_names = [f"{index}/{frame}.png" for frame in range(len(frames))]
        (folder / str(index)).mkdir()
        for name, frame in zip(file_names, frames, strict=True):
            Image.fromarray(frame).save(folder / name)
        annotations = [
            {"label": label, "iscrowd": False, "segmentations": [m if m is None else rle(m) for m in masks]}
            for label, masks in instances
        ]
        row = {"video_id": 100 + index, "height": frames.shape[1], "width": frames.shape[2], "length": len(frames)}
        rows.append(row | {"file_names": file_names, "frames_dir": str(folder), "annotations": annotations})
    annotation = {"label": ClassLabel(names=names), "iscrowd": Value("bool"), "segmentations": List(RLE)}
    features = {name: Value("int32") for name in ("height", "width", "length")}
    features |= {"video_id": Value("int64"), "file_names": List(Value("string")), "frames_dir": Value("string")}
    return Dataset.from_list(rows, features=Features(features | {"annotations": List(annotation)}))


def numbered_frames(length: int, height: int = 8, width: int = 8) -> np.ndarray:
    """Frames `(L, H, W, 3)` whose pixels are the number of the frame."""
    return np.arange(length, dtype=np.uint8)[:, None, None, None] * np.ones((1, height, width, 3), dtype=np.uint8)


def numbers(clip: dict) -> list[int]:
    """Which of `numbered_frames` a clip has."""
    return clip["frames"][:, 0, 0, 0].tolist()

"""Small annotation files with their frames: two videos of 4 x 6 pixels, of three frames and of one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as rle_codec

CATEGORIES = [{"id": 7, "name": "dog", "supercategory": "animal"}, {"id": 3, "name": "cat"}]


def mask(rows: str) -> np.ndarray:
    """Rows of `.` and `#`, separated by blanks."""
    return np.array([[character == "#" for character in row] for row in rows.split()])


DOG = mask("...... .##... .##... ......")
CAT = mask("....## ....## ...... ......")


def rle(shape: np.ndarray) -> dict[str, Any]:
    encoded = rle_codec.encode(np.asfortranarray(shape, dtype=np.uint8))
    return {"size": list(shape.shape), "counts": encoded["counts"].decode()}


def uncompressed(shape: np.ndarray) -> dict[str, Any]:
    flat = shape.flatten(order="F").astype(int)
    edges = np.flatnonzero(np.diff(flat, prepend=0, append=1 - flat[-1]))
    return {"size": list(shape.shape), "counts": np.diff(edges, prepend=0).tolist()}


def ytvis_content() -> dict[str, Any]:
    """Two videos and three annotations, not in the order of the videos."""
    return {
        "videos": [
            {"id": 10, "height": 4, "width": 6, "length": 3, "file_names": [f"park/0000{t}.png" for t in range(3)]},
            {"id": 20, "height": 4, "width": 6, "length": 1, "file_names": ["home/00000.png"]},
        ],
        "annotations": [
            {"id": 5, "video_id": 20, "category_id": 3, "iscrowd": 0, "segmentations": [rle(CAT)]},
            {"id": 1, "video_id": 10, "category_id": 7, "iscrowd": 0, "segmentations": [rle(DOG), None, rle(DOG)]},
            {"id": 2, "video_id": 10, "category_id": 3, "iscrowd": 1, "segmentations": [None, rle(CAT), None]},
        ],
        "categories": [dict(category) for category in CATEGORIES],
    }


def write_frame(path: Path, height: int = 4, width: int = 6) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), 100, dtype=np.uint8)).save(path)


def write_dataset(
    folder: Path, content: dict[str, Any], frames: str = "JPEGImages", name: str = "annotations.json"
) -> Path:
    """The file, with all the frames that it names in `frames`; returns the file."""
    names = [name for video in content.get("videos") or [] for name in video.get("file_names") or []]
    names += [image["file_name"] for image in content.get("images") or [] if "file_name" in image]
    for frame in names:
        write_frame(folder / frames / frame)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_palette(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values.astype(np.uint8))
    image.putpalette(bytes(range(256)) * 3)
    image.save(path)

"""Clips of annotated videos in the contract of the models: reading, sampling and collating.

Letters: T frames, n instances, H W pixels.
"""

import json
from pathlib import Path

import numpy as np
import torch
from pycocotools import mask as rle_codec
from torch.nn import functional as F
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize


def decode_segmentation(segmentation, height: int, width: int) -> np.ndarray:
    """A YouTube-VIS segmentation (RLE with string or list counts, polygons, or None) as a `(H, W)` bool mask."""
    if not segmentation:
        return np.zeros((height, width), dtype=bool)
    if isinstance(segmentation, list):
        segmentation = rle_codec.merge(rle_codec.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        segmentation = rle_codec.frPyObjects(segmentation, height, width)
    return rle_codec.decode(segmentation).astype(bool)


def masks_to_boxes(masks: torch.Tensor) -> torch.Tensor:
    """Tight boxes cx cy w h in `[0, 1]` of masks `(..., H, W)`: `(..., 4)`, zeros for empty masks."""
    H, W = masks.shape[-2:]

    def extent(hit: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        index = torch.arange(hit.shape[-1])
        first = torch.where(hit, index, hit.shape[-1]).amin(-1)
        return first, torch.where(hit, index + 1, 0).amax(-1)

    x0, x1 = extent(masks.any(-2))
    y0, y1 = extent(masks.any(-1))
    boxes = torch.stack(((x0 + x1) / (2 * W), (y0 + y1) / (2 * H), (x1 - x0) / W, (y1 - y0) / H), dim=-1)
    return boxes * masks.flatten(-2).any(-1)[..., None]


def sample_frames(length: int, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """
    `num_frames` sorted frame indices, drawn from a window of random length and place, so that a model sees near frames
    and far ones. Videos shorter than the clip repeat frames.
    """
    if length < num_frames:
        return np.sort(rng.choice(length, num_frames, replace=True))
    window = rng.integers(num_frames, length + 1)
    start = rng.integers(0, length - window + 1)
    return start + np.sort(rng.choice(window, num_frames, replace=False))


class VideoClips(torch.utils.data.Dataset):
    """
    Random clips of the videos of a YouTube-VIS annotation file.

    An item is `{"frames": (T, 3, H, W) uint8, "labels": {class_labels, boxes, masks, valid}, "video_id"}`; the same
    index gives the same clip in the same epoch. Instances that no frame of the clip shows are left out.

    Args:
        annotations: path of a YouTube-VIS JSON file.
        frames_dir: folder that `file_names` are relative to; `JPEGImages` beside the file by default.
        num_frames: frames T of a clip.
        flip: mirror half of the clips.
        shortest_edge: resize the frames so that their shorter side has this many pixels; as they are by default.
        seed: of the sampling, together with the epoch ([`~VideoClips.set_epoch`]) and the index.

    Raises:
        FileNotFoundError: when the file or the folder is missing.
        ValueError: when the file is not in YouTube-VIS format.
    """

    def __init__(
        self,
        annotations: str | Path,
        frames_dir: str | Path | None = None,
        num_frames: int = 5,
        flip: bool = True,
        shortest_edge: int | None = None,
        seed: int = 0,
    ):
        annotations = Path(annotations)
        if not annotations.is_file():
            raise FileNotFoundError(f"no annotation file at {annotations}")
        self.frames_dir = Path(frames_dir) if frames_dir is not None else annotations.parent / "JPEGImages"
        if not self.frames_dir.is_dir():
            raise FileNotFoundError(f"no frames folder at {self.frames_dir}; pass frames_dir")
        content = json.loads(annotations.read_text())
        missing = [key for key in ("videos", "annotations", "categories") if not content.get(key)]
        if missing:
            raise ValueError(f"{annotations} has no {missing}; expected a YouTube-VIS file with labels")
        categories = sorted(content["categories"], key=lambda category: category["id"])
        self.id2label = {index: category["name"] for index, category in enumerate(categories)}
        self.category_ids = [category["id"] for category in categories]
        position = {category_id: index for index, category_id in enumerate(self.category_ids)}
        self.videos = content["videos"]
        self.tracks: dict[int, list[dict]] = {video["id"]: [] for video in self.videos}
        for track in content["annotations"]:
            if not track.get("iscrowd"):
                track["class_label"] = position[track["category_id"]]
                self.tracks[track["video_id"]].append(track)
        self.num_frames, self.flip, self.shortest_edge, self.seed, self.epoch = (
            num_frames,
            flip,
            shortest_edge,
            seed,
            0,
        )

    def set_epoch(self, epoch: int) -> None:
        """Draw other clips from now on."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> dict:
        video = self.videos[index]
        rng = np.random.default_rng((self.seed, self.epoch, index))
        frames = sample_frames(len(video["file_names"]), self.num_frames, rng)
        pixels = torch.stack([self._read(video["file_names"][frame]) for frame in frames])
        H, W = pixels.shape[-2:]
        tracks = self.tracks[video["id"]]
        masks = np.zeros((len(tracks), len(frames), H, W), dtype=bool)
        for row, track in enumerate(tracks):
            for column, frame in enumerate(frames):
                masks[row, column] = decode_segmentation(track["segmentations"][frame], H, W)
        masks = torch.from_numpy(masks)
        shown = masks.flatten(1).any(1)
        masks = masks[shown]
        if self.shortest_edge is not None:
            pixels = resize(pixels, self.shortest_edge, antialias=True)
            size = pixels.shape[-2:]
            masks = resize(masks.flatten(0, 1), size, InterpolationMode.NEAREST_EXACT).unflatten(0, masks.shape[:2])
        if self.flip and rng.random() < 0.5:
            pixels, masks = pixels.flip(-1), masks.flip(-1)
        classes = torch.tensor([track["class_label"] for track in tracks], dtype=torch.int64)[shown]
        labels = {
            "class_labels": classes,
            "boxes": masks_to_boxes(masks),
            "masks": masks,
            "valid": masks.flatten(2).any(2),
        }
        return {"frames": pixels, "labels": labels, "video_id": video["id"]}

    def _read(self, file_name: str) -> torch.Tensor:
        path = self.frames_dir / file_name
        if not path.is_file():
            raise FileNotFoundError(f"frame {path} is missing")
        return decode_image(str(path), mode=ImageReadMode.RGB)


class ClipCollator:
    """
    Clips to one batch of the models' contract, padded bottom right to common multiples of `size_divisor` and in time.

    Args:
        mean, std: of the pixels in `[0, 1]`, per channel.
        size_divisor: height and width of the batch are multiples of it; 32 as published.
    """

    def __init__(
        self,
        mean: tuple[float, ...] = (0.485, 0.456, 0.406),
        std: tuple[float, ...] = (0.229, 0.224, 0.225),
        size_divisor: int = 32,
    ):
        self.mean, self.std = torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)
        self.size_divisor = size_divisor

    def __call__(self, clips: list[dict]) -> dict:
        shapes = [clip["frames"].shape for clip in clips]
        T = max(shape[0] for shape in shapes)
        H, W = (-(-max(shape[axis] for shape in shapes) // self.size_divisor) * self.size_divisor for axis in (2, 3))
        pixels = torch.zeros(len(clips), T, 3, H, W)
        pixel_mask = torch.zeros(len(clips), T, H, W, dtype=torch.int64)
        labels = []
        for row, clip in enumerate(clips):
            t, _, h, w = clip["frames"].shape
            pixels[row, :t, :, :h, :w] = (clip["frames"].float() / 255 - self.mean) / self.std
            pixel_mask[row, :t, :h, :w] = 1
            target = clip["labels"]
            labels.append(
                {
                    "class_labels": target["class_labels"],
                    "boxes": F.pad(target["boxes"], (0, 0, 0, T - t)),
                    "masks": F.pad(target["masks"], (0, W - w, 0, H - h, 0, T - t)),
                    "valid": F.pad(target["valid"], (0, T - t)),
                }
            )
        return {"pixel_values_videos": pixels, "pixel_mask": pixel_mask, "labels": labels}

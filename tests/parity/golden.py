"""Reading of the golden cases: outputs of the original code for weights and inputs that are generated, not stored."""

import importlib.util
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden"


def _recipe():
    spec = importlib.util.spec_from_file_location("golden_recipe", GOLDEN / "recipe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


recipe = _recipe()


def load(case: str) -> tuple[dict, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Description, expected arrays and published state dict of a case such as `"seqformer/inference_r50"`."""
    description, arrays = recipe.load_case(GOLDEN / f"{case}.json")
    return description, arrays, recipe.checkpoint(description, arrays)


def clip(description: dict) -> torch.Tensor:
    """The input of an inference case: `(1, T, 3, H, W)`."""
    entry = description["inputs"]["pixel_values"]
    return torch.from_numpy(recipe.inputs(entry["recipe_name"], entry["shape"]))[None]


def training_batch(description: dict, arrays: dict) -> dict:
    """The padded batch and the labels of a loss case, in the models' contract."""
    videos = []
    for entry in description["inputs"].values():
        stacked = torch.from_numpy(recipe.inputs(entry["recipe_name"], entry["shape"]))
        videos.append(stacked.unflatten(0, (-1, 3)))
    T = videos[0].shape[0]
    H, W = (-(-max(video.shape[axis] for video in videos) // 32) * 32 for axis in (2, 3))
    pixels, mask = torch.zeros(len(videos), T, 3, H, W), torch.zeros(len(videos), T, H, W, dtype=torch.int64)
    labels = []
    for row, video in enumerate(videos):
        h, w = video.shape[2:]
        pixels[row, :, :, :h, :w], mask[row, :, :h, :w] = video, 1
        shape = tuple(arrays[f"target{row}_masks_shape"])
        bits = np.unpackbits(arrays[f"target{row}_masks_packed"])[: np.prod(shape)].reshape(shape)
        masks = torch.zeros(*shape[:2], H, W, dtype=torch.bool)
        masks[..., :h, :w] = torch.from_numpy(bits).bool()
        labels.append(
            {
                "class_labels": torch.from_numpy(arrays[f"target{row}_class_labels"]),
                "boxes": torch.from_numpy(arrays[f"target{row}_boxes"]).view(shape[0], T, 4),
                "masks": masks,
                "valid": masks.flatten(2).any(2),
            }
        )
    return {"pixel_values_videos": pixels, "pixel_mask": mask, "labels": labels}


def clip_and_mask(description: dict) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Pixels `(1, T, 3, H, W)`, and the mask of those that are padded."""
    entry = description["inputs"]["pixel_values"]
    pixels = torch.from_numpy(recipe.inputs("pixel_values", entry["shape"]))[None]
    if not entry["padded"]:
        return pixels, None
    mask = torch.zeros(pixels.shape[:2] + pixels.shape[3:], dtype=torch.int64)
    for frame, (height, width) in enumerate(entry["valid_hw"]):
        mask[0, frame, :height, :width] = 1
    return pixels * mask[:, :, None], mask


def kept(module: torch.nn.Module) -> list[torch.Tensor]:
    """The outputs of a module from now on."""
    results = []
    module.register_forward_hook(lambda _, __, output: results.append(output))
    return results


def frame_labels(arrays: dict, instances: int, T: int) -> list[dict]:
    """Labels of the only video, in the contract; what stands where an instance is absent must not matter."""
    valid = torch.from_numpy(arrays["target.valid"]).view(instances, T).bool()
    classes = torch.from_numpy(arrays["target.labels"]).view(instances, T)
    boxes = torch.from_numpy(arrays["target.boxes"]).view(instances, T, 4).clone()
    masks = torch.from_numpy(arrays["target.masks"])
    masks = masks.view(instances, T, *masks.shape[1:]).clone()
    boxes[~valid], masks[~valid] = 0.5, True
    return [{"class_labels": classes.amax(1), "boxes": boxes, "masks": masks, "valid": valid}]

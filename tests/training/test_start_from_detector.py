"""Thirty labelled videos and a detector that knows still images: more than the same steps from scratch."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection

from transformers_msstsvis import evaluate_model, make_synthetic
from transformers_msstsvis.commands import train as script

BACKBONE = {
    "model_type": "resnet",
    "embedding_size": 16,
    "hidden_sizes": [16, 32, 64, 96],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage2", "stage3", "stage4"],
}
SIZES = {
    "backbone_config": BACKBONE,
    "d_model": 64,
    "num_queries": 20,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "dropout": 0.0,
}


def stills(annotations: Path) -> tuple[dict[int, str], list[tuple[torch.Tensor, dict[str, torch.Tensor]]]]:
    """The frames of a data set as images with boxes, as a detector wants them."""
    content = json.loads(annotations.read_text())
    label_of = {category["id"]: label for label, category in enumerate(content["categories"])}
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    found = []
    for video in content["videos"]:
        of_video = [entry for entry in content["annotations"] if entry["video_id"] == video["id"]]
        for frame, name in enumerate(video["file_names"]):
            picture = np.asarray(Image.open(next(annotations.parent.rglob(name))).convert("RGB")) / 255
            seen = [entry for entry in of_video if entry["segmentations"][frame]]
            if not seen:
                continue
            masks = [entry["segmentations"][frame] for entry in seen]
            boxes = np.array([coco_mask.toBbox(mask) for mask in masks])
            boxes[:, :2] += boxes[:, 2:] / 2
            boxes /= np.array([video["width"], video["height"]] * 2)
            labels = torch.tensor([label_of[entry["category_id"]] for entry in seen])
            pixels = torch.from_numpy((picture - mean) / std).permute(2, 0, 1).float()
            found.append((pixels, {"class_labels": labels, "boxes": torch.from_numpy(boxes).float()}))
    return {label: category["name"] for label, category in enumerate(content["categories"])}, found


def train_detector(annotations: Path, folder: Path, steps: int, batch: int = 8) -> None:
    torch.manual_seed(0)
    names, images = stills(annotations)
    names = {**{label: f"other {label}" for label in range(3)}, **{label + 3: name for label, name in names.items()}}
    config = DeformableDetrConfig(**SIZES, with_box_refine=True, id2label=names)
    detector = DeformableDetrForObjectDetection(config).train()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=5e-4, weight_decay=1e-4)
    draw = np.random.default_rng(0)
    for _ in range(steps):
        chosen = [images[index] for index in draw.integers(0, len(images), batch)]
        labels = [{**labels, "class_labels": labels["class_labels"] + 3} for _, labels in chosen]
        loss = detector(torch.stack([pixels for pixels, _ in chosen]), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 1.0)
        optimizer.step()
    detector.save_pretrained(folder)


@pytest.mark.slow
def test_a_detector_is_a_better_start_than_nothing(tmp_path):
    sizes = {"height": 96, "width": 96, "min_frames": 8, "max_frames": 8, "max_objects": 2}
    coco = make_synthetic(tmp_path / "stills", 0, 400, **sizes)
    mine = make_synthetic(tmp_path / "mine", 1, 30, **sizes)
    unseen = make_synthetic(tmp_path / "unseen", 2, 20, **sizes)
    train_detector(Path(coco), tmp_path / "detector", steps=3000)
    ap = {}
    for start in ("detector", "scratch"):
        output = tmp_path / start
        arguments = ["--config", "own-data-small", "--dataset", str(mine), "--output_dir", f"{output}-run"]
        arguments += ["--model_config", json.dumps(SIZES), "--augmentation", '{"scale": 0.25}', "--use_cpu"]
        arguments += ["--max_steps", "800", "--warmup_steps", "20", "--learning_rate", "5e-4", "--bf16", "no"]
        arguments += ["--backbone_lr_scale", "1", "--sampling_lr_scale", "1", "--max_grad_norm", "1"]
        arguments += ["--activation_checkpointing", "no", "--gradient_accumulation_steps", "2"]
        arguments += ["--init_from", str(output) if start == "detector" else "", "--dataloader_num_workers", "0"]
        assert script.main(arguments) == 0
        ap[start] = 100 * evaluate_model(str(unseen), f"{output}-run")["AP"]
    print(ap)
    assert ap["detector"] > ap["scratch"] + 1

"""A checkpoint that brings its code, in an interpreter that does not know this package."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import pipeline

from tests.models.testers import model_of, video
from transformers_msstsvis import VideoInstanceSegmentationPipeline
from transformers_msstsvis.hub import export_remote_code, flattened
from transformers_msstsvis.models.auto import MODELS

WITHOUT_THE_PACKAGE = """
import sys


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"transformers_msstsvis", "av", "timm", "supervision"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Refuse())
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoVideoProcessor, pipeline

folder = sys.argv[1]
trusted = {"trust_remote_code": True}
model = AutoModel.from_pretrained(folder, **trusted).eval()
assert type(AutoConfig.from_pretrained(folder, **trusted)).__name__ == type(model.config).__name__
with torch.no_grad():
    outputs = model(load_file(folder + "/video.safetensors")["video"])
given = {name: outputs[name].contiguous() for name in ("logits", "pred_boxes", "pred_masks")}
save_file(given, folder + "/out.safetensors")

processor = AutoVideoProcessor.from_pretrained(folder, **trusted)
inputs = processor(np.zeros((2, 48, 64, 3), dtype=np.uint8), return_tensors="pt")
assert inputs["pixel_mask"].flatten(2).any(2).all()
[instances] = processor.post_process_video_instance_segmentation(outputs, [(48, 64)], top_k=3)
assert len(instances.to_list()) == len(instances) <= 3
segmenter = pipeline("video-instance-segmentation", model=folder, **trusted)
found = segmenter(np.zeros((3, 48, 64, 3), dtype=np.uint8), threshold=0.0, return_instances=True)
assert (found.num_frames, found.size) == (3, (48, 64))
assert len(list(segmenter(np.zeros((3, 48, 64, 3), dtype=np.uint8), stream=True))) == 1
for backend in ("torchvision", "pil"):
    processor = AutoImageProcessor.from_pretrained(folder, backend=backend, **trusted)
    inputs = processor(np.zeros((48, 64, 3), dtype=np.uint8), return_tensors="pt")
    assert inputs["pixel_values_videos"].shape[:3] == (1, 1, 3)
"""


@pytest.mark.parametrize("name", sorted(MODELS))
def test_it_gives_the_same_without_the_package(name, tmp_path, monkeypatch):
    model = model_of(name)
    frames = video(1, 2)
    with torch.no_grad():
        expected = model(frames)
    modules = export_remote_code(model, tmp_path / "model")
    assert {f"modeling_{name}", f"configuration_{name}", "modeling_vis", "rle"} <= set(modules)
    assert not {"drawing", "loading", "predict"} & set(modules)
    save_file({"video": frames}, tmp_path / "model" / "video.safetensors")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))  # where transformers copies the code to
    command = [sys.executable, "-c", WITHOUT_THE_PACKAGE, str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    given = load_file(tmp_path / "model" / "out.safetensors")
    for key, values in given.items():
        torch.testing.assert_close(values, expected[key], rtol=1e-4, atol=1e-4)


def test_where_the_package_is_its_own_code_runs(tmp_path):
    """Nobody is asked to trust the code in the folder."""
    export_remote_code(model_of("seqformer"), tmp_path)
    assert "custom_pipelines" in json.loads((tmp_path / "config.json").read_text())
    segmenter = pipeline("video-instance-segmentation", model=str(tmp_path))
    assert type(segmenter) is VideoInstanceSegmentationPipeline
    assert type(segmenter.model).__module__.startswith("transformers_msstsvis.")


def test_a_model_of_another_package_is_refused(tmp_path):
    from transformers import ResNetConfig, ResNetModel

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])
    with pytest.raises(ValueError, match="the model is a ResNetModel, not one of this package"):
        export_remote_code(ResNetModel(config), tmp_path)


def test_imports_find_their_modules_beside_them():
    source = "from ...layers.attention import VisAttention\nfrom .rle import RLE\nfrom torch import nn\n"
    assert flattened(source) == "from .attention import VisAttention\nfrom .rle import RLE\nfrom torch import nn\n"

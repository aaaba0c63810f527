"""Training over processes, by the launch commands of scripts/configs/accelerate."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from transformers_msstsvis import AutoModelForVideoInstanceSegmentation
from transformers_msstsvis.data.synthetic import make_synthetic

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
RECIPE = """
model_config:
  backbone_config:
    model_type: resnet
    embedding_size: 8
    hidden_sizes: [8, 16, 24, 32]
    depths: [1, 1, 1, 1]
    layer_type: basic
    out_features: [stage2, stage3, stage4]
  d_model: 64
  encoder_layers: 1
  decoder_layers: 2
  encoder_attention_heads: 4
  decoder_attention_heads: 4
  encoder_ffn_dim: 64
  decoder_ffn_dim: 64
  num_queries: 12
  temporal_hidden_size: 16
num_frames: 2
per_device_train_batch_size: 1
max_steps: 2
learning_rate: 1e-3
logging_steps: 1
save_strategy: "no"
use_cpu: true
report_to: none
"""


@pytest.fixture
def arguments(tmp_path):
    """Of scripts/train.py; the output folder is `out`."""
    sizes = {"height": 64, "width": 64, "min_frames": 4, "max_frames": 6, "min_objects": 1, "max_objects": 2}
    annotations = make_synthetic(tmp_path / "videos", seed=3, num_videos=4, **sizes)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "out").mkdir()
    command = f"--config {tmp_path}/recipe.yaml --dataset {annotations} --output_dir {tmp_path}/out"
    return command.split()


def losses(folder: Path) -> list[float]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_two_nodes_meet(arguments, tmp_path):
    endpoint = f"127.0.0.1:{free_port()}"
    nodes = []
    for rank in range(2):
        command = [str(BIN / "torchrun"), "--nnodes", "2", "--node_rank", str(rank), "--nproc_per_node", "1"]
        command += ["--rdzv_backend", "c10d", "--rdzv_endpoint", endpoint, "--rdzv_id", "test"]
        command += [str(ROOT / "scripts/train.py"), *arguments, "--ddp_backend", "gloo"]
        with open(tmp_path / f"node-{rank}.txt", "w") as log:
            nodes.append(subprocess.Popen(command, stdout=log, stderr=log))
    codes = [node.wait(300) for node in nodes]
    assert codes == [0, 0], [(tmp_path / f"node-{rank}.txt").read_text()[-2000:] for rank in range(2)]
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    assert (state["global_step"], state["epoch"]) == (2, 1.0)  # all four videos in two steps of one each


def test_shards_train_as_whole_models_do(arguments, tmp_path):
    def launch(config: Path, script: str) -> list[float]:
        command = [str(BIN / "accelerate"), "launch", "--config_file", str(config), str(ROOT / script), *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-4000:]
        return losses(tmp_path / "out")

    sharded = launch(ROOT / "scripts/configs/accelerate/fsdp-cpu.yaml", "tests/fsdp_on_cpu.py")
    for rank in range(2):
        shards = json.loads((tmp_path / "out" / f"shards-{rank}.json").read_text())
        assert 0.4 < shards["held"] / shards["all"] < 0.6
    model = AutoModelForVideoInstanceSegmentation.from_pretrained(tmp_path / "out")
    assert all(torch.isfinite(weight).all() for weight in model.parameters())

    config = yaml.safe_load((ROOT / "scripts/configs/accelerate/multi-gpu.yaml").read_text())
    whole = tmp_path / "whole.yaml"
    whole.write_text(yaml.safe_dump(config | {"num_processes": 2, "use_cpu": True}))
    assert launch(whole, "scripts/train.py") == pytest.approx(sharded, rel=1e-3)

"""What is no checkpoint, not the model's, or out of range is told in one line, wherever checkpoints are read."""

import json
import os
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, ResNetBackbone, pipeline

from tests.test_pipelines import small_processor
from tests.tiny import tiny_config, tiny_model
from transformers_msstsvis import (
    AutoModelForVideoInstanceSegmentation,
    MsstsVisConfig,
    MsstsVisForVideoInstanceSegmentation,
    MsstsVisModel,
    load_for_training,
)
from transformers_msstsvis.commands.command_line import reason
from transformers_msstsvis.conversion import read_checkpoint

PAGE = b"<!DOCTYPE html><html><title>Virus scan warning</title></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123\n"
KINDS = {
    "page": (PAGE, "is a web page, no checkpoint: fetch it again"),
    "page after a line": (b"\xef\xbb\xbf\r\n <HTML lang=en>", "is a web page"),
    "answer in XML": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is a web page"),
    "pointer": (
        POINTER,
        "is the pointer of a file in Git LFS, no checkpoint: fetch the file itself",
    ),
    "empty": (b"", "is empty, no checkpoint: fetch it again"),
    "text": (b"Too many requests, come back later.", "no checkpoint.*fetch it again"),
    "lying header": (b"\xff" * 8 + b"{}", "no checkpoint.*fetch it again"),
}


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    tiny_model().save_pretrained(folder)
    small_processor().save_pretrained(folder)
    return folder


@pytest.fixture
def checkpoint(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoint")


def assert_refused(checkpoint, message, capfd=None):
    with pytest.raises(ValueError, match=message) as raised:
        AutoModelForVideoInstanceSegmentation.from_pretrained(checkpoint)
    assert "\n" not in str(raised.value)
    assert "weights_only" not in str(raised.value)


# ----------------------------------------------------------------------------------------------------- published files


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_published_file_that_is_no_checkpoint(tmp_path, kind, suffix):
    content, message = KINDS[kind]
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"file{suffix} .*{message}") as raised:
        read_checkpoint(path)
    assert "\n" not in str(raised.value)
    assert "weights_only" not in str(raised.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.999])
def test_a_published_file_that_is_cut(tmp_path, suffix, share):
    path = tmp_path / f"file{suffix}"
    weights = {"a": torch.zeros(1000)}
    save_file(weights, path) if suffix == ".safetensors" else torch.save({"model": weights}, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ValueError, match=r"incomplete|no checkpoint: fetch it again"):
        read_checkpoint(path)


# ------------------------------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_a_folder_that_are_none(checkpoint, kind):
    content, message = KINDS[kind]
    (checkpoint / "model.safetensors").write_bytes(content)
    assert_refused(checkpoint, f"model.safetensors .*{message}")


def test_weights_that_are_cut(checkpoint):
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert_refused(checkpoint, "incomplete.*fetch it again")
    for load in (MsstsVisModel.from_pretrained, AutoModel.from_pretrained, load_for_training):
        with pytest.raises(ValueError, match="fetch it again"):
            load(checkpoint)


def test_a_pickle_with_code_in_a_folder(checkpoint, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (checkpoint / "model.safetensors").unlink()
    torch.save({"a": Bomb()}, checkpoint / "pytorch_model.bin")
    assert_refused(checkpoint, "could run code")
    (checkpoint / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(), protocol=2))
    assert_refused(checkpoint, "could run code")
    assert not (tmp_path / "exploded").exists()


def test_plain_weights_in_a_pickle_are_read(checkpoint):
    weights = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    path = checkpoint / "pytorch_model.bin"
    torch.save(weights, path)
    model = AutoModelForVideoInstanceSegmentation.from_pretrained(checkpoint)
    assert all(torch.equal(weights[name], weight) for name, weight in model.state_dict().items() if name in weights)
    path.write_bytes(path.read_bytes()[:-100])
    assert_refused(checkpoint, "pytorch_model.bin ends too early .* incomplete checkpoint: fetch it again")


def test_weights_in_parts(checkpoint):
    model = AutoModelForVideoInstanceSegmentation.from_pretrained(checkpoint)
    (checkpoint / "model.safetensors").unlink()
    model.save_pretrained(checkpoint, max_shard_size="200KB")
    parts = sorted(checkpoint.glob("model-*.safetensors"))
    assert len(parts) > 1
    AutoModelForVideoInstanceSegmentation.from_pretrained(checkpoint)
    content = parts[-1].read_bytes()
    parts[-1].write_bytes(POINTER)
    assert_refused(checkpoint, "Git LFS")
    parts[-1].unlink()
    assert_refused(checkpoint, f"lacks {parts[-1].name}, .* incomplete checkpoint: fetch it again")
    parts[-1].write_bytes(content)
    (checkpoint / "model.safetensors.index.json").write_bytes(PAGE)
    assert_refused(checkpoint, "is no index of weights, an incomplete checkpoint")


@pytest.mark.parametrize("weights", [{}, {"bert.encoder.weight": torch.zeros(3)}])
def test_weights_of_another_model(checkpoint, weights, caplog):
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    assert_refused(checkpoint, "holds no weight of MsstsVisForVideoInstanceSegmentation; expected a checkpoint of it")
    assert not caplog.records  # the list of every weight


def test_weights_of_other_shapes(checkpoint, caplog):
    settings = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(settings | {"num_queries": 5}))
    message = r"the shapes of 1 of its weights differ, e.g. model.query_embed.weight is \(12, .* should be \(5, "
    assert_refused(checkpoint, message)
    assert not caplog.records
    model, info = MsstsVisForVideoInstanceSegmentation.from_pretrained(
        checkpoint, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert model.config.num_queries == 5
    assert len(info["mismatched_keys"]) == 1


def test_the_pipeline_gives_the_reason(checkpoint):
    (checkpoint / "model.safetensors").write_bytes(POINTER)
    with pytest.raises(ValueError, match="Could not load model") as raised:
        pipeline("video-instance-segmentation", model=str(checkpoint))
    assert reason(raised.value).startswith(f"{checkpoint / 'model.safetensors'} is the pointer of a file in Git LFS")


def test_pretrained_weights_of_a_backbone(tmp_path):
    model = MsstsVisForVideoInstanceSegmentation(tiny_config())
    ResNetBackbone(model.config.backbone_config).save_pretrained(tmp_path)
    model.model.backbone.load_pretrained(str(tmp_path))
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"incomplete.*fetch it again"):
        model.model.backbone.load_pretrained(str(tmp_path))


# ------------------------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("d_model", value) for value in (10**6, 0, -1)],
        *[("encoder_layers", value) for value in (10**6, -1)],
        *[("decoder_layers", value) for value in (10**6, 0)],
        *[("num_queries", value) for value in (10**9, 0)],
        *[("dropout", value) for value in (5, -0.1, float("nan"))],
        ("attention_dropout", 2.0),
        ("num_feature_levels", 40),
        ("encoder_ffn_dim", 0),
        ("mask_layers", 10**6),
        ("class_cost", -1.0),
        ("dice_loss_coefficient", float("nan")),
        ("focal_alpha", 1.5),
    ],
)
def test_values_out_of_range(name, value):
    with pytest.raises(Exception, match=f"{name} is {value}; expected at least .* at most ") as raised:
        MsstsVisConfig(**{name: value})
    assert reason(raised.value).startswith(f"{name} is {value}; expected ")


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ({"model_type": "resnet", "depths": [10**9, 1, 1, 1]}, "depths of the backbone is"),
        ({"model_type": "resnet", "embedding_size": 10**7}, "embedding_size of the backbone is 10000000; expected"),
        ({"model_type": "swin", "embed_dim": 10**7}, "embed_dim of the backbone is"),
    ],
)
def test_a_backbone_out_of_range(backbone, message):
    with pytest.raises(Exception, match=message):
        MsstsVisConfig(backbone_config=backbone)


def test_a_value_of_another_type():
    with pytest.raises(Exception, match="d_model") as raised:
        MsstsVisConfig(d_model="big")
    assert reason(raised.value) == "TypeError: Field 'd_model' expected int, got str (value: 'big')"

"""Converting published checkpoints: nothing is lost silently, nothing unsafe is read."""

import os
import pickle
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.parity.golden import GOLDEN, load, recipe
from transformers_msstsvis import AutoModelForVideoInstanceSegmentation
from transformers_msstsvis.conversion import convert_state_dict, read_checkpoint

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_checkpoint.py"


@pytest.fixture(scope="module")
def published():
    _, _, checkpoint = load("seqformer/loss_r50")
    return {name: torch.from_numpy(value) for name, value in checkpoint.items()}


def shrink(manifest: str) -> dict:
    """Published names and shapes of `manifest` as tensors without memory."""
    import json

    shapes = json.loads((GOLDEN / manifest).read_text())
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("system", "manifest", "layers"),
    [
        ("msstsvis", "msstsvis/manifest_resnet50_enc3_dec3.json", 3),
        ("msstsvis", "msstsvis/manifest_resnet50_enc6_dec6.json", 6),
        ("seqformer", "seqformer/manifest_resnet50_enc6_dec6.json", 6),
        ("msstsvis", "msstsvis/manifest_swin_l_p4w12_enc6_dec6.json", 6),
    ],
)
def test_architecture_is_read_from_the_checkpoint(system, manifest, layers):
    with torch.device("meta"):
        model = convert_state_dict(system, shrink(manifest))
    assert model.config.model_type == system
    assert (model.config.encoder_layers, model.config.decoder_layers) == (layers, layers)
    assert model.config.num_labels == 42
    assert all("layernorm" in name for name in model.conversion_report.missing)  # Swin's last norm, which is unused


def test_report_says_what_was_dropped_and_why():
    with torch.device("meta"):
        report = convert_state_dict("msstsvis", shrink("msstsvis/manifest_resnet50_enc3_dec3.json")).conversion_report
    assert "creates this attention and never calls it" in str(report)
    assert sum("temp_attn_box" in key for key in report.dropped) == 3 * 3
    assert report.missing == []


def resnext_manifest(name: str) -> dict:
    """A ResNeXt-101 has ResNet-101's names; grouped second convolutions and wider ones differ."""
    import timm

    shapes = {name: tuple(p.shape) for name, p in shrink("seqformer/manifest_resnet50_enc3_dec3.json").items()}
    shapes = {name: shape for name, shape in shapes.items() if "backbone" not in name}
    body = timm.create_model(name, features_only=True, out_indices=[2, 3, 4])
    for name, value in body.state_dict().items():
        if "num_batches_tracked" not in name:
            shapes[f"detr.backbone.0.body.{name}"] = tuple(value.shape)
    return shapes


def test_resnext():
    shapes = resnext_manifest("resnext101_64x4d")
    checkpoint = {name: torch.from_numpy(recipe.tensor(name, shape)) for name, shape in shapes.items()}
    model = convert_state_dict("seqformer", checkpoint)
    assert model.config.backbone_config.backbone == "resnext101_64x4d"
    assert model.conversion_report.missing == []
    body = dict(model.model.backbone.named_buffers()) | dict(model.model.backbone.named_parameters())
    key = "layer3.22.conv2.weight"
    assert torch.equal(body[f"model._backbone.{key}"], checkpoint[f"detr.backbone.0.body.{key}"])
    with torch.no_grad():
        assert torch.isfinite(model(torch.zeros(1, 1, 3, 64, 64)).logits).all()


@pytest.mark.parametrize("name", ["resnext101_64x4d", "resnext101_32x8d"])
def test_kind_of_resnext_is_read_from_the_checkpoint(name):
    with torch.device("meta"):
        checkpoint = {key: torch.empty(shape) for key, shape in resnext_manifest(name).items()}
        model = convert_state_dict("msstsvis", checkpoint)
    assert model.config.backbone_config.backbone == name
    assert model.conversion_report.missing == []


def test_unknown_resnext():
    with torch.device("meta"):
        checkpoint = {key: torch.empty(shape) for key, shape in resnext_manifest("resnext101_32x4d").items()}
        with pytest.raises(ValueError, match="32 groups of 4 channels; expected depths"):
            convert_state_dict("msstsvis", checkpoint)


def test_without_box_refinement_it_is_another_model(published):
    shared = {key: value for key, value in published.items() if ".decoder.bbox_embed." not in key}
    with pytest.raises(ValueError, match=r"lacks \['detr.transformer.decoder.bbox_embed"):
        convert_state_dict("seqformer", shared)


def test_names_of_classes_and_wrapped_state_dicts(published):
    names = {index: f"class {index}" for index in range(42)}
    wrapped = {"model": {f"module.{key}": value for key, value in published.items()}}
    model = convert_state_dict("seqformer", wrapped, id2label=names)
    assert model.config.id2label == names
    assert model.config.label2id["class 7"] == 7


def test_unknown_system(published):
    with pytest.raises(ValueError, match="unknown system 'maskformer'; expected one of"):
        convert_state_dict("maskformer", published)


def test_state_dict_of_another_system(published):
    with pytest.raises(ValueError, match="the checkpoint lacks"):
        convert_state_dict("seqformer", {"vistr.bbox_embed.weight": torch.zeros(2)})
    with pytest.raises(ValueError, match="the checkpoint is empty"):
        convert_state_dict("seqformer", {})
    with pytest.raises(ValueError, match="more than named tensors"):
        convert_state_dict("seqformer", {"epoch": "twelve"})


def test_an_unknown_key_is_an_error(published):
    with pytest.raises(ValueError, match=r"1 keys .* unknown to 'seqformer', e.g. \['detr.mystery.weight'\]"):
        convert_state_dict("seqformer", {**published, "detr.mystery.weight": torch.zeros(1)})


def test_temporal_attention_weights_are_unknown_to_seqformer():
    with torch.device("meta"), pytest.raises(ValueError, match="temp_attn_box"):
        convert_state_dict("seqformer", shrink("msstsvis/manifest_resnet50_enc3_dec3.json"))


def test_arguments_saved_by_the_published_training_script_are_read(tmp_path):
    arguments = Namespace(lr=2e-4, lr_drop=[4, 10], backbone="resnet50")
    torch.save({"model": {"weight": torch.ones(2)}, "epoch": 11, "args": arguments}, tmp_path / "checkpoint.pth")
    content = read_checkpoint(tmp_path / "checkpoint.pth")
    assert torch.equal(content["model"]["weight"], torch.ones(2))
    assert content["args"] == arguments


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def test_a_pickle_with_code_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open("bomb.pth", "wb") as file:
        pickle.dump({"model": Bomb()}, file)
    torch.save({"model": Bomb()}, "bomb_zip.pth")
    torch.save({"model": {}, "args": Namespace(lr=Bomb())}, "bomb_args.pth")
    for name in ("bomb.pth", "bomb_zip.pth", "bomb_args.pth"):
        with pytest.raises(ValueError, match="could run code"):
            read_checkpoint(name)
    assert not (tmp_path / "exploded").exists()


def test_damaged_and_missing_files(tmp_path):
    for name, content in (("broken.pth", b"not a checkpoint"), ("e.pth", b"e"), ("broken.safetensors", b"neither")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="can't be read as plain weights"):
            read_checkpoint(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        read_checkpoint(tmp_path / "nothing.pth")


def test_script_writes_a_folder_that_loads(tmp_path, published):
    save_file({k: v.clone() for k, v in published.items()}, tmp_path / "r50.safetensors")
    arguments = ["--system", "seqformer", "--checkpoint", tmp_path / "r50.safetensors", "--output", tmp_path / "out"]
    run = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "493 keys used, 24 dropped, 0 missing" in run.stdout
    model = AutoModelForVideoInstanceSegmentation.from_pretrained(tmp_path / "out")
    assert torch.equal(model.class_embed[0].weight, published["detr.class_embed.0.weight"])

    run = subprocess.run(
        [sys.executable, SCRIPT, *arguments[:3], tmp_path / "none.pth", *arguments[4:]], capture_output=True, text=True
    )
    assert run.returncode == 1
    assert run.stderr.startswith("error: no checkpoint at")


def test_a_checkpoint_that_lacks_weights_is_refused(published):
    part = {name: value for name, value in published.items() if "decoder.layers.1.linear2" not in name}
    with pytest.raises(ValueError, match=r"lacks 4 weights of the model, e.g. \['model.decoder.layers.1.box_feed"):
        convert_state_dict("seqformer", part)


def test_temporal_attentions_may_be_added_to_a_release(published):
    plain = convert_state_dict("msstsvis", published).eval()
    video = torch.zeros(1, 2, 3, 64, 64)
    model = convert_state_dict("msstsvis", published, encoder_temporal_attention=True, decoder_temporal_attention=True)
    assert any("temporal_attn" in name for name in model.conversion_report.missing)
    with torch.no_grad():
        assert torch.equal(model(video).logits, plain(video).logits)  # they start as the identity

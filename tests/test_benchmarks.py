"""The benchmarks compare equal things: both sides give the same result."""

import argparse
import contextlib
import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.models.testers import model_of
from transformers_msstsvis import SeqFormerConfig, SeqFormerForVideoInstanceSegmentation
from transformers_msstsvis.benchmarks import (
    arithmetic,
    masks,
    models,
    precision,
    published,
    published_devis,
    published_tevit,
    published_vistr,
    train,
    video,
)
from transformers_msstsvis.layers.linear import Linear
from transformers_msstsvis.losses.common import check_labels

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = SeqFormerConfig(encoder_layers=1, decoder_layers=2, num_queries=7, dropout=0.0, attention_dropout=0.0)
    model = SeqFormerForVideoInstanceSegmentation(config)
    for name, parameter in model.named_parameters():
        if "sampling_offsets" in name:  # off the pixel centres, where the gradient of a place is not defined
            torch.nn.init.uniform_(parameter, -0.4, 0.4)
    return model


def test_published_inference_is_ours(model):
    model.eval()
    clip = torch.randn(1, 3, 3, 64, 96)
    expected = published.infer(model, clip)
    with torch.no_grad():
        given = model(clip)
    for name, value in expected.items():
        torch.testing.assert_close(given[name], value, rtol=1e-4, atol=1e-4 * float(value.abs().max()))


@pytest.mark.parametrize(("name", "module"), [("vistr", published_vistr), ("devis", published_devis)])
def test_published_inference_of_clips_is_ours(name, module):
    model, clip = model_of(name, num_frames=3), torch.randn(1, 3, 3, 64, 96)
    expected = module.infer(model, clip)
    with torch.no_grad():
        given = model(clip)
    for name, value in expected.items():
        torch.testing.assert_close(given[name], value, rtol=1e-4, atol=1e-4 * float(value.abs().max()))


def test_published_inference_of_tevit_is_ours():
    model, clip = model_of("tevit"), torch.randn(1, 3, 3, 64, 96)
    published_tevit.settle(model)
    expected = published_tevit.infer(model, clip)
    with torch.no_grad():
        given = model(clip)
    for name, value in expected.items():
        torch.testing.assert_close(given[name], value, rtol=1e-4, atol=1e-4 * float(value.abs().max()))


def test_a_model_against_its_published_code(monkeypatch):
    monkeypatch.setitem(models.MODELS, "tiny", lambda: model_of("vistr", num_frames=2))
    monkeypatch.setitem(models.PUBLISHED, "vistr", (published_vistr.infer, "tiny", (2, 64, 64)))
    # A new process would not know the small model.
    monkeypatch.setattr(models, "peak_in_new_process", lambda function, *given: function(*given))
    content = models.run(argparse.Namespace(published="vistr", repeats=1, threads=None))
    assert content["clip"] == [1, 2, 3, 64, 64]
    assert set(content["peak_bytes"]) == {"published", "ours"}
    assert content["ratio"]["ours"]["median"] > 0
    assert all(error < 1e-4 for error in content["relative_error"].values())


def test_published_training_step_is_ours(model):
    model = copy.deepcopy(model).double().train()  # in float32, ReLUs near zero differ with the number of threads
    clip = torch.randn(1, 2, 3, 64, 96, dtype=torch.float64)
    labels = [train.make_labels(argparse.Namespace(instances=2, frames=2, height=64, width=96))]
    gradients = []
    for block in (False, True):
        model.zero_grad()
        if block:
            with published.published(model):
                model(clip, labels=labels).loss.backward()
        else:
            model(clip, labels=labels).loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert gradients[0].norm() > 0
    assert (gradients[0] - gradients[1]).norm() < 1e-6 * gradients[0].norm()


def test_the_model_is_itself_again_after_the_block(model):
    model.eval()
    clip = torch.randn(1, 2, 3, 64, 64)
    with torch.no_grad():
        before = model(clip).pred_masks
        published.infer(model, clip)
        assert torch.equal(model(clip).pred_masks, before)


def test_command_line(tmp_path):
    report, plot = tmp_path / "report.json", tmp_path / "plot.png"
    command = [
        sys.executable,
        SCRIPTS / "benchmark.py",
        "masks",
        "--instances",
        "2",
        "--frames",
        "2",
        "--repeats",
        "1",
    ]
    subprocess.run([*command, "--json", report, "--plot", plot], check=True, capture_output=True)
    content = json.loads(report.read_text())
    assert content["equal_to_the_byte"] == content["masks"] == 4
    assert content["ratio"]["ours"]["median"] > 0
    assert plot.stat().st_size > 1000


def test_a_training_step_is_split_into_its_parts():
    sizes = {"frames": 1, "height": 64, "width": 64, "layers": 1, "instances": 1, "threads": None}
    content = train.run(argparse.Namespace(repeats=1, no_bfloat16=True, compiled=False, **sizes))
    for side in ("published", "ours"):
        parts = content["parts_cpu_s"][side]
        assert set(parts) == {*train.FORWARD_PARTS, "rest of the forward pass", "backward", "clipping and update"}
        assert min(parts.values()) > 0
        assert sum(parts.values()) == pytest.approx(content[side]["cpu_s"]["max"], rel=0.1)
    least = content["least"]["ours"]
    assert set(least["parts_cpu_s"]) == set(content["parts_cpu_s"]["ours"])
    assert sum(least["parts_cpu_s"].values()) == pytest.approx(least["cpu_s"], rel=0.02)
    assert least["parts_cpu_s"]["backward"] > least["parts_cpu_s"]["backbone"] > 0
    assert content["times_the_least"]["ours"] > 1


def test_labels_of_many_narrow_frames_fit():
    labels = train.make_labels(argparse.Namespace(instances=3, frames=36, height=48, width=64))
    check_labels([labels], torch.Size([1, 36, 3, 48, 64]), num_labels=2)
    assert labels["valid"].all()


@pytest.mark.parametrize("name", models.MODELS)
def test_every_model_can_be_built(name):
    trained = name == "msstsvis-tiny"  # which is loaded, and small
    with contextlib.nullcontext() if trained else torch.device("meta"):
        model = models.MODELS[name]()
    backbone = sum(parameter.numel() for parameter in model.model.backbone.parameters())
    millions = {"msstsvis-r101": 42.5, "msstsvis-swin-t": 27.5, "tevit-msgshift": 13.5}
    millions |= dict.fromkeys(("seqformer-r50", "msstsvis-r50", "vistr-r50", "devis-r50"), 23.5)
    assert backbone == pytest.approx(1e6 * millions.get(name, backbone / 1e6), rel=0.02)


def test_models_on_videos_of_growing_length(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(models.PUBLISHED_AP, "msstsvis-tiny", 50.0)
    sizes = {"frames": [1, 2], "height": 48, "width": 96, "threads": None, "published": None}
    report = models.run(argparse.Namespace(models=["msstsvis-tiny"], **sizes))
    row = report["models"]["msstsvis-tiny"]
    assert row["parameters"] > 1e6
    assert row["published_AP"] == 50.0
    for frames in (1, 2):
        assert row["frames"][frames]["wall_s_per_frame"] > 0
        assert row["frames"][frames]["peak_bytes"] != 0
    told = capsys.readouterr().err
    assert "msstsvis-tiny, 2 frames: 3.3 M parameters, " in told
    assert "s per frame" in told
    models.plot({**report, "date": "today", "machine": "this one"}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_all_systems_are_measured_with_their_published_numbers():
    assert set(models.SYSTEMS.values()) == set(models.PUBLISHED_AP)


def test_masks_in_boxes_are_equal_to_the_byte():
    sizes = {"instances": 2, "frames": 2, "height": 90, "width": 160, "repeats": 1}
    content = masks.run(argparse.Namespace(boxes=True, **sizes))
    assert content["equal_to_the_byte"] == content["masks"] == 4


def test_a_model_of_the_published_size_on_videos():
    segmenter = video.segmenter_of("resnet50")
    assert (segmenter.model.config.d_model, len(segmenter.model.model.encoder.layers)) == (256, 6)
    assert segmenter.video_processor.clip_plan(segmenter.model.config, 36).num_frames == 36


def test_precisions_side_by_side(monkeypatch, capsys):
    monkeypatch.setitem(precision.CLIPS, "msstsvis-tiny", (2, 3, 64, 64))
    sides = ["bfloat16", "int8 linears"]
    content = precision.run(argparse.Namespace(models=["msstsvis-tiny"], sides=sides, videos=1, seeds=[3], repeats=1))
    rows = content["models"]["msstsvis-tiny"]
    assert list(rows) == ["float32", *sides]
    assert rows["bfloat16"]["weights_bytes"] < rows["int8 linears"]["weights_bytes"] < rows["float32"]["weights_bytes"]
    for row in rows.values():
        assert row["cpu_s_per_frame"] > 0
        assert 0 <= row["AP"] <= 100
    for side in sides:
        assert 0 < rows[side]["error"]["logits"] < 0.1
    table = [line for line in capsys.readouterr().err.splitlines() if line.startswith("| ")]
    assert len(table) == 1 + len(rows)


def test_long_videos():
    sizes = {"lengths": [3, 5], "height": 64, "width": 64, "max_frames": 3, "threads": None}
    content = video.run(argparse.Namespace(**sizes, model=None, tracker=None))["5 frames"]
    parts = content["parts_ms_per_frame"]
    assert {"decoding", "preprocessing", "model", "tracking", "drawing", "encoding", "JSON"} <= set(parts)
    assert min(parts[name] for name in ("decoding", "model", "encoding")) > 0
    assert sum(parts.values()) == pytest.approx(content["cpu_ms_per_frame"])
    assert set(content["alone_ms_per_frame"]) == {"decoding", "model"}
    assert min(content["alone_ms_per_frame"].values()) > 0
    assert content["peak_bytes"] != 0


def test_the_least_that_arithmetic_takes(monkeypatch):
    monkeypatch.setattr(arithmetic, "PRODUCTS", ((8, 4, 6),))
    monkeypatch.setattr(arithmetic, "CONVOLUTIONS", ((3, 5, 3, 6, 7),))
    layer, convolution = Linear(12, 5).requires_grad_(False), torch.nn.Conv2d(3, 4, 1).requires_grad_(False)

    def call():
        layer(torch.ones(2, 7, 12))
        convolution(torch.ones(2, 3, 8, 9))

    least = arithmetic.least_seconds(call, repeats=2)
    assert least["products"]["flop"] == 2 * 14 * 12 * 5
    assert least["convolutions"]["flop"] == 2 * 2 * 3 * 4 * 72
    rates = [least[kind]["flop"] / least[kind]["flop_per_s"] for kind in ("products", "convolutions")]
    assert least["cpu_s"] == pytest.approx(sum(rates))


@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_are_arithmetic_as_well(autocast):
    layer, convolution = Linear(12, 5), torch.nn.Conv2d(3, 4, 1)
    x, image = torch.ones(2, 7, 12, requires_grad=True), torch.ones(2, 3, 8, 9)
    with arithmetic.counted_operations() as operations:
        assert operations() == {"products": 0, "convolutions": 0}
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = layer(x).sum() + convolution(image).sum()
        forward = {"products": 2 * 14 * 12 * 5, "convolutions": 2 * 2 * 3 * 4 * 72}
        assert operations() == forward
        loss.backward()
        # Of the layer those of its input and of its weight, of the convolution those of its weight.
        assert operations() == {
            "products": 3 * forward["products"],
            "convolutions": 2 * forward["convolutions"],
        }
    assert arithmetic.seconds_at({"products": 10.0, "convolutions": 4.0}, forward) == pytest.approx(168 + 864)

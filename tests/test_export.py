"""Models as programs of other runtimes give what they give in PyTorch."""

import numpy as np
import pytest
import torch

from tests.models.testers import model_of
from transformers_msstsvis.commands import export as script
from transformers_msstsvis.export import export_model, export_program
from transformers_msstsvis.models.auto import MODELS

TOP_K = 4


def clip(frames: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """With a border of padding at the right."""
    generator = torch.Generator().manual_seed(frames)
    mask = torch.ones(1, frames, height, width, dtype=torch.long)
    mask[..., width - 8 :] = 0
    return torch.randn(1, frames, 3, height, width, generator=generator) * mask[:, :, None], mask


def assert_equal(given, model, frames: torch.Tensor, mask: torch.Tensor) -> None:
    with torch.no_grad():
        expected = model(frames, mask, mask_top_k=TOP_K)
    assert {"logits", "pred_boxes", "pred_masks"} <= set(given)
    for name, values in given.items():
        wanted = expected[name]
        torch.testing.assert_close(torch.as_tensor(values), wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))
    signs = torch.as_tensor(given["pred_masks"]) > 0, expected.pred_masks > 0
    assert (signs[0] == signs[1]).all()


@pytest.mark.parametrize("name", ["msstsvis", "vistr"])
def test_one_size(name, tmp_path):
    model = model_of(name)
    frames, mask = clip(model.config.clip_length or 3, 64, 96)
    path = export_model(model, tmp_path / "model.pt2", frames.shape[1], 64, 96, top_k=TOP_K)
    assert_equal(torch.export.load(path).module()(frames, mask), model, frames, mask)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MODELS))
def test_any_size_in_onnx(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="runs the file: pip install onnxruntime")
    model = model_of(name)
    length = model.config.clip_length or 3
    path = export_model(model, tmp_path / "model.onnx", length, 128, 192, dynamic=True, top_k=TOP_K)
    session = onnxruntime.InferenceSession(str(path))
    names = [output.name for output in session.get_outputs()]
    for frames, height, width in ((length, 128, 192), (model.config.clip_length or 5, 160, 256)):
        values, mask = clip(frames, height, width)
        inputs = {"pixel_values_videos": values.numpy(), "pixel_mask": mask.numpy()}
        given = dict(zip(names, map(np.asarray, session.run(None, inputs)), strict=True))
        assert_equal(given, model, values, mask)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "model.xyz"}, "model.xyz ends in .xyz; expected .pt2 or .onnx"),
        ({"model": "vistr", "num_frames": 3}, "num_frames is 3; expected 5, that vistr knows only"),
        (
            {"height": 100, "dynamic": True},
            "the example has 100x96 pixels; expected multiples of 32 with",
        ),
    ],
)
def test_what_cannot_be_exported(tmp_path, arguments, message):
    model = model_of(arguments.pop("model", "msstsvis"))
    path = tmp_path / arguments.pop("path", "model.pt2")
    with pytest.raises(ValueError, match=message):
        export_model(model, path, **{"num_frames": 3, "height": 64, "width": 96, **arguments})
    assert list(tmp_path.iterdir()) == []


def test_the_program_takes_no_other_size():
    program = export_program(model_of("vistr"), 5, 64, 96)
    with pytest.raises(Exception, match="64"):
        program.module()(*clip(5, 96, 96))


def test_the_command(tmp_path, capsys):
    model_of("vistr").save_pretrained(tmp_path / "model")
    output = str(tmp_path / "vistr.pt2")
    assert script.main(["--model", str(tmp_path / "model"), "--output", output, "--size", "64", "64"]) == 0
    assert f"wrote {output}" in capsys.readouterr().out
    assert "logits" in torch.export.load(output).module()(*clip(5, 64, 64))

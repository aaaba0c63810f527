import json

import numpy as np
import pytest
import torch
from transformers import AutoVideoProcessor, Mask2FormerForUniversalSegmentation, pipeline

from tests.adapters.tiny import drawn, mask2former_config, write_mask2former
from tests.tiny import moving_square, write_mp4
from transformers_msstsvis import (
    AutoModelForVideoInstanceSegmentation,
    Mask2FormerForVideoInstanceSegmentation,
    Mask2FormerVideoProcessor,
    VideoInstances,
)
from transformers_msstsvis.adapters import mask2former
from transformers_msstsvis.training import load_for_training

TASK = "video-instance-segmentation"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_mask2former(tmp_path_factory.mktemp("mask2former"))


@pytest.fixture
def segmenter(checkpoint):
    return pipeline(TASK, model=str(checkpoint), device="cpu", threshold=0.0, duplicate_iou=1)


@pytest.fixture(scope="module")
def model():
    return drawn(Mask2FormerForVideoInstanceSegmentation(mask2former_config()))


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    messages = []
    monkeypatch.setattr(mask2former.logger, "warning", messages.append)
    return messages


@pytest.fixture
def timeless(monkeypatch):
    """Frames are told apart by what they show alone."""
    monkeypatch.setattr(
        mask2former.FramePositions, "of_frames", lambda self, device: torch.zeros(self.num_frames, self.channels)
    )


def frames_of(num_frames: int, height: int = 64, width: int = 96) -> torch.Tensor:
    return torch.randn(1, num_frames, 3, height, width, generator=torch.Generator().manual_seed(num_frames))


@torch.no_grad()
def test_one_frame_equals_the_model_of_images(model, timeless):
    images = Mask2FormerForUniversalSegmentation(model.config).eval()
    images.load_state_dict(model.state_dict())
    video = frames_of(1)
    outputs, expected = model(video), images(video[0])
    assert torch.equal(outputs.pred_masks[:, :, 0], expected.masks_queries_logits)
    probability = expected.class_queries_logits.softmax(-1)[..., :-1]
    torch.testing.assert_close(outputs.logits.sigmoid(), probability)


@torch.no_grad()
def test_equal_frames_have_the_masks_of_one(model, timeless):
    one, four = model(frames_of(1)), model(frames_of(1).expand(-1, 4, -1, -1, -1))
    torch.testing.assert_close(four.pred_masks, one.pred_masks.expand_as(four.pred_masks), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(four.logits, one.logits)


@torch.no_grad()
def test_frames_know_their_place(model):
    outputs = model(frames_of(1).expand(-1, 4, -1, -1, -1))
    assert not torch.equal(outputs.logits, model(frames_of(1)).logits)


def test_places_of_frames_are_the_published_ones(model):
    """Sine and cosine in turns, of the place from 0 to 2 pi over temperatures up to 10000."""
    positions = model.model.transformer_module.position_embedder
    positions.num_frames = 3
    found = positions.of_frames(torch.device("cpu"))
    for frame in range(3):
        for channel in range(0, 32, 2):
            angle = (frame + 1) / 3 * 2 * np.pi / 10000 ** (channel / 32)
            np.testing.assert_allclose(found[frame, channel : channel + 2], [np.sin(angle), np.cos(angle)], atol=1e-5)


@torch.no_grad()
def test_a_batch_changes_no_video(model):
    small, large = frames_of(2, 40, 64), frames_of(3, 64, 96)
    batch, mask = torch.zeros(2, 3, 3, 64, 96), torch.zeros(2, 3, 64, 96, dtype=torch.int64)
    batch[0, :2, :, :40, :64], mask[0, :2, :40, :64] = small[0], 1
    batch[1], mask[1] = large[0], 1
    together = model(batch, mask, mask_top_k=4)
    for row, video in enumerate((small, large)):
        alone = model(video, mask_top_k=4)
        torch.testing.assert_close(together.logits[row], alone.logits[0])
        frames, height, width = alone.pred_masks.shape[2:]
        torch.testing.assert_close(together.pred_masks[row, :, :frames, :height, :width], alone.pred_masks[0])
    assert together.last_hidden_state.shape == (2, 6, 32)


def test_refuses_labels(model):
    with pytest.raises(ValueError, match="can be used, but not trained; expected one of seqformer, msstsvis"):
        model(frames_of(1), labels=[{}])


@pytest.mark.parametrize("kind", ["Mask2FormerImageProcessor", "VideoMask2FormerImageProcessor", None])
def test_processor_has_the_settings_of_the_checkpoint(checkpoint, tmp_path, kind):
    settings = json.loads((checkpoint / "preprocessor_config.json").read_text())
    settings["image_processor_type"] = kind
    if kind is None:
        del settings["image_processor_type"]
    # As in some of those on the Hub.
    settings |= {"size_divisor": 0, "ignore_index": 255, "reduce_labels": False, "num_labels": 40}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
    processor = AutoVideoProcessor.from_pretrained(tmp_path)
    assert type(processor) is Mask2FormerVideoProcessor
    assert (processor.size.shortest_edge, processor.size.longest_edge) == (32, 64)
    assert processor(moving_square(2), return_tensors="pt")["pixel_values_videos"].shape == (1, 2, 3, 32, 42)


def test_pipeline_takes_files_and_arrays(segmenter, tmp_path):
    assert type(segmenter.model) is Mask2FormerForVideoInstanceSegmentation
    from_file = segmenter(str(write_mp4(tmp_path / "clip.mp4")))
    from_array = segmenter(moving_square())
    for tracks in (from_file, from_array):
        assert len(tracks) == 10
        assert all(len(track["masks"]) == 5 for track in tracks)


def test_clips_are_joined(segmenter):
    options = {"max_frames": 4, "return_instances": True, "threshold": 0.3}
    found = segmenter(moving_square(10), **options)
    assert found.num_frames == 10
    assert any(masks.stop - masks.start > 4 for masks in found.masks)
    stretches = list(segmenter(moving_square(10), stream=True, max_frames=4))
    assert VideoInstances.join(stretches).num_frames == 10


def test_refuses_what_it_has_not(segmenter):
    with pytest.raises(ValueError, match="compares predicted boxes, and mask2former has none; expected 'iou'"):
        segmenter(moving_square(), tracker="devis")
    with pytest.raises(ValueError, match="boxes is 'model', and the model predicts masks only; expected 'mask'"):
        segmenter(moving_square(), boxes="model")
    with pytest.raises(ValueError, match="tracker is 'query'; expected 'iou' of a mask2former"):
        segmenter(moving_square(), tracker="query")


def test_says_when_nothing_tells_of_videos(checkpoint, tmp_path, warnings):
    model = AutoModelForVideoInstanceSegmentation.from_pretrained(checkpoint)
    assert warnings == []  # its architecture does
    model.save_pretrained(tmp_path / "ours")
    AutoModelForVideoInstanceSegmentation.from_pretrained(tmp_path / "ours")
    assert warnings == []
    for name in ("coco", "video-mask2former"):
        folder = tmp_path / name
        drawn(Mask2FormerForUniversalSegmentation(mask2former_config())).save_pretrained(folder)
        AutoModelForVideoInstanceSegmentation.from_pretrained(folder)
    [message] = warnings
    assert "coco was trained on videos" in message


def test_what_is_saved_is_read_by_transformers(checkpoint, tmp_path):
    ours = AutoModelForVideoInstanceSegmentation.from_pretrained(checkpoint)
    ours.save_pretrained(tmp_path)
    theirs = Mask2FormerForUniversalSegmentation.from_pretrained(tmp_path)
    for (name, tensor), (_, expected) in zip(theirs.state_dict().items(), ours.state_dict().items(), strict=True):
        assert torch.equal(tensor, expected), name


def test_is_not_trained(checkpoint):
    with pytest.raises(ValueError, match="is a mask2former, which can be used, but not trained"):
        load_for_training(checkpoint)

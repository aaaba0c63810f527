"""What holds for the processors of every model: videos and images to a batch, outputs of the model to results."""

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoVideoProcessor

from tests.models.testers import TESTERS, model_of, skip_exempt
from tests.tiny import moving_square
from transformers_msstsvis import VideoInstances
from transformers_msstsvis.models.auto import MODELS, class_of, video_processor_class

SMALL = {"shortest_edge": 48, "longest_edge": 64}


@pytest.fixture(params=sorted(MODELS))
def name(request):
    skip_exempt(request.param, request.function.__name__)
    return request.param


@pytest.fixture
def processor(name):
    return video_processor_class(TESTERS[name].config())(size=SMALL)


def test_default_is_the_published_test_input(name):
    processor = class_of(name, "VideoProcessor")()
    frames = np.zeros((1, 720, 1280, 3), dtype=np.uint8)
    shape = processor(frames, return_tensors="pt")["pixel_values_videos"].shape
    assert tuple(shape[-2:]) == TESTERS[name].published_size
    for ending in ("ImageProcessor", "ImageProcessorPil"):
        image = class_of(name, ending)()(frames[0], return_tensors="pt")["pixel_values_videos"]
        assert image.shape == (1, 1, 3, *TESTERS[name].published_size)


def test_found_by_the_auto_classes(name, processor, tmp_path):
    TESTERS[name].config().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = AutoVideoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is type(processor)
    assert loaded.to_dict() == processor.to_dict()
    (tmp_path / "video_preprocessor_config.json").unlink()
    (tmp_path / "preprocessor_config.json").write_text('{"size": {"shortest_edge": 48, "longest_edge": 64}}')
    for backend, ending in (("torchvision", "ImageProcessor"), ("pil", "ImageProcessorPil")):
        assert type(AutoImageProcessor.from_pretrained(tmp_path, backend=backend)) is class_of(name, ending)


def test_videos_of_different_sizes_and_lengths_share_a_batch(name, processor):
    videos = [moving_square(2, 48, 64), moving_square(3, 40, 40)]
    inputs = processor(videos, return_tensors="pt")
    assert inputs["pixel_values_videos"].shape[:3] == (2, 3, 3)
    assert inputs["pixel_mask"].flatten(2).any(2).tolist() == [[True, True, False], [True] * 3]
    assert not inputs["pixel_values_videos"][inputs["pixel_mask"][:, :, None].expand(-1, -1, 3, -1, -1) == 0].any()
    model = model_of(name)
    with torch.no_grad():
        outputs = model(**inputs)
    results = processor.post_process_video_instance_segmentation(
        outputs, target_sizes=[(48, 64), (40, 40)], id2label=model.config.id2label
    )
    assert [(result.num_frames, result.size) for result in results] == [(2, (48, 64)), (3, (40, 40))]
    for result in results:
        assert isinstance(result, VideoInstances)
        assert len(result) <= 10
        assert (np.diff(result.scores) <= 0).all()
        assert result.id2label == model.config.id2label
        assert (result.frame_scores is None) == (TESTERS[name].no_object is None)


def test_scores_are_those_of_the_logits(name, processor):
    """Whatever a model was trained with, `logits.sigmoid()` is what tells its best class."""
    model = model_of(name)
    with torch.no_grad():
        outputs = model(**processor(moving_square(2), return_tensors="pt"), mask_top_k=100)
    assert ((outputs.logits.sigmoid() >= 0) & (outputs.logits.sigmoid() <= 1)).all()
    [few] = processor.post_process_video_instance_segmentation(outputs, top_k=2)
    [all_of_them] = processor.post_process_video_instance_segmentation(outputs, top_k=100)
    assert len(few) <= 2 <= len(all_of_them)
    assert few.scores.tolist() == all_of_them.scores[: len(few)].tolist()
    [strict] = processor.post_process_video_instance_segmentation(outputs, threshold=float(all_of_them.scores[0]))
    assert len(strict) >= 1
    assert (strict.scores >= all_of_them.scores[0]).all()


def test_masks_of_the_best_queries_give_the_same_results(name, processor):
    model = model_of(name)
    inputs = processor(moving_square(2), return_tensors="pt")
    with torch.no_grad():
        [everything] = processor.post_process_video_instance_segmentation(model(**inputs), top_k=3)
        [chosen] = processor.post_process_video_instance_segmentation(model(**inputs, mask_top_k=3), top_k=3)
    assert chosen.labels.tolist() == everything.labels.tolist()
    np.testing.assert_allclose(chosen.scores, everything.scores, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask_threshold": 1.0}, "mask_threshold is 1.0; expected a probability between 0 and 1"),
        ({"top_k": 0}, "top_k is 0; expected at least 1"),
        ({"target_sizes": [(1, 1), (2, 2)]}, "2 target_sizes were given for 1 videos"),
        ({"boxes": "both"}, "boxes is 'both'; expected one of 'mask', 'model'"),
    ],
)
def test_wrong_arguments(name, processor, arguments, message):
    with torch.no_grad():
        outputs = model_of(name)(**processor(moving_square(2), return_tensors="pt"))
    with pytest.raises(ValueError, match=message):
        processor.post_process_video_instance_segmentation(outputs, **arguments)

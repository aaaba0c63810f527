import tracemalloc

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from transformers_msstsvis import SeqFormerVideoProcessor, VideoInstanceSegmentationOutput
from transformers_msstsvis.results import candidates
from transformers_msstsvis.results.mask_resizing import resized_mask
from transformers_msstsvis.results.rle import decode_mask

post_process = SeqFormerVideoProcessor().post_process_video_instance_segmentation


def random_outputs(
    seed, videos=1, queries=7, labels=3, frames=4, height=24, width=40
) -> VideoInstanceSegmentationOutput:
    """Blobs of a few stride-4 pixels, most of the map negative, as a model gives them."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = 2 * -(-height // 8), 2 * -(-width // 8)
    coarse = torch.randn(videos * queries, frames, rows // 2, columns // 2, generator=generator) - 1
    masks = F.interpolate(coarse, size=(rows, columns), mode="bicubic").unflatten(0, (videos, queries))
    return VideoInstanceSegmentationOutput(
        logits=torch.randn(videos, queries, labels, generator=generator),
        pred_boxes=torch.rand(videos, queries, frames, 4, generator=generator),
        pred_masks=masks,
        frame_sizes=torch.tensor([height, width]).expand(videos, frames, 2),
    )


def published_rule(outputs, video, size, top_k=10) -> list[dict]:
    """Upsample, sigmoid, compare, encode every frame at full size, as literally as it can be written."""
    scores = outputs.logits[video].sigmoid()
    results = []
    for index in scores.flatten().topk(top_k).indices.tolist():
        query, label = divmod(index, scores.shape[1])
        masks = F.interpolate(outputs.pred_masks[video, query][:, None], size, mode="bilinear", align_corners=False)
        masks = masks.sigmoid().numpy() > 0.5
        if masks.max() == 0:
            continue
        rles = [coco_mask.encode(np.asfortranarray(mask[0].astype(np.uint8))) for mask in masks]
        results.append({"score": scores[query, label].item(), "label": label, "rles": rles})
    return results


@pytest.mark.parametrize("size", [(48, 80), (24, 40), (101, 67), (9, 11), (1, 1)], ids=str)
def test_equals_the_published_rule_byte_for_byte(size):
    for seed in range(5):
        outputs = random_outputs(seed)
        [result] = post_process(outputs, target_sizes=[size])
        expected = published_rule(outputs, 0, size)
        assert result.scores.tolist() == pytest.approx([instance["score"] for instance in expected])
        assert result.labels.tolist() == [instance["label"] for instance in expected]
        assert result.track_ids.tolist() == list(range(1, len(expected) + 1))
        for masks, instance in zip(result.masks, expected, strict=True):
            for mask, rle in zip(masks, instance["rles"], strict=True):
                if mask is None:
                    assert coco_mask.area(rle) == 0
                else:
                    assert mask == {"size": list(size), "counts": rle["counts"].decode()}


@pytest.mark.parametrize("size", [(37, 90), (5, 3), (12, 20)], ids=str)
@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.2])
def test_resized_mask_crops_without_a_trace(size, threshold):
    generator = torch.Generator().manual_seed(0)
    for row, column in [(0, 0), (11, 19), (5, 7), (0, 19), (11, 0)]:
        logits = torch.rand(12, 20, generator=generator) - 3
        logits[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = 4
        full = F.interpolate(logits[None, None], size, mode="bilinear", align_corners=False)[0, 0]
        expected = full.sigmoid() > threshold
        rle = resized_mask(logits, size, threshold)
        got = np.zeros(size, dtype=bool) if rle is None else decode_mask(rle)
        np.testing.assert_array_equal(got, expected.numpy())


def test_a_mask_without_a_pixel_is_none():
    assert resized_mask(torch.full((4, 4), -1.0), (16, 16)) is None
    # A lone positive pixel can vanish when the map is reduced.
    lone = torch.full((4, 4), -5.0)
    lone[1, 1] = 1
    assert resized_mask(lone, (2, 2)) is None


def test_a_mask_drawn_by_hand():
    logits = torch.tensor([[4.0, -4.0], [-4.0, -4.0]])
    outputs = VideoInstanceSegmentationOutput(
        logits=torch.tensor([[[2.0, -2.0]]]),
        pred_boxes=torch.tensor([[[[0.25, 0.5, 0.5, 1.0], [0.9, 0.5, 0.4, 0.5]]]]),
        pred_masks=torch.stack([logits, -torch.ones(2, 2)])[None, None],
        frame_sizes=torch.tensor([[[8, 8], [8, 8]]]),
    )
    [result] = post_process(outputs, [(4, 8)], top_k=1, id2label={0: "cat", 1: "dog"})
    assert decode_mask(result.masks[0][0]).astype(int).tolist() == [
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ]
    assert result.masks[0][1] is None
    assert result.boxes[0, 0].tolist() == [0, 0, 4, 2]  # of the mask
    assert np.isnan(result.boxes[0, 1]).all()
    [result] = post_process(outputs, [(4, 8)], top_k=1, boxes="model")
    assert result.boxes[0, 0].tolist() == [0, 0, 4, 4]
    assert np.isnan(result.boxes[0, 1]).all()
    result.id2label = {0: "cat", 1: "dog"}
    assert (result.size, result.num_frames) == ((4, 8), 2)
    assert result.to_list()[0]["label"] == "cat"


def test_boxes_are_clipped_to_the_frame():
    outputs = random_outputs(0)
    outputs.pred_boxes = torch.tensor([0.9, 0.1, 0.6, 0.6]).expand(1, 7, 4, 4)
    [result] = post_process(outputs, [(100, 200)], boxes="model")
    present = result.boxes[~np.isnan(result.boxes).any(-1)]
    np.testing.assert_allclose(present, np.tile([[120, 0, 200, 40]], (len(present), 1)), atol=1e-4)


def test_one_query_may_have_two_classes():
    outputs = random_outputs(1)
    outputs.logits[:] = -9
    outputs.logits[0, 3, 0], outputs.logits[0, 3, 2] = 3, 2
    [result] = post_process(outputs, top_k=2)
    assert result.labels.tolist() == [0, 2]
    assert result.masks[0] == result.masks[1]
    assert result.track_ids.tolist() == [1, 2]


def test_threshold_top_k_and_mask_threshold():
    outputs = random_outputs(2)
    [everything] = post_process(outputs, top_k=100)
    [some] = post_process(outputs, threshold=float(everything.scores[4]), top_k=100)
    assert some.masks == everything.masks[:5]
    [few] = post_process(outputs, top_k=3)
    assert few.masks == everything.masks[:3]
    [strict] = post_process(outputs, mask_threshold=0.7, top_k=1)
    logit = np.log(0.7 / 0.3)
    query = outputs.logits[0].flatten().argmax().item() // 3
    expected = F.interpolate(outputs.pred_masks[0, query, :1, None].transpose(0, 1), (24, 40), mode="bilinear") > logit
    np.testing.assert_array_equal(strict.decode(0)[0], expected[0, 0].numpy())


def test_batch_padding_leaves_no_trace():
    """A video padded in space and time gives what it gives alone."""
    alone = random_outputs(3, frames=3, height=21, width=33)
    padded = random_outputs(4, videos=2, frames=5, height=48, width=64)
    rows, columns = alone.pred_masks.shape[-2:]
    assert (rows, columns) == (6, 10)
    padded.logits[1] = alone.logits[0]
    padded.pred_boxes[1, :, :3] = alone.pred_boxes[0]
    padded.pred_masks[1] = 9.0
    padded.pred_masks[1, :, :3, :rows, :columns] = alone.pred_masks[0]
    padded.frame_sizes = torch.tensor([[[48, 64]] * 5, [[21, 33]] * 3 + [[0, 0]] * 2])
    [expected] = post_process(alone, [(42, 66)])
    _, got = post_process(padded, [(96, 128), (42, 66)])
    assert got.num_frames == 3
    assert got.masks == expected.masks
    np.testing.assert_array_equal(got.boxes, expected.boxes)
    assert post_process(padded)[1].size == (21, 33)


def test_a_video_of_padding_alone_is_empty():
    outputs = random_outputs(0)
    outputs.frame_sizes = torch.zeros(1, 4, 2, dtype=torch.long)
    [result] = post_process(outputs)
    assert (len(result), result.num_frames) == (0, 0)


def with_masks_of(outputs, queries):
    index = torch.tensor([queries])
    return VideoInstanceSegmentationOutput(
        logits=outputs.logits,
        pred_boxes=outputs.pred_boxes,
        pred_masks=outputs.pred_masks[:, queries],
        mask_query_indices=index,
        frame_sizes=outputs.frame_sizes,
    )


def test_masks_of_the_best_queries_are_enough():
    outputs = random_outputs(5, queries=20)
    best = outputs.logits[0].amax(-1).topk(10).indices.tolist()
    [expected] = post_process(outputs, top_k=10)
    [got] = post_process(with_masks_of(outputs, best), top_k=10)
    assert got.masks == expected.masks
    assert got.labels.tolist() == expected.labels.tolist()
    np.testing.assert_array_equal(got.boxes, expected.boxes)


def test_a_best_query_without_masks_is_an_error():
    outputs = random_outputs(5, queries=20)
    best = outputs.logits[0].amax(-1).topk(2).indices.tolist()
    with pytest.raises(ValueError, match="mask_top_k of at least top_k = 10"):
        post_process(with_masks_of(outputs, best), top_k=10)
    few = with_masks_of(outputs, best[1:])
    with pytest.raises(ValueError, match="masks were computed for 1 queries"):
        post_process(few, top_k=1)


def test_equal_scores_are_no_missing_masks():
    """Low precision gives equal scores often; which of two equal queries got masks is then arbitrary."""
    outputs = random_outputs(6)
    outputs.logits[:] = 1.0
    [result] = post_process(with_masks_of(outputs, [2, 5]), top_k=2)
    assert len(result) == 2


def test_scores_that_are_not_numbers_are_left_out(monkeypatch):
    warnings = []
    monkeypatch.setattr(candidates.logger, "warning", warnings.append)
    outputs = random_outputs(7, videos=2)
    outputs.logits[0, 2, 1] = float("nan")
    first, second = post_process(outputs, top_k=100)
    assert len(first) <= 20
    assert np.isfinite(first.scores).all()
    assert len(second) <= 21
    assert len(warnings) == 1
    assert "Video 0" in warnings[0]


def test_half_precision_gives_the_same_instances():
    outputs = random_outputs(8)
    half = VideoInstanceSegmentationOutput(
        logits=outputs.logits.bfloat16(),
        pred_boxes=outputs.pred_boxes.bfloat16(),
        pred_masks=outputs.pred_masks,
        frame_sizes=outputs.frame_sizes,
    )
    [expected] = post_process(outputs, top_k=1)
    [got] = post_process(half, top_k=1)
    assert got.masks == expected.masks


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_threshold": 1.0}, "mask_threshold is 1.0; expected a probability between 0 and 1"),
        ({"top_k": 0}, "top_k is 0; expected at least 1"),
        ({"target_sizes": [(4, 4), (4, 4)]}, "2 target_sizes were given for 1 videos"),
        ({"target_sizes": [(0, 4)]}, r"target size of video 0 is \(0, 4\)"),
    ],
)
def test_arguments_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        post_process(random_outputs(0), **changes)


def test_missing_masks_say_why():
    outputs = random_outputs(0)
    outputs.pred_masks = None
    with pytest.raises(ValueError, match="eval mode, or pass mask_top_k"):
        post_process(outputs)


class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that an operation gave."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_never_more_than_one_frame_at_full_size():
    outputs = random_outputs(9, queries=10, frames=20, height=96, width=160)
    outputs.pred_masks[:] = 1.0
    tracemalloc.start()
    with LargestTensor() as largest:
        [result] = post_process(outputs, [(720, 1280)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(result) == 10
    assert largest.elements <= 720 * 1280
    # Ten instances of 20 frames would be 184 MB as bytes.
    assert peak < 10e6


def test_resized_mask_rounds_like_the_published_route():
    """Values a rounding error from the threshold: sigmoid of 2e-8 is exactly 0.5, so the pixel is not set."""
    logits = torch.full((4, 4), -1.0)
    logits[1:3, 1:3] = 2e-8
    logits[1, 1] = 3.0
    full = F.interpolate(logits[None, None], (4, 4), mode="bilinear", align_corners=False)[0, 0]
    expected = (full.sigmoid() > 0.5).numpy()
    assert expected.sum() == 1
    assert np.array_equal(decode_mask(resized_mask(logits, (4, 4))), expected)

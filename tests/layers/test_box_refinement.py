import pytest
import torch

from transformers_msstsvis.layers.box_refinement import BoxHeads, inverse_sigmoid, refined_boxes


def test_a_centre_becomes_a_box_of_the_size_that_the_head_says():
    centres, delta = torch.tensor([[0.2, 0.7]]), torch.tensor([[0.0, 0.0, -1.0, 1.0]])
    boxes = refined_boxes(centres, delta)
    torch.testing.assert_close(boxes[:, :2], centres)
    torch.testing.assert_close(boxes[:, 2:], delta[:, 2:].sigmoid())


def test_nothing_said_keeps_a_box():
    boxes = torch.rand(5, 4) * 0.9 + 0.05
    torch.testing.assert_close(refined_boxes(boxes, torch.zeros(5, 4)), boxes)


def test_boxes_at_the_border_stay_finite():
    assert inverse_sigmoid(torch.tensor([0.0, 1.0, -1.0, 2.0])).abs().max() == pytest.approx(11.513, abs=1e-3)
    assert refined_boxes(torch.tensor([0.0, 1.0]), torch.zeros(4, dtype=torch.bfloat16)).dtype == torch.float32


def test_fresh_heads_say_small_boxes_at_first_and_keep_them():
    heads = BoxHeads(8, 2)
    heads.init_layer_weights()
    first, second = (head(torch.randn(3, 8)) for head in heads)
    torch.testing.assert_close(first, torch.tensor([0.0, 0.0, -2.0, -2.0]).expand(3, 4))
    assert not second.any()

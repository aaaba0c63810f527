import numpy as np
import pytest

from transformers_msstsvis.results.attention_drawing import draw_attention

FRAMES = np.full((2, 40, 60, 3), 200, dtype=np.uint8)


def draw(points, weights, frames=FRAMES, **options):
    return list(draw_attention(frames, points, weights, **options))


def test_points_are_where_they_are_said_to_be_and_warm_where_attention_is():
    points = [np.array([[10.0, 20.0], [45.0, 8.0]]), np.array([[30.0, 30.0]])]
    first, second = draw(points, [np.array([0.6, 0.0]), np.array([0.1])], opacity=0.5, max_radius=0.1)
    assert tuple(first[20, 10]) == (230, 40, 40)
    assert tuple(first[8, 45]) == (40, 60, 160)
    assert tuple(second[30, 30]) == (230, 40, 40)  # the largest of its frame
    assert tuple(first[35, 30]) == (100, 100, 100)
    assert (first[20] != 100).any(1).sum() > (first[8] != 100).any(1).sum()
    assert (FRAMES == 200).all()


def test_larger_weights_lie_in_front():
    points = [np.array([[20.0, 20.0], [20.0, 20.0]])] * 2
    drawn = draw(points, [np.array([1.0, 0.1]), np.array([0.1, 1.0])], max_radius=0.1)
    assert tuple(drawn[0][20, 20]) == tuple(drawn[1][20, 20]) == (230, 40, 40)


def test_frames_without_points_and_points_outside():
    drawn = draw([np.zeros((0, 2)), np.array([[-3.0, 5.0], [60.0, 5.0], [np.nan, 1.0]])], [np.zeros(0), np.ones(3)])
    assert (np.stack(drawn) == 120).all()
    assert (draw([np.zeros((0, 2))], [np.zeros(0)])[1] == 200).all()


@pytest.mark.parametrize(
    ("points", "weights", "frames", "message"),
    [
        ([np.zeros((1, 2))], [], FRAMES, "there are points of 1 frames and weights of 0; expected as many"),
        (
            [np.zeros((2, 3))],
            [np.ones(2)],
            FRAMES,
            r"frame 0 has points of shape \(2, 3\) and weights of shape \(2,\)",
        ),
        (
            [np.zeros((2, 2))],
            [np.ones(3)],
            FRAMES,
            r"frame 0 has points of shape \(2, 2\) and weights of shape \(3,\)",
        ),
        ([np.zeros((1, 2))], [-np.ones(1)], FRAMES, "the weights of frame 0 are not all numbers from 0 on"),
        (
            [np.zeros((1, 2))],
            [np.ones(1)],
            FRAMES / 255,
            r"frame 0 has shape \(40, 60, 3\) and type float64; expected",
        ),
    ],
)
def test_bad_input(points, weights, frames, message):
    with pytest.raises(ValueError, match=message):
        draw(points, weights, frames)

"""Masks as run lengths: sums that do not fill the frame, and polygons that cross themselves."""

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from transformers_msstsvis.results import rle
from transformers_msstsvis.results.rle import check_counts, read_mask, split_fragments


def counts_of(mask: np.ndarray) -> bytes:
    return mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]


def test_counts_that_fill_the_frame_pass():
    mask = np.random.default_rng(0).random((13, 17)) < 0.4
    check_counts(counts_of(mask), 13, 17)
    check_counts(counts_of(mask).decode(), 13, 17)


@pytest.mark.parametrize(
    ("counts", "total"),
    [
        (counts_of(np.ones((3, 5))), 15),
        (counts_of(np.ones((5, 5))), 25),
        ("", 0),
        ("no run lengths", 0),
        ("\u1234", 0),
        ("\ud800", 0),
        ("oooooooooooo", 0),
    ],
)
def test_counts_that_do_not_fill_the_frame_are_refused(counts, total):
    message = rf"the run lengths in the counts of the mask sum to {total}; expected height \* width = 20: encode"
    with pytest.raises(ValueError, match=message):
        check_counts(counts, 4, 5)


def test_long_outlines_are_drawn_as_pycocotools_draws_short_ones(monkeypatch):
    monkeypatch.setattr(rle, "_LONGEST_OUTLINE", -1)
    generator = np.random.default_rng(0)
    for number in range(300):
        height, width = generator.integers(12, 40, 2).tolist()
        corners = generator.uniform(-50, 90, (int(generator.integers(3, 12)), 2))
        if number % 3 == 1:  # inside
            corners = corners % 1 * [width, height]
        elif number % 3 == 2:  # on pixels and between them, with corners in one place
            corners = np.round(corners / 5) / 2
        polygon = corners.ravel().tolist()
        assert read_mask([polygon], height, width) == mask_utils.frPyObjects([polygon], height, width)[0]


def test_a_polygon_of_thousands_of_corners_all_over_the_frame_takes_a_moment():
    polygon = np.random.default_rng(0).uniform(0, 600, 2 * 10_000).tolist()
    drawn = mask_utils.decode(read_mask([polygon], 600, 600))
    # A random walk covers half of the frame; pycocotools would need 20 million points.
    assert 0.45 < drawn.mean() < 0.55


def test_the_wrong_part_of_a_polygon_list_is_shown():
    message = r"the mask is a list, in which \[3, 3\] is no polygon; expected .* of three corners or more"
    with pytest.raises(ValueError, match=message):
        read_mask([[float(value) for value in range(60)], [3, 3]], 60, 60)


@pytest.mark.parametrize(
    ("mask", "kept", "fragments"),
    [
        ([[1, 1, 3, 1, 3, 3], [2, 2]], [[1, 1, 3, 1, 3, 3]], [[2, 2]]),
        ([[1, 1, 3, 1, 3, 3], [], [2, 2, 3, 3]], [[1, 1, 3, 1, 3, 3]], [[], [2, 2, 3, 3]]),
        ([[]], [], [[]]),
        ([[2, 2]], [], [[2, 2]]),
        ([[1, 1, 2, 2]], [[1, 1, 2, 2]], []),  # perhaps a box
        ([[1, 1, 3, 1, 3, 3], ["a"]], [[1, 1, 3, 1, 3, 3], ["a"]], []),
        (None, None, []),
    ],
)
def test_fragments_of_polygons(mask, kept, fragments):
    assert split_fragments(mask) == (kept, fragments)

import argparse

import numpy as np
import pytest

from transformers_msstsvis import VideoInstances, encode_mask
from transformers_msstsvis.benchmarks import tracking
from transformers_msstsvis.pipelines import SAMPLE_MODEL


def test_trackers_on_long_videos():
    sizes = {"videos": 1, "min_frames": 5, "max_frames": 5, "clip_frames": 4, "clip_stride": 3, "seed": 1}
    content = tracking.run(argparse.Namespace(**sizes, model=SAMPLE_MODEL))
    for kind in ("occlusion", "look-alikes"):
        assert set(content[kind]) == {"iou", "devis", "whole"}
        for numbers in content[kind].values():
            assert 0 <= numbers["AP"] <= 100
            assert 0 < numbers["seen"] <= 100
            assert numbers["id_switches"] >= 0
    with pytest.raises(ValueError, match="stride is 4 with clips of 4 frames; expected a smaller one"):
        tracking.run(argparse.Namespace(**{**sizes, "clip_stride": 4}, model=SAMPLE_MODEL))


def test_identity_switches():
    def mask(column):
        return None if column is None else encode_mask(np.eye(8, dtype=bool)[[column] * 2])

    def tracks(*rows):
        masks = [[mask(column) for column in row] for row in rows]
        return VideoInstances([0.5] * len(rows), [0] * len(rows), range(len(rows)), masks, None, (2, 8), len(rows[0]))

    truth = tracks([0, 0, None, 0, 0], [4, 4, 4, 4, 4]).masks
    assert tracking.count_identities(truth, tracks([0, 0, None, 0, 0], [4, 4, 4, 4, 4])) == (0, 9, 9)
    # The first is lost and found by another track; the second keeps its own although there is a new one.
    found = tracks([0, 0, None, None, None], [None, None, None, 0, 0], [4, 4, 4, 4, None], [None, 4, 4, 4, 4])
    assert tracking.count_identities(truth, found) == (2, 9, 9)
    assert tracking.count_identities(truth, tracks([4, 4, 0, 0, 0])) == (0, 4, 9)

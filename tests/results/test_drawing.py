import sys

import numpy as np
import pytest

from transformers_msstsvis.results import drawing
from transformers_msstsvis.results.drawing import contact_sheet, draw_instances, draw_video, place_labels
from transformers_msstsvis.results.palette import track_palette
from transformers_msstsvis.results.rle import encode_mask
from transformers_msstsvis.results.video_instances import VideoInstances


def square(x: int, y: int) -> np.ndarray:
    mask = np.zeros((60, 80), dtype=bool)
    mask[y : y + 20, x : x + 20] = True
    return mask


def example(**changes) -> VideoInstances:
    # Track 2 moves right; track 9 leaves after the first frame; the third frame is empty.
    values = {
        "scores": [0.875, 0.5],
        "labels": [0, 1],
        "track_ids": [2, 9],
        "masks": [
            [encode_mask(square(5, 30)), encode_mask(square(50, 30)), None],
            [encode_mask(square(40, 30)), None, None],
        ],
        "boxes": None,
        "size": (60, 80),
        "num_frames": 3,
    }
    return VideoInstances(**{**values, **changes})


FRAMES = np.full((3, 60, 80, 3), 90, dtype=np.uint8)


def test_masks_are_painted_in_the_rgb_colour_of_their_track():
    drawn = draw_instances(FRAMES[0], example(), 0, boxes=False, labels=False, outlines=False, opacity=1.0)
    palette = track_palette()
    assert (drawn[square(5, 30)] == palette[2]).all()
    assert (drawn[square(40, 30)] == palette[9]).all()
    assert (drawn[~square(5, 30) & ~square(40, 30)] == 90).all()
    assert (FRAMES == 90).all()


def test_a_track_keeps_its_colour_alone_and_in_company_and_at_every_id():
    drawn = list(draw_video(FRAMES, example(), boxes=False, labels=False, outlines=False, opacity=1.0))
    assert (drawn[1][square(50, 30)] == drawn[0][square(5, 30)][0]).all()
    assert (drawn[2] == 90).all()
    many = draw_instances(
        FRAMES[0], example(track_ids=[2 + 255, 0]), 0, boxes=False, labels=False, outlines=False, opacity=1.0
    )
    assert (many[square(5, 30)] == track_palette()[2]).all()


def test_opacity_mixes_mask_and_frame():
    drawn = draw_instances(FRAMES[0], example(), 0, boxes=False, labels=False, outlines=False, opacity=0.5)
    mixed = (track_palette()[2].astype(float) + 90) / 2
    np.testing.assert_allclose(drawn[square(5, 30)][0], mixed, atol=1)


def test_boxes_and_labels_are_drawn():
    boxed = draw_instances(FRAMES[1], example(), 1, masks=False, labels=False)
    assert (boxed[30, 50:70] == track_palette()[2]).all()
    assert (boxed[35:45, 55:65] == 90).all()
    labelled = draw_instances(FRAMES[1], example(), 1, masks=False, boxes=False)
    assert (labelled != 90).any()
    named = draw_instances(FRAMES[1], example(id2label={0: "hippopotamus"}), 1, masks=False, boxes=False)
    assert (named != labelled).any()
    other_score = draw_instances(FRAMES[1], example(scores=[0.1, 0.5]), 1, masks=False, boxes=False)
    assert (other_score != labelled).any()
    other_track = draw_instances(FRAMES[1], example(track_ids=[2 + 255, 9]), 1, masks=False, boxes=False)
    assert (other_track != labelled).any()


def test_colours_of_neighbouring_tracks_differ_and_none_is_the_background():
    palette = track_palette().astype(int)
    assert palette[0].tolist() == [0, 0, 0]
    assert len({tuple(colour) for colour in palette}) == 256
    assert np.abs(np.diff(palette[1:], axis=0)).sum(1).min() > 100


def test_drawing_is_lazy_and_frames_beyond_the_instances_pass_through(monkeypatch):
    seen, warnings = [], []
    monkeypatch.setattr(drawing.logger, "warning", warnings.append)

    def frames():
        for frame in (*FRAMES, *FRAMES):
            seen.append(frame)
            yield frame

    drawn = draw_video(frames(), example())
    next(drawn)
    assert len(seen) == 1
    rest = list(drawn)
    assert len(rest) == 5
    assert all((frame == 90).all() for frame in rest[2:])
    assert len(warnings) == 1
    assert "cover 3 frames" in warnings[0]


@pytest.mark.parametrize(
    "frame", [np.zeros((80, 60, 3), np.uint8), np.zeros((60, 80, 3), np.float32), np.zeros((60, 80), np.uint8)]
)
def test_frames_have_to_fit(frame):
    with pytest.raises(ValueError, match=r"frame 1 has shape .*expected uint8 \(60, 80, 3\), the size of the masks"):
        draw_instances(frame, example(), 1)
    with pytest.raises(IndexError, match="frame 3 does not exist"):
        draw_instances(FRAMES[0], example(), 3)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="drawing needs the supervision package: pip install supervision"):
        example().to_supervision(0)


def test_contact_sheet():
    frames = [np.full((2, 3, 3), value, np.uint8) for value in (1, 2, 3)]
    w = 255
    assert contact_sheet(frames, columns=2, gap=1)[..., 0].tolist() == [
        [1, 1, 1, w, 2, 2, 2],
        [1, 1, 1, w, 2, 2, 2],
        [w, w, w, w, w, w, w],
        [3, 3, 3, w, w, w, w],
        [3, 3, 3, w, w, w, w],
    ]
    assert contact_sheet(iter(frames), columns=9, gap=0).shape == (2, 9, 3)
    with pytest.raises(ValueError, match="0 frames in 4 columns"):
        contact_sheet([])
    with pytest.raises(ValueError, match="expected one shape"):
        contact_sheet([frames[0], frames[0][:1]])


def test_outlines_are_white_along_the_inner_edge():
    drawn = draw_instances(FRAMES[0], example(), 0, boxes=False, labels=False, opacity=1.0)
    edge = square(5, 30)
    edge[31:49, 6:24] = False
    assert (drawn[edge] == 255).all()
    assert (drawn[31:49, 6:24] == track_palette()[2]).all()
    assert (drawn[~square(5, 30) & ~square(40, 30)] == 90).all()
    # No line where the frame cuts a mask.
    whole = np.ones((60, 80), dtype=bool)
    all_over = example(masks=[[encode_mask(whole)] * 3, [None] * 3])
    assert (draw_instances(FRAMES[0], all_over, 0, boxes=False, labels=False, opacity=1.0) == track_palette()[2]).all()


def overlapping(first, second) -> bool:
    (x, y, width, height), (a, b, other_width, other_height) = first, second
    return x < a + other_width and a < x + width and y < b + other_height and b < y + height


def test_no_label_covers_another():
    rng = np.random.default_rng(0)
    for number in (2, 8, 20):
        corners = rng.integers(0, 200, (number, 2))
        boxes = np.concatenate([corners, corners + rng.integers(5, 90, (number, 2))], axis=1)
        sizes = [(int(width), 14) for width in rng.integers(30, 90, number)]
        places = place_labels(boxes, sizes, (256, 256))
        labels = [(*place, *size) for place, size in zip(places, sizes, strict=True) if place is not None]
        assert len(labels) == number
        assert not any(overlapping(a, b) for i, a in enumerate(labels) for b in labels[:i])
        assert all(0 <= x <= 256 - w and 0 <= y <= 256 - h for x, y, w, h in labels)


def test_labels_stay_at_their_boxes_where_they_can():
    assert place_labels(np.array([[20, 40, 60, 90]]), [(30, 10)], (100, 100)) == [(20, 30)]  # above
    assert place_labels(np.array([[20, 4, 60, 90]]), [(30, 10)], (100, 100)) == [(20, 0)]  # inside the frame
    same = np.array([[20, 40, 60, 90]] * 2)
    assert place_labels(same, [(30, 10)] * 2, (100, 100)) == [(20, 30), (20, 90)]  # the second one below
    # Where there is no place the label is left out, the lower one.
    assert place_labels(same, [(100, 60)] * 2, (100, 100)) == [(0, 0), None]


def test_trails_follow_the_middle_of_the_boxes_with_gaps_where_a_track_is_absent():
    masks = [encode_mask(square(5, 30)), encode_mask(square(25, 30)), None, encode_mask(square(50, 30))]
    tracks = example(scores=[0.9], labels=[0], track_ids=[2], masks=[masks], num_frames=4)
    options = {"masks": False, "boxes": False, "labels": False}
    frame = FRAMES[0]
    drawn = {index: draw_instances(frame, tracks, index, trails=3, **options) for index in range(4)}
    way = drawn[1][40, 15:36]
    assert (way == track_palette()[2]).all()
    assert (drawn[0] == 90).all()
    assert (drawn[2] == 90).all()
    assert np.array_equal(drawn[3], drawn[1])
    assert (draw_instances(frame, tracks, 3, trails=1, **options) == 90).all()

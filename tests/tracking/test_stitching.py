"""Clips of 4x4 pixels, frames side by side, one letter per instance; `*` belongs to all of them.

The stitched video is drawn the same way, with track ids for letters.
"""

import numpy as np
import pytest

from transformers_msstsvis.results.rle import encode_mask
from transformers_msstsvis.results.video_instances import VideoInstances
from transformers_msstsvis.tracking.stitching import TrackStitcher


def clip(picture: str, scores=None, labels=None, size=(4, 4)) -> VideoInstances:
    frames = np.array([list("".join(line.split())) for line in picture.strip().splitlines()])
    frames = frames.reshape(size[0], -1, size[1]).transpose(1, 0, 2)
    names = sorted(set(frames.ravel()) - set(".*"))
    masks = [[encode_mask((frame == name) | ((frame == "*") & (name in frame))) for frame in frames] for name in names]
    return VideoInstances(
        scores=[(scores or {}).get(name, 0.5) for name in names],
        labels=[(labels or {}).get(name, 0) for name in names],
        track_ids=np.arange(len(names)),
        masks=masks,
        boxes=None,
        size=size,
        num_frames=len(frames),
        fps=5.0,
        id2label={0: "cat", 1: "dog"},
    )


def picture(video: VideoInstances) -> str:
    frames = np.full((video.num_frames, *video.size), ".")
    for frame in range(video.num_frames):
        masks = video.decode(frame)
        for track_id, mask in zip(video.track_ids, masks, strict=True):
            frames[frame][mask] = track_id
        frames[frame][masks.sum(0) > 1] = "*"
    return "\n".join(" ".join("".join(row) for row in frames[:, y]) for y in range(video.size[0]))


def lines(text: str) -> str:
    return "\n".join(line.strip() for line in text.strip().splitlines())


def stitch(*clips, **options) -> VideoInstances:
    stitcher = TrackStitcher(**options)
    for instances, start in clips:
        stitcher.add(instances, start)
    return stitcher.finish()


def test_tracks_continue_whatever_their_order_in_the_clip():
    first = clip("""
        aa.. aa.. .aa.
        aa.. aa.. .aa.
        .... .... ....
        bbbb bbbb bbbb
    """)
    second = clip("""
        bb.. .bb. ..bb
        bb.. .bb. ..bb
        .... .... ....
        aaaa aaaa aaaa
    """)
    video = stitch((first, 0), (second, 1))
    assert picture(video) == lines("""
        11.. 11.. .11. ..11
        11.. 11.. .11. ..11
        .... .... .... ....
        2222 2222 2222 2222
    """)
    assert video.track_ids.tolist() == [1, 2]
    assert (video.num_frames, video.fps, video.id2label) == (4, 5.0, {0: "cat", 1: "dog"})
    assert video.boxes[0, 3].tolist() == [2, 0, 4, 2]


def test_a_track_that_leaves_and_returns_to_its_place_keeps_its_id():
    present = clip("""
        aa.. .... ....
        aa.. .... ....
        .... .... ....
        .... .... ....
    """)
    returning = clip("""
        .... .... aa..
        .... .... aa..
        .... .... ....
        .... .... ....
    """)
    video = stitch((present, 0), (returning, 1))
    assert picture(video) == lines("""
        11.. .... .... 11..
        11.. .... .... 11..
        .... .... .... ....
        .... .... .... ....
    """)


def test_a_track_that_returns_elsewhere_or_too_late_is_new():
    present = clip("""
        aa.. ....
        aa.. ....
        .... ....
        .... ....
    """)
    elsewhere = clip("""
        .... ....
        .... ....
        ..aa ..aa
        ..aa ..aa
    """)
    assert picture(stitch((present, 0), (elsewhere, 2))) == lines("""
        11.. .... .... ....
        11.. .... .... ....
        .... .... ..22 ..22
        .... .... ..22 ..22
    """)
    # Frame 0 is the last sight; the next one is in frame 4.
    assert stitch((present, 0), (present, 4), max_absence=4).track_ids.tolist() == [1]
    assert stitch((present, 0), (present, 4), max_absence=3).track_ids.tolist() == [1, 2]
    assert stitch((present, 0), (present, 400), max_absence=None).track_ids.tolist() == [1]


def test_crossing_tracks_keep_their_ids():
    before = clip("""
        aa.. .aa. ..aa
        aa.. .**. ..aa
        ..bb .**. bb..
        ..bb .bb. bb..
    """)
    after = clip("""
        .bb. ..bb ..bb
        .**. ..bb ..bb
        .**. aa.. aa..
        .aa. aa.. aa..
    """)
    assert picture(stitch((before, 0), (after, 1))) == lines("""
        11.. .11. ..11 ..11
        11.. .**. ..11 ..11
        ..22 .**. 22.. 22..
        ..22 .22. 22.. 22..
    """)


def test_of_a_split_track_the_larger_part_continues():
    whole = clip("""
        aaaa aaaa
        aaaa aaaa
        .... ....
        .... ....
    """)
    parts = clip("""
        abbb abbb
        abbb abbb
        .... ....
        .... ....
    """)
    # Both say something about the shared frame; the pixels of both tracks are marked.
    assert picture(stitch((whole, 0), (parts, 1))) == lines("""
        1111 *111 2111
        1111 *111 2111
        .... .... ....
        .... .... ....
    """)


def test_assignment_takes_the_largest_total_and_not_the_best_pair_first():
    first = clip("""
        aaaa
        aaab
        b...
        ....
    """)
    second = clip("""
        ddcc
        cccc
        c...
        ....
    """)
    # IoU: a-c 5/9, a-d 2/7, b-c 2/7. The best pair alone is less than the other two together.
    stitcher = TrackStitcher(iou_threshold=0.2)
    assert stitcher.add(first, 0).tolist() == [1, 2]
    assert stitcher.add(second, 0).tolist() == [2, 1]


def test_assignment_prefers_the_larger_overlap():
    first = clip("""
        aaaa
        abbb
        bb..
        ....
    """)
    second = clip("""
        ddd*
        **cc
        cc..
        ....
    """)
    # IoU: a-d 5/6, b-c 5/7, but a-c 1/5 and b-d 1/10 would do as well.
    stitcher = TrackStitcher(iou_threshold=0.1)
    assert stitcher.add(first, 0).tolist() == [1, 2]
    assert stitcher.add(second, 0).tolist() == [2, 1]


def test_a_track_that_the_next_clip_sees_only_later_keeps_its_id():
    early = clip("""
        aa.. aa..
        aa.. aa..
        .... ....
        .... ....
    """)
    late = clip("""
        .... aa..
        .... aa..
        .... ....
        .... ....
    """)
    assert stitch((early, 0), (late, 1)).track_ids.tolist() == [1]
    assert stitch((late, 0), (early, 0)).track_ids.tolist() == [1]
    gone = clip("""
        aa.. .... ....
        aa.. .... ....
        .... .... ....
        .... .... ....
    """)
    # In the shared frames the track is gone and the new clip sees it there already.
    assert stitch((gone, 0), (early, 1)).track_ids.tolist() == [1]


@pytest.mark.parametrize(("match_labels", "ids"), [(True, [1, 2]), (False, [1, 1])])
def test_classes_disagree(match_labels, ids):
    drawing = """
        aa.. aa..
        aa.. aa..
        .... ....
        .... ....
    """
    stitcher = TrackStitcher(match_labels=match_labels)
    cat = stitcher.add(clip(drawing, labels={"a": 0}, scores={"a": 0.6}), 0)
    dog = stitcher.add(clip(drawing, labels={"a": 1}, scores={"a": 0.9}), 1)
    assert [*cat, *dog] == ids
    video = stitcher.finish()
    # One track of both classes is called by the class with the larger sum of scores.
    assert video.labels.tolist() == ([0, 1] if match_labels else [1])


def test_empty_clips_are_frames_without_instances():
    present = clip("""
        aa..
        aa..
        ....
        ....
    """)
    empty = clip("""
        .... ....
        .... ....
        .... ....
        .... ....
    """)
    assert len(empty) == 0
    assert picture(stitch((empty, 0), (present, 2), (empty, 3))) == lines("""
        .... .... 11.. .... ....
        .... .... 11.. .... ....
        .... .... .... .... ....
        .... .... .... .... ....
    """)
    video = stitch((empty, 0), (empty, 1))
    assert (len(video), video.num_frames, video.boxes.shape) == (0, 3, (0, 3, 4))


def test_clips_without_overlap_compare_adjacent_frames():
    first = clip("""
        a... aa..
        a... aa..
        .... ....
        ...b ...b
    """)
    second = clip("""
        .bb. ..bb
        .bb. ..bb
        .... ....
        a... a...
    """)
    # The upper track moves on by a pixel (IoU 2/6); the lower one is another object on the other side.
    assert picture(stitch((first, 0), (second, 2))) == lines("""
        1... 11.. .11. ..11
        1... 11.. .11. ..11
        .... .... .... ....
        ...2 ...2 3... 3...
    """)


def test_iou_is_summed_over_the_shared_frames():
    first = clip("""
        aaaa a...
        .... ....
        .... ....
        .... ....
    """)
    second = clip("""
        aaaa ....
        .... ....
        .... ....
        .... ...a
    """)
    # 4/4 in the first and 0/2 in the second frame: 4/6 of the sums, where the mean would be 1/2.
    assert stitch((first, 0), (second, 0), iou_threshold=0.66).track_ids.tolist() == [1]
    assert stitch((first, 0), (second, 0), iou_threshold=0.67).track_ids.tolist() == [1, 2]


def test_in_shared_frames_the_better_clip_decides_and_the_earlier_one_at_equal_scores():
    wide = """
        aaa. aaa.
        .... ....
        .... ....
        .... ....
    """
    narrow = wide.replace("aaa.", "aa..")
    better = stitch((clip(wide, {"a": 0.5}), 0), (clip(narrow, {"a": 0.8}), 1))
    assert picture(better).splitlines()[0] == "111. 11.. 11.."
    equal = stitch((clip(wide, {"a": 0.5}), 0), (clip(narrow, {"a": 0.5}), 1))
    assert picture(equal).splitlines()[0] == "111. 111. 11.."
    worse = stitch((clip(wide, {"a": 0.5}), 0), (clip(narrow, {"a": 0.2}), 1))
    assert picture(worse).splitlines()[0] == "111. 111. 11.."


def test_scores_are_weighted_by_visible_frames():
    three = clip(
        """
        aa.. aa.. aa.. ....
        .... .... .... ....
        .... .... .... ....
        .... .... .... ....
    """,
        {"a": 0.8},
    )
    one = clip(
        """
        aa.. ....
        .... ....
        .... ....
        .... ....
    """,
        {"a": 0.4},
    )
    assert stitch((three, 0), (one, 4)).scores == pytest.approx([(3 * 0.8 + 0.4) / 4])


def test_ids_follow_the_order_of_appearance():
    instances = clip("""
        .... ..b. a.b.
        .... .... ....
        .... .... ....
        c... c... c...
    """)
    stitcher = TrackStitcher()
    assert stitcher.add(instances, 0).tolist() == [3, 2, 1]
    assert stitcher.finish().track_ids.tolist() == [1, 2, 3]


def test_instances_without_a_visible_frame_are_left_out():
    instances = clip("""
        ab..
        ....
        ....
        ....
    """)
    instances.masks[0] = [None]
    stitcher = TrackStitcher()
    assert stitcher.add(instances, 0).tolist() == [-1, 1]
    assert len(stitcher.finish()) == 1


def test_cutting_a_video_into_clips_and_stitching_it_gives_the_video_back():
    picture_of_video = """
        aa.. .aa. ..aa .... .... ..aa .aa. aa..
        aa.. .aa. ..aa .... .... ..aa .aa. aa..
        .... .... bb.. bb.. bb.. bb.. .... ....
        .... .... bb.. .bb. ..bb ..bb .... ....
    """
    whole = clip(picture_of_video)
    columns = [line.split() for line in picture_of_video.strip().splitlines()]
    stitcher = TrackStitcher()
    for start in range(0, 6, 2):
        part = "\n".join(" ".join(line[start : start + 4]) for line in columns)
        stitcher.add(clip(part), start)
    assert stitcher.finish().masks == whole.masks


def test_released_frames_come_once_and_take_their_masks_with_them():
    drawing = """
        aa.. aa.. aa.. aa..
        .... .... .... ....
        .... .... .... ....
        bb.. .... .... ....
    """
    stitcher = TrackStitcher(max_absence=6)
    stitcher.add(clip(drawing), 0)
    pictures, held = [], []
    for start in range(2, 200, 2):
        stitcher.add(clip(drawing.replace("bb..", "....")), start)
        pictures.append(picture(stitcher.release(start)))
        held.append(sum(len(track.frames) for track in (*stitcher._open, *stitcher._closed)))
    assert pictures[0] == lines("""
        11.. 11..
        .... ....
        .... ....
        22.. ....
    """)
    assert len(set(pictures[1:])) == 1
    assert pictures[1].splitlines()[3] == ".... ...."
    assert max(held[10:]) == 4
    rest = stitcher.finish()
    assert (rest.num_frames, rest.track_ids.tolist()) == (4, [1])


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda s, c: s.add(c, 0), "clip starts at frame 0, the previous one at 2.*in order"),
        (lambda s, c: (s.release(4), s.add(c, 3)), "frames before 4 are released"),
        (lambda s, c: s.release(5), "stop is 5; expected 0 to 4"),
        (lambda s, c: s.add(clip("....", size=(1, 4)), 2), r"size \(1, 4\); expected \(4, 4\)"),
        (lambda s, c: TrackStitcher().finish(), "no clip was added.*call add"),
        (lambda s, c: TrackStitcher(iou_threshold=0), "iou_threshold is 0; expected"),
    ],
)
def test_errors(action, message):
    instances = clip("""
        a... a...
        .... ....
        .... ....
        .... ....
    """)
    stitcher = TrackStitcher()
    stitcher.add(instances, 2)
    with pytest.raises(ValueError, match=message):
        action(stitcher, instances)

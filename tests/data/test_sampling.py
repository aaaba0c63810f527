"""Which frames and which clips are drawn, and that the epoch reaches every worker and a resumed run."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import prepare_data_loader
from transformers import Trainer, TrainingArguments

from tests.data.vis_rows import numbered_frames, numbers, vis_dataset
from transformers_msstsvis import MsstsVisVideoProcessor
from transformers_msstsvis.data.clips import VideoClips
from transformers_msstsvis.data.collator import ClipCollator
from transformers_msstsvis.data.pseudo_clips import COCO_TO_YTVIS_2019
from transformers_msstsvis.data.sampling import (
    SAMPLINGS,
    EpochCallback,
    JointClips,
    consecutive_frames,
    published_frames,
    sliding_frames,
    strided_frames,
    window_frames,
    wrapped_frames,
)

COLLATE = ClipCollator(MsstsVisVideoProcessor())
FULL = np.ones((8, 8), dtype=bool)


def test_window_frames_are_sorted_and_without_repeats_where_the_video_is_long_enough():
    rng = np.random.default_rng(0)
    near = 0
    for _ in range(200):
        frames = window_frames(12, 5, rng)
        assert (np.diff(frames) > 0).all()
        assert frames[0] >= 0
        assert frames[-1] < 12
        near += frames[-1] - frames[0] == 4
    assert 0 < near < 200  # consecutive frames sometimes, not always
    assert window_frames(2, 5, rng).shape == (5,)


@pytest.mark.parametrize(("length", "num_frames"), [(12, 5), (5, 12), (4, 4), (1, 3)])
def test_wrapped_frames_end_at_theirs_and_go_round(length, num_frames):
    every = list(range(length))
    for last in every:
        published = [every[last - (num_frames - 1 - place) % length] for place in range(num_frames)]
        assert wrapped_frames(length, num_frames, last).tolist() == published


@pytest.mark.parametrize(
    ("length", "first", "expected"),
    [
        (9, 3, [3, 4, 5, 6, 7, 8]),
        (6, 0, [0, 1, 2, 3, 4, 5]),
        (4, 0, [0, 1, 2, 3, 2, 1]),
        (2, 0, [0, 1] * 3),
        (1, 0, [0] * 6),
    ],
)
def test_sliding_frames_are_consecutive_and_turn_at_the_ends_of_short_videos(length, first, expected):
    assert sliding_frames(length, 6, first).tolist() == expected


def test_every_whole_clip_is_drawn_once_in_an_epoch():
    assert SAMPLINGS["sliding"].indices(np.array([9, 6, 4, 0]), 6).tolist() == [4, 1, 1, 0]


def test_window_frames_of_earlier_recipes():
    drawn = [window_frames(24, 3, np.random.default_rng((1, 0, index))).tolist() for index in range(3)]
    assert drawn == [[6, 14, 17], [5, 15, 17], [4, 9, 13]]


@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("length", [9, 36])
def test_published_frames_are_distinct_and_around_the_key_frame(length, num_frames):
    rng = np.random.default_rng(0)
    for key in range(length):
        frames = published_frames(length, num_frames, key, rng)
        assert len(frames) == num_frames
        assert (np.diff(frames) > 0).all()
        assert key in frames
        assert 0 <= frames[0] <= frames[-1] < length
        near = frames[abs(frames - key) <= 3]
        assert len(near) >= min(num_frames, 2)
        if 3 <= key < length - 3 and num_frames >= 3:
            assert near[0] < key < near[-1]
        if num_frames == 5 and length == 36 and 3 <= key < length - 3:
            # the other two lie outside of the neighbourhood
            inner = frames[(frames > near[0]) & (frames < near[-1])]
            assert len(near) > 3 or inner.tolist() == [key]


def test_published_frames_reach_far():
    rng = np.random.default_rng(0)
    drawn = np.concatenate([published_frames(36, 5, 18, rng) for _ in range(200)])
    assert set(drawn) >= set(range(15)) | set(range(22, 36))


@pytest.mark.parametrize(("length", "num_frames"), [(1, 5), (2, 5), (2, 9), (4, 5)])
def test_published_frames_of_a_short_video_show_all_of_it(length, num_frames):
    frames = published_frames(length, num_frames, length - 1, np.random.default_rng(0))
    assert len(frames) == num_frames
    assert set(frames) == set(range(length))
    assert (np.diff(frames) >= 0).all()


def test_strided_frames():
    rng = np.random.default_rng(0)
    starts = set()
    for _ in range(50):
        frames = strided_frames(12, 3, 4, rng)
        assert np.diff(frames).tolist() == [4, 4]
        assert frames[-1] < 12
        starts.add(int(frames[0]))
    assert starts == {0, 1, 2, 3}
    assert strided_frames(6, 3, 4, rng)[[0, -1]].tolist() in ([0, 4], [1, 5])  # there is room for a stride of 2
    assert strided_frames(2, 3, 4, rng).shape == (3,)
    assert strided_frames(5, 1, 4, rng).shape == (1,)


def test_consecutive_windows_show_every_frame_once():
    assert [consecutive_frames(7, 3, window).tolist() for window in range(3)] == [[0, 1, 2], [3, 4, 5], [6]]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    lengths = (7, 3, 9, 5, 8, 6)
    content = [(numbered_frames(length), [(0, [FULL] * length)]) for length in lengths]
    return vis_dataset(tmp_path_factory.mktemp("videos"), content, ["disk", "ring"])


def one_class(folder, name, number):
    folder.mkdir()
    content = [(numbered_frames(4), [(0, [FULL] * 4)])] * number
    return VideoClips(vis_dataset(folder, content, [name]), num_frames=2, flip=False)


def seen(clips, epoch):
    return [(clip["video_id"], *numbers(clip)) for clip in (clips.clip(index, epoch) for index in range(len(clips)))]


def test_joint_clips_without_weights_show_everything_once_per_epoch(videos, tmp_path):
    other = one_class(tmp_path / "other", "Ring", 2)
    joint = JointClips([VideoClips(videos, num_frames=2, flip=False), other])
    assert len(joint) == 8
    for epoch in (0, 1):
        joint.set_epoch(epoch)
        items = [joint[index] for index in range(8)]
        rings = [clip for clip in items if clip["labels"]["class_labels"].tolist() == [1]]  # Ring is ring
        assert sorted(clip["video_id"] for clip in rings) == [100, 101]
        disks = [clip for clip in items if clip["labels"]["class_labels"].tolist() == [0]]
        assert sorted(clip["video_id"] for clip in disks) == [100, 101, 102, 103, 104, 105]
    assert seen(joint, 0) == seen(joint, 0)
    assert seen(joint, 0) != seen(joint, 1)


def test_joint_clips_follow_the_weights_without_skipping_any(videos, tmp_path):
    many, few = VideoClips(videos, num_frames=2, flip=False), one_class(tmp_path / "few", "disk", 2)
    joint = JointClips([many, few], weights=[1, 3])
    assert np.bincount(joint._source).tolist() == [2, 6]
    assert sorted(joint._source[:4]) == [0, 1, 1, 1]  # mixed evenly
    # 2 of 6 videos per epoch: after three epochs each has been seen once
    turns = np.flatnonzero(joint._source == 0)
    shown = [joint.clip(index, epoch)["video_id"] for epoch in range(3) for index in turns]
    assert sorted(shown) == [100, 101, 102, 103, 104, 105]
    # 2 videos three times per epoch: other frames each time
    repeated = [item for item, source in zip(seen(joint, 0), joint._source, strict=True) if source == 1]
    assert sorted(item[0] for item in repeated) == [100] * 3 + [101] * 3
    assert len(set(repeated)) > 2


def test_joint_clips_map_classes_by_name(tmp_path):
    first, second = one_class(tmp_path / "a", "sedan", 1), one_class(tmp_path / "b", "car", 1)
    with pytest.raises(ValueError, match=r"no classes for \['car'\]; expected some of \['sedan'\]: name their"):
        JointClips([first, second])
    renamed = JointClips([first, second], renames=[None, COCO_TO_YTVIS_2019])
    assert [clip["labels"]["class_labels"].tolist() for clip in map(renamed.__getitem__, range(2))] == [[0], [0]]
    for joint in (
        JointClips([first, second], renames=[None, {"car": None}]),
        JointClips([first, second], unmatched="drop"),
    ):
        counts = [len(joint[index]["labels"]["class_labels"]) for index in range(2)]
        assert sorted(counts) == [0, 1]
        assert {len(joint[index]["labels"]["masks"]) for index in range(2)} == {0, 1}


def test_joint_clips_refuse_what_does_not_fit(tmp_path):
    clips = one_class(tmp_path / "a", "disk", 2)
    for arguments, message in (
        ({"sources": []}, r"have \[\] clips; expected at least one"),
        ({"sources": [clips], "weights": [1, 2]}, "expected one positive number for each of 1"),
        ({"sources": [clips], "weights": [-1]}, "expected one positive number"),
        ({"sources": [clips], "renames": []}, "renames has 0 entries; expected one"),
        ({"sources": [clips], "unmatched": "keep"}, 'unmatched is \'keep\'; expected "raise" or "drop"'),
        ({"sources": [clips, clips], "weights": [1, 100]}, "raise the smallest weight"),
    ):
        with pytest.raises(ValueError, match=message):
            JointClips(**arguments)


def test_any_number_of_workers_gives_the_same_clips_and_follows_the_epoch(videos):
    def batches(workers):
        clips = VideoClips(videos, num_frames=2, seed=4)
        loader = torch.utils.data.DataLoader(
            clips,
            batch_size=4,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=COLLATE,
        )
        epochs = []
        for epoch in (0, 1, 5):
            clips.set_epoch(epoch)
            epochs.append(torch.cat([batch["pixel_values_videos"] for batch in loader]))
        return torch.stack(epochs)

    alone, together = batches(0), batches(2)
    assert torch.equal(alone, together)
    assert not torch.equal(alone[0], alone[1])


class Recorder(torch.nn.Module):
    """Keeps what a training run shows it."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches = []

    def forward(self, pixel_values_videos, pixel_mask, labels):
        frames = [tuple(video[:, 0, 0, 0].tolist()) for video in pixel_values_videos]
        self.batches.append(list(zip([int(label["video_id"]) for label in labels], frames, strict=True)))
        return {"loss": self.weight}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_resumed_within_an_epoch_sees_the_batches_of_an_uninterrupted_one(videos, tmp_path, workers):
    def train(resume=None):
        model = Recorder()
        arguments = TrainingArguments(
            str(tmp_path),
            max_steps=9,  # 3 per epoch
            per_device_train_batch_size=2,
            dataloader_num_workers=workers,
            dataloader_persistent_workers=workers > 0,
            save_steps=4,
            use_cpu=True,
            disable_tqdm=True,
            remove_unused_columns=False,
            report_to="none",
        )
        clips = VideoClips(videos, num_frames=2)
        callbacks = [EpochCallback()]
        Trainer(model, arguments, COLLATE, clips, callbacks=callbacks).train(resume_from_checkpoint=resume)
        return model.batches

    whole = train()
    assert len(whole) == 9
    assert train(resume=str(tmp_path / "checkpoint-4")) == whole[4:]
    epochs = [dict(clip for batch in whole[first : first + 3] for clip in batch) for first in (0, 3, 6)]
    assert all(sorted(epoch) == [100, 101, 102, 103, 104, 105] for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]  # other frames


def test_epoch_callback_reaches_data_and_sampler_through_every_wrapper(videos):
    clips = VideoClips(videos, num_frames=2)
    loader = torch.utils.data.DataLoader(clips, batch_size=2, shuffle=True, collate_fn=COLLATE)
    for processes in (1, 2):
        prepared = prepare_data_loader(
            loader, num_processes=processes, process_index=0, put_on_device=False, use_seedable_sampler=True
        )
        clips.set_epoch(0)
        EpochCallback().on_epoch_begin(None, SimpleNamespace(epoch=2.0), None, train_dataloader=prepared)
        skipping = skip_first_batches(prepared, 1)
        sampler = prepared.batch_sampler
        while hasattr(sampler, "batch_sampler"):
            sampler = sampler.batch_sampler
        assert clips.epoch == sampler.sampler.epoch == 2
        assert skipping.dataset is clips

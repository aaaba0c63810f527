"""What the page of the demo computes."""

import re
import zipfile

import numpy as np
import pytest

from transformers_msstsvis.demo.clips import find_tracks, show_tracks
from transformers_msstsvis.predict import SAMPLE_VIDEO, load_segmenter
from transformers_msstsvis.results.video_instances import VideoInstances
from transformers_msstsvis.video.reader import VideoReader
from transformers_msstsvis.video.writer import write_video


@pytest.fixture(scope="module")
def segmenter():
    return load_segmenter()


@pytest.fixture(scope="module")
def found(segmenter):
    return find_tracks(SAMPLE_VIDEO, segmenter)


@pytest.mark.parametrize("choice", [{"threshold": 0.3}, {"threshold": 0.1, "classes": ["ring", "cross"]}], ids=str)
def test_tracks_are_those_of_the_pipeline(segmenter, found, tmp_path, choice):
    shown = show_tracks(found, tmp_path, **choice)
    expected = segmenter(str(SAMPLE_VIDEO), return_instances=True, **choice)
    assert len(expected)
    assert [row[2] for row in shown.rows] == [expected.label_name(label) for label in expected.labels]
    written = VideoInstances.load_json(tmp_path / "tracks.json")
    assert written.masks == expected.masks
    np.testing.assert_array_equal(written.scores, expected.scores)


def test_another_choice_does_not_run_the_model(segmenter, found, tmp_path, monkeypatch):
    monkeypatch.setattr(type(segmenter.model), "forward", None)
    ids = {}
    for threshold in (0.3, 0.6):
        folder = tmp_path / str(threshold)
        folder.mkdir()
        ids[threshold] = [row[1] for row in show_tracks(found, folder, threshold).rows]
    assert ids == {0.3: [1, 2, 3], 0.6: [1, 2]}  # an object keeps its number


def test_files(found, tmp_path):
    told = []
    shown = show_tracks(found, tmp_path, progress=lambda *frames: told.append(frames))
    assert told == [(done, 30) for done in range(1, 31)]
    assert shown.text == "3 tracks in 30 frames (3.0 seconds)."
    assert shown.rows[0][1:] == [1, "star", 0.82, 30, "0.0 - 3.0"]
    assert all(row[0].startswith("<img ") for row in shown.rows)
    drawn, plain = VideoReader(shown.video), VideoReader(SAMPLE_VIDEO)
    assert (len(list(drawn)), drawn.fps) == (30, plain.fps)
    assert [path.name for path in shown.files] == ["tracks.json", "tracks.csv", "masks.zip"]
    assert len([name for name in zipfile.ZipFile(shown.files[2]).namelist() if name.endswith(".png")]) == 30


def test_what_is_drawn_can_be_chosen(found, tmp_path):
    frames = {}
    for parts in ((), ("masks",), ("boxes",), ("boxes", "trails")):
        folder = tmp_path / "-".join(("drawn", *parts))
        folder.mkdir()
        frames[parts] = np.stack(list(VideoReader(show_tracks(found, folder, parts=parts).video))).astype(int)
    plain = next(iter(VideoReader(SAMPLE_VIDEO))).astype(int)
    assert abs(frames[()][0] - plain).mean() < 5 < abs(frames["masks",][0] - frames[()][0]).mean()
    moved = abs(frames["boxes", "trails"] - frames["boxes",]).max(axis=(1, 2, 3))
    assert moved[0] < 50 < moved[5]  # nothing has moved yet in the first frame


def test_a_long_video_is_cut_with_a_hint(segmenter):
    told = []
    found = find_tracks(SAMPLE_VIDEO, segmenter, max_seconds=1, progress=lambda *frames: told.append(frames))
    assert found.instances.num_frames == len(told) == 10
    assert told[-1] == (10, 10)
    [note] = found.notes
    assert note.startswith("Only the first 1 seconds were segmented")
    assert "trim" in note
    assert not find_tracks(SAMPLE_VIDEO, segmenter, max_seconds=3).notes  # to the frame


def test_fast_and_large_videos_are_thinned_out(segmenter, tmp_path):
    frames = [np.full((900, 1600, 3), 10 * place, dtype=np.uint8) for place in range(8)]
    write_video(tmp_path / "fast.mp4", frames, fps=60)
    found = find_tracks(tmp_path / "fast.mp4", segmenter)
    assert found.instances.size == (720, 1280)
    assert (found.instances.num_frames, found.fps) == (4, 30)
    assert any("30 frames" in note for note in found.notes)
    assert any("1280 pixels" in note for note in found.notes)
    text = show_tracks(found, tmp_path, threshold=1).text
    assert re.match(r"(Nothing was found in|No track scores 1 or more in) 4 frames \(0.1 seconds\)", text)


def test_nothing_of_a_class(found, tmp_path):
    text = show_tracks(found, tmp_path, 0.9, ["disk"]).text
    assert text == "No track of disk scores 0.9 or more in 30 frames (3.0 seconds); the best one has 0.82."
    with pytest.raises(ValueError, match="the model has no class dog; expected some of disk"):
        show_tracks(found, tmp_path, 0.9, ["dog"])


def test_a_broken_video_is_used_up_to_the_break(segmenter, tmp_path):
    write_video(tmp_path / "whole.mp4", VideoReader(SAMPLE_VIDEO))  # its index is in front
    content = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: int(0.6 * len(content))])
    found = find_tracks(tmp_path / "cut.mp4", segmenter)
    assert 0 < found.instances.num_frames < 30
    assert found.notes[0].startswith("The video breaks off after")

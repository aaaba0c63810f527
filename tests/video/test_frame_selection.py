import io

import numpy as np
import pytest

from tests.tiny import moving_square, write_mp4
from transformers_msstsvis import VideoReader
from transformers_msstsvis.video.frame_selection import SelectedFrames


def numbered(count: int, fps: float | None = 30, size: tuple[int, int] = (4, 6)) -> VideoReader:
    return VideoReader([np.full((*size, 3), index, np.uint8) for index in range(count)], fps=fps)


def numbers(frames) -> list[int]:
    return [int(frame[0, 0, 0]) for frame in frames]


@pytest.mark.parametrize(
    ("options", "expected", "fps"),
    [
        ({}, list(range(10)), 30),
        ({"frames": "2:5"}, [2, 3, 4], 30),
        ({"frames": ":3"}, [0, 1, 2], 30),
        ({"frames": "7:"}, [7, 8, 9], 30),
        ({"frames": "7:1000"}, [7, 8, 9], 30),
        ({"frames": slice(1, 3)}, [1, 2], 30),
        ({"frames": (None, 2)}, [0, 1], 30),
        ({"stride": 4}, [0, 4, 8], 7.5),
        ({"frames": "1:9", "stride": 3}, [1, 4, 7], 10),
        ({"fps": 10}, [0, 3, 6, 9], 10),
        ({"fps": 20}, [0, 2, 3, 5, 6, 8, 9], 20),
        ({"fps": 60}, list(range(10)), 30),
        ({"fps": 0.1}, [0], 0.1),
    ],
)
def test_frames_that_are_chosen(options, expected, fps):
    chosen = SelectedFrames(numbered(10), **options)
    assert chosen.fps == pytest.approx(fps)
    assert chosen.num_frames in (len(expected), None)
    assert numbers(chosen) == numbers(chosen) == expected


def test_nothing_behind_the_end_is_read(monkeypatch):
    read = []
    reader = numbered(100)
    inner = reader._read
    monkeypatch.setattr(reader, "_read", lambda: (read.append(0) or frame for frame in inner()))
    assert len(list(SelectedFrames(reader, "3:6"))) == 3
    assert len(read) <= 7


def test_smaller_frames():
    video = numbered(2, size=(40, 100))
    assert [frame.shape for frame in SelectedFrames(video, max_side=50)] == [(20, 50, 3)] * 2
    assert [frame.shape for frame in SelectedFrames(video, max_side=100)] == [(40, 100, 3)] * 2
    assert [frame.shape for frame in SelectedFrames(numbered(1, size=(2, 10000)), max_side=64)] == [(1, 64, 3)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": "5"}, "frames is '5'; expected the first and the end, such as '100:400'"),
        ({"frames": "a:b"}, "frames is 'a:b'; expected"),
        ({"frames": "1:2:3"}, "frames is '1:2:3'; expected"),
        ({"frames": slice(0, 9, 2)}, "frames is slice"),
        ({"frames": "5:5"}, "frames is '5:5'; expected a first frame from 0 on and a later end"),
        ({"frames": "-5:-1"}, "frames is '-5:-1'; expected a first frame from 0 on"),
        ({"frames": (1.5, 3)}, "frames is"),
        ({"stride": 0}, "frame_stride is 0; expected a whole number from 1 on"),
        ({"max_side": 0.5}, "max_side is 0.5; expected a whole number from 1 on"),
        ({"fps": 0}, "fps is 0; expected a positive number"),
        ({"fps": float("nan")}, "fps is nan; expected a positive number"),
        ({"fps": 5, "stride": 2}, "frame_stride is 2 and fps 5; give one of them"),
    ],
)
def test_choices_that_are_none(options, message):
    with pytest.raises(ValueError, match=message):
        SelectedFrames(numbered(10), **options)


def test_a_rate_of_a_source_without_one():
    with pytest.raises(ValueError, match="fps is 5, and video has no frame rate; use a stride"):
        SelectedFrames(numbered(10, fps=None), fps=5)
    assert SelectedFrames(numbered(10, fps=None), stride=2).fps is None


def test_no_frame_is_left():
    with pytest.raises(ValueError, match="video has 10 frames and none from 20 on; choose others"):
        list(SelectedFrames(numbered(10), "20:30"))


@pytest.mark.parametrize("kind", ["bytes", "bytearray", "file", "memory"])
def test_the_content_of_a_file(tmp_path, kind):
    path = write_mp4(tmp_path / "clip.mp4")
    with open(path, "rb") as file:
        content = {
            "bytes": path.read_bytes(),
            "bytearray": bytearray(path.read_bytes()),
            "file": file,
            "memory": io.BytesIO(path.read_bytes()),
        }[kind]
        reader = VideoReader(content)
    assert reader.name == ("clip" if kind == "file" else "video")
    assert (reader.num_frames, reader.fps) == (5, 10)
    for _ in range(2):
        np.testing.assert_array_equal(list(reader), list(VideoReader(path)))
    picture = io.BytesIO()
    from PIL import Image

    Image.fromarray(moving_square(1)[0]).save(picture, format="png")
    np.testing.assert_array_equal(list(VideoReader(picture.getvalue())), moving_square(1))


def test_content_that_is_no_video(tmp_path):
    with pytest.raises(ValueError, match="video is empty: was it copied"):
        VideoReader(b"")
    with pytest.raises(ValueError, match="video could not be opened as a video"):
        VideoReader(b"no video at all")
    (tmp_path / "text.mp4").write_text("text")
    with open(tmp_path / "text.mp4") as file, pytest.raises(TypeError, match="opened as text; open it in binary mode"):
        VideoReader(file)

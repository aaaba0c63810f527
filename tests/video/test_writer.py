import errno
import os
import subprocess
import sys

import av
import numpy as np
import pytest

from tests.tiny import moving_square
from transformers_msstsvis import VideoReader, VideoWriter
from transformers_msstsvis.video import writer as module


@pytest.mark.parametrize("every", [1, 7, 100])
def test_flushing_changes_neither_frames_nor_times(tmp_path, every):
    video = moving_square(20)
    with VideoWriter(tmp_path / "a.mp4", fps=10) as writer:
        for number, frame in enumerate(video, start=1):
            writer.write(frame)
            if number % every == 0:
                writer.flush()
    reader = VideoReader(tmp_path / "a.mp4")
    assert (reader.num_frames, reader.fps) == (20, 10)
    assert np.abs(np.stack(list(reader)).astype(int) - video).mean() < 6
    assert reader.problems == []
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert [frame.time for frame in container.decode(video=0)] == pytest.approx([n / 10 for n in range(20)])
    assert (tmp_path / "a.mp4").read_bytes().index(b"moov") < (tmp_path / "a.mp4").read_bytes().index(b"mdat")
    assert os.listdir(tmp_path) == ["a.mp4"]


WRITE = """
import sys, time
from tests.tiny import moving_square
from transformers_msstsvis import VideoWriter
writer = VideoWriter(sys.argv[1])
for number, frame in enumerate(moving_square(60), start=1):
    writer.write(frame)
    if number % 30 == 0:
        writer.flush()
print("written", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(("name", "frames"), [("a.mp4", 59), ("a.webm", 40), ("folder", 60)])
def test_what_was_flushed_survives_a_kill(tmp_path, name, frames):
    process = subprocess.Popen([sys.executable, "-c", WRITE, tmp_path / name], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "written\n"
    process.kill()
    process.wait()
    [left] = [tmp_path / name / "partial"] if name == "folder" else list(tmp_path.iterdir())
    assert len(list(VideoReader(left))) >= frames
    assert ".partial." in left.name or name == "folder"


def test_a_full_disk_leaves_what_was_flushed(tmp_path, monkeypatch):
    mux, muxed = module.VideoWriter._mux, []

    def full(self, encoder, picture):
        muxed.append(picture)
        if len(muxed) > 24:
            raise OSError(errno.ENOSPC, "No space left on device")
        mux(self, encoder, picture)

    monkeypatch.setattr(module.VideoWriter, "_mux", full)
    writer = VideoWriter(tmp_path / "a.mp4")

    def write():
        with writer:
            for number, frame in enumerate(moving_square(40), start=1):
                writer.write(frame)
                if number % 10 == 0:
                    writer.flush()

    with pytest.raises(OSError, match=r"No space left on device, so it could not be written: '.*a.mp4'"):
        write()
    assert writer.written_to.name == "a.partial.mp4"
    assert len(list(VideoReader(writer.written_to))) >= 19

"""Whatever a user has for a video: a result, or one line that says what is wrong with it."""

import os
import threading
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.test_pipelines import small_processor
from tests.tiny import moving_square, tiny_model, write_mp4
from transformers_msstsvis import VideoInstances, VideoReader
from transformers_msstsvis.commands import predict as script
from transformers_msstsvis.video import download

FRAMES = 8


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("checkpoint")
    tiny_model().save_pretrained(path)
    small_processor().save_pretrained(path)
    return str(path)


def encode(path: Path, codec: str, pixels: str, frames: np.ndarray, times: list[int] | None = None) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=pixels)
            picture.pts, picture.time_base = (index if times is None else times[index]), Fraction(1, 10)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def segment(checkpoint: str, video: str | Path, *more: str) -> VideoInstances:
    """What the command makes of a video; all its outputs have all its frames."""
    arguments = ["--model", checkpoint, "--threshold", "0", "--json", "out.jsonl", "--output", "out.mp4", "--quiet"]
    assert script.main([*arguments, *more, "--", str(video)]) == 0
    found = VideoInstances.load_json("out.jsonl")
    assert len(list(VideoReader("out.mp4"))) == found.num_frames
    return found


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("ten_bits.mp4", "libx264", "yuv420p10le"),
        ("grey.mkv", "ffv1", "gray"),
        ("grey_16_bits.mkv", "ffv1", "gray16le"),
        ("colour_16_bits.mkv", "ffv1", "rgb48le"),
        ("alpha.webm", "libvpx-vp9", "yuva420p"),
        ("alpha.mov", "png", "rgba"),
        ("full_range.avi", "mjpeg", "yuvj420p"),
    ],
)
def test_pixels_of_all_kinds(checkpoint, tmp_path, monkeypatch, name, codec, pixels):
    monkeypatch.chdir(tmp_path)
    video = moving_square(FRAMES)
    encode(tmp_path / name, codec, pixels, video)
    expected = video.mean(-1, keepdims=True) if "grey" in name else video
    read = np.stack(list(VideoReader(tmp_path / name))).astype(float)
    assert np.abs(read - expected).mean() < (10 if "grey" in name else 6)
    found = segment(checkpoint, name)
    assert (found.num_frames, found.size) == (FRAMES, (48, 64))


@pytest.mark.parametrize("size", [(1, 1), (1, 64), (3, 5), (32, 10000)])
def test_sizes_of_all_kinds(checkpoint, tmp_path, monkeypatch, size):
    monkeypatch.chdir(tmp_path)
    encode(tmp_path / "clip.mkv", "ffv1", "bgr0", np.random.default_rng(0).integers(0, 255, (3, *size, 3), np.uint8))
    arguments = ["clip.mkv", "--model", checkpoint, "--threshold", "0", "--json", "out.jsonl", "--quiet"]
    if max(size) / min(size) > 100:
        assert script.main(arguments) == 1
        assert script.main([*arguments, "--max-side", "640"]) == 1
        return
    assert segment(checkpoint, "clip.mkv").size == size


def test_a_wide_video_is_told_what_to_do(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    encode(tmp_path / "wide.mkv", "ffv1", "bgr0", np.zeros((2, 1000, 10000, 3), np.uint8))
    assert segment(checkpoint, "wide.mkv", "--max-side", "640").size == (64, 640)
    assert segment(checkpoint, "wide.mkv").size == (1000, 10000)


def test_a_variable_frame_rate_keeps_every_frame(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    encode(tmp_path / "phone.mp4", "libx264", "yuv420p", moving_square(FRAMES), times=[0, 1, 2, 10, 11, 30, 31, 50])
    assert segment(checkpoint, "phone.mp4").num_frames == FRAMES


@pytest.mark.parametrize("name", ["with space.mp4", "-o.mp4", "日本語 ünï.mp4", "a'b\"c;d$(e).mp4"])
def test_names_of_all_kinds(checkpoint, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_mp4(tmp_path / name, FRAMES)
    assert segment(checkpoint, name).num_frames == FRAMES


@pytest.mark.parametrize("has_index", [True, False])
def test_a_video_that_was_cut(checkpoint, tmp_path, monkeypatch, capsys, has_index):
    """With the index in front its frames up to there are found; without one there is nothing to go by."""
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).integers(0, 255, (30, 48, 64, 3), np.uint8)
    options = {"movflags": "faststart"} if has_index else {}
    with av.open("cut.mp4", "w", options=options) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for frame in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    content = Path("cut.mp4").read_bytes()
    Path("cut.mp4").write_bytes(content[: len(content) // 2])
    if has_index:
        found = segment(checkpoint, "cut.mp4")
        assert 5 < found.num_frames < 30
        return
    assert script.main(["cut.mp4", "--model", checkpoint]) == 1
    assert "cut.mp4 could not be opened as a video" in capsys.readouterr().err


def test_a_frame_that_is_damaged_in_the_middle(checkpoint, tmp_path, monkeypatch):
    """The frames before it, and in a folder also those behind it."""
    monkeypatch.chdir(tmp_path)
    Path("frames").mkdir()
    for index, frame in enumerate(moving_square(5)):
        Image.fromarray(frame).save(f"frames/{index}.png")
    Path("frames/2.png").write_bytes(b"damaged")
    Path("frames/notes.txt").write_text("no frame")
    assert segment(checkpoint, "frames").num_frames == 4


@pytest.mark.parametrize("suffix", ["webp", "png"])
def test_animations(checkpoint, tmp_path, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    first, *others = (Image.fromarray(frame) for frame in moving_square(4))
    first.save(f"a.{suffix}", save_all=True, append_images=others)
    assert segment(checkpoint, f"a.{suffix}").num_frames == 4


def test_frames_of_changing_size(checkpoint, tmp_path, monkeypatch):
    """Those of another size than the first are left out, and told."""
    monkeypatch.chdir(tmp_path)
    Path("frames").mkdir()
    for index in range(4):
        Image.fromarray(moving_square(1, 48 if index != 2 else 32, 64)[0]).save(f"frames/{index}.png")
    assert segment(checkpoint, "frames").num_frames == 3


def test_files_without_a_picture(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("empty.mp4").touch()
    Path("list.m3u8").write_text("#EXTM3U\nhttp://127.0.0.1:9/other.ts\n")
    Path("list.ffconcat").write_text("ffconcat version 1.0\nfile /etc/passwd\n")
    with av.open("sound.mp4", "w") as container:
        sound = container.add_stream("aac", rate=16000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 16000
        container.mux([*sound.encode(silence), *sound.encode(None)])
    told = {
        "empty.mp4": "empty.mp4 is empty: was it copied or fetched completely?",
        "sound.mp4": "sound.mp4 has no video stream, only sound",
        "list.m3u8": "list.m3u8 is a playlist (m3u8), which only names other files",
        "list.ffconcat": "list.ffconcat is a list of files (ffconcat), which only names other files",
        "concat:empty.mp4": "concat:empty.mp4 does not exist",
    }
    for name, message in told.items():
        assert script.main([name, "--model", checkpoint, "--output", "out.mp4"]) == 1
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert message in errors[0]
    assert sorted(os.listdir()) == sorted(["empty.mp4", "list.m3u8", "list.ffconcat", "sound.mp4"])


class Server(BaseHTTPRequestHandler):
    """Answers 404, hangs, or never ends."""

    stop = threading.Event()

    def do_GET(self):
        if "fails" in self.path:
            self.send_error(404)
            return
        self.send_response(200)
        self.end_headers()
        while not self.stop.wait(0.05 if "hangs" in self.path else 0):
            if "ends" in self.path:
                try:
                    self.wfile.write(bytes(1 << 16))
                except OSError:
                    return

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fails.mp4", "404"),
        ("hangs.mp4", "sends nothing, or too slowly"),
        ("never_ends.mp4", "larger than"),
    ],
)
def test_addresses_that_fail(checkpoint, tmp_path, monkeypatch, capsys, name, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(download, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(download, "MAX_BYTES", 1 << 20)
    monkeypatch.setattr(download.download, "__defaults__", (lambda problem: None, False, 1 << 20))
    Server.stop.clear()
    server = HTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/{name}"
        assert script.main([address, "--model", checkpoint, "--output", "out.mp4"]) == 1
        [error] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert message in error
        assert not list(tmp_path.iterdir())
    finally:
        Server.stop.set()
        server.shutdown()
        server.server_close()

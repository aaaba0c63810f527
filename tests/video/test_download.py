import contextlib
import http.server
import threading
import time

import pytest

from tests.video.test_reader import coloured, numbers
from transformers_msstsvis.video import download as module
from transformers_msstsvis.video.download import download
from transformers_msstsvis.video.reader import VideoReader
from transformers_msstsvis.video.writer import write_video


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("videos") / "clip.webm"
    write_video(path, [coloured(number) for number in range(3)], fps=10)
    return path.read_bytes()


@pytest.fixture(scope="module")
def server(content):
    """Addresses of a server with all the manners of servers."""
    stop = threading.Event()
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def head(self, code=200, length=None, **headers):
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name, value)
            if length is not None:
                self.send_header("Content-Length", str(length))
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True

        def do_GET(self):
            requests.append((self.path, self.headers.get("Authorization")))
            with contextlib.suppress(OSError):
                getattr(self, self.path.strip("/").split("?")[0].split(".")[0], self.missing)()

        def missing(self):
            self.head(404, 0)

        def clip(self):
            self.head(length=len(content))
            self.wfile.write(content)

        def broken(self):
            self.head(length=len(content) + 9)
            self.wfile.write(content)

        def huge(self):
            self.head(length=10**13)

        def endless(self):
            self.head()
            while not stop.is_set():
                self.wfile.write(bytes(1 << 16))

        def silent(self):
            stop.wait()

        def stalled(self):
            self.head(length=len(content))
            self.wfile.write(content[:9])
            self.wfile.flush()
            stop.wait()

        def drip(self):
            self.head(length=len(content))
            for byte in content:
                self.wfile.write(bytes([byte]))
                if stop.wait(0.05):
                    return

        def slow_answer(self):
            for byte in b"HTTP/1.1 200 OK\r\n" + b"X-Padding: 1\r\n" * 1000:
                self.wfile.write(bytes([byte]))
                if stop.wait(0.05):
                    return

        def moved(self):
            self.head(302, 0, Location="/clip.webm")

        def to_a_file(self):
            self.head(302, 0, Location="file:///etc/hostname")

        def to_itself(self):
            self.head(302, 0, Location="/to_itself.mp4")

        def playlist(self):
            text = f"#EXTM3U\n#EXTINF:10,\nhttp://{self.headers['Host']}/inner.ts\n#EXT-X-ENDLIST\n".encode()
            self.head(length=len(text))
            self.wfile.write(text)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        server.address, server.requests = f"127.0.0.1:{server.server_port}", requests
        yield server
        stop.set()
        server.shutdown()


def test_a_video_at_an_address(server):
    for name in ("clip.webm?size=small", "moved.webm", "clip.webm?a=b/c.png", "clip.webm#t=10"):
        reader = VideoReader(f"HTTP://{server.address}/{name}")
        assert (numbers(reader), reader.problems, reader.fps) == ([0, 1, 2], [], 10)
        assert numbers(reader) == [0, 1, 2]
        assert reader.name == name.split(".")[0]
    VideoReader(f"http://ann:pass@{server.address}/clip.webm")
    assert server.requests[-1] == ("/clip.webm", "Basic YW5uOnBhc3M=")


def test_a_transfer_that_breaks_off_is_told(server, content):
    reader = VideoReader(f"http://{server.address}/broken.webm")
    assert numbers(reader) == [0, 1, 2]
    assert f"broke off after {len(content)} of {len(content) + 9} bytes" in reader.problems[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing.mp4", "nothing.mp4 could not be fetched \\(HTTP 404 Not Found\\): check the address"),
        ("to_a_file.mp4", "could not be fetched .*file:///etc/hostname"),
        ("to_itself.mp4", "could not be fetched .*loop"),
        ("huge.mp4", "huge.mp4 is larger than 2 GiB, or never ends"),
    ],
)
def test_what_cannot_be_fetched(server, name, message):
    with pytest.raises(OSError, match=message):
        VideoReader(f"http://{server.address}/{name}")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:1/x.mp4", "could not be fetched .*refused"),
        ("http://no such host/x.mp4", "could not be fetched"),
        ("http:///x.mp4", "could not be fetched"),
        ("http://127.0.0.1:99999/x.mp4", "could not be fetched"),
        ("http://[::1/x.mp4", "could not be fetched"),
    ],
)
def test_addresses_that_lead_nowhere(url, message):
    with pytest.raises(OSError, match=message):
        VideoReader(url)


@pytest.mark.parametrize("name", ["silent", "stalled", "drip", "slow_answer"])
def test_servers_that_take_too_long(server, monkeypatch, name):
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.4)
    before = time.monotonic()
    with pytest.raises(OSError, match=r"sends nothing, or too slowly, for 0\.4 seconds"):
        VideoReader(f"http://{server.address}/{name}.mp4")
    assert time.monotonic() - before < 5


def test_a_server_that_never_ends(server):
    with pytest.raises(OSError, match=r"larger than 0\.000954 GiB, or never ends"):
        download(f"http://{server.address}/endless.mp4", max_bytes=10**6 + 24_000)


def test_a_playlist_at_an_address_fetches_nothing(server):
    with pytest.raises(ValueError, match=r"playlist\.m3u8 is a playlist"):
        VideoReader(f"http://{server.address}/playlist.m3u8")
    assert not any("inner" in path for path, _ in server.requests)


def test_private_addresses_can_be_forbidden(server, monkeypatch):
    number = len(server.requests)
    for host in (server.address, server.address.replace("127.0.0.1", "localhost")):
        with pytest.raises(OSError, match="not a public address"):
            VideoReader(f"http://{host}/clip.webm", public_urls=True)
    for address in (
        "10.0.0.1",
        "169.254.169.254",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "192.168.1.1",
        "224.0.0.1",
        "[2002:7f00:1::]",
        "[64:ff9b::7f00:1]",
    ):
        with pytest.raises(OSError, match="not a public address"):
            VideoReader(f"http://{address}/clip.webm", public_urls=True)
    assert len(server.requests) == number
    # The first address may be a public one, and lead here.
    checked = []
    monkeypatch.setattr(module, "_check_public", checked.append)
    VideoReader(f"http://{server.address}/moved.webm", public_urls=True)
    assert checked == ["127.0.0.1"] * 4  # before and after each of two connections

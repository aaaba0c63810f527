"""A name that the Hub does not give: why, in one sentence, against a Hub of its own on this machine."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from transformers_msstsvis import make_synthetic
from transformers_msstsvis.commands import predict, train

# What the Hub answers for the configuration of a model: status and the code of the error.
ANSWERS = {
    "someone/private": (401, "RepoNotFound"),
    "someone/nothing": (404, "RepoNotFound"),
    "someone/gated": (403, "GatedRepo"),
    "someone/weights-only": (404, "EntryNotFound"),
    "someone/refused": (400, None),
}
TOLD = {
    "someone/private": "no such model that you may see: check the name, or log in with hf auth login",
    "someone/nothing": "no such model that you may see: check the name, or log in with hf auth login",
    "someone/gated": "the files of someone/gated are given on request: ask for them at",
    "someone/weights-only": "someone/weights-only on the Hub has no config.json",
    "someone/refused": "the Hub can't be reached",
}


class Hub(BaseHTTPRequestHandler):
    def do_HEAD(self):
        owner, name = self.path.strip("/").split("/")[:2]
        status, code = ANSWERS[f"{owner}/{name}"]
        self.send_response(status)
        if code is not None:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    constants = "huggingface_hub.constants."
    monkeypatch.setattr(f"{constants}ENDPOINT", address)
    monkeypatch.setattr(
        f"{constants}HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(f"{constants}HF_HUB_OFFLINE", False)
    monkeypatch.setattr(f"{constants}HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("urllib.request.getproxies", dict)
    yield address
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", ANSWERS)
def test_what_the_hub_does_not_give(hub, tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.mp4").write_bytes(b"")
    assert predict.main(["clip.mp4", "--model", name]) == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert TOLD[name] in line
    assert name in line


def test_a_start_that_the_hub_does_not_give(hub, tmp_path, capsys):
    videos = make_synthetic(tmp_path / "videos", 0, 1, height=64, width=64)
    arguments = ["--config", "own-data-small", "--dataset", str(videos), "--output_dir", str(tmp_path / "run")]
    assert train.main([*arguments, "--init_from", "someone/gated", "--use_cpu", "--bf16", "no"]) == 1
    assert TOLD["someone/gated"] in capsys.readouterr().err

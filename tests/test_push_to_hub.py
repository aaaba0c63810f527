"""Uploads, to a Hub of their own on this machine."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import ModelCard

from tests.test_pipelines import small_processor
from tests.tiny import tiny_model
from transformers_msstsvis import AutoModelForVideoInstanceSegmentation, push_to_hub

TOKEN = "hf_of_nobody"


class Hub(BaseHTTPRequestHandler):
    """What an upload of small files asks of the Hub; `commits` are the files of each."""

    commits: list[dict[str, bytes]] = []

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
            return
        assert self.headers["Authorization"] == f"Bearer {TOKEN}"
        if self.path == "/api/repos/create":
            assert json.loads(body)["name"] == "tiny"
            self.answer({"url": f"{self.address()}/someone/tiny", "name": "someone/tiny"})
        elif "/preupload/" in self.path:
            files = [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]
            self.answer({"files": files})
        elif "/commit/" in self.path:
            entries = [json.loads(line) for line in body.splitlines()]
            files = {
                entry["value"]["path"]: base64.b64decode(entry["value"]["content"])
                for entry in entries
                if entry["key"] == "file"
            }
            self.commits.append(files)
            self.answer({"commitUrl": f"{self.address()}/someone/tiny/commit/1", "commitOid": "1", "success": True})
        else:
            self.send_error(404)

    def do_GET(self):
        self.answer({"id": "someone/tiny", "sha": "0", "siblings": [], "private": False})

    def address(self) -> str:
        return "http://{}:{}".format(*self.server.server_address)

    def answer(self, content: dict) -> None:
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    Hub.commits.clear()
    yield address
    server.shutdown()
    server.server_close()


def test_a_model_uploads_all_that_belongs_to_it(hub, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    small_processor().save_pretrained(tmp_path)
    model = AutoModelForVideoInstanceSegmentation.from_pretrained(tmp_path)
    address = model.push_to_hub("someone/tiny", license="mit", token=TOKEN, private=True)
    assert address.endswith("/someone/tiny/commit/1")
    [files] = Hub.commits
    assert set(files) == {"config.json", "model.safetensors", "video_preprocessor_config.json", "README.md"}
    assert json.loads(files["video_preprocessor_config.json"])["size"] == {"shortest_edge": 32, "longest_edge": 64}
    card = ModelCard(files["README.md"].decode())
    assert card.data.license == "mit"
    assert card.data.pipeline_tag == "video-instance-segmentation"
    assert "3 classes: disk, star, ring" in card.text


def test_remote_code_and_the_card_of_a_training_go_along(hub, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n\n# Mine\n")
    model = AutoModelForVideoInstanceSegmentation.from_pretrained(tmp_path)
    push_to_hub(model, "someone/tiny", remote_code=True, token=TOKEN)
    [files] = Hub.commits
    assert {"modeling_msstsvis.py", "pipelines.py", "preprocessor_config.json"} <= set(files)
    assert b"# Mine" in files["README.md"]


def test_a_card_without_a_licence_is_refused(hub):
    with pytest.raises(ValueError, match="the card of someone/tiny names no licence, and nobody could"):
        tiny_model().push_to_hub("someone/tiny", token=TOKEN)
    assert Hub.commits == []

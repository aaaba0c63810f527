"""
The page in a real browser, as a visitor uses it. `MSSTSVIS_BROWSER=required` does not let it be skipped, and
`MSSTSVIS_SCREENSHOT=docs/demo.png` keeps the picture of the page.
"""

import csv
import inspect
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path

import pytest

from transformers_msstsvis.predict import SAMPLE_VIDEO
from transformers_msstsvis.video.reader import VideoReader

ROOT = Path(__file__).parents[2]
PATIENCE = 150  # seconds, on a busy machine
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,1500")

BROWSER, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
if not (BROWSER and DRIVER) and os.environ.get("MSSTSVIS_BROWSER") != "required":
    pytest.skip("there is no browser: install chromium and chromium-driver", allow_module_level=True)
if os.environ.get("MSSTSVIS_BROWSER") != "required":
    pytest.importorskip("selenium", reason="it drives the browser")
    pytest.importorskip("gradio", reason="it is the page")

import gradio_client  # noqa: E402
from selenium import webdriver  # noqa: E402
from selenium.common.exceptions import WebDriverException  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The Space, started as the Hub does; its port, its process and its log."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("space")
    settings = {"GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": str(folder)}
    with open(folder / "log.txt", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=ROOT / "spaces", env={**os.environ, **settings}, stdout=log, stderr=log
        )
    yield port, process, folder / "log.txt"
    process.terminate()
    process.wait(10)


@pytest.fixture(scope="module")
def browser(server):
    """Starts while the Space does."""
    options = webdriver.ChromeOptions()
    for flag in FLAGS:
        options.add_argument(flag)
    options.binary_location = BROWSER
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def address(server, browser):
    port, process, log = server
    for _ in range(10 * PATIENCE):
        assert process.poll() is None, log.read_text()[-2000:]
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return f"http://127.0.0.1:{port}"
        time.sleep(0.1)
    pytest.fail(f"the Space did not start in {PATIENCE} seconds: {log.read_text()[-2000:]}")


class Visit:
    """What a visitor does and sees."""

    def __init__(self, browser, address: str):
        self.browser = browser
        browser.get(address)
        self.wait(lambda: self.find("#video input[type=file]"))

    def find(self, selector: str) -> list:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def wait(self, condition):
        """What the condition gives, once that is something; errors while the page changes are passed over."""
        error = None
        for _ in range(10 * PATIENCE):
            try:
                if result := condition():
                    return result
            except WebDriverException as new:
                error = new
            time.sleep(0.1)
        seen = self.find("body")[0].text
        pytest.fail(f"not in {PATIENCE} seconds: {inspect.getsource(condition).strip()} ({error})\n\n{seen}")

    def script(self, code: str, *arguments):
        return self.browser.execute_script(code, *arguments)

    def upload(self, path) -> None:
        self.find("#video input[type=file]")[0].send_keys(str(path))

    def click(self, selector: str) -> None:
        self.find(selector)[0].click()

    def rows(self) -> list[list[str]]:
        """The texts of the table, row by row, behind the picture."""
        rows = self.script(
            "return [...document.querySelectorAll('#tracks [role=row]')].map("
            "row => [...row.querySelectorAll('[role=gridcell]')].map(cell => cell.innerText.trim()))"
        )
        return [row[1:] for row in rows if any(row)]

    def video(self) -> str:
        return self.script("const v = document.querySelector('#result video'); return v && v.currentSrc") or ""

    def messages(self) -> list[str]:
        return [message.text for message in self.find(".toast-message-text")]

    def downloads(self) -> dict[str, bytes]:
        links = [link.get_attribute("href") for link in self.find("#files a[href]")]
        return {link.rsplit("/", 1)[1]: urllib.request.urlopen(link).read() for link in links}


def test_a_visit(address, browser, tmp_path):
    visit = Visit(browser, address)

    visit.upload(SAMPLE_VIDEO)
    visit.wait(lambda: visit.find("#video video"))
    visit.click("#segment")
    visit.wait(lambda: len(visit.rows()) == 3)

    # The result plays.
    visit.wait(lambda: visit.script("return document.querySelector('#result video').readyState") >= 2)
    visit.script("document.querySelector('#result video').play()")
    visit.wait(lambda: visit.script("return document.querySelector('#result video').currentTime") > 0)
    seen = "const v = document.querySelector('#result video'); return [v.videoWidth, v.duration, v.error]"
    width, duration, error = visit.script(seen)
    assert (width, error) == (256, None)
    assert duration == pytest.approx(3, abs=0.7)

    # The table tells of the tracks, each with its picture.
    rows = visit.rows()
    assert [tuple(row[:2]) for row in rows] == [("1", "star"), ("2", "rectangle"), ("3", "ring")]
    pictures = "return [...document.querySelectorAll('#tracks [role=gridcell] img')].map(i => i.naturalWidth)"
    assert len([width for width in visit.script(pictures) if width > 10]) == 3
    visit.wait(lambda: "3 tracks in 30 frames" in visit.find("#text")[0].text)

    screenshot = Path(os.environ.get("MSSTSVIS_SCREENSHOT") or tmp_path / "demo.png")
    visit.script("window.scrollTo(0, 0)")
    browser.save_screenshot(str(screenshot.absolute()))
    assert screenshot.stat().st_size > 50_000

    # The files are those of the tracks.
    files = visit.downloads()
    assert {"tracks.json", "tracks.csv", "masks.zip"} <= set(files)
    assert [track["track_id"] for track in json.loads(files["tracks.json"])] == [1, 2, 3]
    boxes = list(csv.DictReader(io.StringIO(files["tracks.csv"].decode())))
    assert {row["label"] for row in boxes} == {"star", "rectangle", "ring"}
    masks = zipfile.ZipFile(io.BytesIO(files["masks.zip"])).namelist()
    assert len([name for name in masks if name.endswith(".png")]) == 30

    # Another threshold draws another video, and empties the table of what scores less.
    before = visit.video()
    number = visit.find("#threshold input[type=number]")[0]
    number.send_keys(Keys.CONTROL, "a")
    for key in ("0", ".", "6", Keys.TAB):
        number.send_keys(key)
        time.sleep(0.2)  # as one types
    visit.wait(lambda: len(visit.rows()) == 2)
    visit.wait(lambda: visit.video() != before)
    assert [row[0] for row in visit.rows()] == ["1", "2"]
    visit.wait(lambda: "2 tracks" in visit.find("#text")[0].text)


def test_a_program_instead_of_a_visitor(address, tmp_path):
    """As docs/demo.md says."""
    client = gradio_client.Client(address, download_files=str(tmp_path), verbose=False)
    video = gradio_client.handle_file(str(SAMPLE_VIDEO))
    result, tracks, files, text = client.predict(video=video, threshold=0.6, api_name="/segment")
    assert text == "2 tracks in 30 frames (3.0 seconds)."
    assert [row[2] for row in tracks["data"]] == ["star", "rectangle"]
    assert (len(list(VideoReader(result))), len(files)) == (30, 3)


def test_a_file_that_is_no_video_explains_itself(address, browser, tmp_path):
    (tmp_path / "holiday.mp4").write_bytes(b"these are no frames" * 100)
    visit = Visit(browser, address)
    visit.upload(tmp_path / "holiday.mp4")
    visit.wait(lambda: visit.find("#video video"))
    visit.click("#segment")
    texts = visit.wait(lambda: [text for text in visit.messages() if text != "Video not playable"])
    assert texts == [text for text in texts if text.startswith("holiday.mp4 could not be opened as a video")]
    assert "\n" not in texts[0]

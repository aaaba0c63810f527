"""Files that were changed in one place: every reader takes them, or refuses them in words of this package."""

import copy
import json
import linecache
import random
import traceback
import zipfile
from pathlib import Path
from typing import Any

import datasets
import pytest

from transformers_msstsvis.data.loading import dataset_to_ytvis, load_vis_dataset
from transformers_msstsvis.data.validate import validate
from transformers_msstsvis.evaluation import read_ground_truth, read_results
from transformers_msstsvis.metrics.submission import validate_submission
from transformers_msstsvis.metrics.ytvis_map import YtvisMeanAveragePrecision
from transformers_msstsvis.results.video_instances import VideoInstances

from .test_loading import coco_content, coco_video_content
from .vis_files import CAT, DOG, rle, uncompressed, write_dataset, ytvis_content

NUMBER = 240  # of mutations of a file of annotations or results; of other formats, a quarter
NESTED = 2000  # deeper than the reader of JSON goes

# Written into the file as they stand.
RAW = {
    "infinite": "1e400",
    "minus infinity": "-Infinity",
    "no number": "NaN",
    "400 digits": "1" + "0" * 400,
    "5000 digits": "1" + "0" * 5000,
    "nested": "[" * NESTED + "]" * NESTED,
}
VALUES = [
    None,
    True,
    "",
    "abc",
    "1",
    -1,
    0,
    1.5,
    -0.0,
    2**31,
    2**32,
    2**63 - 1,
    2**63,
    2**64 + 1,
    65536,
    1e18,
    [],
    {},
    [[]],
    [None],
    {"a": 1},
    "\ud800",
    "\0",
    "x" * 100_000,
    "../../../../etc/passwd",
    [[[1, 2], [3, 4]]],
    [[1, 2, 3]],
    [[0, 0, 1e308, 0, 0, 1e308]],
    {"size": [10**9, 10**9], "counts": "0"},
    {"size": [4, 6], "counts": [2**31, 2**31, 2**32 - 1]},
    {"size": [4, 6], "counts": [-5, 29]},
    {"size": [4, 6], "counts": "oooooooooooo"},
    {"size": [4, 6], "counts": "PPPPPPP0"},
    {"size": [4, 6], "counts": ""},
    {"size": [4, 6], "counts": "\u1234"},
    {"size": [4, 6], "counts": "0"},
    {"size": [4.0, 6.0], "counts": "h0"},
    {"size": "ab", "counts": "h0"},
    {"size": [4, 6], "counts": 5},
    {"size": [4, 6], "counts": [1.5, 22.5]},
    {"size": [4, 6], "counts": [2**32 - 1, 25]},
    {"size": [4, 6], "counts": "oooooo1ooooooN0"},
    *({"@": text} for text in RAW.values()),
]


def good_annotations() -> dict[str, Any]:
    content = ytvis_content()
    first, second = content["annotations"][1:]
    first |= {
        "bboxes": [[1, 1, 2, 2], None, [1, 1, 2, 2]],
        "areas": [4, None, 4],
        "occlusion": ["slight_occlusion"] * 3,
    }
    second["segmentations"] = [uncompressed(CAT), [[1, 1, 3, 1, 3, 3, 1, 3]], None]
    return content


def good_results() -> list[dict[str, Any]]:
    return [
        {"video_id": 10, "category_id": 7, "score": 0.9, "segmentations": [rle(DOG), None, rle(DOG)]},
        {"video_id": 20, "category_id": 3, "score": 0.5, "segmentations": [rle(CAT)]},
    ]


def places(value: Any, place: tuple = ()):
    yield place
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*place, key))


def tracked_content() -> dict[str, Any]:
    """Images without video ids, whose annotations have identities."""
    content = coco_video_content()
    for image in content["images"]:
        del image["video_id"], image["frame_id"]
    for annotation in content["annotations"]:
        annotation["attributes"] = {"track_id": annotation.pop("instance_id")}
    return content


FORMATS = {
    "YouTube-VIS": good_annotations,
    "COCO": coco_content,
    "COCO video": coco_video_content,
    "tracks": tracked_content,
}


def mutations(good: Any, seed: int, number: int = NUMBER):
    """As text, each with what was done."""
    generator = random.Random(seed)
    everywhere = list(places(good))
    # Every place may be deleted or get some of the values; the same ones in every run.
    todo = [(place, None) for place in everywhere if place] + [
        (place, value) for place in everywhere for value in generator.sample(range(len(VALUES)), 20)
    ]
    for place, chosen in generator.sample(todo, number):
        content = {"": copy.deepcopy(good)}
        parent = content
        *path, last = ("", *place)
        for key in path:
            parent = parent[key]
        if chosen is None:
            del parent[last]
        else:
            parent[last] = VALUES[chosen]
        text = json.dumps(content[""])
        for raw in RAW.values():
            text = text.replace(json.dumps({"@": raw}), raw)
        yield f"{place}: {'deleted' if chosen is None else repr(VALUES[chosen])[:60]}", text


def is_own(error: BaseException) -> bool:
    """Whether an error was raised on purpose, by this package."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    on_purpose = linecache.getline(last.filename, last.lineno).lstrip().startswith("raise ")
    return isinstance(error, ValueError | OSError) and "transformers_msstsvis" in last.filename and on_purpose


class Readers:
    """Calls that read a mutated file; what they raise that is not their own is collected."""

    def __init__(self):
        self.failures: list[str] = []
        self.refused = self.accepted = 0

    def __call__(self, what: str, read, *arguments, **settings) -> Any:
        try:
            result = read(*arguments, **settings)
        except BaseException as error:
            if is_own(error) and str(error):
                self.refused += 1
            else:
                last = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{Path(last.filename).name}:{last.lineno}"
                self.failures.append(f"{read.__name__}, {what}: {type(error).__name__} {str(error)[:150]} at {place}")
            return None
        self.accepted += 1
        return result

    def check(self) -> None:
        assert not self.failures, "\n".join(self.failures)
        assert self.refused > NUMBER / 8
        assert self.accepted > NUMBER / 8


@pytest.fixture(autouse=True)
def quiet():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.mark.parametrize("kind", FORMATS)
def test_annotations(tmp_path, capsys, kind):
    readers = Readers()
    write_dataset(tmp_path, FORMATS[kind]())
    path, fixed, frames = tmp_path / "mutated.json", tmp_path / "fixed.json", tmp_path / "JPEGImages"
    cache = {"cache_dir": tmp_path / "cache"}

    def loaded_and_written(*arguments, **settings) -> dict:
        return dataset_to_ytvis(load_vis_dataset(*arguments, **settings))

    def compute(source) -> float:
        return YtvisMeanAveragePrecision(source).compute()["AP"]

    def fix_and_check(path, frames) -> None:
        fixed.unlink(missing_ok=True)
        validate(path, frames, fix=fixed)
        assert validate(fixed, frames) == 0

    for what, text in mutations(FORMATS[kind](), seed=0, number=NUMBER if kind == "YouTube-VIS" else NUMBER // 4):
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        good = readers(what, loaded_and_written, path, frames, check_frames=True, **cache)
        skipped = readers(what, loaded_and_written, path, frames, check_frames=True, on_error="skip", **cache)
        errors = readers(what, validate, path, frames)
        readers(what, fix_and_check, path, frames)
        truth = readers(what, read_ground_truth, path, frames)
        if kind == "YouTube-VIS":
            readers(what, compute, path)
        capsys.readouterr()
        # All of them agree.
        if good is not None and good["videos"]:
            assert errors == 0, what
            assert skipped == good, what
            assert truth is None or [a["id"] for a in truth["annotations"]] == [a["id"] for a in good["annotations"]]
    readers.check()


def test_results(tmp_path):
    readers = Readers()
    path, archive = tmp_path / "results.json", tmp_path / "results.zip"
    truth = good_annotations()

    def measure(path) -> float:
        metric = YtvisMeanAveragePrecision(truth)
        metric.update(read_results(path))
        return metric.compute()["AP"]

    for what, text in mutations(good_results(), seed=1):
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        with zipfile.ZipFile(archive, "w") as file:
            file.write(path, "results.json")
        number = readers(what, measure, path)
        problems = readers(what, validate_submission, archive, truth)
        assert number is None or 0 <= number <= 1
        assert problems is not None, what
        readers(what, VideoInstances.load_json, path, video_id=10)
    readers.check()

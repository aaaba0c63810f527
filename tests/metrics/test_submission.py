import json
import struct
import zipfile

import numpy as np
import pytest

from tests.metrics.test_ytvis_map import LEFT, RIGHT, guess, picture, truth
from transformers_msstsvis.metrics import submission
from transformers_msstsvis.metrics.submission import iterate_list, validate_submission, write_submission

DATASET = truth([LEFT, LEFT])  # one video of 2 frames, 3 x 4 pixels; categories 1 and 2
GOOD = [guess(LEFT, None), guess(None, RIGHT, category_id=2, score=1e-9)]


def zipped(path, content, name="results.json", compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(name, content if isinstance(content, (str, bytes)) else json.dumps(content))
    return path


def problems_of(tmp_path, content, dataset=DATASET, **kwargs):
    return validate_submission(zipped(tmp_path / "results.zip", content), dataset, **kwargs)


# ----------------------------------------------------------------------------------------------------------- writing


def test_written_submissions_are_valid_and_hold_the_results(tmp_path):
    results = [{**result, "track_id": 7, "boxes": [None, [0.0, 0.0, 1.0, 1.0]]} for result in GOOD]
    path = write_submission(tmp_path / "new" / "results.zip", iter(results), DATASET)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["results.json"]
        assert json.loads(archive.read("results.json")) == GOOD  # low scores keep their masks
    assert validate_submission(path, DATASET) == []
    assert validate_submission(path) == []
    assert [file.name for file in path.parent.iterdir()] == ["results.zip"]


def test_an_absent_frame_may_be_an_empty_list(tmp_path):
    prediction = GOOD[0] | {"segmentations": [GOOD[0]["segmentations"][0], []]}
    assert problems_of(tmp_path, [prediction]) == []


def test_the_same_results_give_the_same_bytes(tmp_path):
    one, two = (write_submission(tmp_path / name, GOOD).read_bytes() for name in ("one.zip", "two.zip"))
    assert one == two


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([GOOD[0], guess(LEFT)], r"prediction 1 \(video 1\): segmentations has 1 entries; expected 2"),
        ([guess(LEFT, None, score=float("nan"))], r"prediction 0 \(video 1\): score is nan; expected a finite number"),
        ([], "results.json is an empty list, at which the official evaluator fails"),
    ],
)
def test_bad_results_are_refused_and_leave_the_file_as_it_was(tmp_path, results, message):
    path = write_submission(tmp_path / "results.zip", GOOD)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        write_submission(path, results, DATASET)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["results.zip"]


def test_too_many_results(tmp_path):
    with pytest.raises(ValueError, match=r"results.json has more than 300 bytes: leave out the lowest scores"):
        write_submission(tmp_path / "results.zip", GOOD * 4, max_bytes=300)


# -------------------------------------------------------------------------------------------------------- validation


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no submission at"):
        validate_submission(tmp_path / "results.zip")


def test_not_a_zip(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(GOOD))
    (problem,) = validate_submission(tmp_path / "results.json")
    assert "results.json is not an intact zip file" in problem


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["predictions.json"], "the zip holds 'predictions.json'; expected results.json: rename the file"),
        (["out/results.json"], "'out/results.json' is in a folder; expected results.json at the root"),
        (["..\\results.json"], "is in a folder; expected results.json at the root"),
        (["results.json", "__MACOSX/._results.json"], "the zip also holds '__MACOSX/._results.json'; expected"),
        (["results.json", "results.json"], "the zip holds results.json 2 times; expected it once"),
        ([], "the zip holds nothing; expected results.json"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_wrong_names(tmp_path, names, message):
    with zipfile.ZipFile(tmp_path / "results.zip", "w") as archive:
        for name in names:
            archive.writestr(name, json.dumps(GOOD))
    (problem,) = validate_submission(tmp_path / "results.zip")
    assert message in problem


def test_other_compression(tmp_path):
    (problem,) = validate_submission(zipped(tmp_path / "results.zip", GOOD, compression=zipfile.ZIP_LZMA))
    assert problem == "results.json is compressed by method 14; expected deflate (8) or none (0): zip it again"


def test_damaged_and_encrypted_zips(tmp_path):
    path = zipped(tmp_path / "results.zip", GOOD, compression=zipfile.ZIP_STORED)
    intact = path.read_bytes()
    path.write_bytes(intact.replace(b"video_id", b"video_ie", 1))
    assert "is not an intact zip file (Bad CRC-32" in validate_submission(path)[0]
    encrypted = bytearray(intact)
    encrypted[6] |= 1  # the flag of the file, and of its entry in the directory
    encrypted[intact.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(encrypted)
    (problem,) = validate_submission(path)
    assert problem.startswith("results.json cannot be unpacked: ")
    assert "password" in problem


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps({"results": GOOD}), 'it starts with \'{"results": [{"video\'; expected a list of predictions'),
        (json.dumps(GOOD)[:-1], "an entry is cut off"),
        (json.dumps(GOOD)[:-1] + " ", "the text ends before the list does: the file is cut off"),
        (json.dumps(GOOD)[:-9], "it is not JSON at "),
        (json.dumps(GOOD) + "]", "there is text after the end of the list"),
        (json.dumps(GOOD).replace("}, {", "} {"), "expected , or ]"),
        ("[" + json.dumps(GOOD[0]) + ",]", "it is not JSON at ']': Expecting value"),
        ("[,]", "it is not JSON at ',]': Expecting value"),
        ("[12", "it is not JSON at '12': an entry is cut off"),
        ("", "the text ends before the list does"),
        (b"[\xff]", "codec can't decode byte"),
        ("[" * 100_000, "recursion"),
        (f"[{'9' * 5000}]", "Exceeds the limit"),
    ],
)
def test_not_a_list(tmp_path, text, message):
    (problem,) = problems_of(tmp_path, text)
    assert problem.startswith("results.json: ")
    assert message in problem


def test_empty_list(tmp_path):
    (problem,) = problems_of(tmp_path, "[ ]")
    assert "is an empty list, at which the official evaluator fails; expected at least one prediction" in problem


def changed(**changes):
    return {**GOOD[0], **changes}


def masked(mask):
    return changed(segmentations=[None, mask])


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (3, "prediction 1 is a int; expected an object with video_id, category_id, score, segmentations"),
        ({"video_id": 1, "score": 1}, "prediction 1 has no category_id, segmentations; expected video_id"),
        (changed(score=float("nan")), "(video 1): score is nan; expected a finite number"),
        (changed(score=float("inf")), "score is inf; expected a finite number"),
        (changed(score="0.5"), "score is '0.5'; expected a finite number"),
        (changed(score=True), "score is True; expected a finite number"),
        (changed(video_id=9), "(video 9): video_id 9 is not in the dataset; expected one of 1"),
        (changed(video_id=None), "video_id is None; expected an id of the dataset"),
        (changed(category_id=0), "category_id 0 is not in the dataset; expected one of 1, 2"),
        (changed(category_id=[1]), "category_id is [1]; expected an id of the dataset"),
        (changed(segmentations=None), "segmentations is None; expected a list of RLE and null"),
        (changed(segmentations=[None]), "segmentations has 1 entries; expected 2, one for every frame"),
        (changed(segmentations=[None] * 3), "segmentations has 3 entries; expected 2, one for every frame"),
        (masked(picture(LEFT, compressed=False)), "frame 1: the counts of the mask are a list (uncompressed RLE)"),
        (masked([[0, 0, 2, 0, 2, 2]]), "frame 1: the mask is [[0, 0, 2, 0, 2, 2]]; expected null or an RLE"),
        (
            masked({"counts": "0<"}),
            "frame 1: the mask is {'counts': '0<'}; expected null or an RLE with size and counts",
        ),
        (masked({"size": [3, 4], "counts": None}), "frame 1: the counts of the mask are None; expected a compressed"),
        (masked({"size": [3, 4], "counts": "é"}), "frame 1: the counts of the mask are 'é'; expected a compressed"),
        (
            masked({"size": [4, 3], "counts": "<"}),
            "frame 1: the mask has size [4, 3]; expected [height, width] = [3, 4]",
        ),
        (masked({"size": [3.0, 4], "counts": "<"}), "frame 1: the mask has size [3.0, 4]; expected [height"),
        (masked({"size": [3, 4], "counts": "11"}), "sum to 2; expected height * width = 12"),
        (masked({"size": [3, 4], "counts": "nonsense"}), "sum to 0; expected height * width = 12"),
    ],
)
def test_bad_predictions(tmp_path, prediction, message):
    (problem,) = problems_of(tmp_path, [GOOD[0], prediction, GOOD[1]])
    assert problem.startswith("prediction 1")
    assert message in problem


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (changed(segmentations=[None] * 3), "segmentations has 3 entries; expected 2"),
        (masked(picture("## ##")), "the mask has size [2, 2]; expected [height, width] = [3, 4] as in the rest"),
    ],
)
def test_predictions_of_a_video_must_agree_without_a_dataset(tmp_path, prediction, message):
    (problem,) = problems_of(tmp_path, [GOOD[0], prediction], dataset=None)
    assert message in problem


def test_all_problems_are_told_up_to_a_limit(tmp_path):
    both = problems_of(tmp_path, [changed(score=None, video_id=9), GOOD[0], changed(category_id=8)])
    assert len(both) == 3
    many = problems_of(tmp_path, [changed(score=None)] * 500)
    assert len(many) == submission.MAX_PROBLEMS + 1
    assert many[-1] == "there may be more: what follows was not looked at"


# -------------------------------------------------------------------------------------------------------- large files


def test_a_bomb_that_declares_its_size_is_not_unpacked(tmp_path, monkeypatch):
    path = zipped(tmp_path / "results.zip", "[" + " " * 2_000_000 + "]")
    assert path.stat().st_size < 5000
    monkeypatch.setattr(zipfile.ZipFile, "open", None)
    (problem,) = validate_submission(path, max_bytes=1_000_000)
    assert problem.startswith("results.json has 2000002 bytes unpacked; expected 1000000 at most")


@pytest.mark.parametrize("declared", [100, 900_000])
def test_a_bomb_that_hides_its_size_is_read_to_the_limit_only(tmp_path, declared):
    path = zipped(tmp_path / "results.zip", "[" + " " * 2_000_000 + "]")
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<I", 2_000_002), struct.pack("<I", declared)))
    (problem,) = validate_submission(path, max_bytes=1_000_000)
    assert "is not an intact zip file (Bad CRC-32" in problem


def test_what_is_really_read_is_counted():
    blocks = (b" " * 1000 for _ in range(10**9))

    class Endless:
        def read(self, size):
            return next(blocks)

    with pytest.raises(ValueError, match="it has more than 5000 bytes unpacked"):
        list(iterate_list(submission._chunks(Endless(), 5000)))


def test_one_endless_prediction_is_not_held_in_memory():
    pieces = 0

    def chunks():
        nonlocal pieces
        yield b'["'
        while True:
            pieces += 1
            yield b"a" * 1000

    with pytest.raises(ValueError, match="a prediction has more than 50000 characters"):
        list(iterate_list(chunks(), max_entry=50_000))
    assert pieces < 200


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_lists_in_pieces_of_any_size(size):
    values = [{"a": [1, None, "]},é"]}, 12, -3.5e7, [], "x", True, None, {}]
    for text in (json.dumps(values, ensure_ascii=False), json.dumps(values, indent=3), "[]", " [ 1 , 2 ] \n"):
        data = text.encode()
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        assert list(iterate_list(pieces)) == json.loads(text)


def test_many_predictions_are_read_in_linear_time(tmp_path):
    rng = np.random.default_rng(0)
    entry = guess(*[LEFT] * 2)
    entry["note"] = "".join(map(chr, rng.integers(97, 123, 300_000)))  # longer than a chunk
    assert problems_of(tmp_path, [entry] * 10 + GOOD * 2000) == []

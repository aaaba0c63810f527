"""HOTA, IDF1 and identity switches, of cases whose numbers are known."""

import json
import sys

import numpy as np
import pytest

from tests.tiny import NAMES
from transformers_msstsvis import VideoInstances, encode_mask, evaluate_model
from transformers_msstsvis.benchmarks.tracking import count_identities
from transformers_msstsvis.commands import evaluate
from transformers_msstsvis.evaluation import format_table, rich_tables, tracking_numbers

HEIGHT, WIDTH = 8, 40
CATEGORIES = [{"id": label + 1, "name": name} for label, name in NAMES.items()]


def mask(column: int | None, columns: int = 4):
    """Columns of the picture from one on; None where there is nothing."""
    if column is None:
        return None
    pixels = np.zeros((HEIGHT, WIDTH), dtype=bool)
    pixels[:, column : column + columns] = True
    return encode_mask(pixels)


def truth_of(*rows: list[int | None], category: int = 1, **fields) -> dict:
    annotations = [
        {"id": number, "video_id": 1, "category_id": category, "iscrowd": 0, "segmentations": list(map(mask, row))}
        for number, row in enumerate(rows, 1)
    ]
    annotations[-1] |= fields
    video = {"id": 1, "height": HEIGHT, "width": WIDTH, "length": len(rows[0])}
    return {"videos": [video], "annotations": annotations, "categories": CATEGORIES}


def results_of(*rows: list[int | None], score: float = 0.9, category: int = 1) -> list[dict]:
    return [
        {"video_id": 1, "category_id": category, "score": score, "segmentations": list(map(mask, row))} for row in rows
    ]


TRUTH = [0, 0, 0, 0], [20, 20, 20, 20]


def test_perfect_tracks():
    numbers = tracking_numbers(truth_of(*TRUTH), results_of(*TRUTH))
    assert {name: numbers[name] for name in ("HOTA", "DetA", "AssA", "IDF1")} == dict.fromkeys(
        ("HOTA", "DetA", "AssA", "IDF1"), 1.0
    )
    assert numbers["id_switches"] == 0
    assert numbers["per_category"][1]["HOTA"] == 1
    assert numbers["per_category"][2] == {"HOTA": -1, "DetA": -1, "AssA": -1, "IDF1": -1, "id_switches": 0}


def test_one_switch():
    """An object of 4 frames has one track in the first 3 and another one in the last."""
    numbers = tracking_numbers(truth_of([0, 0, 0, 0]), results_of([0, 0, 0, None], [None, None, None, 0]))
    assert numbers["id_switches"] == 1
    # The longer track is the object's: 3 frames are true, 1 is missed, and 1 of the other track false.
    assert numbers["IDF1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert numbers["DetA"] == 1
    # Frames of the first track: 3 of 4 common; of the second: 1 of 4.
    assert numbers["AssA"] == pytest.approx((3 * 3 / 4 + 1 * 1 / 4) / 4)
    assert numbers["HOTA"] == pytest.approx(np.sqrt((3 * 3 / 4 + 1 * 1 / 4) / 4))


def test_two_objects_that_swap_their_tracks():
    found = results_of([0, 0, 20, 20], [20, 20, 0, 0])
    numbers = tracking_numbers(truth_of(*TRUTH), found)
    assert numbers["id_switches"] == 2
    assert numbers["IDF1"] == pytest.approx(0.5)
    assert numbers["AssA"] == pytest.approx(2 / 6)


def test_masks_that_fit_in_part_count_up_to_their_iou():
    """3 of 5 columns in common: IoU 0.6, true at 12 of the 19 thresholds of HOTA."""
    numbers = tracking_numbers(truth_of([0, 0]), results_of([1, 1]))
    assert numbers["HOTA"] == pytest.approx(12 / 19)
    assert numbers["IDF1"] == 1


def test_what_is_missed_and_what_is_false():
    numbers = tracking_numbers(truth_of(*TRUTH), results_of([0, 0, 0, 0], [10, None, None, None]))
    assert numbers["DetA"] == pytest.approx(4 / (4 + 4 + 1))
    assert numbers["IDF1"] == pytest.approx(2 * 4 / (2 * 4 + 4 + 1))


def test_tracks_of_a_low_score_do_not_count():
    found = results_of(*TRUTH) + results_of([10, 10, 10, 10], score=0.2)
    assert tracking_numbers(truth_of(*TRUTH), found)["HOTA"] == 1
    assert tracking_numbers(truth_of(*TRUTH), found, threshold=0.1)["DetA"] == pytest.approx(8 / 12)
    nothing = tracking_numbers(truth_of(*TRUTH), found, threshold=0.95)
    assert (nothing["HOTA"], nothing["IDF1"], nothing["id_switches"]) == (0, 0, 0)


def test_a_track_shows_objects_of_its_class_only():
    numbers = tracking_numbers(truth_of([0, 0]), results_of([0, 0], category=2))
    assert numbers["HOTA"] == 0
    assert numbers["per_category"][1]["HOTA"] == 0
    assert numbers["per_category"][2]["HOTA"] == -1  # no ground truth


def test_tracks_in_a_crowd_do_not_count():
    truth = truth_of([0, 0], [20, 20], iscrowd=1)
    assert tracking_numbers(truth, results_of([0, 0], [20, 20]))["HOTA"] == 1
    assert tracking_numbers(truth, results_of([0, 0], [30, 30]))["DetA"] == pytest.approx(0.5)


def test_several_videos_count_by_sighting():
    truth, found = truth_of([0, 0, 0, 0]), results_of([0, 0, 0, 0])
    truth["videos"].append({**truth["videos"][0], "id": 2, "length": 1})
    truth["annotations"].append({**truth["annotations"][0], "id": 9, "video_id": 2, "segmentations": [mask(0)]})
    assert tracking_numbers(truth, found)["DetA"] == pytest.approx(4 / 5)


def test_switches_are_those_of_the_benchmark():
    """On tracks that come and go at random, all of one class, and of good masks."""
    random = np.random.default_rng(0)
    rows = [[0] * 12, [10] * 12, [20] * 12]
    tracks = [[None] * 12 for _ in range(6)]
    for frame in range(12):
        for row, track in enumerate(random.permutation(6)[:3]):
            tracks[track][frame] = rows[row][frame]
    masks = [list(map(mask, row)) for row in tracks]
    found = VideoInstances([0.9] * 6, [0] * 6, range(1, 7), masks, None, (HEIGHT, WIDTH), 12)
    switches, seen, visible = count_identities([list(map(mask, row)) for row in rows], found)
    numbers = tracking_numbers(truth_of(*rows), results_of(*tracks))
    assert numbers["id_switches"] == switches > 10
    assert numbers["DetA"] == seen / visible == 1


def test_wrong_results_are_named():
    with pytest.raises(ValueError, match=r"prediction 0 \(video 1\): segmentations has 2 entries; expected a list"):
        tracking_numbers(truth_of(*TRUTH), results_of([0, 0]))
    with pytest.raises(ValueError, match="score is 'high'; expected a finite number"):
        tracking_numbers(truth_of(*TRUTH), results_of(*TRUTH, score="high"))


@pytest.fixture
def files(tmp_path):
    for name, content in (("truth", truth_of(*TRUTH)), ("results", results_of(*TRUTH))):
        for one in (*content["annotations"],) if name == "truth" else content:
            one["segmentations"] = [rle and {**rle, "counts": text(rle["counts"])} for rle in one["segmentations"]]
        if name == "truth":
            content["videos"][0]["file_names"] = [f"{frame}.jpg" for frame in range(4)]
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return ["--dataset", str(tmp_path / "truth.json"), "--results", str(tmp_path / "results.json")]


def text(counts: str | bytes) -> str:
    return counts.decode() if isinstance(counts, bytes) else counts


def test_command(files, capsys):
    assert evaluate.main([*files, "--tracking"]) == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["tracking", "HOTA", "DetA", "AssA", "IDF1", "switches"] in printed
    assert ["score", ">=", "0.3", "100.0", "100.0", "100.0", "100.0", "0"] in printed
    assert ["disk", "100.0", "100.0", "100.0", "100.0", "0"] in printed
    assert ["star", "-", "-", "-", "-", "0"] in printed
    assert evaluate.main([*files, "--tracking", "--tracking_threshold", "0.95"]) == 0
    assert "score >= 0.95      0.0" in capsys.readouterr().out


def test_rich_table_has_the_rows(files):
    numbers = evaluate_model(files[1], results=files[3], tracking=True)
    *_, table = rich_tables(numbers, numbers["category_names"])
    assert [column.header for column in table.columns] == ["tracking", "HOTA", "DetA", "AssA", "IDF1", "switches"]
    assert table.row_count == 4
    assert "tracking" not in format_table(evaluate_model(files[1], results=files[3]), numbers["category_names"])


def test_refused_before_the_work(files, monkeypatch, capsys):
    assert evaluate.main([*files, "--tracking", "--tracking_threshold", "30"]) == 1
    assert "threshold is 30.0; expected a score from 0 to 1" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "trackeval", None)
    monkeypatch.setattr("transformers_msstsvis.extras.find_spec", lambda name: None)
    assert evaluate.main([*files, "--tracking"]) == 1
    message = 'the library trackeval is missing; install it with: pip install "transformers_msstsvis[tracking]"'
    assert message in capsys.readouterr().err

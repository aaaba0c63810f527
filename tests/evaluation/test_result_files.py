import json

import pytest

from transformers_msstsvis.evaluation import result_files
from transformers_msstsvis.evaluation.result_files import ResultFiles

SETTINGS = {"model": "a", "top_k": 10}


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    messages = []
    monkeypatch.setattr(result_files.logger, "warning", messages.append)
    return messages


def results(number):
    return [{"video_id": number, "score": 0.1 + number, "segmentations": [None]}]


def test_results_come_back_in_the_order_of_the_dataset(tmp_path):
    output = tmp_path / "new" / "results.json"
    ranks = [ResultFiles(output, SETTINGS, rank) for rank in (0, 1, 11)]
    ranks[2].add(3, results(3))
    ranks[0].add(2, [])
    ranks[1].add(1, None, "video 1 is skipped")
    ranks[0].add(0, results(0))
    assert ranks[0].collect(4) == (results(0) + results(3), {1: "video 1 is skipped"})
    ranks[0].close(delete=True)
    assert list(output.parent.iterdir()) == []


def test_going_on(tmp_path):
    output = tmp_path / "results.json"
    files = ResultFiles(output, SETTINGS)
    files.add(0, results(0))
    files.add(1, None, "video 1 is skipped")
    files.close()
    (part,) = tmp_path.iterdir()
    with open(part, "a") as file:
        file.write('{"position": 2, "resul')  # killed while writing
    again = ResultFiles(output, SETTINGS)
    assert again.done == {0}  # the skipped one is tried again
    again.add(2, results(2))
    again.add(1, results(1))
    assert again.collect(3) == (results(0) + results(1) + results(2), {})


@pytest.mark.parametrize("rank", [0, 3])
def test_going_on_with_another_number_of_processes(tmp_path, rank):
    for old in (0, 1):
        files = ResultFiles(tmp_path / "results.json", SETTINGS, old)
        files.add(old, results(old))
        files.close()
    assert ResultFiles(tmp_path / "results.json", SETTINGS, rank).done == {0, 1}


def test_killed_before_the_first_line_was_complete(tmp_path):
    (tmp_path / "results.json.part-0.jsonl").write_text('{"setti')
    files = ResultFiles(tmp_path / "results.json", SETTINGS)
    files.add(0, results(0))
    assert files.collect(1) == (results(0), {})


def test_parts_of_another_run(tmp_path):
    ResultFiles(tmp_path / "results.json", SETTINGS).close()
    message = (
        r"part-0.jsonl holds unfinished results of another run: top_k was 10 and is 20, seed was None and is 1; del"
    )
    with pytest.raises(ValueError, match=message):
        ResultFiles(tmp_path / "results.json", {**SETTINGS, "top_k": 20, "seed": 1})
    ResultFiles(tmp_path / "others.json", {**SETTINGS, "top_k": 20})
    ResultFiles(tmp_path / "results.json", SETTINGS)


def test_a_file_of_something_else(tmp_path):
    (tmp_path / "results.json.part-0.jsonl").write_text("hello\n")
    with pytest.raises(ValueError, match=r"part-0.jsonl is not a file of unfinished results: delete it, or choose"):
        ResultFiles(tmp_path / "results.json", SETTINGS)


@pytest.mark.parametrize("line", ["{", "[]", '{"position": 0}', '{"position": 0, "results": null, "skipped": null}'])
def test_a_damaged_line_costs_one_video(tmp_path, warnings, line):
    files = ResultFiles(tmp_path / "results.json", SETTINGS)
    files.add(0, results(0))
    files.close()
    part = tmp_path / "results.json.part-0.jsonl"
    lines = part.read_text().splitlines()
    part.write_text("\n".join([lines[0], line, lines[1], ""]))
    assert ResultFiles(tmp_path / "results.json", SETTINGS).done == {0}
    assert warnings == [f"{part} line 2 is damaged and is left out"]


def test_results_that_are_not_there(tmp_path):
    files = ResultFiles(tmp_path / "results.json", SETTINGS)
    files.add(1, results(1))
    with pytest.raises(ValueError, match=r"2 of 3 videos have no result, e.g. that at position 0; .* processes share"):
        files.collect(3)


def test_lines_are_json(tmp_path):
    files = ResultFiles(tmp_path / "results.json", SETTINGS)
    files.add(0, results(0))
    lines = (tmp_path / "results.json.part-0.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"settings": SETTINGS},
        {"position": 0, "results": results(0), "skipped": None},
    ]


def test_two_runs_do_not_share_an_output(tmp_path):
    files = ResultFiles(tmp_path / "results.json", {})
    with pytest.raises(ValueError, match=r"another evaluation is writing .*results\.json; wait for its end, or give"):
        ResultFiles(tmp_path / "results.json", {})
    ResultFiles(tmp_path / "results.json", {}, rank=1).close()  # a process of the same run
    files.close()
    ResultFiles(tmp_path / "results.json", {}).close(delete=True)
    assert list(tmp_path.iterdir()) == []

import errno
import os

import pytest

from transformers_msstsvis.files import (
    check_distinct,
    check_writable,
    check_writable_folder,
    folder_written_aside,
    move_into_place,
    naming,
    partial_path,
    remove_partial,
    written_aside,
)


@pytest.mark.parametrize(("name", "partial"), [("out.json", "out.partial.json"), ("out", "out.partial")])
def test_a_file_gets_its_name_when_it_is_finished(tmp_path, name, partial):
    path = tmp_path / name
    path.write_text("old")
    with written_aside(path) as unfinished:
        unfinished.write_text("new")
        assert unfinished == tmp_path / partial
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_the_older_file_stays_where_the_new_one_fails(tmp_path, error):
    path = tmp_path / "out.json"
    path.write_text("old")
    with pytest.raises(type(error)), written_aside(path) as unfinished:  # noqa: PT012
        unfinished.write_text("ne")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_no_other_file_is_in_the_way(tmp_path):
    (tmp_path / "out.partial.json").write_text("mine")
    with written_aside(tmp_path / "out.json") as unfinished:
        unfinished.write_text("new")
        assert unfinished == tmp_path / "out.partial-2.json"
    (tmp_path / "folder" / "partial").mkdir(parents=True)
    (tmp_path / "folder" / "partial" / "mine").write_text("mine")
    with folder_written_aside(tmp_path / "folder") as unfinished:
        (unfinished / "new").write_text("new")
    with pytest.raises(ValueError, match="no"), folder_written_aside(tmp_path / "folder"):
        raise ValueError("no")
    assert {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == {
        "out.partial.json": "mine",
        "out.json": "new",
        "folder/partial/mine": "mine",
        "folder/new": "new",
    }


def test_a_full_disk_names_the_file(tmp_path):
    with (
        pytest.raises(OSError, match=r"No space left on device.*written.*out\.json"),
        written_aside(tmp_path / "out.json"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OSError, match=r"^plain$"), naming("x"):
        raise OSError("plain")


def test_links_and_devices_are_written_through(tmp_path):
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    with written_aside(tmp_path / "link.json") as unfinished:
        unfinished.write_text("new")
    assert (tmp_path / "real.json").read_text() == "new"
    assert (tmp_path / "link.json").is_symlink()
    with written_aside("/dev/null") as unfinished:
        unfinished.write_text("nothing")
    check_writable("/dev/null")


def test_folders_are_merged(tmp_path):
    old, new = tmp_path / "frames", tmp_path / "frames" / "partial"
    for folder, names in ((old, ["0.png", "notes.txt"]), (new, ["0.png", "1.png"])):
        folder.mkdir(exist_ok=True)
        for name in names:
            (folder / name).write_text(folder.name)
    move_into_place(new, old)
    assert {path.name: path.read_text() for path in old.iterdir()} == {
        "0.png": "partial",
        "1.png": "partial",
        "notes.txt": "frames",
    }
    assert not new.exists()


def test_an_output_may_be_no_input_under_any_name(tmp_path, monkeypatch):
    clip = tmp_path / "clip.mp4"
    clip.write_text("video")
    os.link(clip, tmp_path / "hard.mp4")
    (tmp_path / "soft.mp4").symlink_to(clip)
    (tmp_path / "folder").symlink_to(tmp_path, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    for output in ("clip.mp4", "./clip.mp4", "hard.mp4", "soft.mp4", "folder/clip.mp4", str(clip)):
        with pytest.raises(ValueError, match="is the input itself; choose another output"):
            check_distinct([output], [clip])
    for output in (".", str(tmp_path), "folder"):
        with pytest.raises(ValueError, match=r"is the folder of the input clip\.mp4"):
            check_distinct([output], [clip])
    with pytest.raises(ValueError, match=r"would be written twice, also as a\.json"):
        check_distinct(["a.json", None, "./a.json"], [])
    check_distinct(["out.json", None, "elsewhere"], [clip])


def test_what_cannot_be_written_is_told_before(tmp_path):
    (tmp_path / "file").write_text("")
    for name, error, message in (
        ("", ValueError, "name of an output is empty"),
        (tmp_path, IsADirectoryError, "is a folder; expected the name of a file"),
        (tmp_path / "file" / "x.json", OSError, "can't be written"),
    ):
        with pytest.raises(error, match=message):
            check_writable(name)
    with pytest.raises(OSError, match="can't be written"):
        check_writable_folder(tmp_path / "file")
    check_writable(tmp_path / "new" / "x.json", None)
    assert (tmp_path / "new").is_dir()
    assert partial_path("a/b.tar.gz").name == "b.tar.partial.gz"


def test_a_link_to_another_folder_is_followed(tmp_path):
    """The file is written aside where the link leads to, and what a kill left there is removed."""
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a.json").write_text("older")
    (tmp_path / "link.json").symlink_to(tmp_path / "there" / "a.json")
    assert partial_path(tmp_path / "link.json") == tmp_path / "there" / "a.partial.json"
    with written_aside(tmp_path / "link.json") as unfinished:
        assert unfinished.parent == tmp_path / "there"
        unfinished.write_text("new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "there" / "a.json").read_text() == "new"
    (tmp_path / "there" / "a.partial.json").write_text("half")
    remove_partial(tmp_path / "link.json")
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["a.json"]

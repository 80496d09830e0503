"""Files that are whole or not there, what killed writers leave, and folders that one process holds."""

from __future__ import annotations

import os

import pytest

from weft.errors import UserError
from weft.files import alone_in, json_object, set_aside, sweep, temporary, write_atomic

DEAD = 2**22 + 1  # more than any process's number


def test_only_what_dead_writers_of_these_names_left_is_swept(tmp_path):
    names = [
        f".a.json.{DEAD}.tmp",
        f".a.json.{2**40}.tmp",  # more than the system can ask about
        f".step-00000002.{DEAD}.tmp",
        temporary(tmp_path / "a.json").name,  # of one that had our number: we have not begun
    ]
    kept = [f".a.json.{os.getppid()}.tmp", f".b.json.{DEAD}.tmp", f"a.json.{DEAD}.tmp", ".a.json.tmp", ".a.json.x.tmp"]
    for name in names + kept:
        (tmp_path / name).write_text("half")
    (tmp_path / f".step-00000004.{DEAD}.tmp").mkdir()
    (tmp_path / f".step-00000004.{DEAD}.tmp" / "model.safetensors").write_text("half")
    sweep(tmp_path, "a.json", "step-*")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
    sweep(tmp_path / "none", "a.json")


def test_a_folder_in_the_place_of_a_file_is_told(tmp_path):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(UserError, match="report.html' cannot be written: there is a folder of that name"):
        write_atomic(tmp_path / "report.html", "page")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_nothing_that_was_set_aside_is_lost(tmp_path):
    for content in ("first", "second"):
        (tmp_path / "log").write_text(content)
        set_aside(tmp_path / "log")
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found == {"log.damaged": "first", "log.damaged-2": "second"}


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "5", '"x"', "{", b"\xff\xfe\x80", "[" * 100_000, '{"a": ' * 100_000]
)
def test_what_is_no_json_object_is_none(text):
    assert json_object(text) is None


def test_one_holds_a_folder_and_the_other_is_refused(tmp_path):
    with alone_in(tmp_path), pytest.raises(UserError, match="Another process is at work in"), alone_in(tmp_path):
        pass
    with alone_in(tmp_path):  # free again
        pass


def test_a_folder_that_was_made_to_be_held_goes_where_nothing_was_put_into_it(tmp_path):
    with alone_in(tmp_path / "a" / "b", make=True):
        assert (tmp_path / "a" / "b").is_dir()
        with pytest.raises(UserError, match="Another process"), alone_in(tmp_path / "a" / "b", make=True):
            pass
        assert (tmp_path / "a" / "b").is_dir()
    assert not (tmp_path / "a").exists()
    with alone_in(tmp_path / "a" / "b", make=True):
        (tmp_path / "a" / "b" / "file").write_text("kept")
    with alone_in(tmp_path / "a" / "b", make=True):
        pass
    assert (tmp_path / "a" / "b" / "file").exists()


def test_a_folder_that_goes_between_opening_and_locking_is_made_again(tmp_path, monkeypatch):
    """Its lock would be that of a folder which nobody sees any more."""
    import fcntl

    flock, gone = fcntl.flock, []

    def remove_first(descriptor, how):
        if not gone:
            gone.append((tmp_path / "run").rmdir())
        flock(descriptor, how)

    monkeypatch.setattr("weft.files.fcntl.flock", remove_first)
    run = tmp_path / "run"
    with alone_in(run, make=True), pytest.raises(UserError, match="Another process"), alone_in(run):
        pass
    assert gone

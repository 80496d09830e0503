"""The texts of a run are found again from any folder, and only as they were."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.training.conftest import TINY
from weft import api, reading
from weft.config import merge
from weft.data.cache import clear_cache
from weft.errors import UserError
from weft.records import TEXTS
from weft.training.recipe import load_recipe, make_recipe
from weft.training.run import train

LINES = [f"Number {number} of the lines, with {number * number} threads.\n" for number in range(150)]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a folder of two texts, in which one works, and a cache of its own."""
    home = tmp_path / "home"
    for name, part in (("b.txt", LINES[:75]), ("d.txt", LINES[75:])):
        (home / "texts").mkdir(parents=True, exist_ok=True)
        (home / "texts" / name).write_text("".join(part), "utf-8")
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(home)
    return home


def trained(*sources: str, **data: object) -> Path:
    run = Path.cwd() / "run"
    train(merge(TINY, {"data": {"sources": list(sources or ["texts"]), **data}, "training": {"steps": 2}}), run)
    return run


def bits(run: Path, **how: object) -> tuple[float | None, list[str]]:
    said: list[str] = []
    return api.evaluate(run, tell=said.append, **how).bits_per_byte, said  # type: ignore[arg-type]


def without_cache() -> None:
    clear_cache()


CHANGES = {
    "added": (lambda texts: (texts / "a.txt").write_text("in front of all\n"), "a.txt was added"),
    "removed": (lambda texts: (texts / "b.txt").unlink(), "b.txt is gone"),
    "renamed": (lambda texts: (texts / "b.txt").rename(texts / "z.txt"), "b.txt is now z.txt"),
    "changed": (lambda texts: (texts / "b.txt").write_text("other\n"), "b.txt has changed"),
    "all gone": (lambda texts: shutil.rmtree(texts), "nothing is there any more"),
}


@pytest.mark.parametrize("source", ["texts", "texts/*.txt"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_corpus_is_told_and_never_scored_as_the_runs_own(home: Path, source: str, change: str) -> None:
    run = trained(source)
    before, _ = bits(run)
    make, told = CHANGES[change]
    make(home / "texts")
    after, said = bits(run)  # from the cache
    assert after == before
    assert told in said[0]
    without_cache()
    with pytest.raises(UserError, match=rf"texts have changed .*{told}.*name the files to score"):
        bits(run)
    with pytest.raises(UserError, match=rf"texts have changed .*{told}.*start another run"):
        train({"training": {"steps": 4}}, run, resume=True)


def test_an_unchanged_corpus_is_scored_from_any_folder(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained("texts", test=["texts/d.txt"])
    before, _ = bits(run)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "texts").mkdir(parents=True)
    (elsewhere / "texts" / "b.txt").write_text("another text of that name\n" * 50)
    monkeypatch.chdir(elsewhere)
    without_cache()
    after, said = bits(run)
    assert after == before
    assert str(home / "texts" / "b.txt") in said[0]
    train({"training": {"steps": 3}}, run, resume=True)
    assert yaml.safe_load((run / "recipe.yaml").read_text())["found_at"]["texts"] == str(home / "texts")


def test_a_run_and_its_texts_that_moved_together_are_found(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained()
    before, _ = bits(home / "run")
    home.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    without_cache()
    assert bits(tmp_path / "moved" / "run")[0] == before


def test_a_pattern_holds_in_a_folder_whose_name_is_one(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "odd [1]"
    home.rename(odd)
    monkeypatch.chdir(odd)
    run = trained("texts/*.txt")
    monkeypatch.chdir(tmp_path)
    without_cache()
    assert bits(run)[1][0].startswith("Reading")


def test_names_that_leave_the_order_do_not_matter(home: Path) -> None:
    run = trained()
    before, _ = bits(run)
    (home / "texts" / "b.txt").rename(home / "texts" / "c.txt")
    without_cache()
    assert bits(run)[0] == before


def test_a_run_that_remembers_nothing_is_scored_with_a_word_about_it(home: Path) -> None:
    run = trained()
    before, _ = bits(run)
    (run / TEXTS).unlink()
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    del recipe["found_at"]
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    after, said = bits(run)
    assert after == before
    assert any("cannot be checked" in line for line in said)
    train({"training": {"steps": 3}}, run, resume=True)
    for damaged in ("", "null", "[]", '{"files": 3}', '{"files": {"sources": [{"a": [1]}]}}'):
        (run / TEXTS).write_text(damaged)
        assert bits(run)[0] is not None


def test_an_older_run_reads_its_texts_as_it_did(home: Path) -> None:
    for name in ("b.txt", "d.txt"):
        path = home / "texts" / name
        path.write_text("\ufeff" + path.read_text("utf-8"), "utf-8")
    run = trained(verbatim=True, split="tail", longest_document=0)  # as every run did
    before, _ = bits(run)
    (run / TEXTS).unlink()
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    for key in ("normalize", "line_ends", "verbatim", "longest_document"):
        del recipe["data"][key]
    recipe["data"]["split"] = "lines"
    del recipe["found_at"]
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert bits(run)[0] == before
    train({"training": {"steps": 3}}, run, resume=True)
    assert bits(run)[0] is not None
    assert not make_recipe(load_recipe(run / "recipe.yaml"), {"data": {"verbatim": False}}).data.verbatim


def test_a_bundled_corpus_is_checked_without_a_word(home: Path) -> None:
    run = trained("weft:sewiki")
    assert bits(run, split="validation")[1] == []
    assert "found_at" not in yaml.safe_load((run / "recipe.yaml").read_text())


def test_texts_json_names_no_place_of_this_machine(home: Path) -> None:
    run = trained(str(home / "texts"), test=["texts/d.txt"])
    told = (run / TEXTS).read_text()
    assert str(home) not in told
    assert [set(files) for files in json.loads(told)["files"]["sources"]] == [{"b.txt", "d.txt"}]


def test_what_is_shared_names_no_place_of_this_machine(home: Path, tmp_path: Path) -> None:
    from weft.reports.run.finish import finish_run

    run = trained(str(home / "texts"), test=["texts/d.txt"])
    finish_run(run)
    told = yaml.safe_load((run / "recipe.yaml").read_text())
    assert told["found_at"] == {"texts/d.txt": str(home / "texts" / "d.txt")}
    for path in run.iterdir():
        if path.is_file() and path.name != "recipe.yaml":
            assert str(tmp_path).encode() not in path.read_bytes(), path.name
    assert "sources:" in (run / "report.html").read_text()


def test_a_run_that_is_made_of_another_finds_its_texts(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from weft.compress.folder import write_made
    from weft.pretrained import load_model

    run = trained()
    write_made(load_model(run), run, home / "made", "made by a test")
    monkeypatch.chdir(tmp_path)
    assert bits(home / "made")[0] == bits(run)[0]
    (home / "texts" / "a.txt").write_text("in front of all\n")
    without_cache()
    with pytest.raises(UserError, match=r"a\.txt was added"):
        bits(home / "made")


def test_a_dataset_that_streams_is_found_again_and_no_other_is_scored_for_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "data").mkdir()
    records = "".join(json.dumps({"text": line}) + "\n" for line in LINES)
    (home / "data" / "a.jsonl").write_text(records)
    run = trained("hf:data/*.jsonl")
    before, _ = bits(run)
    monkeypatch.chdir(tmp_path)
    assert bits(run)[0] == before
    without_cache()
    assert bits(run)[0] == before
    train({"training": {"steps": 3}}, run, resume=True)
    (home / "data" / "a.jsonl").write_text(json.dumps({"text": "in front"}) + "\n" + records)
    without_cache()
    with pytest.raises(UserError, match="dataset has changed"):
        bits(run)


# The form of a text


def test_a_text_in_another_form_than_the_models_is_told(home: Path) -> None:
    run = trained()
    windows = home / "windows.txt"
    windows.write_text("".join(LINES[:9]), "utf-8", newline="\r\n")
    assert any("100% of the lines of this text end in CR LF" in line for line in bits(run, files=str(windows))[1])
    assert bits(run, files="texts/b.txt")[1] == []


def test_a_run_reads_other_texts_in_the_form_of_its_own(home: Path) -> None:
    run = trained(line_ends="lf", normalize="nfc")
    for name, end in (("unix.txt", "\n"), ("windows.txt", "\r\n")):
        (home / name).write_text("".join(LINES[:9]), "utf-8", newline=end)
    (one, _), (other, said) = bits(run, files="unix.txt"), bits(run, files="windows.txt")
    assert one == other
    assert said == []
    assert reading.as_read(run, ["e\u0301\r\n"]) == ["é\n"]
    (run / "recipe.yaml").write_text("training: [")
    assert reading.as_read(run, ["e\u0301\r\n"]) == ["e\u0301\r\n"]


def test_a_table_is_scored_by_the_column_that_is_named(home: Path) -> None:
    run = trained()
    (home / "a.csv").write_text("id,satz\n1,one\n2,two\n")
    with pytest.raises(UserError, match="data.text_key"):
        bits(run, files="a.csv")
    (home / "a.txt").write_text("one\n\n\ntwo")
    assert bits(run, files="a.csv", text_key="satz")[0] == bits(run, files="a.txt")[0]

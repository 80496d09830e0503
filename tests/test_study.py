"""The study's tables say what the runs say, and its law is found again in figures that follow it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from benchmarks.study import corpora, equal_time, halving, tables

from tests.experiments.pretend import pretend_training
from weft.data import DataConfig, iter_documents
from weft.training import dial
from weft.training.recipe import parse_settings


def trial(name: str, bits: float, *, rate: float = 4e-3, seed: int = 0, status: str = "done") -> dict:
    return {
        "architecture": name,
        "learning_rate": rate,
        "seed": seed,
        "status": status,
        "validation_bits_per_byte": bits,
        "bits_per_byte": bits + 0.1,
        "tokens": 1000,
        "seconds": 2.0,
    }


def comparison(*trials: dict) -> dict:
    settings = {"parameters": 1_000_000, "budget": {"tokens": 2_000_000}, "corpus": "a text"}
    machine = {"cpu": "a processor", "threads": 1}
    return {"settings": settings, "machine": machine, "git_revision": "abc", "trials": list(trials)}


def test_a_contender_counts_at_its_best_rate_with_the_mean_of_its_seeds():
    runs = [trial("a", 2.0, rate=1e-3), trial("a", 1.0), trial("a", 1.2, seed=1), trial("a", 9.0, status="failed")]
    figure = tables.figures_of(comparison(*runs))["a"]
    assert (figure.validation, figure.learning_rate, figure.seeds, figure.speed) == (1.1, 4e-3, 2, 500.0)
    assert figure.test == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("here", "there", "told"),
    [
        (0.9, 0.9, "**better**"),
        (1.1, 1.1, "worse"),
        (1.001, 0.999, "no difference"),
        (0.9, 1.001, "undecided"),
        (0.9, 1.1, "disagree"),
    ],
)
def test_the_verdict_is_that_of_all_texts_beyond_chance(here, there, told):
    figures = {
        corpus: tables.figures_of(comparison(trial("first", 1.0), trial("other", bits)))
        for corpus, bits in (("sewiki", here), ("slv", there))
    }
    assert tables.verdict("other", figures, {"sewiki": 1.0, "slv": 1.0}) == told


def test_tables_and_pictures_are_made_of_folders_of_comparisons(tmp_path, monkeypatch):
    for question, bits in (("noise", (1.0, 1.01)), ("what", (1.0, 0.9))):
        names = ("same", "same") if question == "noise" else ("first", "other")
        folder = tmp_path / "runs" / question / "sewiki"
        folder.mkdir(parents=True)
        runs = [
            trial(name, b, seed=place * (question == "noise"))
            for place, (name, b) in enumerate(zip(names, bits, strict=True))
        ]
        (folder / "results.json").write_text(json.dumps(comparison(*runs)))
    monkeypatch.setattr("sys.argv", ["tables", str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    tables.main()
    told = (tmp_path / "out" / "what.md").read_text()
    assert "| other | 0.9000 (-10.00 %) | 1.0000 | 500 | **better** |" in told
    assert "up to 1.00 % apart" in told
    assert (tmp_path / "out" / "what.png").stat().st_size > 1000
    assert not (tmp_path / "out" / "noise.png").exists()
    monkeypatch.setattr("sys.argv", ["tables", str(tmp_path / "runs")])
    tables.main()
    assert (tmp_path / "runs" / "what.md").read_text() == told  # beside the runs, unless told otherwise
    monkeypatch.setattr("sys.argv", ["tables", str(tmp_path / "runs" / "what")])
    with pytest.raises(SystemExit):  # one folder too deep
        tables.main()


def test_the_law_is_found_in_figures_that_follow_it():
    pytest.importorskip("scipy")
    from benchmarks.study import law

    truth = np.array([0.25, 0.4, 0.5, 4.0, 1.0, 0.6, 1.5, 0.4])
    runs = [
        {"corpus": corpus, "parameters": size, "bytes": read, "different": different}
        for corpus, different in (("sewiki", 2e6), ("slv", 9e6))
        for size in (25e4, 1e6, 4e6)
        for read in (3e6, 6e6, 12e6, 24e6)
    ]
    texts = ["sewiki", "slv"]
    runs = [run | {"bits": bits} for run, bits in zip(runs, law.predict(truth, runs, texts), strict=True)]
    assert np.abs(law.residuals(law.fit(runs, texts), runs, texts)).max() < 1e-3


def test_the_dial_reckons_with_the_law():
    """The formula of the fit, its shared constants as they stand in the dial, differs by the corpus's own alone."""
    pytest.importorskip("scipy")
    from benchmarks.study import law

    constants = np.array([dial.SIZE_SHARE, dial.SIZE_POWER, dial.TEXT_POWER, dial.REPEATS, 0.0, 1.0])
    for size, read in ((5e5, 1e6), (2e6, 3e6), (1e6, 4e7)):
        run = {"corpus": "a", "parameters": size, "bytes": read, "different": 2e6}
        assert dial.expected_bits(size, read, 2e6) == pytest.approx(law.predict(constants, [run], ["a"])[0])


def test_halving_trains_the_better_half_for_the_whole_time(tmp_path, monkeypatch, capsys):
    place = {name: float(index) for index, name in enumerate([*halving.GRID, halving.DIAL])}
    settings = {name: parse_settings(each) for name, each in halving.GRID.items()}

    def name_of(recipe):
        own = {"data": recipe["data"], "model": recipe.get("model", {}), "training": recipe["training"]}
        if "dropout" not in own["model"]:
            return halving.DIAL
        alike = [name for name, each in settings.items() if is_in(parse_settings(halving.BY_HAND) | each, own)]
        return alike[-1]

    asked = pretend_training(monkeypatch, lambda recipe: 2.0 - 0.01 * place[name_of(recipe)])
    monkeypatch.setattr(halving, "adaptive_bits", lambda *_: 1.0)
    words = ["halving", "text", "--minutes", "3", "--name", "t", "--work", str(tmp_path), "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", words)
    halving.main()
    assert len(halving.GRID) >= 12
    assert [recipe["training"]["minutes"] for recipe in asked] == [1.0] * len(halving.GRID) + [3.0] * 8
    told = json.loads((tmp_path / "dial-t.json").read_text())
    assert list(told["short"]) == list(halving.GRID)
    assert set(told["whole"]) == {halving.DIAL, *list(halving.GRID)[-7:]}
    assert told["whole"][halving.DIAL]["adaptive"] == 1.0
    assert "minutes: 3" in told["whole"][halving.DIAL]["recipe"]
    asked.clear()
    halving.main()
    assert asked == []
    assert "The dial over the best of the grid" in halving.table(json.loads((tmp_path / "dial-t.json").read_text()))


def test_equal_time_tunes_each_candidate_and_trains_the_best_from_other_seeds(tmp_path, monkeypatch):
    def bits(recipe):
        training, model = recipe["training"], recipe["model"]
        return (
            1.5
            + abs(training["optimizer"]["learning_rate"] - 2e-3)
            + abs(training["optimizer"]["weight_decay"] - 0.3)
            + model["dropout"]
        )

    asked = pretend_training(monkeypatch, bits)
    monkeypatch.setattr(equal_time, "RESULTS", tmp_path)
    monkeypatch.setattr(equal_time, "PACE", tmp_path / "pace.json")
    equal_time.PACE.write_text(json.dumps({"tokens_per_second": {"hybrid": 2000, "llama": 1000}}))
    words = ["equal_time", "tune", "text", "--name", "t", "--candidates", "hybrid;llama", "--seeds", "3"]
    words += ["--work", str(tmp_path / "work")]
    monkeypatch.setattr("sys.argv", words)
    equal_time.main()
    first = len(equal_time.SEARCH)
    assert len(asked) == 2 * (first + 2)
    tuned = {"optimizer": {"learning_rate": 2e-3, "weight_decay": 0.3}}
    assert asked[-1]["model"]["baseline"] == "llama"
    assert asked[-1]["training"].items() >= (tuned | {"seed": 2}).items()
    assert asked[-1]["training"]["tokens"] == equal_time.TOKENS / 2  # that it reads in the time of the hybrid
    path = tmp_path / "equal-time-t.json"
    table = equal_time.table(json.loads(path.read_text()))
    assert "| hybrid | 1.5000 | 1.5000 | 0.00M | 0.002 | 0.3 | 0 | 6 | 3 |" in table
    assert "| llama | 1.5000 | 1.5000 | 0.00M |" in table
    asked.clear()
    equal_time.main()
    assert asked == []
    other = "hybrid, gates spread"
    for more in (["--candidates", other, "--like", "hybrid"], ["--candidates", "llama", "--like", "itself"]):
        monkeypatch.setattr("sys.argv", [*words[:5], *more, "--seeds", "2", *words[-2:]])
        equal_time.main()
    assert [recipe["training"]["seed"] for recipe in asked] == [0, 1]  # llama has its own already
    assert all(recipe["training"].items() >= tuned.items() for recipe in asked)
    assert all(recipe["model"]["qrnn"] == {"forget_bias": "spread"} for recipe in asked)
    # The published files hold lists of runs, which are read as well.
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"runs": list(told["runs"].values())}))
    equal_time.main()
    assert len(asked) == 2


def is_in(part, whole) -> bool:
    """Return whether all values of the nested ``part`` are those of ``whole``."""
    if not isinstance(part, dict):
        return part == whole
    return all(key in whole and is_in(value, whole[key]) for key, value in part.items())


def test_small_texts_are_the_beginning_of_the_training_text_in_whole_characters(tmp_path):
    whole = DataConfig(sources=("weft:sewiki",))
    corpora._write_beginning(tmp_path, "sewiki", whole)
    path = tmp_path / "sewiki-600k.txt"
    assert corpora.SMALL_BYTES - 4 < path.stat().st_size <= corpora.SMALL_BYTES
    small = [document.strip() for document in iter_documents(DataConfig(sources=(str(path),)), "train")]
    given = {document.strip() for document in iter_documents(whole, "train")}
    assert sum(document in given for document in small) >= len(small) - 1  # the last one may be cut

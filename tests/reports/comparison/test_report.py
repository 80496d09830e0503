"""The table and the report of a comparison say what was measured, wins and losses alike, finished or not."""

from __future__ import annotations

import copy
import io
import json
import re
import subprocess
import sys

import pytest
from rich.console import Console

from tests.reports.comparison.studies import ARCHITECTURES, curves, results, row, trial, write_study
from tests.reports.run.test_report import Page
from weft.errors import UserError
from weft.reports.comparison.records import read_study, study_records
from weft.reports.comparison.report import render_comparison, write_comparison
from weft.reports.comparison.table import markdown
from weft.reports.comparison.words import command, context, finding, notes, ordinal, percent, rate_words
from weft.terminal import comparison_table


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A whole study of eight architectures, three rates and two seeds, in which one training run failed."""
    whole = results()
    [broken] = [
        one for one in whole["trials"] if (one["architecture"], one["learning_rate"]) == ("transformer-xl", 4e-3)
    ]
    broken |= {"status": "failed", "error": "The loss | was not finite.", "bits_per_byte": None}
    broken["validation_bits_per_byte"] = None
    return write_study(tmp_path_factory.mktemp("studies") / "my-study", whole, curves(whole))


@pytest.fixture(scope="module")
def html(study):
    path = write_comparison(study)
    assert (study / "table.md").read_text(encoding="utf-8") == markdown(read_study(study))
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def small(bits, seeds=1):
    """Return results of a study with the given test figures, a list for each architecture (one a seed)."""
    rows = [
        row(name, seed, bits_per_byte=figure, parameters=2_000_000)
        for name, figures in bits.items()
        for seed, figure in enumerate(figures)
    ]
    done = results((), tuple(range(seeds)))
    done["settings"] |= {"architectures": [name for name in bits if name != "llama"], "baselines": []}
    return done | {"rows": rows, "trials": [trial(one, one["learning_rate"]) for one in rows]}


def said(bits):
    return finding(study_records("", small(bits)))


def lines_of_first_table(text):
    return [line for line in text.split("\n## ")[0].splitlines() if line.startswith("|")]


# What the page is


def test_the_page_needs_nothing_else_and_is_small(html, page):
    assert all(link.startswith("#") for link in page.links)
    assert not re.search(r"https?:|@import|<script", html)
    assert not re.search(r"url\((?!#)", html)
    assert len(html) < 600_000


def test_every_picture_is_described_and_takes_the_colours_of_the_page(html):
    pictures = re.findall(r"<svg[^>]*>", html)
    assert len(pictures) == 2 * 4 + 6  # four in two widths, six small ones
    for picture in pictures:
        assert 'role="img"' in picture
        assert len(re.search(r'aria-label="([^"]*)"', picture)[1]) > 40
    assert "#0a0" not in html
    assert "var(--s6)" in html


def test_the_page_opens_with_the_finding_and_shows_everything(page):
    text = page.text
    assert text.index("hybrid is best at 1.876") < text.index("Result") < text.index("Training")
    for name in ARCHITECTURES:
        assert text.count(name) > 8
    for label in (
        "training tokens",
        "minutes of training",
        "learning rate",
        "bytes of state",
        "(the axis does not start",
    ):
        assert label in text


def test_importing_is_light():
    code = "import sys, weft.reports.comparison.report; print({'torch', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# The finding


def test_the_gap_is_told_against_the_spread_of_the_seeds():
    text = said({"par": [2.09, 2.11], "hybrid": [1.99, 2.01]})
    assert text.startswith("hybrid is best at 2.000 bits per byte; the next, par, is 5.0 % behind (0.100)")
    assert "more than the 0.020 by which seeds" in text


def test_overlapping_seeds_are_no_finding():
    text = said({"par": [1.98, 2.06], "hybrid": [1.96, 2.04]})
    assert "overlap (they differ by up to 0.080), so the order of the two may be chance" in text


def test_a_gap_within_the_spread_may_be_chance():
    text = said({"par": [2.05, 2.05], "hybrid": [1.96, 2.03]})
    assert "no more than the 0.070" in text
    assert "may be chance" in text


@pytest.mark.parametrize("seeds", [([2.0], [2.1]), ([2.0, 2.01], [2.1])])
def test_with_one_seed_nothing_is_said_about_noise(seeds):
    assert "nothing can be said about noise" in said({"hybrid": seeds[0], "par": seeds[1]})


def test_equal_figures_are_level():
    assert "hybrid and par are level at 2.000" in said({"hybrid": [2.0], "par": [2.0001]})


def test_an_architecture_of_ours_that_loses_is_told_so():
    done = small({"hybrid": [2.1], "llama": [2.0]})
    assert finding(study_records("", done)).startswith(
        "llama (baseline) is best at 2.000 bits per byte; the next, hybrid,"
    )
    told = " ".join(notes(study_records("", done)))
    assert "From outside the project: llama comes 1st of 2. " in told
    assert "sliding window that gives each token at least half of its length as context" in told


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        ({"hybrid": 3, "par": 3}, "; every best learning rate is at the edge of those tried, so rates beyond may"),
        ({"hybrid": 1, "par": 3}, "; every best learning rate is at the edge"),
        ({"hybrid": 3, "par": 2}, "; the best learning rate is the largest tried for hybrid, so a rate beyond may"),
        ({"hybrid": 2, "par": 1}, "; the best learning rate is the smallest tried for par, so a rate beyond may"),
        ({"hybrid": 2, "par": 2}, ""),
    ],
)
def test_a_best_rate_at_the_edge_is_in_the_sentence(rates, words):
    done = small({"hybrid": [1.99, 2.01], "par": [2.09, 2.11]})
    done["rows"] = [
        one | {"learning_rate": rates[one["architecture"]], "best_at_edge": rates[one["architecture"]] != 2}
        for one in done["rows"]
    ]
    done["trials"] = [trial(one, rate) for one in done["rows"] for rate in (1, 2, 3)]
    told = finding(study_records("", done))
    assert "more than the 0.020 by which seeds" in told
    assert words in told
    assert ("change the order" in told) == bool(words)


def test_one_rate_for_all_is_in_the_sentence():
    assert "; one learning rate was tried, and another may change the order." in said({"hybrid": [1.0], "par": [2.0]})


def test_an_unfinished_study_says_what_is_missing():
    compared = study_records("", results(("hybrid", "par"), (0,)))
    assert finding(compared).startswith("So far (2 of 8 done), hybrid is best")
    missing = "Without a figure so far: transformer, transformer-xl, attn-qrnn, sha-qrnn, qrnn, llama."
    assert missing in notes(compared)


def test_an_unsteady_machine_is_pointed_out_where_it_matters():
    done = small({"hybrid": [1.9], "par": [2.0]})
    first = next(one for one in done["trials"] if one["architecture"] == "par")
    done["trials"].append(first | {"learning_rate": 9e-3, "tokens": round(first["tokens"] * 0.95)})
    assert "equally fast" not in " ".join(notes(study_records("", done)))
    done["trials"][-1]["tokens"] = first["tokens"] // 2
    told = " ".join(notes(study_records("", done)))
    assert "not always equally fast: in equal time par read from " in told
    done["settings"]["budget"] = {"minutes": None, "tokens": 1_000_000}
    assert "equally fast" not in " ".join(notes(study_records("", done)))


def test_the_notes_name_what_could_mislead(study):
    told = " ".join(notes(read_study(study)))
    assert "largest tried for hybrid, sha-qrnn, par, attn-qrnn, qrnn and the smallest tried for llama" in told
    assert "from 513k tokens (attn-qrnn) to 1.07M tokens (qrnn)" in told
    assert "Failed: 1 of 32 training runs" in told
    assert "Sizes differ" not in told


def test_unequal_sizes_are_pointed_out():
    done = small({"hybrid": [2.0], "par": [2.1]})
    done["rows"][1]["parameters"] = 2_200_000
    assert "Sizes differ by 10 %: hybrid has 2.00M parameters, par 2.20M." in notes(study_records("", done))


# The tables


def test_the_table_is_sorted_by_the_mean_and_whole(study):
    text = markdown(read_study(study))
    head, _, *rows = lines_of_first_table(text)
    assert len({line.replace(r"\|", "").count("|") for line in (head, *rows)}) == 1
    names = [line.split("|")[1].strip() for line in rows]
    assert names[:2] == ["hybrid", "sha-qrnn"]
    assert "llama (baseline)" in names
    cells = dict(
        zip([cell.strip() for cell in head.split("|")], [cell.strip() for cell in rows[0].split("|")], strict=True)
    )
    assert cells["test bits per byte"] == "1.8758"
    assert cells["least–most of the seeds"] == "1.8748–1.8768"
    assert cells["learning rate"] == "4e-3 ↑"
    assert cells["pattern"] == "`qf qf af qf`"
    assert cells["state at 64k"] == "172.8 kB"
    means = [float(line.split("|")[7]) for line in rows]
    assert means == sorted(means)


def test_every_training_run_is_in_the_second_table(study):
    text = markdown(read_study(study)).split("## Every training run")[1].split("\n## ")[0]
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(results()["trials"]) == 32
    assert sum("| counts |" in line for line in rows) == 16
    assert r"failed: The loss \| was not finite." in text


def test_a_deviation_needs_three_seeds():
    two = markdown(study_records("", small({"hybrid": [1.0, 2.0]})))
    three = markdown(study_records("", small({"hybrid": [1.0, 2.0, 3.0]})))
    assert "1.0000–2.0000 |" in two
    assert "1.0000–3.0000 (± 1.0000)" in three


def test_the_command_repeats_the_study_and_tells_no_folder():
    done = results()
    done["settings"] |= {"sources": ["/home/me/texts", "more.txt"], "budget": {"tokens": 1_500_000}}
    text = command(study_records("my study", done))
    assert text.startswith("weft compare texts more.txt --architectures hybrid,par,")
    assert "--baseline llama --parameters 2000000 --tokens 1500000 --learning-rates 1e-3,2e-3,4e-3 --seeds 0,1" in text
    settings = "--set training.batch.batch_size=8 --set model.attention.window=256"
    assert f"--top 3 --jobs 1 {settings} --out 'my study'" in text
    assert "/home" not in text


def test_the_terminal_shows_the_ranking():
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(comparison_table(results()))
    lines = console.export_text().splitlines()
    assert all(len(line) <= 80 for line in lines)
    order = [line.split("│")[1].strip() for line in lines if line.startswith("│")]
    assert order[0] == "hybrid"
    assert order[5] == "llama (baseline)"


# What is not there, or not as it should be


def test_no_study_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="There is no study"):
        write_comparison(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [None, "{", "[1]", '{"rows": 1, "trials": [1, {}], "settings": [], "machine": 3}'])
def test_a_study_without_results_says_so(tmp_path, content):
    if content:
        (tmp_path / "results.json").write_text(content)
        (tmp_path / "curves.json").write_text(content)
    text = Page(write_comparison(tmp_path).read_text(encoding="utf-8")).text
    assert "Nothing has been measured yet" in text
    assert "weft compare" not in text


def test_one_row_is_enough_and_the_same_study_gives_the_same_page(tmp_path):
    done = results(("hybrid",), (0,), (4e-3,))
    html = write_comparison(write_study(tmp_path, done, curves(done))).read_text(encoding="utf-8")
    assert write_comparison(tmp_path).read_text(encoding="utf-8") == html
    text = Page(html).text
    assert "hybrid needs 1.877 bits per byte; there is nothing yet to compare it with" in text


def test_figures_that_are_not_there_are_dashes():
    done = results(("hybrid",), (0,))
    for key in set(done["rows"][0]) - {"architecture"}:
        for value in (None, "?", float("nan"), [], {}):
            whole = copy.deepcopy(done)
            whole["rows"][0][key] = whole["trials"][0][key] = value
            assert "nan" not in markdown(study_records("", whole)).lower()
        del whole["rows"][0][key]
        markdown(study_records("", whole))
    for key in done["settings"]:
        whole = copy.deepcopy(done)
        whole["settings"][key] = None
        markdown(study_records("", whole))


def test_pages_are_drawn_whatever_is_missing(tmp_path):
    done = results(tuple(ARCHITECTURES), (0,), (1e-3, 4e-3))
    keys = ("bits_per_byte", "tokens", "state_bytes", "parameters", "generation_tokens_per_second", "learning_rate")
    for one, key in zip(done["rows"], keys, strict=False):
        one[key] = None
    drawn = curves(results(tuple(ARCHITECTURES), (0,), (1e-3, 4e-3)))
    for broken, damage in zip(
        drawn, (None, [], [None], [{"tokens": "?"}], [{"tokens": 5, "bits_per_byte": 2.0}]), strict=False
    ):
        broken["validation"] = damage
    text = Page(write_comparison(write_study(tmp_path, done, drawn)).read_text(encoding="utf-8")).text
    assert "nan" not in text.lower().split()
    assert "None" not in text


def test_names_cannot_break_the_page(tmp_path):
    name = '<script>"$x_1$ & \x00 | `b`\n(qf)2 (afqf)3 (qf)2 (afqf)3 ŋ 語'
    done = results(("hybrid", "par"), (0,))
    for one in (*done["rows"], *done["trials"]):
        one["architecture"] = one["architecture"].replace("hybrid", name)
    html = write_comparison(write_study(tmp_path, done, curves(done))).read_text(encoding="utf-8")
    page = Page(html)
    assert "script" not in page.tags
    assert "\x00" not in html
    for spoken in re.findall(r'<svg role="img" aria-label="([^"]*)"', html):
        assert "&lt;script&gt;&quot;$x_1$ &amp;" in spoken
    assert "<script>" in page.text
    assert (
        len({line.replace(r"\|", "").count("|") for line in lines_of_first_table((tmp_path / "table.md").read_text())})
        == 1
    )


# How figures are written


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (rate_words(3e-3), "3e-3"),
        (rate_words(0.016), "1.6e-2"),
        (rate_words(1.0), "1e0"),
        (percent(0.0042), "0.42 %"),
        (percent(0.023), "2.3 %"),
        (percent(0.14), "14 %"),
        (context(65536), "64k"),
        (context(1000), "1,000"),
        (ordinal(1), "1st"),
        (ordinal(12), "12th"),
        (ordinal(23), "23rd"),
    ],
)
def test_figures_are_written_as_people_write_them(written, words):
    assert written == words


def test_render_needs_no_files():
    assert json.dumps(results())  # what the generator makes is what JSON can hold
    assert "Nothing has been measured yet" in render_comparison(study_records("empty", None))

"""The reports on a phone, in a real browser: nothing is cut, and the figure that matters stands beside its name."""

from __future__ import annotations

import json

import pytest

from tests.reports.comparison.studies import curves, results, write_study
from tests.reports.run.test_report import FIGURES, RESULTS, make_run
from weft.reports.comparison.report import write_comparison
from weft.reports.run.report import write_report

PHONE = {"width": 360, "height": 740}
CUT = """[...document.querySelectorAll(".scroll")].filter(table => table.scrollWidth > table.clientWidth).length"""
WIDTH = "document.documentElement.scrollWidth"


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport=PHONE)
    yield page
    page.close()


def test_no_table_of_a_run_is_cut(page, tmp_path):
    run = make_run(tmp_path)
    huge = {"documents": 123_456_789, "bytes": 98_765_432_100, "tokens": 45_678_901_234}
    (run / "recipe.yaml").write_text(json.dumps({"text": {"train": huge, "validation": huge, "test": huge}}))
    (run / "results.json").write_text(json.dumps(RESULTS | {"validation": FIGURES | {"perplexity_per_word": 8.8e19}}))
    page.goto(write_report(run).as_uri())
    assert page.evaluate(CUT) == 0
    assert page.evaluate(WIDTH) == PHONE["width"]


def test_the_figure_of_a_comparison_stands_beside_the_name(page, tmp_path):
    whole = results()
    page.goto(write_comparison(write_study(tmp_path / "study", whole, curves(whole))).as_uri())
    assert page.evaluate(CUT) == 0
    assert page.evaluate(WIDTH) == PHONE["width"]
    first = page.locator("table.study").first.locator("tbody tr").first
    name, figure = first.locator("th").bounding_box(), first.locator("td.key").bounding_box()
    assert first.locator("td.key").inner_text() == "1.8758"
    assert abs(name["y"] + name["height"] - figure["y"] - figure["height"]) < 8
    assert name["x"] + name["width"] <= figure["x"] < figure["x"] + figure["width"] <= PHONE["width"]

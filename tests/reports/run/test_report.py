"""The report shows what a run holds, whatever it holds, and needs nothing but itself."""

from __future__ import annotations

import json
import re
import string
import subprocess
import sys
from html.parser import HTMLParser
from importlib.resources import files

import numpy as np
import pytest

from tests.conftest import small_config
from weft.errors import UserError
from weft.records import read_run
from weft.reports.run.plots import smooth
from weft.reports.run.report import write_report

FIGURES = {
    "bits_per_byte": 1.5012,
    "bits_per_character": 1.6,
    "perplexity_per_token": 20.5,
    "perplexity_per_word": None,
    "tokens": 41_234,
    "bytes": 105_712,
    "seconds": 2.5,
}
RESULTS = {
    "parameters": 2_000_000,
    "training_seconds": 425.0,
    "training_tokens": 4_096_000,
    "tokens_per_second": 37_000.0,
    "best_step": 20,
    "test": FIGURES,
    "baselines": {"xz -9e": 2.0024},
    "test_adaptive": {**FIGURES, "bits_per_byte": 1.4321},
}


def train_event(step, **changes):
    return {
        "event": "train",
        "step": step,
        "tokens": 1000 * step,
        "seconds": 3.0 * step,
        "bits_per_byte": 4.0 - 0.05 * step,
        "learning_rate": 1e-4 * step,
        "tokens_per_second": 30_000.0,
        "gradient_norm": 0.5,
    } | changes


def validation_event(step, bits):
    return {
        "event": "validation",
        "step": step,
        "tokens": 1000 * step,
        "seconds": 3.0 * step,
        "bits_per_byte": bits,
    }


def sample_event(step, text, prompt=""):
    return {"event": "sample", "step": step, "prompt": prompt, "text": text}


def write_metrics(run, events):
    (run / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path)


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """The page of an ordinary run; drawn once, since drawing is slow."""
    return write_report(make_run(tmp_path_factory.mktemp("whole"))).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def make_run(folder):
    run = folder / "my-run"
    run.mkdir()
    config = small_config("[qf]2ax").model_dump(mode="json")
    (run / "config.json").write_text(json.dumps({"model_type": "weft", "architectures": ["X"], **config}))
    (run / "recipe.yaml").write_text("training:\n  steps: 30 # <all>\nweft_version: 0.1.0\nprepared: 12 documents\n")
    (run / "results.json").write_text(json.dumps(RESULTS))
    events = [train_event(step) for step in range(1, 31)]
    events += [validation_event(step, bits) for step, bits in ((10, 3.6), (20, 2.9), (30, 3.1))]
    events += [sample_event(20, "Sápmi lea <script>alert(1)</script> & \x00\ud800", "Sápmi lea")]
    events += [{"event": "skipped", "step": 4}, {"event": "news from the future", "step": 5}]
    write_metrics(run, sorted(events, key=lambda event: event["step"]))
    return run


def forget_curves(run):
    (run / "metrics.jsonl").unlink()


class Page(HTMLParser):
    """Collects text, tags and anything that could be fetched; refuses tags that do not close."""

    VOID = frozenset({"meta", "br", "img", "link", "input", "hr"})

    def __init__(self, html):
        super().__init__()
        self.words, self.open, self.tags, self.links = [], [], [], []
        self.feed(html)
        self.close()
        assert not self.open

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "data", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def page_of(run):
    return Page(write_report(run).read_text(encoding="utf-8"))


def test_the_page_needs_nothing_else_and_is_small(html, page):
    assert all(link.startswith("#") for link in page.links)
    assert not re.search(r"https?:|@import|<script", html)
    assert not re.search(r"url\((?!#)", html)
    assert len(html) < 400_000


def test_the_test_figure_comes_first_and_beside_the_baselines(page):
    text = page.text
    assert re.search(r"\d\.\d{3}", text)[0] == "1.501"
    assert text.index("learning as it reads 1.432") < text.index("this model 1.501") < text.index("xz -9e 2.002")


def test_the_curves_mark_the_best_validation(page):
    text = page.text
    assert "best 2.900, step 20" in text
    for label in ("training tokens", "seconds", "learning rate", "tokens per second", "gradient norm"):
        assert label in text


def test_every_block_is_drawn_and_shared_ones_say_whose_they_are(page):
    assert page.tags.count("li") == 6 + 2 + 3  # blocks, embedding and softmax, compared figures
    assert "block 0 again" in page.text
    assert "the embedding again" in page.text


def test_an_untied_softmax_has_parameters_of_its_own(run):
    forget_curves(run)
    config = small_config("q", {"tie_embeddings": False})
    (run / "config.json").write_text(json.dumps(config.model_dump(mode="json")))
    text = page_of(run).text
    assert "the embedding again" not in text
    assert text.count(f"{config.vocab_size * config.hidden_size}") >= 2


def test_samples_cannot_break_the_page(page):
    assert "<script>alert(1)</script>" in page.text
    assert "script" not in page.tags
    assert "Sápmi lea <script>" in page.text  # the prompt stands once


def test_samples_show_valid_text_only(run):
    write_metrics(run, [sample_event(20, "\ufffd\ufffde\x07\u1e5b\ud800ub\ufffd\n", "")])
    assert "\ufffd" not in page_of(run).text
    assert "e\u1e5bub" in page_of(run).text


def test_the_report_says_how_large_the_parts_are_and_how_they_were_cut(run):
    forget_curves(run)
    sizes = {"documents": 1234, "bytes": 56789, "tokens": 9876}
    told = {"rule": "in blocks", "train": sizes | {"estimated": True}, "validation": sizes, "test": sizes}
    (run / "recipe.yaml").write_text(json.dumps({"text": told}))
    text = page_of(run).text
    assert "training about 1,234 about 56,789 about 9,876 validation 1,234 56,789 9,876" in text
    assert "How it was cut: in blocks." in text


@pytest.mark.parametrize("told", [None, [], {"train": 3}, {"train": {"documents": None}, "rule": None}])
def test_damaged_sizes_are_left_out(run, told):
    forget_curves(run)
    (run / "recipe.yaml").write_text(json.dumps({"text": told}))
    assert "How it was cut" not in page_of(run).text


def test_perplexity_per_word_is_a_detail_except_over_closed_words(run):
    forget_curves(run)
    for figure, shown in ((29_078.5, "29,078.50"), (8.8e19, "8.8e19")):
        (run / "results.json").write_text(json.dumps({"test": FIGURES | {"perplexity_per_word": figure}}))
        assert page_of(run).text.count("perplexity per word") == 1
        assert shown in page_of(run).text
    (run / "recipe.yaml").write_text("data: {tokenizer: closed-words}\n")
    assert page_of(run).text.count("perplexity per word") == 2


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"primed_bytes": 5, "notes": ["Of it <5 bytes>."]}, "has read the training text, and goes on learning from"),
        ({"primed_bytes": 0, "notes": []}, "Each compressor goes on learning from"),
        ({}, "has read the training text, and goes on learning from"),
    ],
)
def test_what_compressors_have_read_is_told(run, about, words):
    forget_curves(run)
    (run / "results.json").write_text(json.dumps(RESULTS | {"baselines_about": about}))
    text = page_of(run).text
    assert words in text
    assert all(note in text for note in about.get("notes", []))


def test_colours_come_from_the_page(html):
    assert "var(--train)" in html
    assert "#0a0b" not in html
    assert "prefers-color-scheme: dark" in html


def test_missing_figures_are_dashes(page):
    assert "perplexity per word –" in page.text


@pytest.mark.parametrize("name", ["config.json", "recipe.yaml", "results.json", "metrics.jsonl"])
@pytest.mark.parametrize("damage", ["missing", "half", "wrong", "nested", "date", "folder"])
def test_a_run_with_a_damaged_file_still_has_a_page(run, name, damage):
    whole = (run / name).read_bytes()
    others = {
        "half": whole[: len(whole) // 2],
        "wrong": b'["\xff", 1]',
        "nested": b"[" * 100_000,
        "date": b"2026-13-45",
    }
    (run / name).unlink()
    if damage == "folder":
        (run / name).mkdir()
    elif damage != "missing":
        (run / name).write_bytes(others[damage])
    if name != "metrics.jsonl":
        forget_curves(run)
    assert "my-run" in page_of(run).text


def test_a_step_beyond_all_numbers_is_left_out(run):
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8")
    (run / "metrics.jsonl").write_text(lines + json.dumps({"event": "train", "step": 10**400}) + "\n")
    assert "my-run" in page_of(run).text


def test_an_empty_run_says_so(tmp_path):
    assert "Nothing has been measured yet" in page_of(tmp_path).text


def test_without_a_test_the_best_validation_leads(run):
    (run / "results.json").unlink()
    text = page_of(run).text
    assert "2.900 bits per byte on the validation text" in text
    assert "no test yet" in text


@pytest.mark.parametrize("events", [[train_event(1)], [validation_event(1, 3.0)], [train_event(1, tokens=None)]])
def test_one_measurement_is_enough(run, events):
    write_metrics(run, events)
    page_of(run)


def test_what_is_not_a_number_is_left_out(run):
    broken = train_event(2, bits_per_byte=float("nan"), gradient_norm=float("inf"), learning_rate="?")
    write_metrics(run, [train_event(1), broken, train_event(3)])
    assert "nan" not in page_of(run).text.lower().split()


def test_a_resumed_run_shows_each_step_once(run):
    before = [train_event(step, bits_per_byte=9.0) for step in (1, 2, 3)]
    write_metrics(run, [*before, train_event(2), train_event(3), train_event(4)])
    records = read_run(run)
    assert [event["step"] for event in records.train] == [1, 2, 3, 4]
    assert [event["bits_per_byte"] < 9 for event in records.train] == [False, True, True, True]


def test_long_runs_give_small_pages(run):
    write_metrics(run, [train_event(step, bits_per_byte=1 + 1 / step) for step in range(1, 5_001)])
    assert write_report(run).stat().st_size < 400_000


def test_smoothing_keeps_level_and_ends():
    level = smooth(np.full(500, 2.0))
    np.testing.assert_allclose(level, 2.0)
    noisy = np.random.default_rng(0).normal(2, 0.1, 1000)
    assert smooth(noisy)[100:900].std() < noisy.std() / 3
    assert smooth(noisy)[0] == noisy[0]


def test_the_same_run_gives_the_same_page(run):
    assert write_report(run).read_bytes() == write_report(run).read_bytes()


def test_no_folder_of_this_machine_is_told(run):
    forget_curves(run)
    assert str(run.parent) not in write_report(run).read_text(encoding="utf-8")


def test_no_run_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="There is no run directory"):
        write_report(tmp_path / "nowhere")


def test_importing_is_light():
    code = "import sys, weft.reports.run.report; print({'torch', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(("scheme", "place"), [("light", 0), ("dark", 1)])
def test_every_kind_of_block_has_a_colour_on_light_and_dark_paper(scheme, place):
    css = files("weft.reports").joinpath("report.css").read_text(encoding="utf-8")
    root = re.findall(r":root {(.*?)}", css, re.DOTALL)[place]
    colours = dict(re.findall(r"(--\w+): (#[0-9a-f]{6});", root))
    for part in (*string.ascii_lowercase, "embedding", "softmax"):
        (variable,) = re.findall(rf"\.k-{part}\b[^{{}}]*{{ --kind: var\((--\w+)\)", css)
        assert contrast(colours[variable], colours["--paper"]) >= 3, f"{part} on {scheme} paper"


def contrast(one, other):
    """Return the contrast of two colours, as WCAG 2 defines it; 3 is asked of what is no text."""
    lights = []
    for colour in (one, other):
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(lights) + 0.05) / (min(lights) + 0.05)

"""The demonstration goes all the way, on a small text."""

from __future__ import annotations

import json
import sys

import pytest

from weft import cli, demo


def test_the_demo_shows_figures_beside_compressors_and_leaves_a_report(tmp_path, corpus_text, monkeypatch, capsys):
    text = tmp_path / "small.txt"
    text.write_text(corpus_text, encoding="utf-8")
    monkeypatch.setattr(demo, "CORPUS", str(text))
    monkeypatch.setenv("WEFT_MAX_STEPS", "3")
    monkeypatch.setattr(sys, "argv", ["weft", "demo", "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code in (0, None)
    shown = capsys.readouterr().out
    for word in (
        "PPMd order 12",
        "xz -9e",
        "frozen weights",
        "memory of the",
        "dynamic evaluation",
        "parameters",
        "report.html",
        "Ruoŧŧa",
    ):
        assert word in shown
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["test_adaptive"]["bits_per_byte_frozen"] == pytest.approx(
        results["test"]["bits_per_byte_frozen"], rel=1e-6
    )
    assert set(results["baselines"]) == {"PPMd order 12", "xz -9e"}
    assert results["baselines_about"]["primed_bytes"] == results["baselines_about"]["training_bytes"] > 0
    report = (tmp_path / "run" / "report.html").read_text()
    assert f"{results['baselines']['PPMd order 12']:.3f}" in report

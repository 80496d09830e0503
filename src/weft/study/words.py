"""Figures as people write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weft.study.records import number

# key, name, digits after the point, and what it is in plain words
FIGURES = (
    (
        "bits_per_byte",
        "bits per byte",
        4,
        "What one byte of the text (UTF-8) costs; a plain file has 8. Lower is better.",
    ),
    ("bits_per_character", "bits per character", 4, "The same for one character of the text."),
    (
        "perplexity_per_word",
        "perplexity per word",
        2,
        "How many equally likely words the model is torn between, on average.",
    ),
    (
        "perplexity_per_token",
        "perplexity per token",
        3,
        "The same for one token; depends on the tokenizer, so compare only where it is the same.",
    ),
    ("tokens", "tokens", 0, "How many tokens were scored."),
    ("bytes", "bytes", 0, "How many bytes of text were scored."),
    ("seconds", "seconds", 1, "How long the scoring took."),
)

# section of results.json, and what it is called
PARTS = (
    ("test", "test"),
    ("test_adaptive", "test, learning as it reads"),
    ("validation", "validation"),
)


def count(value: float) -> str:
    """Return a number in three figures: 950, 2.03M, 41.0k."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit * 0.9995:
            return f"{value / limit:#.3g}{unit}".replace(".k", "k").replace(".M", "M").replace(".G", "G")
    return f"{value:.0f}"


def size(value: float) -> str:
    """Return a number of bytes: 900 B, 12.5 kB, 3.1 MB."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= limit:
            return f"{value / limit:.1f} {unit}"
    return f"{value:.0f} B"


def duration(seconds: float) -> str:
    """Return a time: 42 s, 7 min 05 s, 3 h 20 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def figure_cell(figures: Mapping[str, Any], key: str, digits: int) -> str:
    """Return one figure of an evaluation, or a dash where it was not taken."""
    value = number(figures.get(key))
    return "–" if value is None else f"{value:,.{digits}f}"


def baselines(results: Mapping[str, Any]) -> dict[str, float]:
    """Return the compressors' bits per byte, by name."""
    given = results.get("baselines")
    pairs = given.items() if isinstance(given, Mapping) else ()
    return {str(name): value for name, raw in pairs if (value := number(raw)) is not None}

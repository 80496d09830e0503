"""The figures of a run, as a report and a card show them."""

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


def figure_cell(figures: Mapping[str, Any], key: str, digits: int) -> str:
    """Return one figure of an evaluation, or a dash where it was not taken."""
    value = number(figures.get(key))
    return "–" if value is None else f"{value:,.{digits}f}"


def baselines(results: Mapping[str, Any]) -> dict[str, float]:
    """Return the compressors' bits per byte, by name."""
    given = results.get("baselines")
    pairs = given.items() if isinstance(given, Mapping) else ()
    return {str(name): value for name, raw in pairs if (value := number(raw)) is not None}

"""The figures of a run, as a report and a card show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from weft.records import finite, section
from weft.words import figure

# key, name, digits after the point, and what it is in plain words
FIGURES = (
    (
        "bits_per_byte",
        "bits per byte",
        4,
        "What one byte of the text (UTF-8) costs; a plain file has 8. Lower is better.",
    ),
    (
        "bits_per_byte_frozen",
        "bits per byte, weights alone",
        4,
        "The same by the weights as trained, without what is counted beside them.",
    ),
    (
        "bits_per_byte_memory",
        "bits per byte, with memory",
        4,
        "The same by the weights and what followed the same tokens in the training text, which the run keeps.",
    ),
    (
        "bits_per_byte_new",
        "bits per byte, new lines",
        4,
        "The same without the lines that also stand in the training text.",
    ),
    ("bits_per_end", "bits per end", 2, "What it costs to tell that a document ends; it is in no other figure."),
    ("bits_per_character", "bits per character", 4, "The same for one character of the text."),
    (
        "perplexity_per_token",
        "perplexity per token",
        3,
        "How many equally likely tokens the model is torn between, on average; depends on the tokenizer.",
    ),
    (
        "perplexity_per_word",
        "perplexity per word",
        2,
        "The same for one word (what stands between spaces): huge where words are long or many, as in CSV.",
    ),
    ("tokens", "tokens", 0, "How many tokens were scored."),
    ("bytes", "bytes", 0, "How many bytes of text were scored."),
    ("seconds", "seconds", 1, "How long the scoring took."),
)

# what is shown only where it is known
OPTIONAL = ("bits_per_byte_frozen", "bits_per_byte_memory", "bits_per_byte_new", "bits_per_end")

# section of results.json, and what it is called
PARTS = (
    ("test", "test"),
    ("test_adaptive", "test, learning as it reads"),
    ("validation", "validation"),
)


def evaluations(results: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the evaluations that ``results.json`` holds, each with its name."""
    found = []
    for key, name in PARTS:
        metrics = section(results, key)
        if metrics:
            found.append((name, metrics))
    return found


def shown_figures(taken: Sequence[tuple[str, Mapping[str, Any]]]) -> list[tuple[str, str, int, str]]:
    """Return the rows of :data:`FIGURES` that one of the parts has, and those that every part should have."""
    shown = []
    for row in FIGURES:
        key = row[0]
        if key not in OPTIONAL or any(key in figures for _, figures in taken):
            shown.append(row)
    return shown


def weights_bits(figures: Mapping[str, Any]) -> float | None:
    """Return the bits per byte of the weights alone; None where they are not known."""
    frozen = finite(figures.get("bits_per_byte_frozen"))
    return finite(figures.get("bits_per_byte")) if frozen is None else frozen


def figure_cell(figures: Mapping[str, Any], key: str, digits: int) -> str:
    """Return one figure of an evaluation, or a dash where it was not taken."""
    value = finite(figures.get(key))
    if value is None:
        return "–"
    return figure(value, digits) if digits else f"{value:,.0f}"


def compressors(results: Mapping[str, Any]) -> dict[str, float]:
    """Return the compressors' bits per byte, by name."""
    given = results.get("baselines")
    if not isinstance(given, Mapping):
        return {}
    found = {}
    for name, bits in given.items():
        value = finite(bits)
        if value is not None:
            found[str(name)] = value
    return found


def compressors_note(results: Mapping[str, Any]) -> str:
    """Return what must be known of the compressors' figures; '' where there is nothing to say."""
    about = section(results, "baselines_about")
    said = []
    if compressors(results):
        # Only a zero says that they began with the test text.
        read = "" if finite(about.get("primed_bytes")) == 0 else "has read the training text, and "
        said.append(
            f"Each compressor {read}goes on learning from the test text while it packs it; "
            "the model does so only where it is said."
        )
    notes = about.get("notes")
    if isinstance(notes, list):
        said += [str(note) for note in notes]
    return " ".join(said)


@dataclass(frozen=True)
class Part:
    """How large a part of a run's text is; ``estimated`` where it streams."""

    name: str
    documents: float
    bytes: float
    tokens: float
    estimated: bool

    def cells(self) -> tuple[str, str, str]:
        """Return documents, bytes and tokens for a table."""
        about = "about " if self.estimated else ""
        return f"{about}{self.documents:,.0f}", f"{about}{self.bytes:,.0f}", f"{about}{self.tokens:,.0f}"


def parts(recipe: Mapping[str, Any]) -> list[Part]:
    """Return the sizes of training, validation and test that a run's recipe tells; empty where it tells none."""
    found = []
    for key, name in (("train", "training"), ("validation", "validation"), ("test", "test")):
        told = section(recipe, "text", key)
        documents = finite(told.get("documents"))
        size = finite(told.get("bytes"))
        tokens = finite(told.get("tokens"))
        if documents is not None and size is not None and tokens is not None:
            found.append(Part(name, documents, size, tokens, told.get("estimated") is True))
    return found


def split_rule(recipe: Mapping[str, Any]) -> str:
    """Return in sentences how the text was cut into the three parts, and what about it may mislead.

    It is '' where the recipe does not tell.
    """
    rule = section(recipe, "text").get("rule")
    if not rule:
        return ""
    on_one_line = " ".join(str(rule).split())
    said = [f"How it was cut: {on_one_line}."]
    remarks = section(recipe, "text").get("remarks")
    if isinstance(remarks, list):
        said += [str(remark) for remark in remarks]
    return " ".join(said)

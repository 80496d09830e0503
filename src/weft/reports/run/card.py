"""The model card of a run: ``README.md`` with the front matter that Hugging Face reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from weft.files import write_atomic
from weft.recall import MEMORY
from weft.records import CARD, RunRecords, finite, read_run, section
from weft.reports.run.words import (
    compressors,
    compressors_note,
    evaluations,
    figure_cell,
    parts,
    shown_figures,
    split_rule,
    weights_bits,
)
from weft.words import count, duration

if TYPE_CHECKING:
    from weft.description import BlockRow

# What is known of the corpora that come with the package, by the name they are asked for.
_BUNDLED = {"weft:sewiki": {"language": "se", "license": "cc-by-sa-4.0"}}
_UNKNOWN_LICENSE = {"license": "other", "license_name": "see-the-training-data"}
_LICENSES = {
    "cc-by-sa-4.0": "CC BY-SA 4.0 (text of the Northern Sami Wikipedia, by its contributors)",
}
_ADAPTER = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("FOLDER", trust_remote_code=True)
batch = tokenizer("...", return_tensors="pt")
print(tokenizer.decode(model.generate(**batch, max_new_tokens=50)[0], skip_special_tokens=True))"""
_BREAKS = re.compile(r"[\r\n]+")


def write_card(run: Path) -> Path:
    """Write ``README.md``, the model card, into the run directory and return its path.

    Whatever is not known yet is left out. Raises UserError where there is no such directory.
    """
    path = run / CARD
    write_atomic(path, render_card(read_run(run)))
    return path


def render_card(run: RunRecords) -> str:
    """Return the card."""
    sections = (
        ("Architecture", _architecture(run)),
        ("Training data", _data(run)),
        ("Training", _training(run)),
        ("Metrics", _figures(run)),
        ("How to use it", _usage(run)),
        ("Limits", _limits(run)),
    )
    body = "\n\n".join(f"## {name}\n\n{text}" for name, text in sections if text)
    card = f"---\n{_front_matter(run)}---\n\n# {_line(run.name)}\n\n{_summary(run)}\n\n{body}\n"
    # A lone surrogate, which JSON may hold, cannot be written as UTF-8.
    return card.encode("utf-8", "replace").decode()


def _front_matter(run: RunRecords) -> str:
    known = _known(run)
    matter: dict[str, Any] = {"library_name": "weft", "pipeline_tag": "text-generation"}
    if "language" in known:
        matter["language"] = known["language"]
    if "license" in known:
        matter["license"] = known["license"]
    else:
        matter |= _UNKNOWN_LICENSE
    matter["tags"] = _tags(run)
    return yaml.safe_dump(matter, sort_keys=False, allow_unicode=True)


def _known(run: RunRecords) -> dict[str, str]:
    """Return language and licence where all of the training text comes with the package."""
    names = set(_sources(run))
    if len(names) != 1:
        return {}
    return dict(_BUNDLED.get(names.pop(), {}))


def _sources(run: RunRecords) -> list[str]:
    given = section(run.recipe, "data").get("sources", [])
    if not isinstance(given, list):
        given = [given]
    return [str(source) for source in given]


def _tags(run: RunRecords) -> list[str]:
    """Return the tags of the Hub: those of the kinds of blocks, and ``hybrid`` where there are several."""
    base = ["weft", "small-language-model"]
    used = {row.letter for row in _blocks(run)}
    if not used:
        return base
    from weft.kinds import kinds  # which loads torch

    found = []
    for letter, spec in kinds().items():
        tag = spec.name.replace("_", "-") if spec.tag is None else spec.tag
        if letter in used and tag:
            found.append(tag)
    if len(found) > 1:
        found.append("hybrid")
    return [*base, *found]


def _blocks(run: RunRecords) -> tuple[BlockRow, ...]:
    """Return the blocks of the model; none where its configuration is not known."""
    if run.config is None:
        return ()
    from weft.description import describe

    return describe(run.config).blocks


def _summary(run: RunRecords) -> str:
    """Return the first sentences: how large it is, where it comes from, how good it is."""
    said = "A small language model"
    parameters = finite(run.results.get("parameters"))
    if parameters:
        said += f" of {count(parameters)} parameters"

    # What it began with. A run that another taught is not called "from scratch" either.
    training = section(run.recipe, "training")
    origin = section(training, "start").get("run")
    teacher = section(section(training, "methods"), "distillation").get("run")
    said += ", trained" if origin or teacher else ", trained from scratch"
    if origin:
        said += f" from the run {Path(str(origin)).name}"

    seconds = finite(run.results.get("training_seconds"))
    tokens = finite(run.results.get("training_tokens"))
    if seconds and tokens:
        said += f" on {count(tokens)} tokens in {duration(seconds)}"
    said += " with Weft"
    if teacher:
        said += f", with the run {Path(str(teacher)).name} as its teacher"
    said += "."

    bits = weights_bits(section(run.results, "test"))
    if bits is not None:
        said += f" It needs **{bits:.4f} bits per byte** of the held-out test text"
        with_memory = finite(section(run.results, "test").get("bits_per_byte_memory"))
        if with_memory is not None:
            said += f"; in Weft, with its memory of the training text, {with_memory:.4f}"
        said += "."
    return said


def _architecture(run: RunRecords) -> str:
    if run.config is None:
        return ""
    from weft.description import describe

    described = describe(run.config)
    lines = [
        f"Pattern `{described.pattern}`: {described.depth} blocks of width {described.hidden_size}, "
        f"a vocabulary of {described.vocab_size:,}; {described.parameters:,} parameters, "
        f"{described.body_parameters:,} without embeddings; "
        f"{count(described.flops_per_token)} operations a token.",
        "",
        "| block | kind | shape | parameters |",
        "|---:|---|---|---:|",
    ]
    for row in described.blocks:
        kind = row.kind.replace("_", "-")
        own = f"{row.parameters:,}"
        if row.shared_with is not None:
            own = f"those of block {row.shared_with}"
        lines.append(f"| {row.position} | {kind} | {row.shape} | {own} |")
    return "\n".join(lines)


def _data(run: RunRecords) -> str:
    """Say what it was trained on, a paragraph each; what the recipe does not tell is left out."""
    paragraphs = []
    summary = run.recipe.get("prepared")
    if summary:
        paragraphs.append(f"{_line(str(summary))}.")
    names = ", ".join(f"`{_line(Path(source).name)}`" for source in _sources(run))
    if names:
        paragraphs.append(f"Sources: {names}.")
    paragraphs.append(_parts_table(run))
    paragraphs.append(_line(split_rule(run.recipe)))
    license_ = _LICENSES.get(_known(run).get("license", ""), "not recorded; see where the text came from")
    paragraphs.append(f"The licence of the model's text is that of its training data: {license_}.")
    if run.holds_text:
        paragraphs.append(
            f"`{MEMORY}` holds the training text itself, as tokens, or what was given to remember. Whoever "
            "may not pass the text on may not pass this file on. The model works without it."
        )
    return "\n\n".join(filter(None, paragraphs))


def _parts_table(run: RunRecords) -> str:
    """Return how large training, validation and test text are; '' where the recipe does not tell."""
    rows = [f"| {part.name} | {' | '.join(part.cells())} |" for part in parts(run.recipe)]
    if not rows:
        return ""
    return "\n".join(["| | documents | bytes | tokens |", "|---|---:|---:|---:|", *rows])


def _training(run: RunRecords) -> str:
    """Say in a sentence how it was trained; what a run does not tell is left out."""
    training = section(run.recipe, "training")
    optimizer = section(training, "optimizer")
    if not optimizer.get("name"):
        return ""
    values = {
        "learning rate": optimizer.get("learning_rate"),
        "weight decay": optimizer.get("weight_decay"),
        "dropout": section(run.recipe, "model").get("dropout") or 0.0,
    }
    told = []
    for name, given in values.items():
        value = finite(given)
        if value is not None:
            told.append(f"{name} {value:g}")
    batch = section(training, "batch")
    batch_size = finite(batch.get("batch_size"))
    length = finite(batch.get("sequence_length"))
    if batch_size and length:
        told.append(f"steps of at most {batch_size:,.0f} segments of {length:,.0f} tokens")
    told.append(f"seed {training.get('seed', 0)}")
    return f"Optimizer `{_line(str(optimizer['name']))}`, {', '.join(told)}. `recipe.yaml` has every other value."


def _figures(run: RunRecords) -> str:
    tables = (_metrics_table(run), _compressors_table(run))
    return "\n\n".join(table for table in tables if table)


def _metrics_table(run: RunRecords) -> str:
    """Return a column for each evaluation, a row for each metric; '' where nothing was evaluated."""
    taken = evaluations(run.results)
    if not taken:
        return ""
    heads = " | ".join(name for name, _ in taken)
    lines = [f"| | {heads} |", "|---" + "|---:" * len(taken) + "|"]
    for key, name, digits, _ in shown_figures(taken):
        cells = " | ".join(figure_cell(values, key, digits) for _, values in taken)
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def _compressors_table(run: RunRecords) -> str:
    rows = [f"| {_line(name)} | {bits:.4f} |" for name, bits in compressors(run.results).items()]
    if not rows:
        return ""
    table = "\n".join(["| compressor | bits per byte |", "|---|---:|", *rows])
    return f"The same test text, packed. {_line(compressors_note(run.results))}\n\n{table}"


def _usage(run: RunRecords) -> str:
    folder = f"path/to/{_line(run.name)}"
    shell = f'weft generate "{folder}" --prompt "..."\nweft evaluate "{folder}" more_text.txt'
    python = f'import weft\n\nprint(weft.generate("{folder}", "..."))\nmodel = weft.load("{folder}")'
    adapter = _ADAPTER.replace("FOLDER", folder)
    return (
        f"Install Weft (Python 3.11 to 3.14, no compiler, no GPU needed):\n\n"
        f"```sh\npip install weft-lm  # or, in a clone of the repository: pip install .\n```\n\n"
        f"Then, where `{folder}` is this folder:\n\n"
        f"```sh\n{shell}\n```\n\n```python\n{python}\n```\n\n"
        f"With transformers, by the weights alone; Weft must be installed there, too:\n\n```python\n{adapter}\n```"
    )


def _limits(run: RunRecords) -> str:
    limits = [
        "It continues text. It was not taught to follow instructions or to be harmless.",
        "It knows what its training data says, with its errors and biases, and states falsehoods fluently.",
        "A small model trained on little data can repeat passages of that data word for word.",
    ]
    windows = sorted({row.window for row in _blocks(run) if row.window})
    if len(windows) == 1:
        limits.append(f"Its attention reaches {windows[0]:,} tokens back in each block.")
    elif windows:
        limits.append(f"Its attention reaches {windows[0]:,} to {windows[-1]:,} tokens back, by block.")
    if not section(run.results, "test"):
        limits.append("It has not been tested on held-out text.")
    return "\n".join(f"- {limit}" for limit in limits)


def _line(text: str) -> str:
    """Return ``text`` on one line that ends no table cell."""
    return _BREAKS.sub(" ", text).replace("|", "\\|")

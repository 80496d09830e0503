"""The model card of a run: ``README.md`` with the front matter that Hugging Face reads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from weft.files import write_atomic
from weft.records import RunRecords, finite, read_run, section
from weft.reports.run.words import PARTS, compressors, compressors_note, figure_cell, parts, shown_figures, split_rule
from weft.words import count, duration

if TYPE_CHECKING:
    from weft.description import BlockRow

CARD = "README.md"
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
    return card.encode("utf-8", "replace").decode()


def _front_matter(run: RunRecords) -> str:
    known = _known(run)
    license_ = {"license": known["license"]} if "license" in known else _UNKNOWN_LICENSE
    matter: dict[str, Any] = {"library_name": "weft", "pipeline_tag": "text-generation"}
    if "language" in known:
        matter["language"] = known["language"]
    matter |= license_
    matter["tags"] = _tags(run)
    return yaml.safe_dump(matter, sort_keys=False, allow_unicode=True)


def _known(run: RunRecords) -> dict[str, str]:
    """Return language and licence where all of the training text comes with the package."""
    names = set(_sources(run))
    return dict(_BUNDLED[names.pop()]) if len(names) == 1 and names <= set(_BUNDLED) else {}


def _sources(run: RunRecords) -> list[str]:
    given = section(run.recipe, "data").get("sources", [])
    return [str(source) for source in (given if isinstance(given, list) else [given])]


def _tags(run: RunRecords) -> list[str]:
    names = {"a": "transformer", "q": "qrnn", "x": "attention-qrnn"}
    kinds = {row.letter for row in _blocks(run)}
    hybrid = ["hybrid"] if len(kinds & set("aqx")) > 1 else []
    return ["weft", "small-language-model", *(name for kind, name in names.items() if kind in kinds), *hybrid]


def _blocks(run: RunRecords) -> tuple[BlockRow, ...]:
    """Return the blocks of the model; none where its configuration is not known."""
    if run.config is None:
        return ()
    from weft.description import describe

    return describe(run.config).blocks


def _summary(run: RunRecords) -> str:
    parameters = finite(run.results.get("parameters"))
    size = f" of {count(parameters)} parameters" if parameters else ""
    seconds, tokens = finite(run.results.get("training_seconds")), finite(run.results.get("training_tokens"))
    trained = f" on {count(tokens)} tokens in {duration(seconds)}" if seconds and tokens else ""
    bits = finite(section(run.results, "test").get("bits_per_byte"))
    score = f" It needs **{bits:.4f} bits per byte** of the held-out test text." if bits is not None else ""
    training = section(run.recipe, "training")
    origin = section(training, "start").get("run")
    teacher = section(section(training, "methods"), "distillation").get("run")
    begun = "trained" if origin or teacher else "trained from scratch"
    begun += f" from the run {Path(str(origin)).name}" if origin else ""
    taught = f", with the run {Path(str(teacher)).name} as its teacher" if teacher else ""
    return f"A small language model{size}, {begun}{trained} with Weft{taught}.{score}"


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
        own = f"{row.parameters:,}" if row.shared_with is None else f"those of block {row.shared_with}"
        lines.append(f"| {row.position} | {row.kind.replace('_', '-')} | {row.shape} | {own} |")
    return "\n".join(lines)


def _data(run: RunRecords) -> str:
    summary = run.recipe.get("prepared")
    names = ", ".join(f"`{_line(Path(source).name)}`" for source in _sources(run))
    known = _LICENSES.get(_known(run).get("license", ""), "not recorded; see where the text came from")
    return "\n\n".join(
        filter(
            None,
            (
                f"{_line(str(summary))}." if summary else "",
                f"Sources: {names}." if names else "",
                _parts_table(run),
                _line(split_rule(run.recipe)),
                f"The licence of the model's text is that of its training data: {known}.",
            ),
        )
    )


def _parts_table(run: RunRecords) -> str:
    """Return how large training, validation and test text are; '' where the recipe does not tell."""
    rows = [f"| {part.name} | {' | '.join(part.cells())} |" for part in parts(run.recipe)]
    return "\n".join(["| | documents | bytes | tokens |", "|---|---:|---:|---:|", *rows]) if rows else ""


def _training(run: RunRecords) -> str:
    """Say in a sentence how it was trained; what a run does not tell is left out."""
    training, model = section(run.recipe, "training"), section(run.recipe, "model")
    optimizer, batch = section(training, "optimizer"), section(training, "batch")
    if not optimizer.get("name"):
        return ""
    values = {
        "learning rate": optimizer.get("learning_rate"),
        "weight decay": optimizer.get("weight_decay"),
        "dropout": model.get("dropout") or 0.0,
    }
    told = [f"{name} {value:g}" for name, given in values.items() if (value := finite(given)) is not None]
    batch_size = finite(batch.get("batch_size"))
    length = finite(batch.get("sequence_length"))
    if batch_size and length:
        told.append(f"steps of at most {batch_size:,.0f} segments of {length:,.0f} tokens")
    told.append(f"seed {training.get('seed', 0)}")
    return f"Optimizer `{_line(str(optimizer['name']))}`, {', '.join(told)}. `recipe.yaml` has every other value."


def _figures(run: RunRecords) -> str:
    taken = [(name, section(run.results, key)) for key, name in PARTS if section(run.results, key)]
    return "\n\n".join(filter(None, (_table(taken), _compressors_table(run))))


def _table(taken: list[tuple[str, Any]]) -> str:
    if not taken:
        return ""
    lines = ["| | " + " | ".join(name for name, _ in taken) + " |", "|---" + "|---:" * len(taken) + "|"]
    for key, name, digits, _ in shown_figures(taken):
        lines.append(f"| {name} | " + " | ".join(figure_cell(values, key, digits) for _, values in taken) + " |")
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
        f"Install Weft, from a clone of its repository (Python 3.11 to 3.13, no compiler, no GPU needed):\n\n"
        f"```sh\npip install .\n```\n\nThen, where `{folder}` is this folder:\n\n"
        f"```sh\n{shell}\n```\n\n```python\n{python}\n```\n\n"
        f"With transformers; Weft must be installed there, too:\n\n```python\n{adapter}\n```"
    )


def _limits(run: RunRecords) -> str:
    return "\n".join(f"- {limit}" for limit in _limit_lines(run))


def _limit_lines(run: RunRecords) -> Iterator[str]:
    yield "It continues text. It was not taught to follow instructions or to be harmless."
    yield "It knows what its training data says, with its errors and biases, and states falsehoods fluently."
    yield "A small model trained on little data can repeat passages of that data word for word."
    windows = sorted({row.window for row in _blocks(run) if row.window})
    if len(windows) == 1:
        yield f"Its attention reaches {windows[0]:,} tokens back in each block."
    elif windows:
        yield f"Its attention reaches {windows[0]:,} to {windows[-1]:,} tokens back, by block."
    if not section(run.results, "test"):
        yield "It has not been tested on held-out text."


def _line(text: str) -> str:
    """Return ``text`` on one line that ends no table cell."""
    return _BREAKS.sub(" ", text).replace("|", "\\|")

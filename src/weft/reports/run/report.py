"""The report of a run: one page that needs nothing else, for people who would rather look than read."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from weft.data.config import CLOSED
from weft.files import write_atomic
from weft.records import REPORT, Event, RunRecords, finite, read_run, section
from weft.reports.page import page, text
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
from weft.reports.sharing import shareable
from weft.words import count, duration, valid_text

SAMPLED_STEPS = 6
SAMPLE_CHARACTERS = 600


def write_report(run: Path) -> Path:
    """Write ``report.html`` into the run directory and return its path.

    Whatever the run has not made yet is left out. Raises UserError where there is no such directory.
    """
    path = run / REPORT
    write_atomic(path, render_run(read_run(run), command_name(run)))
    return path


def command_name(run: Path) -> str:
    """Return how to name the run in a command, without telling the folders of this machine."""
    name = run.name if run.is_absolute() or run.name == "" else run.as_posix()
    return shlex.quote(name) or "RUN"


def render_run(run: RunRecords, command: str) -> str:
    """Return the page; ``command`` is the run's name in commands."""
    sections = (
        ("", _headline(run)),
        ("Training", _training(run)),
        ("The text", _text_parts(run)),
        ("What was chosen", _chosen(run)),
        ("The model", _model(run)),
        ("What it writes", _samples(run)),
        ("All figures", _figures(run)),
        ("Use it", _usage(command)),
        ("Recipe", _recipe(run)),
    )
    return page(run.name, _subtitle(run), sections)


def _subtitle(run: RunRecords) -> str:
    said = []
    if run.config and run.config.pattern:
        said.append(f"<code>{text(run.config.pattern)}</code>")
    prepared = run.recipe.get("prepared")
    if prepared:
        said.append(text(prepared))
    version = run.recipe.get("weft_version")
    revision = run.recipe.get("git_revision")
    if version and revision:
        said.append(f"Weft {text(version)} ({text(str(revision)[:10])})")
    elif version:
        said.append(f"Weft {text(version)}")
    return f"<p>{' · '.join(said)}</p>"


def _headline(run: RunRecords) -> str:
    tiles = "".join(f'<div class="tile"><dt>{name}</dt><dd>{value}</dd></div>' for name, value in _tiles(run))
    if not tiles:
        return _score(run)
    return f"{_score(run)}<dl class=tiles>{tiles}</dl>"


def _score(run: RunRecords) -> str:
    """Say how good the model is, with the best figure there is so far."""
    test = weights_bits(section(run.results, "test"))
    if test is not None:
        note = _meaning(test) + _known_lines(section(run.results, "test"))
        return _big(test, "bits per byte on the test text", note) + _comparison(run, test)
    if run.best is not None:
        bits = float(run.best["bits_per_byte"])
        note = f"{_meaning(bits)} The best of the validations so far, at step {run.best['step']:,}; no test yet."
        return _big(bits, "bits per byte on the validation text", note)
    now = finite(_last_training(run).get("bits_per_byte"))
    if now is not None:
        return _big(now, "bits per byte on the training text", "The last step so far; nothing was validated yet.")
    return "<p>Nothing has been measured yet: this page fills as the run goes on.</p>"


def _big(bits: float, name: str, note: str) -> str:
    return f'<p class="score"><strong>{bits:.3f}</strong> {name}</p><p class="note">{note}</p>'


def _last_training(run: RunRecords) -> Event:
    """Return the last event of training; empty before the first."""
    return run.train[-1] if run.train else {}


def _meaning(bits: float) -> str:
    needs = f"The model needs {bits:.2f} bits for each byte of text that it was not trained on"
    smaller = f": {8 / bits:.1f} times less" if 0 < bits < 8 else ""
    return f"{needs}, where a plain file takes 8{smaller}."


def _known_lines(test: Mapping[str, Any]) -> str:
    """Say how much of the test text stands in the training text too, where some does."""
    repeated = finite(test.get("repeated_bytes"))
    size = finite(test.get("bytes"))
    if not repeated or not size:
        return ""
    said = f" But {repeated / size:.1%} of its bytes are in lines that the training text has too"
    new = finite(test.get("bits_per_byte_new"))
    if new is not None:
        said += f"; the rest needs {new:.2f}"
        if "bits_per_byte_memory" in test:
            said += " with the memory"
    return f"{said}."


def _comparison(run: RunRecords, test: float) -> str:
    """Draw the test figure beside those of compressors; best first."""
    bars = [("this model", test, "own")]
    others = compressors(run.results)
    bars += [(name, bits, "other") for name, bits in others.items()]
    remembering = finite(section(run.results, "test").get("bits_per_byte_memory"))
    if remembering is not None:
        bars.append(("this model, with its memory of the training text", remembering, "own"))
    adaptive = finite(section(run.results, "test_adaptive").get("bits_per_byte"))
    if adaptive is not None:
        bars.append(("this model, learning as it reads", adaptive, "own"))
    if len(bars) == 1:
        return ""

    bars.sort(key=lambda bar: bar[1])
    most = bars[-1][1]
    rows = ""
    for name, bits, kind in bars:
        share = 100 * bits / most
        rows += (
            f'<li class="{kind}"><span>{text(name)}</span>'
            f'<span class="bar"><i style="width:{share:.1f}%"></i></span><b>{bits:.3f}</b></li>'
        )
    drawn = f'<ul class="compare">{rows}</ul>'
    if others:
        drawn += f'<p class="note">Shorter is better. {text(compressors_note(run.results))}</p>'
    return drawn


def _tiles(run: RunRecords) -> Iterator[tuple[str, str]]:
    """Yield the figures under the score with their names; a run that goes on has those of its last step."""
    results = run.results
    last = _last_training(run)
    parameters = finite(results.get("parameters"))
    if parameters:
        yield "parameters", count(parameters)
    seconds = finite(results.get("training_seconds")) or finite(last.get("seconds"))
    if seconds:
        yield "training time", duration(seconds)
    tokens = finite(results.get("training_tokens")) or finite(last.get("tokens"))
    if tokens:
        yield "training tokens", count(tokens)
    speed = finite(results.get("tokens_per_second")) or finite(last.get("tokens_per_second"))
    if speed:
        yield "tokens per second", count(speed)
    # With other tokenizers the figure says more about how a language writes its words than about the model.
    words = finite(section(results, "test").get("perplexity_per_word"))
    if words and section(run.recipe, "data").get("tokenizer") == CLOSED:
        yield "perplexity per word", f"{words:,.1f}"


def _training(run: RunRecords) -> str:
    from weft.reports.run.plots import loss_plot, series_plot

    drawn = ""
    # Text in a plot shrinks with it, so there is a plot for narrow pages; the style sheet shows one of the two.
    wide = loss_plot(run, 860)
    if wide:
        drawn += f'<figure class="wide">{wide}</figure><figure class="narrow">{loss_plot(run, 400)}</figure>'
    plots = ""
    for key, label in (
        ("learning_rate", "learning rate"),
        ("tokens_per_second", "tokens per second"),
        ("gradient_norm", "gradient norm"),
    ):
        plot = series_plot(run, key, label)
        if plot:
            plots += f"<figure>{plot}</figure>"
    if plots:
        drawn += f'<div class="plots">{plots}</div>'
    return drawn


def _text_parts(run: RunRecords) -> str:
    """Say how large training, validation and test text are, and how the text was cut into them."""
    told = parts(run.recipe)
    if not told:
        return ""
    names = ("documents", "bytes", "tokens")
    heads = "".join(f'<th scope="col">{name}</th>' for name in names)
    body = ""
    for part in told:
        body += f'<tr><th scope="row">{part.name}</th>{_labelled(names, part.cells())}</tr>'
    table = _table(heads, body)
    rule = split_rule(run.recipe)
    if rule:
        table += f'<p class="note">{text(rule)}</p>'
    return table


def _chosen(run: RunRecords) -> str:
    """Say what nobody gave, and why it is as it is."""
    lines = run.recipe.get("chosen")
    if not isinstance(lines, list):
        return ""
    return "".join(f"<p>{text(line)}</p>" for line in lines)


def _model(run: RunRecords) -> str:
    if run.config is None:
        return ""
    from weft.description import describe
    from weft.reports.run.stack import model_picture

    return model_picture(run.config, describe(run.config))


def _samples(run: RunRecords) -> str:
    by_step: dict[int, list[Event]] = {}
    for event in run.samples:
        by_step.setdefault(event["step"], []).append(event)
    shown = _spread(sorted(by_step), SAMPLED_STEPS)
    return "".join(_samples_of(step, by_step[step], run) for step in shown)


def _spread(steps: list[int], most: int) -> list[int]:
    """Return at most ``most`` of ``steps``, evenly, with the first and the last."""
    if len(steps) <= most:
        return steps
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


def _samples_of(step: int, samples: Iterable[Event], run: RunRecords) -> str:
    heading = f"step {step:,}"
    validated = [event for event in run.validation if event["step"] <= step]
    bits = finite(validated[-1].get("bits_per_byte")) if validated else None
    if bits is not None:
        heading += f" · last validation {bits:.3f} bits per byte"
    texts = "".join(_sample(event) for event in samples)
    return f'<article class="samples"><h3>{heading}</h3>{texts}</article>'


def _sample(event: Event) -> str:
    prompt = valid_text(str(event.get("prompt") or ""))
    written = valid_text(str(event.get("text") or "")).removeprefix(prompt)
    if len(written) > SAMPLE_CHARACTERS:
        written = written[:SAMPLE_CHARACTERS] + " …"
    return f'<p class="sample" dir="auto"><b>{text(prompt)}</b>{text(written)}</p>'


def _figures(run: RunRecords) -> str:
    taken = evaluations(run.results)
    if not taken:
        return ""
    names = [name for name, _ in taken]
    heads = "".join(f'<th scope="col">{name}</th>' for name in names)
    rows = ""
    for key, name, digits, words in shown_figures(taken):
        cells = _labelled(names, [figure_cell(figures, key, digits) for _, figures in taken])
        rows += f'<tr><th scope="row">{name}</th>{cells}<td class="plain">{words}</td></tr>'
    return _table(f"{heads}<td></td>", rows)


def _labelled(names: Sequence[str], cells: Sequence[str]) -> str:
    """Return the cells of a row, each with the name of its column, which a narrow page shows beside it."""
    return "".join(f'<td data-label="{name}">{cell}</td>' for name, cell in zip(names, cells, strict=True))


def _table(heads: str, rows: str) -> str:
    """Return a table whose rows are paragraphs on a narrow page (see ``.stacked`` in the style sheet)."""
    head = f"<thead><tr><td></td>{heads}</tr></thead>"
    return f'<div class="scroll"><table class="stacked">{head}<tbody>{rows}</tbody></table></div>'


def _usage(command: str) -> str:
    shell = f'weft generate {command} --prompt "..."\nweft evaluate {command} more_text.txt'
    name = repr(shlex.split(command)[0])
    python = f'import weft\n\nprint(weft.generate({name}, "..."))\nmodel = weft.load({name})'
    return f"<p>On the command line:</p><pre>{text(shell)}</pre><p>In Python:</p><pre>{text(python)}</pre>"


def _recipe(run: RunRecords) -> str:
    recipe = shareable(run.recipe)
    if not recipe.strip():
        return ""
    return f"<details><summary>recipe.yaml</summary><pre>{text(recipe)}</pre></details>"

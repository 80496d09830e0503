"""The command line: one command per verb. Each imports what it needs inside, so that ``weft --help`` is instant."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console

from weft.errors import Interrupted, UserError

app = typer.Typer(
    name="weft",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""Train small language models that go far on little data and little hardware.

A model is a weave of attention, QRNN and feed-forward blocks. Start with a folder of text:

    weft train my_texts/ --out runs/mine --minutes 30
    weft evaluate runs/mine more_text.txt
    weft generate runs/mine --prompt "Once"

or see everything at work on a bundled corpus: `weft demo`.""",
)
out = Console()
err = Console(stderr=True)

Run = Annotated[Path, typer.Argument(help="A run directory, as 'weft train --out' writes it.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def main() -> None:
    """Run the command line; tell a user's mistakes in one sentence, with exit code 2."""
    from weft import terminal

    try:
        app()
    except UserError as mistake:
        terminal.error(err, str(mistake))
        sys.exit(2)
    except Interrupted as stop:
        err.print(str(stop), markup=False, highlight=False, soft_wrap=True)
        sys.exit(128 + stop.signal_number)
    except BrokenPipeError:  # the reader of a pipe has left
        sys.stderr.close()
        sys.exit(128 + signal.SIGPIPE)


@app.command()
def train(
    sources: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads it at run time
        typer.Argument(help="Files, folders or globs: .txt, .jsonl, also .gz .xz .bz2 .zst.", show_default=False),
    ] = None,
    out_folder: Annotated[Path, typer.Option("--out", help="Where the run goes.", show_default=False)] = ...,  # type: ignore[assignment]
    architecture: Annotated[
        str | None,
        typer.Option(help="A named architecture; see 'weft describe --help'.", show_default="hybrid"),
    ] = None,
    pattern: Annotated[
        str | None, typer.Option(help="A pattern of blocks instead, such as 'qfqfafqf' or '(af)6'.")
    ] = None,
    parameters: Annotated[
        str | None,
        typer.Option(help="Size, embeddings included, such as 2M.", show_default="fits the corpus"),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="bytes, characters, words, bpe or unigram.", show_default="bpe")
    ] = None,
    vocab_size: Annotated[int | None, typer.Option(help="Vocabulary size.", show_default="fits the corpus")] = None,
    minutes: Annotated[float | None, typer.Option(help="Budget: minutes of training alone.", show_default="10")] = None,
    steps: Annotated[int | None, typer.Option(help="Budget: optimizer steps.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Budget: training tokens, such as 20M.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.", show_default="0")] = None,
    validation: Annotated[list[str] | None, typer.Option(help="Text to validate on, instead of a split.")] = None,
    test: Annotated[Optional[list[str]], typer.Option(help="Text to test on, instead of a split.")] = None,  # noqa: UP045
    split: Annotated[str | None, typer.Option(help="documents, lines or bytes.", show_default="auto")] = None,
    document_separator: Annotated[
        str | None,
        typer.Option(help="What parts documents in a file ('' for nothing).", show_default=r"\n\n\n"),
    ] = None,
    text_key: Annotated[str | None, typer.Option(help="The text's key in JSONL records.", show_default="text")] = None,
    recipe: Annotated[Path | None, typer.Option(help="A recipe (YAML); options go over it.")] = None,
    set_values: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any value of the recipe: training.learning_rate=2e-3."),
    ] = None,
    init_from: Annotated[Path | None, typer.Option(help="A run whose model and tokenizer to start from.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    as_json: Json = False,
) -> None:
    """Train a model on a folder of text.

    Everything has a default that fits the corpus. The run directory holds the best model, its numbers and a report.
    `WEFT_MAX_STEPS=20` in the environment cuts any budget short, to try things out.
    """
    from weft import api, terminal
    from weft.config import merge
    from weft.study.finish import finish_run
    from weft.training.recipe import parse_settings

    if architecture and pattern:
        raise UserError("--architecture and --pattern exclude each other: keep one.")
    values = _given(
        model={"architecture": architecture, "pattern": pattern, "parameters": parameters},
        data={
            "tokenizer": tokenizer,
            "vocab_size": vocab_size,
            "validation": validation,
            "test": test,
            "split": split,
            "document_separator": _unescape(document_separator),
            "text_key": text_key,
        },
        training={"minutes": minutes, "steps": steps, "tokens": tokens, "seed": seed},
    )
    values = merge(values, parse_settings(set_values or []))
    result = api.train(
        sources or (),
        out=out_folder,
        recipe=recipe,
        settings=values,
        init_from=init_from,
        resume=resume,
        overwrite=overwrite,
        listener=terminal.listener(err if as_json else out),
    )
    report = finish_run(out_folder)
    if as_json:
        _print_json({"run": str(out_folder), "report": str(report)} | result.to_json())
        return
    out.print(terminal.figures_table(result.test, "Test text, frozen weights"))
    out.print(f"{result.parameters:,} parameters, {result.tokens_per_second:,.0f} tokens per second; report: {report}")


@app.command()
def evaluate(
    run: Run,
    files: Annotated[
        list[str] | None, typer.Argument(help="Text to score instead of a split.", show_default=False)
    ] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    memory: Annotated[
        int | None,
        typer.Option(min=1, help="Positions that attention looks back, instead of the trained number."),
    ] = None,
    adapt: Annotated[
        bool, typer.Option("--adapt", help="Dynamic evaluation: learn from what was scored, on a copy.")
    ] = False,
    tokens: Annotated[bool, typer.Option("--tokens", help="Print each token with its surprisal in bits.")] = False,
    as_json: Json = False,
) -> None:
    """Score text with a model: bits per byte and other figures, every byte counted."""
    from weft import api, terminal

    if split not in ("train", "validation", "test"):
        raise UserError(f"There is no split '{split}': choose train, validation or test.")
    if tokens:
        pairs = api.token_bits(run, files or (), split=split, memory=memory, adapt=adapt)  # type: ignore[arg-type]
        if as_json:
            _print_json([{"token": token, "bits": bits} for token, bits in pairs])
        else:
            sys.stdout.writelines(f"{bits:8.3f}  {token!r}\n" for token, bits in pairs)
        return
    with err.status("Scoring ...") as status:
        done = [0]

        def progress(count: int) -> None:
            done[0] += count
            status.update(f"Scoring ... {done[0]:,} tokens")

        figures = api.evaluate(run, files or (), split=split, memory=memory, adapt=adapt, progress=progress)  # type: ignore[arg-type]
    if as_json:
        _print_json(figures.to_json())
    else:
        out.print(terminal.figures_table(figures, ", ".join(files) if files else f"{split} split"))


@app.command()
def generate(
    run: Run,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="Text to go on from; may be given several times.", show_default=False),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens to write.")] = 200,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 0.8,
    top_k: Annotated[int, typer.Option(help="Draw from the k likeliest tokens (0: all).")] = 0,
    top_p: Annotated[
        float, typer.Option(help="Draw from the likeliest tokens that hold this much probability.")
    ] = 0.95,
    seed: Annotated[int, typer.Option(help="The same seed writes the same text.")] = 0,
    as_json: Json = False,
) -> None:
    """Write text that goes on from a prompt."""
    from weft.folder import load_model, load_tokenizer
    from weft.generation import Sampling, stream
    from weft.generation import generate as generate_texts

    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    prompts = prompt or [""]
    tokenizer, model = load_tokenizer(run), load_model(run)
    if len(prompts) == 1 and not as_json:
        print(prompts[0], end="", flush=True)
        for piece in stream(model, tokenizer, prompts[0], max_new_tokens=max_new_tokens, sampling=sampling):
            print(piece, end="", flush=True)
        print()
        return
    texts = generate_texts(model, tokenizer, prompts, max_new_tokens=max_new_tokens, sampling=sampling)
    if as_json:
        _print_json([{"prompt": prompt, "text": text} for prompt, text in zip(prompts, texts, strict=True)])
    else:
        print("\n\n".join(prompt + text for prompt, text in zip(prompts, texts, strict=True)))


@app.command()
def describe(
    what: Annotated[
        str,
        typer.Argument(help="An architecture, a pattern such as '(af)6', or a run directory.", show_default=False),
    ],
    parameters: Annotated[str, typer.Option(help="Size, embeddings included.")] = "2M",
    vocab_size: Annotated[int, typer.Option(min=1, help="Vocabulary size.")] = 4096,
    preset: Annotated[
        str | None, typer.Option(help="The shell around the blocks: modern or classic (Transformer-XL).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show a model's blocks, shapes, parameters, operations and state.

    Architectures: transformer, transformer-xl, par, attn-qrnn, sha-qrnn, qrnn, hybrid.
    """
    from weft import terminal
    from weft.description import describe as describe_config
    from weft.folder import load_config
    from weft.pattern import ARCHITECTURES
    from weft.sizing import sized

    if Path(what).is_dir():
        config = load_config(Path(what))
    else:
        config = sized(what, parameters=parameters, vocab_size=vocab_size, preset=preset)
    described = describe_config(config)
    source = ARCHITECTURES[what].source if what in ARCHITECTURES else None
    if as_json:
        _print_json({"source": source} | described.to_json())
        return
    out.print(terminal.description_table(described))
    if source:
        out.print(f"source: {source}", markup=False, highlight=False)
    out.print(
        f"parameters: {described.parameters:,}, without embeddings {described.body_parameters:,}",
        highlight=False,
    )
    out.print(f"forward operations per token: {described.flops_per_token:,}", highlight=False)
    state = ", ".join(f"{size:,} after {context:,} tokens" for context, size in described.state_bytes.items())
    out.print(f"bytes of state per sequence: {state}", highlight=False)


@app.command()
def demo(
    out_folder: Annotated[Path, typer.Option("--out", help="Where the run goes.")] = Path("runs/demo"),
    minutes: Annotated[float | None, typer.Option(help="Minutes of training.", show_default="1.3M tokens")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo.")] = False,
    as_json: Json = False,
) -> None:
    """Train, evaluate and generate on the bundled Northern Sami corpus, beside xz and PPMd."""
    from weft import terminal
    from weft.demo import run_demo

    shown = run_demo(out_folder, minutes, overwrite, terminal.listener(err if as_json else out))
    if as_json:
        _print_json(shown.to_json())
    else:
        shown.print(out)


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Empty it.")] = False,
) -> None:
    """Show where tokenized texts are kept ($WEFT_CACHE, or ~/.cache/weft), or empty that place."""
    from weft.data import cache_dir, clear_cache

    if clear:
        out.print(f"{clear_cache():,} bytes freed in {cache_dir()}", highlight=False, soft_wrap=True)
        return
    size = sum(path.stat().st_size for path in cache_dir().rglob("*") if path.is_file())
    out.print(f"{cache_dir()}: {size:,} bytes", highlight=False, soft_wrap=True)


def _version(value: bool) -> None:
    if value:
        from weft import __version__

        print(f"weft {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    del version


def _given(**sections: dict[str, Any]) -> dict[str, Any]:
    """Return the sections of a recipe with what was given on the command line."""
    given = {
        name: {key: value for key, value in section.items() if value is not None} for name, section in sections.items()
    }
    return {name: section for name, section in given.items() if section}


def _unescape(text: str | None) -> str | None:
    r"""Read ``\n`` and ``\t`` as shells pass them."""
    return None if text is None else text.replace("\\n", "\n").replace("\\t", "\t").replace("\\r", "\r")


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2))

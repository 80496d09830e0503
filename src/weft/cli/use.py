"""What is done with a run or a description of a model: evaluate, generate, describe; and the cache."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from weft.cli import options
from weft.cli.app import Json, Run, app, err, out, print_json, tell, unescape
from weft.errors import UserError


@app.command()
def evaluate(
    run: Run,
    files: options.ScoredFiles = None,
    split: options.ScoredSplit = "test",
    window: options.Window = None,
    memory: options.Memory = None,
    applications: options.Applications = None,
    adapt: options.Adapt = False,
    steer: options.Steer = None,
    text_key: options.ScoredTextKey = None,
    tokens: options.PrintTokens = False,
    compressors: options.Compressors = False,
    as_json: Json = False,
) -> None:
    """Score text with a model: bits per byte and other metrics, every byte counted."""
    from weft import terminal
    from weft.run import Run

    if split not in ("train", "validation", "test"):
        raise UserError(f"There is no split '{split}': choose train, validation or test.")
    if compressors and tokens:
        raise UserError("--compressors and --tokens exclude each other: keep one.")
    if compressors and split == "train" and not files:
        raise UserError("Compressors read the training text first: choose another --split, or name files.")
    how: dict[str, Any] = {"split": split, "window": window, "applications": applications, "adapt": adapt}
    how |= {"memory": memory, "text_key": text_key, "tell": tell}
    scored = Run(run)
    if wanted := options.multipliers(steer):
        from weft.inside.vectors import edits_of

        if tokens or adapt:
            raise UserError("--steer scores with frozen weights: leave --tokens and --adapt out.")
        how["edits"] = edits_of(scored.folder, scored.model, wanted)
    if tokens:
        _print_tokens(scored.token_bits(files or (), **how), as_json)
        return
    with terminal.scoring(err) as watch:
        metrics = scored.evaluate(files or (), watch=watch, **how)
    packed = None
    if compressors:
        with terminal.packing(err) as told:
            packed = scored.pack(files or (), split=how["split"], text_key=text_key, progress=told)
    if as_json:
        print_json(metrics.to_json() | (packed.to_json() if packed else {}))
        return
    out.print(terminal.metrics_table(metrics, ", ".join(files) if files else f"{split} split"))
    if packed:
        terminal.print_beside(out, packed, "Beside compressors", metrics, metrics if adapt else None)


def _print_tokens(pairs: list[tuple[str, float]], as_json: bool) -> None:
    """Print tokens with their surprisal in bits."""
    if as_json:
        print_json([{"token": token, "bits": bits} for token, bits in pairs])
    else:
        sys.stdout.writelines(f"{bits:8.3f}  {token!r}\n" for token, bits in pairs)


@app.command()
def generate(
    run: Run,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="Text to go on from; may be given several times.", show_default=False),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=options.MANY, help="Most tokens to write.")] = 200,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 0.8,
    top_k: Annotated[int, typer.Option(max=options.MANY, help="Draw from the k likeliest tokens (0: all).")] = 0,
    top_p: Annotated[
        float, typer.Option(help="Draw from the likeliest tokens that hold this much probability.")
    ] = 0.95,
    seed: Annotated[int, typer.Option(help="The same seed writes the same text.")] = 0,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            help=r"Text that ends the writing, itself left out (\n: a line end); may be given several times.",
            show_default=False,
        ),
    ] = None,
    applications: options.Applications = None,
    memory: options.Memory = None,
    steer: options.Steer = None,
    steer_range: Annotated[
        str, typer.Option(help="generated (from the prompt's last token on) or all (the whole prompt, too).")
    ] = "generated",
    precision: Annotated[
        str, typer.Option(help="The weights' on a CPU: bf16 (half the bytes to read), fp32 (the run's own) or auto.")
    ] = "auto",
    as_json: Json = False,
) -> None:
    """Write text that goes on from a prompt."""
    from weft.generation import Sampling, in_order, stream_all
    from weft.generation import generate as generate_texts
    from weft.reading import as_read
    from weft.run import Run

    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    prompts = prompt or [""]
    strings = [unescape(text) or "" for text in stop or ()]
    settings: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "sampling": sampling,
        "stop": strings,
        "precision": precision,
    }
    writer = Run(run)
    tokenizer, model = writer.tokenizer, writer.model_with(applications=applications)
    settings["memory"] = writer.asked_memory(memory)
    if steer_range not in ("generated", "all"):
        raise UserError(f"There is no --steer-range '{steer_range}': choose generated or all.")
    if wanted := options.multipliers(steer):
        from weft.inside.vectors import steering

        settings["steer"] = steering(writer.folder, model, wanted, everywhere=steer_range == "all")
    if as_json:
        texts = generate_texts(model, tokenizer, as_read(run, prompts), **settings)
        print_json([{"prompt": prompt, "text": text} for prompt, text in zip(prompts, texts, strict=True)])
        return
    print(prompts[0], end="", flush=True)
    for piece in in_order(stream_all(model, tokenizer, as_read(run, prompts), **settings)):
        print(piece.text, end="", flush=True)
        if piece.last:
            following = prompts[piece.lane + 1 : piece.lane + 2]
            print("\n\n" + following[0] if following else "\n", end="", flush=True)


@app.command()
def describe(
    what: Annotated[
        str,
        typer.Argument(
            help="An architecture, a pattern such as '(af)6', a run directory, or a recipe.", show_default=False
        ),
    ],
    parameters: Annotated[str | None, typer.Option(help="Size, embeddings included.", show_default="2M")] = None,
    vocab_size: Annotated[
        int | None, typer.Option(min=1, help="Vocabulary size.", show_default="the recipe's, or 4096")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="The shell around the blocks: modern or classic (Transformer-XL).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show a model's blocks, shapes, parameters, operations and state.

    Architectures: transformer, transformer-xl, par, attn-qrnn, sha-qrnn, qrnn, hybrid.
    """
    from weft import api, terminal
    from weft.architectures import ARCHITECTURES
    from weft.training.recipe import load_recipe, make_recipe
    from weft.training.resolve import known_vocabulary

    described = api.describe(what, parameters=parameters, vocab_size=vocab_size, preset=preset)
    # A pattern may be longer than a path, where Path.is_dir() would raise.
    is_recipe = Path(what).suffix in (".yaml", ".yml") and not os.path.isdir(what)  # noqa: PTH112
    if is_recipe and not vocab_size and not known_vocabulary(make_recipe(load_recipe(Path(what))).data):
        err.print(f"The texts decide the vocabulary: counted with {api.VOCABULARY:,}; --vocab-size says another.")
    source = ARCHITECTURES[what].source if what in ARCHITECTURES else None
    if as_json:
        print_json({"source": source} | described.to_json())
        return
    out.print(terminal.description_table(described))
    if source:
        out.print(f"source: {source}", markup=False, highlight=False)
    out.print(
        f"parameters: {described.parameters:,}, without embeddings {described.body_parameters:,}",
        highlight=False,
    )
    out.print(f"forward operations per token: {described.flops_per_token:,}", highlight=False)
    sizes = described.state_bytes
    state = ", ".join(f"{size:,} after {context:,} tokens" for context, size in sizes.items())
    if len(set(sizes.values())) == 1:
        tokens = described.full_after or min(sizes)
        state = f"{max(sizes.values()):,}, from {tokens:,} token{'s' if tokens > 1 else ''} on"
    out.print(f"bytes of state per sequence: {state}", highlight=False)


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Empty it, after asking.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --clear: do not ask.")] = False,
) -> None:
    """Show where tokenized texts are kept ($WEFT_CACHE, or ~/.cache/weft), or empty that place."""
    from weft.data import clear_cache
    from weft.files import cache_dir

    if clear and not yes and not _sure(f"Delete tokenized texts, downloads and machine code in {cache_dir()}?"):
        return
    if clear:
        out.print(f"{clear_cache():,} bytes freed in {cache_dir()}", highlight=False, soft_wrap=True)
        return
    size = sum(path.stat().st_size for path in cache_dir().rglob("*") if path.is_file())
    out.print(f"{cache_dir()}: {size:,} bytes", highlight=False, soft_wrap=True)


def _sure(question: str) -> bool:
    """Ask on the terminal; UserError where there is none."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise UserError("There is no terminal to ask on: add --yes to empty the cache.")
    return typer.confirm(question, err=True)

"""Give a run a memory of text, or more of it, without training: ``weft remember``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from weft.arguments import StrPath, checked
from weft.data import TokenizedSplit
from weft.errors import UserError
from weft.evaluation.evaluate import bits_per_byte
from weft.evaluation.progress import Progress
from weft.evaluation.scoring import first_part, score
from weft.files import alone_in, disk_errors, sweep
from weft.pretrained import check_folder
from weft.reading import Paths, names_of, read_split
from weft.recall import MEMORY, MemoryConfig, TextMemory, make_memory, save_memory
from weft.recall.text_memory import TRAINING_TEXT, Part
from weft.records import CARD, RECIPE
from weft.reports.run.card import write_card
from weft.run import Run, Tell
from weft.training.recipe import load_recipe

MUCH = 0.05  # of a text that stands in the memory word for word


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """What a run remembers now.

    ``validation_bits_per_byte`` are those of the weights alone and with the memory, None where the validation text
    cannot be read; then the memory is trusted as the one before was.
    """

    run: Path
    parts: tuple[Part, ...]
    tokens: int
    bytes: int
    seconds: float
    validation_bits_per_byte: tuple[float, float] | None

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        told = asdict(self) | {"run": str(self.run), "parts": [part._asdict() for part in self.parts]}
        bits = told.pop("validation_bits_per_byte")
        if bits:
            told["validation"] = {"bits_per_byte_frozen": bits[0], "bits_per_byte_memory": bits[1]}
        return told


@checked
def remember(
    run: StrPath,
    files: Paths = (),
    *,
    only: bool = False,
    text_key: str | None = None,
    watch: Callable[[Progress], None] | None = None,
    tell: Tell = lambda _: None,
) -> Remembered:
    """Give ``run`` a memory of its training text, or of ``files`` beside what it remembers.

    With ``only``, of ``files`` alone. A file of a name that is remembered takes its place. They are read as the run's
    own texts were. How far the memory is to be trusted is fitted to the run's validation text. UserError where a text
    cannot be read; the memory before stays then.
    """
    opened = Run(run)
    folder = opened.folder
    check_folder(folder)
    named = names_of(files)
    if only and not named:
        raise UserError("only=True is for files: name some.")
    started = time.perf_counter()
    with disk_errors(folder / MEMORY), alone_in(folder):
        sweep(folder, MEMORY)
        before = None
        if named and not only:
            before = _before(opened, tell)
        texts = [_training_text(opened, tell)] if not named else _texts(opened, named, text_key, tell)
        tokenizer = opened.tokenizer
        make = partial(make_memory, texts, vocab_size=tokenizer.vocab_size, boundary_id=tokenizer.boundary_id)
        memory = make()
        if named:
            _tell_of_held_out(opened, memory, tell)
        if before:
            memory = make(before=before)
        memory, bits = _fitted(opened, memory, watch, tell)
        save_memory(memory, folder, tokenizer)
        if (folder / CARD).is_file():
            write_card(folder)  # it says what of the text the folder holds
    seconds = time.perf_counter() - started
    return Remembered(
        run=folder,
        parts=memory.parts,
        tokens=memory.tokens,
        bytes=memory.bytes,
        seconds=seconds,
        validation_bits_per_byte=bits,
    )


def _before(run: Run, tell: Tell) -> TextMemory | None:
    """Return the memory that a run has, to which more is added; None where it has none, or a damaged one."""
    try:
        before = run.memory
    except UserError as error:
        tell(f"{error} It is begun anew.")
        return None
    if before is None:
        tell(
            f"The run had no memory: it holds these files alone. weft.remember('{run.folder}') makes that of its texts."
        )
    return before


def _training_text(run: Run, tell: Tell) -> tuple[str, TokenizedSplit]:
    """Return the training text of a run, as much of it as its recipe lets it remember."""
    text = read_split(run.folder, run.tokenizer, (), "train", tell=tell)
    config = MemoryConfig.parse(load_recipe(run.folder / RECIPE).get("memory", {}), where="memory")
    return TRAINING_TEXT, first_part(text, config.most_tokens, run.tokenizer)


def _texts(run: Run, names: Sequence[str], text_key: str | None, tell: Tell) -> list[tuple[str, TokenizedSplit]]:
    """Return the texts of files, by the files' names; places may say more than whoever gets the memory should read."""
    texts = []
    for name in names:
        text = read_split(run.folder, run.tokenizer, name, "train", text_key=text_key, tell=tell)
        if not text.bytes:
            raise UserError(f"'{name}' holds no text: name another file.")
        texts.append((Path(name).name, text))
    return texts


def _tell_of_held_out(run: Run, added: TextMemory, tell: Tell) -> None:
    """Say where much of the held-out text stands in what is added."""
    for name in ("validation", "test"):
        try:
            text = read_split(run.folder, run.tokenizer, (), name)
        except UserError:
            continue
        copied = added.copied(text)
        if copied > MUCH:
            tell(
                f"{copied:.0%} of the {name} text stands in these files word for word. If they hold it, leave it out: "
                "its figures would be of text that is known."
            )


def _fitted(
    run: Run, memory: TextMemory, watch: Callable[[Progress], None] | None, tell: Tell
) -> tuple[TextMemory, tuple[float, float] | None]:
    """Return the memory with shares that suit the run's validation text, and what that costs without and with it."""
    try:
        text = read_split(run.folder, run.tokenizer, (), "validation")
    except UserError as error:
        tell(f"How far the memory is to be trusted is not fitted, as the validation text cannot be read. {error}")
        return memory, None
    far = Progress(text.scored_tokens, watch or (lambda _: None))
    frozen_N = score(run.model, text, boundary_id=run.tokenizer.boundary_id, progress=far)
    crossed_N = memory.cross_fitted(frozen_N, text)
    return memory.fitted(frozen_N, text), (bits_per_byte(frozen_N, text), bits_per_byte(crossed_N, text))

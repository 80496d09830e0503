"""Give a run a memory of text, or more of it, without training: ``weft remember``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from weft.arguments import StrPath, checked
from weft.data import TokenizedSplit
from weft.errors import UserError
from weft.evaluation.evaluate import total_nats
from weft.evaluation.progress import Progress
from weft.evaluation.scoring import score
from weft.files import alone_in, disk_errors
from weft.pretrained import check_folder
from weft.reading import Paths, names_of, read_split
from weft.recall import MEMORY, TextMemory, make_memory, save_memory
from weft.recall.text_memory import TRAINING_TEXT, Part
from weft.run import Run, Tell

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

    With ``only``, of ``files`` alone. They are read as the run's own texts were. How far the memory is to be trusted is
    fitted to the run's validation text. UserError where a text cannot be read; the memory before stays then.
    """
    opened = Run(run)
    folder = opened.folder
    check_folder(folder)
    if only and not names_of(files):
        raise UserError("only=True is for files: name some.")
    started = time.perf_counter()
    with disk_errors(folder / MEMORY), alone_in(folder):
        before = None
        if names_of(files) and not only:
            before = _before(opened, tell)
        texts = _texts(opened, files, text_key, tell, with_training_text=not only and before is None)
        tokenizer = opened.tokenizer
        memory = make_memory(texts, vocab_size=tokenizer.vocab_size, boundary_id=tokenizer.boundary_id, before=before)
        memory, bits = _fitted(opened, memory, watch, tell, more=bool(names_of(files)))
        save_memory(memory, folder)
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
        return run.memory
    except UserError as error:
        tell(f"{error} It is begun anew.")
        return None


def _texts(
    run: Run, files: Paths, text_key: str | None, tell: Tell, *, with_training_text: bool
) -> list[tuple[str, TokenizedSplit]]:
    """Return the texts that are to be remembered, by name."""
    texts = []
    if with_training_text:
        texts.append((TRAINING_TEXT, read_split(run.folder, run.tokenizer, (), "train", tell=tell)))
    for name in names_of(files):
        texts.append((name, read_split(run.folder, run.tokenizer, name, "train", text_key=text_key, tell=tell)))
        if not texts[-1][1].bytes:
            raise UserError(f"'{name}' holds no text: name another file.")
    return texts


def _fitted(
    run: Run, memory: TextMemory, watch: Callable[[Progress], None] | None, tell: Tell, *, more: bool
) -> tuple[TextMemory, tuple[float, float] | None]:
    """Return the memory with shares that suit the run's validation text, and what that costs without and with it."""
    try:
        text = read_split(run.folder, run.tokenizer, (), "validation")
    except UserError as error:
        tell(f"How far the memory is to be trusted is not fitted, as the validation text cannot be read. {error}")
        return memory, None
    far = Progress(text.scored_tokens, watch or (lambda _: None))
    frozen_N = score(run.model, text, boundary_id=run.tokenizer.boundary_id, progress=far)
    copied = memory.copied(text)
    if more and copied > MUCH:
        tell(
            f"{copied:.0%} of the validation text stands in the memory word for word. If that is held-out text, leave "
            "it out: the memory is trusted too much with other text."
        )
    bits = [total_nats(nats_N) / math.log(2) / text.bytes for nats_N in (frozen_N, memory.cross_fitted(frozen_N, text))]
    return memory.fitted(frozen_N, text), (bits[0], bits[1])

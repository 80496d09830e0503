"""What most callers want of writing: the texts, at once or as they grow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from weft.data import Tokenizer
from weft.generation.decoder import Precision
from weft.generation.sampling import Sampling
from weft.generation.steering import Steering
from weft.generation.writing import Ended, Written, write
from weft.language_model import LanguageModel
from weft.recall import TextMemory


class Chunk(NamedTuple):
    """More of text ``lane``; ``last`` where there is nothing to come (``text`` may be empty then)."""

    lane: int
    text: str
    last: bool = False


def generate(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 200,
    sampling: Sampling | None = None,
    stop: str | Sequence[str] = (),
    precision: Precision = "auto",
    memory: TextMemory | None = None,
    steer: Steering | None = None,
) -> list[str]:
    """Return each prompt's continuation (without the prompt), always valid Unicode, up to the first stop string.

    For ``precision``, ``memory`` and ``steer`` see :func:`weft.generation.write`.
    """
    texts = [""] * len(prompts)
    for chunk in stream_all(
        model,
        tokenizer,
        prompts,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        stop=stop,
        precision=precision,
        memory=memory,
        steer=steer,
    ):
        texts[chunk.lane] += chunk.text
    return texts


def stream(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    max_new_tokens: int = 200,
    sampling: Sampling | None = None,
    stop: str | Sequence[str] = (),
    precision: Precision = "auto",
    memory: TextMemory | None = None,
    steer: Steering | None = None,
) -> Iterator[str]:
    """Yield the continuation of one prompt as it is written, in chunks that are whole characters.

    What may still become a stop string is held back.
    """
    chunks = stream_all(
        model,
        tokenizer,
        [prompt],
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        stop=stop,
        precision=precision,
        memory=memory,
        steer=steer,
    )
    return (chunk.text for chunk in chunks if chunk.text)


def stream_all(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 200,
    sampling: Sampling | None = None,
    stop: str | Sequence[str] = (),
    precision: Precision = "auto",
    memory: TextMemory | None = None,
    steer: Steering | None = None,
) -> Iterator[Chunk]:
    """Yield chunks of all continuations as they are written, the texts in turns; see :func:`weft.generation.write`."""
    events = write(
        model,
        tokenizer,
        prompts,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        stop=stop,
        precision=precision,
        memory=memory,
        steer=steer,
    )
    for event in events:
        if isinstance(event, Written) and event.token.text:
            yield Chunk(event.lane, event.token.text)
        elif isinstance(event, Ended):
            yield Chunk(event.lane, event.rest, last=True)


def in_order(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """Yield the chunks of text 0 as they come, then those of text 1, and so on, as for a reader of one page."""
    waiting: defaultdict[int, list[Chunk]] = defaultdict(list)
    shown = 0
    for chunk in chunks:
        waiting[chunk.lane].append(chunk)
        while waiting[shown]:
            now = waiting[shown].pop(0)
            yield now
            shown += now.last

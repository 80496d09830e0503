"""The one loop that writes text, over the explicit state.

Prompts of different lengths are aligned at their ends; the padding before a prompt is cut off by the reset
at its boundary token, so a batch writes what each prompt alone would. Whatever is told of a text comes as an
event, in order: what was read of its prompt (where that is asked for), each token, its end.
Shapes: B prompts, T positions, V vocabulary.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from weft.arguments import told
from weft.data import Tokenizer
from weft.errors import UserError
from weft.generation.decoder import ENDED, Precision, check_precision
from weft.generation.fastest import make_decoder
from weft.generation.sampling import Floats, Sampling, draw, surprisal
from weft.generation.steering import Steering
from weft.generation.text import GrowingText, stop_strings
from weft.language_model import LanguageModel
from weft.layers.cross_entropy import IGNORE
from weft.model import ModelState
from weft.recall import TextMemory
from weft.recall.constants import LONGEST

PREFILL = 1024  # tokens of a prompt that are read at once


@dataclass(frozen=True)
class Token:
    """A token, the text that it completes, and its surprisal under the model (NaN where nobody asked for it)."""

    id: int
    text: str
    bits: float


class Read(NamedTuple):
    """Tokens of the prompt of text ``lane`` were read."""

    lane: int
    tokens: list[Token]


class Written(NamedTuple):
    """A token of text ``lane`` was written."""

    lane: int
    token: Token


class Ended(NamedTuple):
    """Text ``lane`` has ended.

    ``rest`` is what was held back: of a character that was never finished, or of a stop string that never
    came. ``finish`` is "length" where it has all the tokens that were asked for, else "stop": the model
    ended the document, or a stop string came.
    """

    lane: int
    rest: str
    finish: Literal["length", "stop"]


Event = Read | Written | Ended


def write(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 200,
    sampling: Sampling | None = None,
    stop: str | Sequence[str] = (),
    bits: bool = False,
    precision: Precision = "auto",
    memory: TextMemory | None = None,
    steer: Steering | None = None,
) -> Iterator[Event]:
    """Yield what happens while every prompt is continued, as it happens.

    The texts take turns, token by token. Text i draws from a generator of its own, seeded with ``seed + i``.
    A text ends before the first of the ``stop`` strings in what is written (the prompt does not count), and
    is given only as far as none may have begun; the token that completes one is told, too, with the text
    before it. With ``bits``, tokens carry their surprisal under the model itself, before temperature, top-k
    and top-p, and the prompts' tokens are told. What followed the last tokens in ``memory`` counts beside the
    model, in what is drawn and in what is told.

    ``precision`` is that of the weights where a kernel writes on a CPU, see :func:`make_decoder`. With ``auto``
    it is float32 where ``bits`` are told, as those are to be the model's own to the last digit shown. With ``steer``
    the text is that of the steered model, and so are its bits (:mod:`weft.generation.steering`).
    UserError for impossible settings.
    """
    check_precision(precision)
    if bits and precision == "auto":
        precision = "fp32"
    strings = stop_strings(stop)
    if sampling is None:
        sampling = Sampling()
    if not isinstance(sampling, Sampling):
        raise UserError(f"'sampling' is {told(sampling)}: give a weft.Sampling, such as weft.Sampling(temperature=0).")
    texts = [_Text(lane, tokenizer, strings, sampling) for lane in range(len(prompts))]
    ids = [[tokenizer.boundary_id, *tokenizer.encode(prompt).tolist()] for prompt in prompts]
    if not texts:
        return iter(())
    if memory:
        for text, read in zip(texts, ids, strict=True):
            text.beside = Beside(memory, read)
    return _write(model, tokenizer, texts, ids, max_new_tokens, bits, precision, steer)


def _write(
    model: LanguageModel,
    tokenizer: Tokenizer,
    texts: list[_Text],
    ids: list[list[int]],
    count: int,
    bits: bool,
    precision: Precision,
    steer: Steering | None,
) -> Iterator[Event]:
    with _evaluating(model):
        logits_BV, state = yield from _read(model, tokenizer, texts, ids, bits, steer)
        edits = steer.edits if steer else None
        decoder = make_decoder(model, state, rows=len(texts), steps=count - 1, precision=precision, edits=edits)
        tokens_B = torch.full((len(texts),), ENDED)
        alive = texts
        for step in range(count):
            if step:  # the first token's logits came with the prompt
                logits_BV = decoder.step(tokens_B.to(logits_BV.device))
            rows = logits_BV.float().cpu().numpy()
            tokens_B.fill_(ENDED)
            for text in alive:
                yield from text.go_on(rows[text.lane], bits)
                tokens_B[text.lane] = text.last
            alive = [text for text in alive if text.last != ENDED]
            if not alive:
                return
        for text in alive:
            yield Ended(text.lane, text.written.rest(), "length")


class _Text:
    """One of the texts that are being written."""

    def __init__(self, lane: int, tokenizer: Tokenizer, stop: tuple[str, ...], sampling: Sampling) -> None:
        self.lane = lane
        self.last = ENDED
        self.written = GrowingText(tokenizer, stop)
        self.beside: Beside | None = None
        self._tokenizer = tokenizer
        self._sampling = sampling
        self._random = np.random.default_rng(sampling.seed + lane)

    def go_on(self, logits_V: Floats, bits: bool) -> Iterator[Written | Ended]:
        """Draw a token and tell of it; ``last`` is then the token, ``ENDED`` if it was the last."""
        boundary = self._tokenizer.boundary_id
        padding = self._tokenizer.padding_id
        if self.beside:
            self.beside.mix(logits_V)
        # Padding is never drawn. Its logit is put back, as the surprisal is the whole distribution's.
        unasked = logits_V[padding]
        logits_V[padding] = -np.inf
        token = draw(logits_V, self._sampling, self._random)
        logits_V[padding] = unasked
        self.last = ENDED
        if token != boundary:
            self.last = token
            if self.beside:
                self.beside.read(token)
            cost = surprisal(logits_V, token) if bits else float("nan")
            yield Written(self.lane, Token(token, self.written.add(token), cost))
        if token == boundary or self.written.stopped:
            self.last = ENDED
            yield Ended(self.lane, self.written.rest(), "stop")


class Beside:
    """A memory beside a model in one text, of which it knows the last tokens."""

    def __init__(self, memory: TextMemory, ids: Sequence[int]) -> None:
        self.memory = memory
        self._last = deque(ids, maxlen=LONGEST)

    def read(self, token: int) -> None:
        """Take in a token of the text."""
        self._last.append(token)

    def mix_read(self, ids: Sequence[int], begin: int, nats_T: Tensor) -> None:
        """Turn a model's nats of the tokens of a prompt into those of model and memory, in place.

        ``nats_T[t]`` are of the token ``begin + t + 1`` of ``ids``; where there is none, they stay.
        """
        first = max(1, begin + 1)
        stop = min(len(ids), begin + 1 + len(nats_T))
        if first < stop:
            place = slice(first - begin - 1, stop - begin - 1)
            mixed = self.memory.mix_read(nats_T[place].float().cpu().numpy(), ids, slice(first, stop))
            nats_T[place] = torch.from_numpy(mixed).to(nats_T)

    def mix(self, logits_V: Floats) -> None:
        """Turn the logits of the next token into those of model and memory, in place."""
        self.memory.mix_logits(logits_V, tuple(self._last))


def _read(
    model: LanguageModel,
    tokenizer: Tokenizer,
    texts: list[_Text],
    ids: list[list[int]],
    bits: bool,
    steer: Steering | None,
) -> Generator[Read, None, tuple[Tensor, ModelState]]:
    """Read the prompts in pieces, so that a long one needs no more memory than its window.

    Where the text is steered, the last token is a piece of its own. Returns the logits (B, V) after the last
    tokens, and the state.
    """
    device = next(model.parameters()).device
    tokens_BT, reset_BT, targets_BT = (x.to(device) for x in _align(ids, tokenizer.padding_id))
    longest = tokens_BT.shape[1]
    told = [GrowingText(tokenizer) for _ in ids]
    state: Any = None
    held_back = longest - 1 if steer else longest
    starts = [*range(0, held_back, PREFILL), held_back, longest]
    for start, stop in pairwise(sorted(set(starts))):
        piece = slice(start, stop)
        edited: dict[str, Any] = {}  # for a model that takes none, a baseline
        if steer and steer.edits and (steer.everywhere or start == held_back):
            edited["edits"] = steer.edits
        with torch.no_grad():  # left before anything is yielded
            if steer and steer.shift and start == held_back:
                if state is None:
                    state = model.empty_state(len(ids), device)
                # A prompt without text is a boundary, whose reset would wipe the push.
                state = steer.pushed(state, reset_BT[:, -1])
                reset_BT[:, -1] = False
            hidden_BTD, state = model.hidden(tokens_BT[:, piece], state, reset_BT[:, piece], **edited)
            logits_BV = model.embedding.logits(hidden_BTD[:, -1])
        if bits:
            nats_BT = model.embedding.surprisal(hidden_BTD, targets_BT[:, piece])
            for text, read, nats_T in zip(texts, ids, nats_BT, strict=True):
                if text.beside:
                    text.beside.mix_read(read, start - (longest - len(read)), nats_T)
            yield from _told(told, targets_BT[:, piece], nats_BT)
    return logits_BV, state


def _told(texts: list[GrowingText], targets_BT: Tensor, nats_BT: Tensor) -> Iterator[Read]:
    """Yield a piece of each prompt with its bits."""
    rows = zip(texts, targets_BT.tolist(), nats_BT.tolist(), strict=True)
    for lane, (text, targets, costs) in enumerate(rows):
        tokens = []
        for token, nats in zip(targets, costs, strict=True):
            if token != IGNORE:
                tokens.append(Token(token, text.add(token), nats / math.log(2)))
        yield Read(lane, tokens)


def _align(prompts: list[list[int]], padding_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pad on the left to one length: tokens, a reset at each prompt's first, and what follows each (else -100)."""
    longest = max(map(len, prompts))
    tokens_BT = torch.full((len(prompts), longest), padding_id)
    reset_BT = torch.zeros(tokens_BT.shape, dtype=torch.bool)
    targets_BT = torch.full(tokens_BT.shape, IGNORE)
    for lane, prompt in enumerate(prompts):
        first = longest - len(prompt)
        tokens_BT[lane, first:] = torch.tensor(prompt)
        reset_BT[lane, first] = True
        targets_BT[lane, first:-1] = tokens_BT[lane, first + 1 :]
    return tokens_BT, reset_BT, targets_BT


@contextmanager
def _evaluating(model: LanguageModel) -> Iterator[None]:
    """Put the model into evaluation mode for a while."""
    if not model.training:  # nothing is touched: other threads may be writing with the same model
        yield
        return
    model.eval()
    try:
        yield
    finally:
        model.train()

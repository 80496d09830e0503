"""Text with the surprisal of every token: of a text that is given, and of one that is being written.

Tokens are pieces of bytes, so a character may take several of them. ``text`` of a token is what it completes: empty
while a character is unfinished, then the characters of all tokens since the last whole one. Shapes: T positions.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from weft.data import TokenizedSplit, Tokenizer
from weft.data.documents import join_fragments, split_documents
from weft.evaluation.scoring import score
from weft.generation import PREFILL, Sampling, draw
from weft.layers.cross_entropy import IGNORE
from weft.model import ModelState, WeftModel
from weft.serve.limits import Refused


@dataclass(frozen=True)
class Token:
    """A token, the text that it completes, and its surprisal under the model."""

    id: int
    text: str
    bits: float


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A text with its bits. ``documents`` are its parts between separators, which cost nothing and are not shown."""

    bits: float
    bytes: int
    bits_per_byte: float
    documents: list[list[Token]]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        documents = [[vars(token) for token in document] for document in self.documents]
        return {"bits": self.bits, "bytes": self.bytes, "bits_per_byte": self.bits_per_byte, "documents": documents}


@dataclass
class Totals:
    """The sum over the tokens that were written."""

    tokens: int = 0
    bits: float = 0.0
    bytes: int = 0

    def add(self, bits: float, size: int) -> None:
        """Count one token of ``size`` bytes."""
        self.tokens += 1
        self.bits += bits
        self.bytes += size

    def to_json(self) -> dict[str, float | int | None]:
        """Return plain data; ``bits_per_byte`` is None of nothing."""
        return asdict(self) | {"bits_per_byte": self.bits / self.bytes if self.bytes else None}


class Characters:
    """Puts tokens' bytes together to whole characters; what is not UTF-8 becomes U+FFFD."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def add(self, token: int) -> str:
        """Return the text that ``token`` completes: nothing until all bytes so far are whole characters."""
        self._held += self._decoder.decode(self._tokenizer.token_bytes(token))
        unfinished = self._decoder.getstate()[0]
        if unfinished:
            return ""
        whole, self._held = self._held, ""
        return whole

    def rest(self) -> str:
        """Return what is left at the end of a text."""
        whole = self._held + self._decoder.decode(b"", final=True)
        self._held = ""
        return whole


def score_text(
    model: WeftModel,
    tokenizer: Tokenizer,
    text: str,
    *,
    separator: str,
    progress: Callable[[int], None] | None = None,
) -> Scored:
    """Score ``text`` as ``weft evaluate`` scores a file with these bytes: cut into documents at ``separator``."""
    documents = list(join_fragments(split_documents([text.encode()], separator)))
    if not documents:
        raise Refused(422, "The text has nothing but line ends: send some text.")
    ids = [np.append(tokenizer.boundary_id, tokenizer.encode_bytes(document)) for document in documents]
    offsets = np.cumsum([0, *map(len, ids)])
    size = sum(map(len, documents))
    split = TokenizedSplit(np.concatenate(ids), offsets, size, None, None)
    nats = score(model, split, boundary_id=tokenizer.boundary_id, progress=progress)
    bits = float(nats.sum(dtype=np.float64)) / math.log(2)
    shown = [_tokens(tokenizer, split.document(i), nats[a:b]) for i, (a, b) in enumerate(pairwise(offsets))]
    return Scored(bits=bits, bytes=size, bits_per_byte=bits / size, documents=shown)


def _tokens(tokenizer: Tokenizer, ids: Iterable[int], nats: Iterable[float]) -> list[Token]:
    """Return the tokens of one document, its boundary left out."""
    characters = Characters(tokenizer)
    pairs = list(zip(ids, nats, strict=True))[1:]
    return [Token(int(i), characters.add(int(i)), float(cost / np.log(2))) for i, cost in pairs]


@dataclass
class Writing:
    """One text being written. Iterating yields the prompt's tokens (in lists, as they are read), then new tokens.

    The text is that of :func:`weft.generation.generate` with the same settings. A token's bits are those of the model
    itself, before temperature, top-k and top-p. After the last token, ``rest`` holds what is left of a character that
    was never finished, and ``finish`` says why it is the last: "length", or "stop" where the document has ended.
    """

    model: WeftModel
    tokenizer: Tokenizer
    prompt: str
    max_new_tokens: int
    sampling: Sampling
    totals: Totals = field(default_factory=Totals)
    finish: str = "length"
    rest: str = ""

    @torch.no_grad()
    def __iter__(self) -> Iterator[list[Token] | Token]:
        assert not self.model.training
        characters = Characters(self.tokenizer)
        generator = torch.Generator().manual_seed(self.sampling.seed)
        state: ModelState | None = None
        for logits_V, state, tokens in self._read_prompt():  # noqa: B007 - the last ones are gone on from
            yield tokens
        for step in range(self.max_new_tokens):
            surprisal_V = -logits_V.log_softmax(-1) / math.log(2)
            logits_V[self.tokenizer.padding_id] = float("-inf")
            drawn = draw(logits_V, self.sampling, generator)
            if drawn == self.tokenizer.boundary_id:
                self.finish = "stop"
                break
            bits = float(surprisal_V[drawn])
            self.totals.add(bits, len(self.tokenizer.token_bytes(drawn)))
            yield Token(drawn, characters.add(drawn), bits)
            if step + 1 < self.max_new_tokens:
                logits_BTV, state = self.model(torch.tensor([[drawn]]), state)
                logits_V = logits_BTV[0, -1].float()
        self.rest = characters.rest()

    def _read_prompt(self) -> Iterator[tuple[torch.Tensor, ModelState, list[Token]]]:
        """Read the prompt in pieces; yield the last logits, the state and the piece's tokens with their bits."""
        characters, state = Characters(self.tokenizer), None
        ids_T = torch.tensor([self.tokenizer.boundary_id, *self.tokenizer.encode(self.prompt).tolist()])
        targets_T = torch.cat([ids_T[1:], torch.tensor([IGNORE])])
        first_T = torch.arange(len(ids_T)) == 0
        for start in range(0, len(ids_T), PREFILL):
            piece = slice(start, start + PREFILL)
            hidden_BTD, state = self.model.hidden(ids_T[None, piece], state, first_T[None, piece])
            nats_T = self.model.embedding.surprisal(hidden_BTD, targets_T[None, piece])[0]
            pairs = zip(targets_T[piece].tolist(), (nats_T / math.log(2)).tolist(), strict=True)
            tokens = [Token(token, characters.add(token), bits) for token, bits in pairs if token != IGNORE]
            yield self.model.embedding.logits(hidden_BTD[:, -1])[0].float(), state, tokens

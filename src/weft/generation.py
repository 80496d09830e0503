"""Write text: a small loop over the explicit state.

Prompts of different lengths are aligned at their ends; the padding before a prompt is cut off by the reset at its
boundary token, so a batch writes what each prompt alone would. Shapes: B prompts, T positions, V vocabulary.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.data import Tokenizer
from weft.errors import UserError
from weft.model import ModelState
from weft.peers import LanguageModel

PREFILL = 1024
HOTTEST = 100.0  # next to no preference at all; far beyond, float32 is too coarse
COLDEST = 1e-4  # below this a draw is the likeliest token; dividing by less could overflow


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is drawn: ``temperature`` 0 is greedy; ``top_k`` 0 and ``top_p`` 1 cut nothing off."""

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= HOTTEST or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise UserError(f"Sampling needs a temperature from 0 to {HOTTEST:g}, top-k >= 0 and 0 < top-p <= 1.")
        if not 0 <= self.seed < 1 << 62:
            raise UserError("Sampling needs a seed from 0 to 2^62.")


def generate(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 200,
    sampling: Sampling | None = None,
) -> list[str]:
    """Return each prompt's continuation (without the prompt), always valid Unicode."""
    written: list[list[int]] = [[] for _ in prompts]
    for tokens in stream_tokens(model, tokenizer, prompts, max_new_tokens=max_new_tokens, sampling=sampling):
        for lane, token in zip(written, tokens, strict=True):
            if token is not None:
                lane.append(token)
    return [tokenizer.decode(lane) for lane in written]


def stream(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    max_new_tokens: int = 200,
    sampling: Sampling | None = None,
) -> Iterator[str]:
    """Yield the continuation of one prompt as it is written, in pieces that are whole characters."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for (token,) in stream_tokens(model, tokenizer, [prompt], max_new_tokens=max_new_tokens, sampling=sampling):
        text = decoder.decode(tokenizer.token_bytes(token)) if token is not None else ""
        if text:
            yield text
    if rest := decoder.decode(b"", final=True):
        yield rest


@torch.no_grad()
def stream_tokens(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    sampling: Sampling | None = None,
) -> Iterator[list[int | None]]:
    """Yield one new token a prompt, step by step; None for a prompt whose text has ended.

    Prompt i draws from a generator of its own, seeded with ``seed + i``.
    """
    if not prompts:
        return
    sampling = sampling or Sampling()
    training = model.training
    model.eval()
    try:
        device = next(model.parameters()).device
        tokens_BT, reset_BT = _align(
            [[tokenizer.boundary_id, *tokenizer.encode(prompt)] for prompt in prompts], tokenizer
        )
        logits_BV, state = _read(model, tokens_BT.to(device), reset_BT.to(device))
        generators = [torch.Generator().manual_seed(sampling.seed + lane) for lane in range(len(prompts))]
        ended = [False] * len(prompts)
        for step in range(max_new_tokens):
            logits_BV[:, tokenizer.padding_id] = float("-inf")
            rows = logits_BV.float().cpu()
            drawn = [draw(row, sampling, generator) for row, generator in zip(rows, generators, strict=True)]
            ended = [end or token == tokenizer.boundary_id for end, token in zip(ended, drawn, strict=True)]
            if all(ended):
                return
            yield [None if end else token for end, token in zip(ended, drawn, strict=True)]
            if step + 1 < max_new_tokens:
                logits_BTV, state = model(torch.tensor(drawn, device=device)[:, None], state)
                logits_BV = logits_BTV[:, -1]
    finally:
        model.train(training)


def _align(prompts: list[list[int]], tokenizer: Tokenizer) -> tuple[Tensor, Tensor]:
    """Pad on the left to one length; the reset stands at each prompt's first token."""
    longest = max(map(len, prompts))
    tokens = torch.full((len(prompts), longest), tokenizer.padding_id)
    reset = torch.zeros(tokens.shape, dtype=torch.bool)
    for lane, prompt in enumerate(prompts):
        tokens[lane, longest - len(prompt) :] = torch.tensor(prompt)
        reset[lane, longest - len(prompt)] = True
    return tokens, reset


def _read(model: LanguageModel, tokens_BT: Tensor, reset_BT: Tensor) -> tuple[Tensor, ModelState]:
    """Read the prompts in pieces, so that a long one needs no more memory than its window."""
    state: ModelState | None = None
    for start in range(0, tokens_BT.shape[1], PREFILL):
        piece = slice(start, start + PREFILL)
        hidden_BTD, state = model.hidden(tokens_BT[:, piece], state, reset_BT[:, piece])
    assert state is not None
    return model.embedding.logits(hidden_BTD[:, -1]), state


def draw(logits_V: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Draw a token: temperature first, then top-k, then top-p (nucleus sampling, Holtzman et al. 2020)."""
    if sampling.temperature < COLDEST:
        return int(logits_V.argmax())
    ordered, index = (logits_V / sampling.temperature).sort(descending=True)
    if sampling.top_k:
        ordered = ordered[: sampling.top_k]
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    probabilities[before >= sampling.top_p] = 0
    return int(index[torch.multinomial(probabilities, 1, generator=generator)])

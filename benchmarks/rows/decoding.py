"""One stream written greedily, 10M parameters, after 1k and 16k tokens of context, in tokens per second.

Ours by its native loop, against transformers' Llama of as many parameters with its cache of keys and values, against
``generate()`` of our own adapter, and against reading once as many bytes as its weights have where they are read from,
in the precision in which they are stored there. Weights are random; the text before is read
outside the time. Everybody writes a few tokens a turn, all of the contexts in one race. ``generate()`` reads its text
anew each turn and is timed from its first token to its last, so that what it sets up does not count against it. The
peer goes back to its context after each turn; its cache may grow (DynamicCache) or stand ready (StaticCache; compiled,
too): the fastest form counts. It is driven by the bare loop that its users write, ours by the public one, which also
makes the text.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import models
from benchmarks.harness import Bar, Options, Race, Seconds, Sheet, Times, Unit, figure
from benchmarks.models import Scale

CONTEXTS = {"cpu": (1024, 16384), "gpu": (1024, 16384)}
QUICK_CONTEXTS = (24, 48)
TOKENS = 16  # written in a turn
GENERATED = 48  # by generate(), which reads its text anew each turn
PIECE = 512  # tokens of the text before that a peer reads at once
PEER_ASKED = {"cpu": Bar("at least", 5.0), "gpu": Bar("at least", 3.0)}
GENERATE_ASKED, READING_ASKED, FLAT = Bar("at least", 1.3), Bar("at most", 1.3), Bar("at most", 1.1)
READING = "weights read once"
SCALE = Scale(size="10M", vocab_size=4096, batch=1)


def measure(sheet: Sheet) -> None:
    options = sheet.options
    scale = models.QUICK[0] if options.quick else SCALE
    contexts = QUICK_CONTEXTS if options.quick else CONTEXTS[options.kind]
    race = sheet.race("decoding")
    model = _weft(scale, options)
    peers: dict[int, list[str]] = {}
    for context in contexts:
        text = _text(scale, context, options)
        race.enter(f"native {context}", lambda text=text: _native(model, text))
        race.enter(f"generate() {context}", lambda text=text: _generate(model, text), warmups=1)
        peers[context] = _enter_llama(race, scale, text)
    weights = weight_bytes(model, _text(scale, 2, options))
    race.enter(READING, lambda: _reading(weights, options.device))
    _lines(sheet, race.run(), contexts, peers)
    sheet.facts["tokens a turn"] = TOKENS
    sheet.facts["bytes of the weights that a token reads"] = weights


def _lines(sheet: Sheet, times: Times, contexts: tuple[int, ...], peers: dict[int, list[str]]) -> None:
    last = contexts[-1]
    for context in contexts:
        fastest = times.fastest(peers[context])
        sheet.line(
            f"native loop over Llama with its cache, {_k(context)}",
            measured=_rates(times, f"native {context}", fastest),
            ratio=times.ratio(fastest, f"native {context}"),
            bar=PEER_ASKED[sheet.options.kind] if context == last else None,
        )
    for context in contexts:
        _own_lines(sheet, times, context)
    rates = [name for context in contexts if (name := f"native {context}") in times]
    slowest, fastest = max(rates, key=times.median, default=None), times.fastest(rates)
    sheet.line(
        f"native loop, the slower over the faster of {' and '.join(map(_k, contexts))}",
        measured=_rates(times, *rates) if len(rates) == 2 else "",
        ratio=times.ratio(slowest, fastest) if len(rates) == len(contexts) else None,
        bar=FLAT,
    )


def _own_lines(sheet: Sheet, times: Times, context: int) -> None:
    """Compare with reading the weights, and with ``generate()``, which has the same decoder where that is as fast."""
    native = f"native {context}"
    over = times.ratio(f"generate() {context}", native)
    reading = times.ratio(native, READING)
    reading = reading.scaled(1 / TOKENS) if reading else None
    either = [bar.holds(ratio.value) for bar, ratio in ((GENERATE_ASKED, over), (READING_ASKED, reading)) if ratio]
    asked = not sheet.options.gpu
    met = any(either) if len(either) == 2 and asked else None
    sheet.line(
        f"native loop over our generate(), {_k(context)}",
        measured=_rates(times, native, f"generate() {context}"),
        ratio=over,
        bar=GENERATE_ASKED if asked else None,
        met=met,
        note="or the next line",
    )
    seconds = (times.median(native) / TOKENS, times.median(READING)) if reading else ()
    sheet.line(
        f"a token over reading the weights once, {_k(context)}",
        measured=f"{' over '.join(figure(1e3 * value) for value in seconds)} ms" if seconds else "",
        ratio=reading,
        bar=READING_ASKED if asked else None,
    )


def _rates(times: Times, first: str | None, second: str | None) -> str:
    if first is None or second is None or first not in times or second not in times:
        return ""
    one, other = (TOKENS / times.median(name) for name in (first, second))
    return f"{one:,.0f} against {other:,.0f} tokens/s" + (f" ({second})" if "Llama" in second else "")


def _k(context: int) -> str:
    return f"{context // 1024}k" if context >= 1024 else str(context)


def _dtype(options: Options) -> torch.dtype:
    return torch.bfloat16 if options.gpu else torch.float32


def _text(scale: Scale, length: int, options: Options) -> Tensor:
    """Return random tokens (1, length), after a boundary token as texts of ours begin."""
    generator = torch.Generator().manual_seed(options.seed)
    tokens = torch.randint(scale.vocab_size - 2, (1, length), generator=generator)
    tokens[0, 0] = scale.vocab_size - 2
    return tokens.to(options.device)


@torch.no_grad()
def _weft(scale: Scale, options: Options) -> Any:
    """Return a hybrid whose blocks all do something, and that never ends a text."""
    import weft

    settings = {"residual_init": "scaled", "boundary_id": scale.vocab_size - 2, "padding_id": scale.vocab_size - 1}
    config = weft.sized("hybrid", parameters=scale.size, vocab_size=scale.vocab_size, settings=settings)
    model = weft.build(config, seed=options.seed).eval()
    model.embedding.weight_VD[-2:] = 0  # boundary and padding: a logit of 0 is never the largest
    return model.to(options.device, _dtype(options))


class GivenTokens:
    """Stands where generation asks for a tokenizer: one prompt, given as tokens; every token is written as a letter."""

    def __init__(self, tokens: Tensor, boundary_id: int, padding_id: int) -> None:
        self.tokens, self.boundary_id, self.padding_id = tokens[0].cpu().numpy(), boundary_id, padding_id

    def encode(self, prompt: str) -> Any:
        """Return the prompt without the boundary token, which generation puts before it."""
        del prompt
        return self.tokens[1:]

    def token_bytes(self, token: int) -> bytes:
        return bytes([97 + token % 26])


def native_stream(model: Any, text: Tensor, most: int) -> Iterator[int]:
    """Yield the tokens that our native loop writes after ``text``: all that knows how that loop is called."""
    from weft.generation import Sampling, Written, write

    tokenizer: Any = GivenTokens(text, model.config.boundary_id, model.config.padding_id)
    for event in write(model, tokenizer, [""], max_new_tokens=most, sampling=Sampling(temperature=0.0)):
        if isinstance(event, Written):
            yield event.token.id


def _native(model: Any, text: Tensor) -> Unit:
    stream = native_stream(model, text, 1 << 30)
    next(stream)  # reads the text

    def unit() -> None:
        for _ in range(TOKENS):
            next(stream)

    return unit


class Stamps:
    """Takes ``generate()``'s tokens as they come, and when they came; the text before comes first."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.times: list[float] = []
        self._begun = False

    def put(self, value: Tensor) -> None:
        if self._begun:
            self.tokens.append(int(value))
            self.times.append(time.perf_counter())
        self._begun = True

    def end(self) -> None:
        pass


def adapter(model: Any) -> Any:
    """Return our Hugging Face adapter with ``model``'s weights."""
    from weft.hf import WeftConfig, WeftForCausalLM

    made = WeftForCausalLM(WeftConfig.of(model.config)).eval().to(model.embedding.weight_VD)
    made.load_state_dict(model.state_dict())
    return made


def generated(made: Any, text: Tensor, tokens: int) -> Stamps:
    """Return the ``tokens`` tokens that ``generate()`` writes after ``text``, and when each came."""
    stamps = Stamps()
    made.generate(text, attention_mask=torch.ones_like(text), max_new_tokens=tokens, do_sample=False, streamer=stamps)
    return stamps


def _generate(model: Any, text: Tensor) -> Unit:
    made = adapter(model)

    def unit() -> Seconds:
        times = generated(made, text, GENERATED + 1).times
        return Seconds((times[-1] - times[0]) / (len(times) - 1) * TOKENS)

    return unit


@torch.no_grad()
def weight_bytes(model: Any, text: Tensor) -> int:
    """Return the bytes of the weights that the native loop reads for a token, where it reads them from."""
    from weft.generation.fastest import make_decoder

    decoder = make_decoder(model, model(text)[1], rows=1, steps=TOKENS)
    told: int | None = getattr(decoder, "weight_bytes", None)
    if told is None:  # the decoder runs the model itself
        return sum(p.nbytes for p in model.parameters() if p.dim() >= 2)
    return told


def _reading(size: int, device: str) -> Unit:
    """Sum float32 numbers of ``size`` bytes, end to end, so that it is one pass over memory and nothing else."""
    return torch.ones(size // 4, device=device).sum


def _enter_llama(race: Race, scale: Scale, text: Tensor) -> list[str]:
    """Enter the peer with each kind of cache; the text is read once for all of them."""
    options, length = race.options, text.shape[1]
    read: dict[str, Any] = {}

    def start(kind: str) -> Unit:
        if not read:
            read["model"] = models.llama(scale, options, context=length + 4 * TOKENS).eval().to(_dtype(options))
            read["cache"] = _read_by_llama(read["model"], text)
        return _llama(read["model"], read["cache"], text, kind)

    kinds = ["growing", "ready"]
    if options.compiled:
        kinds.append("ready, compiled")
    names = {f"Llama {length}, cache {kind}": kind for kind in kinds}
    for name, kind in names.items():
        race.enter(name, partial(start, kind))
    return list(names)


@torch.no_grad()
def _read_by_llama(model: Any, text: Tensor) -> Any:
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    for start in range(0, text.shape[1] - 1, PIECE):
        piece = text[:, start : min(start + PIECE, text.shape[1] - 1)]
        model(input_ids=piece, use_cache=True, logits_to_keep=1, **{_cache_name(model): cache})
    return cache


def _cache_name(model: Any) -> str:
    """Return what this version of transformers calls the cache."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def _llama(model: Any, read: Any, text: Tensor, kind: str) -> Unit:
    """Return the loop that transformers' users write: the likeliest token, and forward with the cache."""
    from transformers import DynamicCache, StaticCache

    growing = kind == "growing"
    cache = (
        DynamicCache(config=model.config)
        if growing
        else StaticCache(config=model.config, max_cache_len=model.config.max_position_embeddings)
    )
    for number, layer in enumerate(read.layers):
        cache.update(layer.keys, layer.values, number)
    given = {_cache_name(model): cache}
    forward, compiled = model, kind.endswith("compiled")
    if compiled:  # as CUDA graphs where there are any, which is what transformers' documentation advises
        mode = "reduce-overhead" if text.is_cuda else "default"
        forward = torch.compile(model.forward, dynamic=False, mode=mode)

    @torch.no_grad()
    def unit() -> None:
        token = text[:, -1:]
        for _ in range(TOKENS):
            if compiled:
                torch.compiler.cudagraph_mark_step_begin()
            logits = forward(input_ids=token, use_cache=True, **given).logits
            token = logits[:, -1:].argmax(-1)
        _rewind(cache, TOKENS)

    return unit


def _rewind(cache: Any, tokens: int) -> None:
    """Let a cache forget its last tokens; layers of a fixed size learnt to do so in transformers 5.24."""
    for layer in cache.layers:
        if hasattr(layer, "crop"):
            layer.crop(-tokens)
        else:
            layer.cumulative_length.sub_(tokens)

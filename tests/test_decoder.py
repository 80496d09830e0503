"""Decoders: in every form, one token after another gives the model's own logits and the model's own state."""

from __future__ import annotations

import threading

import pytest
import torch

from tests.conftest import BIGRAMS, MAPS, small_model
from weft.baselines import llama
from weft.generation import ENDED, PlainDecoder, make_decoder
from weft.generation.graph import FixedDecoder, graph_decoder
from weft.layers.maps import StructuredMap
from weft.layers.state import map_state, tensors
from weft.ops import cpu

MEMORY = 5  # of small models
ODD = {
    "hidden_size": 13,
    "attention": {"num_heads": 3, "head_dim": 6, "window": 7},
    "qrnn": {"cell_size": 11, "kernel_size": 3},
    "feed_forward": {"inner_size": 19},
}
COVERED = {
    "attention": ("aa", {}, "modern"),
    "attention, no positions": ("aa", {"attention": {"positions": "none"}}, "modern"),
    "attention, no norms": ("aa", {"attention": {"query_key_norm": False}}, "modern"),
    "attention, grouped": ("aa", {"attention": {"num_heads": 4, "num_kv_heads": 2}}, "modern"),
    "attention, one wide head": ("aa", {"attention": {"num_heads": 1, "head_dim": 40}}, "modern"),
    "attention, memory of one": ("aa", {"attention": {"window": 1}}, "modern"),
    "relu squared": ("ff", {}, "modern"),
    "relu": ("ff", {"feed_forward": {"activation": "relu"}}, "modern"),
    "gelu": ("ff", {"feed_forward": {"activation": "gelu"}}, "modern"),
    "swiglu": ("ff", {"feed_forward": {"activation": "swiglu"}, "bias": True}, "modern"),
    "window 1": ("qq", {"qrnn": {"kernel_size": 1}}, "modern"),
    "window 2": ("qq", {"qrnn": {"kernel_size": 2}, "token_shift": False}, "modern"),
    "window 3, token shift": ("qq", {"qrnn": {"kernel_size": 3}}, "modern"),
    "window 4, ifo": ("qq", {"qrnn": {"kernel_size": 4, "pooling": "ifo"}}, "modern"),
    "f, no projection": ("qq", {"qrnn": {"pooling": "f", "output_projection": False, "cell_size": 16}}, "modern"),
    "f, no projection, post": (
        "qq",
        {"qrnn": {"pooling": "f", "output_projection": False, "cell_size": 16}},
        "classic",
    ),
    "zoneout": ("qf", {"qrnn": {"zoneout": 0.3}}, "classic"),
    "layer norm, before": ("qaf", {"norm": "layer"}, "modern"),
    "hybrid": ("qf qf af qf", {}, "modern"),
    "recurrent stacking": ("[qa]2f", {}, "modern"),
    "post-norm": ("[qa]2f", {"attention": {"positions": "rotary"}}, "classic"),
    "post-norm, gates": ("[qa]2f", {"attention": {"positions": "rotary"}, "block_gates": True}, "classic"),
    "post-norm, token shift": (
        "[qa]2f",
        {"attention": {"positions": "rotary"}, "block_gates": True, "token_shift": True, "qrnn": {"kernel_size": 2}},
        "classic",
    ),
    "no gates": ("qf qf af qf", {"block_gates": False}, "modern"),
    "no token shift": ("qf qf af qf", {"token_shift": False, "qrnn": {"kernel_size": 2}}, "modern"),
    "structured maps": ("f[qaf]2", {"maps": MAPS}, "modern"),
    "structured maps with biases": ("fqaf", {"maps": MAPS, "bias": True}, "modern"),
    "matrix products": ("{qaf}2f", {"bias": True}, "modern"),
    "latent bigrams": ("qaf", {"ngrams": BIGRAMS}, "modern"),
    "embedding normed": ("qaf", {"ngrams": {"heads": 2, "table_size": 0}}, "modern"),
    "own softmax": ("qaf", {"tie_embeddings": False, "head_bias": True}, "modern"),
    "no multiples of eight": ("qaf", ODD, "modern"),
}
LEFT_OUT = {
    "relative positions": ("qaf", {}, "classic"),
    "fused block": ("xf", {}, "modern"),
    "adaptive": ("qaf", {"adaptive": {"cutoffs": [3, 7], "div_val": 2}}, "modern"),
}
needs_kernels = pytest.mark.skipif(not cpu.available(), reason="Numba or this processor is missing")


@pytest.fixture(params=COVERED.values(), ids=COVERED)
def model(request):
    return small_model(*request.param)


def fused(model, state, rows, **settings):
    from weft.generation.fused import fused_decoder

    decoder = fused_decoder(model, state, rows, **settings)
    assert decoder is not None
    return decoder


def texts(rows, time, seed=0):
    return torch.randint(0, 11, (rows, time), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def read(model, tokens, resets=False):
    """Read with documents that start in the middle, so that some of what is remembered is of another."""
    reset = None
    if resets:
        reset = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(1)) < 0.2
    return model(tokens, None, reset)[1]


def close(given, wanted):
    torch.testing.assert_close(given, wanted, rtol=0, atol=1e-4 * max(1e-3, float(wanted.abs().max())))


def assert_same_state(given, wanted):
    for one, other in zip(tensors(given), tensors(wanted), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        if one.dtype == torch.bool:
            assert torch.equal(one, other)
        elif one.numel():
            close(one, other)


@torch.no_grad()
def assert_follows(decoder, model, state, tokens):
    """Feed both, and compare at every step."""
    for token_B in tokens.unbind(1):
        logits, state = model(token_B[:, None], state)
        close(decoder.step(token_B), logits[:, 0])
    assert_same_state(decoder.state, state)


@needs_kernels
@pytest.mark.parametrize("prompt", [1, MEMORY - 1, 3 * MEMORY], ids="prompt {}".format)
@pytest.mark.parametrize("rows", [1, 3])
def test_the_kernel_gives_the_models_logits_and_state(model, rows, prompt):
    """The attention's ring wraps around several times, from prompts shorter and longer than the memory."""
    state = read(model, texts(rows, prompt), resets=prompt > 1)
    assert_follows(fused(model, state, rows), model, state, texts(rows, 4 * MEMORY, seed=2))


@torch.no_grad()
def rounded(model):
    """Give all matrices values that bfloat16 holds, those of structured maps so that their products are held, too."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.copy_(parameter.bfloat16())
    for part in model.modules():
        if isinstance(part, StructuredMap):
            for factor in part.factors():
                factor.copy_(factor.sign() / 4)
    return model


@needs_kernels
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8])
def test_in_bf16_the_kernel_is_the_model_with_rounded_matrices(model, rows):
    """To the tolerance of float32, for each number of texts that are multiplied at once."""
    model = rounded(model)
    state = read(model, texts(rows, 2 * MEMORY), resets=True)
    assert_follows(fused(model, state, rows, bf16=True), model, state, texts(rows, 2 * MEMORY, seed=2))


@needs_kernels
@torch.no_grad()
def test_bf16_moves_logits_by_less_than_a_hundredth_of_their_spread():
    """Each weight is off by 2^-9 of itself at most, and up and down alike."""
    model = small_model("qf qf af qf", {"hidden_size": 64}, vocab_size=300)
    state = read(model, texts(3, 9))
    exact = fused(model, state, 3)
    halved = fused(model, state, 3, bf16=True)
    for token_B in texts(3, 30, seed=2).unbind(1):
        wanted = exact.step(token_B)
        given = halved.step(token_B)
        assert 0 < (given - wanted).std() < 0.01 * wanted.std()


@needs_kernels
@torch.no_grad()
def test_in_bf16_a_text_does_not_depend_on_the_texts_beside_it():
    model = small_model("qaf")
    tokens = texts(7, 12)
    state = read(model, texts(7, 8))
    together = fused(model, state, 7, bf16=True)
    alone = fused(model, map_state(lambda x: x[4:5], state), 1, bf16=True)
    for token_B in tokens.unbind(1):
        assert torch.equal(together.step(token_B)[4], alone.step(token_B[4:5])[0])


@needs_kernels
@torch.no_grad()
def test_the_state_goes_out_and_in_at_any_token(model):
    """A decoder that begins where another stopped, and the model that goes on from a decoder's state."""
    tokens, state = texts(2, 24), read(model, texts(2, 3, seed=5))
    for piece in tokens.split([1, 4, 2, 8, 9], dim=1):
        decoder = fused(model, state, 2)
        assert_follows(decoder, model, state, piece)
        state = decoder.state
    wanted = read(model, torch.cat([texts(2, 3, seed=5), tokens], dim=1))
    assert_same_state(state, wanted)


@needs_kernels
def test_a_decoder_keeps_its_hands_off_the_state_it_was_given(model):
    state = read(model, texts(2, 9))
    before = [x.clone() for x in tensors(state)]
    decoder = fused(model, state, 2)
    for token_B in texts(2, 7).unbind(1):
        decoder.step(token_B)
    out = [x.clone() for x in tensors(decoder.state)]
    given = decoder.state
    decoder.step(torch.tensor([1, 2]))
    assert all(torch.equal(a, b) for a, b in zip(tensors(state), before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(tensors(given), out, strict=True))


@needs_kernels
@torch.no_grad()
def test_a_text_that_has_ended_changes_nothing_for_the_others(model):
    tokens, state = texts(3, 16), read(model, texts(3, 8))
    decoder = fused(model, state, 3)
    for step, token_B in enumerate(tokens.unbind(1)):
        logits, state = model(token_B[:, None], state)
        fed = token_B.clone()
        fed[1] = ENDED if step > 3 else fed[1]
        fed[0] = ENDED if step > 9 else fed[0]
        alive = fed >= 0
        close(decoder.step(fed)[alive], logits[alive, 0])
    last = [(one[2:], other[2:]) for one, other in zip(tensors(decoder.state), tensors(state), strict=True)]
    assert_same_state(*map(tuple, zip(*last, strict=True))) if last else None


@needs_kernels
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("threads", [2, 5])
def test_threads_change_no_number(model, threads, bf16):
    """As many as there may be, more than there are cores, and several callers at once."""
    state, tokens, usual = read(model, texts(2, 8)), texts(2, 12), torch.get_num_threads()

    def run(into):
        torch.set_num_threads(threads)
        decoder = fused(model, state, 2, bf16=bf16)
        into.append(torch.stack([decoder.step(token_B).clone() for token_B in tokens.unbind(1)]))

    single = fused(model, state, 2, bf16=bf16)
    wanted = torch.stack([single.step(token_B).clone() for token_B in tokens.unbind(1)])
    results = []
    try:
        callers = [threading.Thread(target=run, args=(results,)) for _ in range(3)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        run(results)
    finally:
        torch.set_num_threads(usual)
    assert len(results) == 4
    assert all(torch.equal(result, wanted) for result in results)


@needs_kernels
def test_far_into_a_text_positions_are_as_exact_as_at_its_start():
    model = small_model("aqa")
    state = read(model, texts(1, 9))
    near, far = fused(model, state, 1), fused(model, state, 1)
    slots = MEMORY + 1
    far._program.place += slots * 10**9  # as if so many tokens had been read: the same slots
    for memory, part in zip(far._program.memories, read(model, texts(1, 9)).blocks, strict=True):
        if hasattr(memory.mixer, "keys_BGSK"):
            places = torch.arange(far._program.place - MEMORY, far._program.place)
            turned = memory.mixer._turned(part.mixer.keys_BMGK, places, 1)
            memory.mixer.keys_BGSK[:, :, places % slots, :8] = turned.transpose(1, 2)
    for token_B in texts(1, 12).unbind(1):
        close(far.step(token_B), near.step(token_B))


@needs_kernels
def test_a_token_outside_the_vocabulary_is_an_error():
    model = small_model("qaf")
    with pytest.raises(IndexError, match="outside the vocabulary"):
        fused(model, read(model, texts(1, 3)), 1).step(torch.tensor([11]))


@needs_kernels
@pytest.mark.parametrize("variant", LEFT_OUT.values(), ids=LEFT_OUT)
def test_what_the_kernel_does_not_cover_is_decoded_by_the_model(variant):
    model = small_model(*variant)
    state = read(model, texts(2, 9), resets=True)
    decoder = make_decoder(model, state, rows=2, steps=50)
    assert isinstance(decoder, PlainDecoder)
    assert_follows(decoder, model, state, texts(2, 12))


@needs_kernels
def test_who_watches_or_changes_the_model_gets_the_model():
    """A hook, another precision, a part of another class, training: the kernel would pass all of them by."""

    class Louder(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    hooked, double, exchanged = (small_model("qaf") for _ in range(3))
    hooked.blocks[0].gates.register_forward_hook(lambda *_: None)
    double.double()
    exchanged.blocks[2].output = Louder(24, 16, bias=False)
    for model in (hooked, double, exchanged, small_model("qaf").train()):
        state = read(model, texts(1, 4))
        assert isinstance(make_decoder(model, state, rows=1, steps=50), PlainDecoder)
    many = small_model("qaf")
    assert isinstance(make_decoder(many, read(many, texts(40, 4)), rows=40, steps=50), PlainDecoder)


@needs_kernels
def test_weights_that_change_are_seen():
    model = small_model("qaf")
    state = read(model, texts(1, 4))
    decoder = fused(model, state, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)
    assert_follows(decoder, model, state, texts(1, 5))


@pytest.mark.parametrize("pattern", ["qaf", "xaf", "ff", "[qa]2f"])
@pytest.mark.parametrize("prompt", [1, MEMORY - 1, 3 * MEMORY])
def test_a_state_of_fixed_size_gives_the_models_logits_and_state(pattern, prompt):
    """What a CUDA graph replays: the attention's memory filled up to its full length."""
    model = small_model(pattern)
    state = read(model, texts(3, prompt), resets=prompt > 1)
    decoder = FixedDecoder(model, state, 3)
    places = [x.data_ptr() for x in tensors(decoder._state)]
    assert_follows(decoder, model, state, texts(3, 3 * MEMORY, seed=2))
    assert [x.data_ptr() for x in tensors(decoder._state)] == places


def test_no_graph_is_recorded_on_a_cpu():
    model = small_model("qaf")
    assert graph_decoder(model, read(model, texts(1, 4)), 1, steps=1000) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_a_recorded_graph_gives_the_models_logits_and_state():
    model = small_model("qaf").cuda()
    state = read(model, texts(3, 3 * MEMORY).cuda())
    decoder = graph_decoder(model, state, 3, steps=1000)
    assert decoder is not None
    assert_follows(decoder, model, state, texts(3, 3 * MEMORY, seed=2).cuda())


def test_a_baseline_is_decoded_by_its_own_cache():
    model = llama.build(llama.sized(parameters=20_000, vocab_size=11, context=64), seed=0).eval()
    tokens = texts(2, 20)
    with torch.no_grad():
        wanted, _ = model(tokens)
        _, state = model(tokens[:, :5])
    decoder = make_decoder(model, state, rows=2, steps=15)
    for step in range(5, 20):
        close(decoder.step(tokens[:, step]), wanted[:, step])

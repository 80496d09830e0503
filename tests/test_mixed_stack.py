"""Blocks of one kind that differ in all but the width of the stream: whoever asks, asks the block."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import MAPS, mixed_model, small_model
from tests.test_decoder import assert_follows, assert_same_state, close, fused, needs_kernels, read, texts
from weft.data.tokenizer_training import train_tokenizer
from weft.description import describe_model
from weft.generation import PlainDecoder, make_decoder
from weft.generation.graph import FixedDecoder
from weft.layers.state import structure, tensors
from weft.pretrained import load_model, save_model

CPU = torch.device("cpu")
GROUPED = {"attention": {"num_heads": 4, "num_kv_heads": 2, "head_dim": 6, "window": 9}}
SHORT = {"attention": {"num_heads": 1, "head_dim": 5, "window": 2, "positions": "none", "query_key_norm": False}}
WIDE_CELLS = {"qrnn": {"cell_size": 20, "kernel_size": 4, "pooling": "ifo"}}
NO_PROJECTION = {"qrnn": {"cell_size": 16, "kernel_size": 1, "pooling": "f", "output_projection": False}}
ZONEOUT = {"qrnn": {"cell_size": 9, "kernel_size": 3, "zoneout": 0.3}}
SWIGLU = {"feed_forward": {"inner_size": 13, "activation": "swiglu"}}
GELU = {"feed_forward": {"inner_size": 40, "activation": "gelu"}}
ROTARY = {"attention": {"positions": "rotary"}}
MIXED = {
    "attention": ("aaa", {1: GROUPED, 2: SHORT}, {}, "modern"),
    "qrnn": ("qqqq", {0: WIDE_CELLS, 2: NO_PROJECTION, 3: ZONEOUT}, {}, "modern"),
    "qrnn, no token shift": ("qqqq", {1: WIDE_CELLS, 2: NO_PROJECTION}, {"token_shift": False}, "modern"),
    "feed-forward": ("fff", {1: SWIGLU, 2: GELU}, {}, "modern"),
    "hybrid": ("qafqafqaf", {1: GROUPED, 2: SWIGLU, 3: WIDE_CELLS, 6: NO_PROJECTION, 7: SHORT, 8: GELU}, {}, "modern"),
    "applied again": ("[qa]2[qa]2f", {2: WIDE_CELLS, 3: GROUPED}, {}, "modern"),
    "post-norm": ("qafqaf", {1: SHORT, 3: WIDE_CELLS, 4: GROUPED, 5: SWIGLU}, ROTARY, "classic"),
    "post-norm, token shift": ("qaqa", {0: WIDE_CELLS, 3: GROUPED}, {**ROTARY, "token_shift": True}, "classic"),
    "structured maps": ("faqfaq", {3: {"maps": MAPS}, 4: {"maps": MAPS, **GROUPED}, 5: {"maps": MAPS}}, {}, "modern"),
}
# What the fused kernel does not cover.
OTHERS = {
    "fused blocks": ("xxa", {1: {"attention": {"window": 11}, "qrnn": {"cell_size": 7}}, 2: GROUPED}, {}, "modern"),
    "relative positions": ("aqa", {2: {"attention": {"head_dim": 4, "window": 8}}}, {}, "classic"),
    "some relative": ("aqa", {2: ROTARY}, {}, "classic"),
}
every = pytest.mark.parametrize("case", (MIXED | OTHERS).values(), ids=MIXED | OTHERS)
covered = pytest.mark.parametrize("case", MIXED.values(), ids=MIXED)


@every
@torch.no_grad()
def test_pieces_equal_the_whole(case):
    model = mixed_model(*case)
    tokens = texts(3, 24)
    reset = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(1)) < 0.15
    whole, end = model(tokens, None, reset)
    logits, state = [], None
    for piece, starts in zip(tokens.split([1, 7, 1, 15], dim=1), reset.split([1, 7, 1, 15], dim=1), strict=True):
        part, state = model(piece, state, starts)
        logits.append(part)
    close(torch.cat(logits, dim=1), whole)
    assert_same_state(state, end)


@needs_kernels
@covered
@pytest.mark.parametrize("prompt", [1, 4, 8, 30], ids="prompt {}".format)
@pytest.mark.parametrize("rows", [1, 3])
def test_the_kernel_gives_the_models_logits_and_state(case, rows, prompt):
    """Prompts that fill no window, some of them, and all."""
    model = mixed_model(*case)
    state = read(model, texts(rows, prompt), resets=prompt > 1)
    assert_follows(fused(model, state, rows), model, state, texts(rows, 25, seed=2))


@needs_kernels
@torch.no_grad()
def test_the_state_goes_out_and_in_at_any_token():
    model = mixed_model(*MIXED["hybrid"])
    tokens, state = texts(2, 24), read(model, texts(2, 3, seed=5))
    for piece in tokens.split([1, 4, 2, 8, 9], dim=1):
        decoder = fused(model, state, 2)
        assert_follows(decoder, model, state, piece)
        state = decoder.state
    assert_same_state(state, read(model, torch.cat([texts(2, 3, seed=5), tokens], dim=1)))


@needs_kernels
@pytest.mark.parametrize("case", OTHERS.values(), ids=OTHERS)
def test_what_the_kernel_does_not_cover_is_decoded_by_the_model(case):
    model = mixed_model(*case)
    state = read(model, texts(2, 9), resets=True)
    decoder = make_decoder(model, state, rows=2, steps=50)
    assert isinstance(decoder, PlainDecoder)
    assert_follows(decoder, model, state, texts(2, 12))


@needs_kernels
def test_an_odd_head_width_without_positions_is_decoded_by_the_kernel():
    model = small_model("aqa", SHORT)
    state = read(model, texts(2, 9))
    assert_follows(fused(model, state, 2), model, state, texts(2, 9, seed=2))


@every
@pytest.mark.parametrize("prompt", [1, 4, 15])
def test_a_state_of_fixed_size_gives_the_models_logits_and_state(case, prompt):
    """What a CUDA graph replays: every attention's memory filled up to its own window."""
    model = mixed_model(*case)
    state = read(model, texts(3, prompt), resets=prompt > 1)
    decoder = FixedDecoder(model, state, 3)
    places = [x.data_ptr() for x in tensors(decoder._state)]
    assert_follows(decoder, model, state, texts(3, 15, seed=2))
    assert [x.data_ptr() for x in tensors(decoder._state)] == places


@every
@torch.no_grad()
def test_an_empty_state_is_like_none_and_as_large_as_later_ones(case):
    model = mixed_model(*case)
    tokens, empty = texts(2, 6), model.empty_state(2, CPU)
    logits, after = model(tokens, empty)
    close(logits, model(tokens)[0])
    assert [(part.shape, part.dtype) for part in tensors(after)] == [
        (part.shape, part.dtype) for part in tensors(empty)
    ]
    assert not any(part.any() for part in tensors(empty))
    _, full = model(texts(2, model.window + 2))
    assert [part.shape for part in tensors(full)] == [part.shape for part in tensors(empty)]


@every
def test_a_block_answers_for_itself(case):
    """Its window, its empty state and its bytes are those of the state that it gives."""
    model = mixed_model(*case)
    assert model.window == max(block.window for block in model.own_blocks)
    whole = model.empty_state(2, CPU)
    for number, part in zip(model.schedule, whole.blocks, strict=True):
        block = model.own_blocks[number]
        own = block.empty_state(2, CPU)
        assert structure(own) == structure(part)
        assert [x.shape for x in tensors(own)] == [x.shape for x in tensors(part)]
        counted = sum(x.numel() * x.element_size() for x in tensors(own)) / 2
        assert block.state_bytes(10**6) == counted


def test_making_an_empty_state_leaves_no_trace():
    """Neither in the random numbers nor in what is in training."""
    noise = {"dropout": 0.2, "qrnn": {"zoneout": 0.2}, "attention": {"dropout": 0.1}}
    model = small_model("qafx", noise).train()
    before = torch.random.get_rng_state()
    model.empty_state(2, CPU)
    for block in model.own_blocks:
        block.empty_state(2, CPU)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(module.training for module in model.modules())


@torch.no_grad()
def test_in_lower_precision_an_empty_state_has_that_of_later_ones():
    for case in ("hybrid", "post-norm", "post-norm, token shift"):
        model = mixed_model(*MIXED[case])
        with torch.autocast("cpu", torch.bfloat16):
            empty = model.empty_state(2, CPU)
            _, after = model(texts(2, 12), empty)
        assert [part.dtype for part in tensors(after)] == [part.dtype for part in tensors(empty)]


def test_every_block_is_described_by_its_own_sizes():
    described = describe_model(mixed_model(*MIXED["hybrid"]))
    assert [row.shape for row in described.blocks] == [
        "12 cells, kernel size 2, fo pooling",
        "4 x 6, 2 kv, window 9, rotary",
        "16 -> 13, swiglu",
        "20 cells, kernel size 4, ifo pooling",
        "2 x 8, window 5, rotary",
        "16 -> 24, relu_squared",
        "16 cells, kernel size 1, f pooling",
        "1 x 5, window 2, none",
        "16 -> 40, gelu",
    ]
    assert [row.window for row in described.blocks] == [0, 9, 0, 0, 5, 0, 0, 2, 0]
    assert described.full_after == 9
    model = mixed_model(*MIXED["hybrid"])
    own = sum(x.numel() for block in model.own_blocks for x in block.parameters())
    assert sum(row.parameters for row in described.blocks) == own
    mixing = [block.mixing_flops(10**6) for block in model.own_blocks]
    assert mixing[1] == 2 * 2 * 10 * 24
    assert mixing[7] == 2 * 2 * 3 * 5


def test_maps_are_described_by_block():
    described = describe_model(mixed_model(*MIXED["structured maps"]))
    assert [row.shape.partition("; ")[2] for row in described.blocks] == [
        "",
        "",
        "",
        "feed_forward block_shuffle (2 blocks)",
        "attention low_rank (rank 5)",
        "qrnn block_dense (2 blocks, rank 6)",
    ]


@pytest.mark.parametrize("case", ["hybrid", "post-norm", "fused blocks"])
def test_the_exported_programs_are_the_model(tmp_path, case):
    pytest.importorskip("onnxruntime")
    from weft.export.check import check_program
    from weft.export.programs import write_program
    from weft.export.states import StateLayout

    model = mixed_model(*(MIXED | OTHERS)[case]).requires_grad_(False)
    layout = StateLayout(model)
    for name in ("step", "sequence"):
        write_program(name, model, layout, tmp_path / f"{name}.onnx")
        assert check_program(name, model, layout, tmp_path / f"{name}.onnx")


def test_another_window_is_that_of_every_attention(tmp_path):
    save_model(small_model("axqa", vocab_size=258), train_tokenizer("bytes", (), 258), tmp_path)
    assert [block.window for block in load_model(tmp_path, window=33).own_blocks] == [33, 33, 0, 33]

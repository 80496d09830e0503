"""Whoever asks the walk sees what stands at the sites of a stack, and can change it; nobody else notices."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
import torch

from tests.conftest import BIGRAMS, small_model
from tests.test_exact_state import VARIANTS, close, tokens_and_reset
from weft.errors import UserError
from weft.layers.sites import Edits
from weft.layers.state import tensors
from weft.model import ModelState

TOKENS = torch.arange(24).reshape(2, 12) % 11
CASES = [("qfa", {}, "modern"), ("[qf]2 x", {"ngrams": BIGRAMS}, "modern"), ("afq", {}, "classic")]


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def model(request):
    pattern, changes, preset = request.param
    return small_model(pattern, changes, preset).eval()


def names(model) -> list[str]:
    return [str(site) for site in model.sites()]


def traced(model, tokens=TOKENS, state=None, reset=None, *, sites=None, **how) -> dict[str, torch.Tensor]:
    """Everything that stands at the sites, the pieces laid end to end, and the last state."""
    sites = sites or {site.name for site in model.sites()}
    pieces = list(model.trace(tokens, state, reset, sites=tuple(sites), **how))
    together = {}
    for site in pieces[0].values:
        time = 2 if site.startswith("pattern") else 1
        together[site] = torch.cat([piece.values[site] for piece in pieces], dim=time)
    return together


@pytest.mark.parametrize(("pattern", "settings", "preset"), CASES)
@torch.no_grad()
def test_every_residual_is_seen_in_order_and_nothing_changes(pattern, settings, preset):
    model = small_model(pattern, settings, preset).eval()
    plain, state = model.hidden(TOKENS)
    (piece,) = model.trace(TOKENS)
    assert all(torch.equal(a, b) for a, b in zip(tensors(piece.state), tensors(state), strict=True))
    assert list(piece.values) == [f"residual.{depth}" for depth in range(model.depth + 1)]
    streams = list(piece.values.values())
    for depth, block in enumerate(model.schedule):
        y_BTD, _ = model.blocks[block](streams[depth])
        assert torch.equal(y_BTD, streams[depth + 1])
    assert torch.equal(model.normed(streams[-1]), plain)
    assert torch.equal(model.unembed(streams[-1]), model(TOKENS)[0])
    assert model.unembed(streams[0]).shape == (2, 12, 11)  # any hidden states


def test_a_trace_in_pieces_is_that_of_the_whole_and_of_each_row_alone(model):
    tokens, reset = tokens_and_reset(5)
    whole = traced(model, tokens, None, reset)
    assert list(whole) == names(model)
    for piece in (1, 7):
        in_pieces = traced(model, tokens, None, reset, piece=piece)
        for site, value in whole.items():
            close(in_pieces[site], value)
    for row in range(len(tokens)):
        alone = traced(model, tokens[row : row + 1], None, reset[row : row + 1])
        for site, value in whole.items():
            close(alone[site][0], value[row])


def test_what_stands_before_a_reset_is_not_seen_behind_it(model):
    tokens, _ = tokens_and_reset(6)
    reset = torch.zeros_like(tokens, dtype=torch.bool)
    reset[:, 9] = True
    behind = traced(model, tokens[:, 9:], None, reset[:, 9:])
    for site, value in traced(model, tokens, None, reset).items():
        if site.startswith("pattern"):
            close(behind[site], value[:, :, 9:])
        else:
            close(behind[site], value[:, 9:])


def test_a_trace_looks_at_the_text_that_the_model_reads(model):
    """The streams add up, cells end in the state's, patterns are weights of what was there."""
    tokens, reset = tokens_and_reset(7)
    values = traced(model, tokens, None, reset)
    logits, state = model(tokens, None, reset)
    close(model.unembed(values[f"residual.{model.depth}"]), logits)
    for depth, block in enumerate(model.schedule):
        module = model.blocks[block]
        if module.pre_norm:
            close(values[f"residual.{depth}"] + values[f"added.{depth}"], values[f"residual.{depth + 1}"])
        if f"cell.{depth}" in values:
            assert values[f"cell.{depth}"].dtype == torch.float32
            remembered = state.blocks[depth]
            remembered = getattr(remembered, "mixer", remembered)
            close(values[f"cell.{depth}"][:, -1], remembered.cell_BC)
            # c = f c + i z, where nothing crosses a reset
            before = torch.zeros_like(values[f"cell.{depth}"])
            before[:, 1:] = values[f"cell.{depth}"][:, :-1]
            before = before.masked_fill(reset[..., None], 0.0)
            made = values[f"forget.{depth}"] * before + values[f"update.{depth}"] * values[f"value.{depth}"]
            close(made, values[f"cell.{depth}"])
        if f"pattern.{depth}" in values:
            pattern = values[f"pattern.{depth}"]
            assert pattern.shape == (3, module.config.num_heads, tokens.shape[1], module.window + 1)
            close(pattern.sum(-1), torch.ones(pattern.shape[:3]))
            since = torch.zeros_like(tokens)  # positions since the document's start
            for t in range(1, tokens.shape[1]):
                since[:, t] = torch.where(reset[:, t], 0, since[:, t - 1] + 1)
            beyond = torch.arange(pattern.shape[-1]) > since[:, None, :, None]
            assert (pattern.masked_select(beyond) == 0).all()


@torch.no_grad()
def test_a_pattern_weighs_the_values_into_what_attention_gives():
    model = small_model("a", {"attention": {"num_heads": 4, "num_kv_heads": 2}}).eval()
    block = model.blocks[0]
    values = traced(model)
    x = values["residual.0"]
    h, _ = block.token_shift(block.norm(x), None, None)
    value = block.value(h).unflatten(-1, (2, -1)).repeat_interleave(2, dim=2)  # B, T, H, K
    attended = torch.zeros_like(value)
    for distance in range(min(block.window + 1, 12)):
        weights = values["pattern.0"][..., distance].transpose(1, 2)[:, distance:, :, None]
        attended[:, distance:] += weights * value[:, : 12 - distance]
    mixed = block.output(attended.flatten(2))
    close(values["gate.0"][..., None] * mixed, values["added.0"])


def test_a_kept_value_keeps_nothing_else():
    model = small_model("qfa").eval()
    for piece in model.trace(TOKENS, sites=("residual", "cell", "pattern", "gate"), piece=5):
        for value in piece.values.values():
            assert value.untyped_storage().nbytes() == value.numel() * value.element_size()
            assert not value.requires_grad


def test_a_trace_leaves_the_mode_as_it_was_even_half_read():
    model = small_model("qfa", {"dropout": 0.5}).train()
    pieces = model.trace(TOKENS, piece=3)
    first = next(pieces)
    assert model.training
    model.eval()
    close(first.values["residual.3"], next(model.trace(TOKENS, piece=3)).values["residual.3"])


def test_sites_are_chosen_by_name_and_depth_and_a_wrong_one_is_named():
    model = small_model("qfa").eval()
    chosen = next(model.trace(TOKENS, sites=("cell.0", "residual.3", "pattern")))
    assert list(chosen.values) == ["cell.0", "pattern.2", "residual.3"]
    with pytest.raises(UserError, match="no site 'cel': .*Did you mean 'cell'"):
        model.trace(TOKENS, sites=("cel",))  # at once, not when the first piece is asked for
    with pytest.raises(UserError, match=r"no site 'cell\.1': cell stands at the depths 0\."):
        model.trace(TOKENS, sites=("cell.1",))
    with pytest.raises(UserError, match=r"no site 'residual\.4'"):
        model.trace(TOKENS, sites=("residual.4",))
    with pytest.raises(UserError, match="'piece' is 0"):
        model.trace(TOKENS, piece=0)


@torch.no_grad()
def test_an_edit_is_what_is_read_and_seen_from_there_on():
    model = small_model("qfqf").eval()
    plain = traced(model, sites=("residual",))
    twice = Edits(read={2: lambda x_BTD: 2 * x_BTD})
    edited = traced(model, sites=("residual",), edits=twice)
    same = [torch.equal(plain[site], edited[site]) for site in plain]
    assert same == [True, True, False, False, False]
    assert torch.equal(edited["residual.2"], 2 * plain["residual.2"])
    hidden_BTD, _ = model.hidden(TOKENS, edits=twice)
    assert torch.equal(model.normed(edited["residual.4"]), hidden_BTD)


EDITS = {
    "a vector": lambda model: Edits(add={1: torch.linspace(-1, 1, model.config.hidden_size)}),
    "one a row": lambda model: Edits(add={0: torch.randn(3, model.config.hidden_size)}),
    "a function": lambda model: Edits(add={model.depth: lambda x_BTD: 0.5 * x_BTD}),
    "nothing added": lambda _: Edits(added={1: 0.0}),
    "another added": lambda model: Edits(added={0: torch.ones(model.config.hidden_size)}),
}


@pytest.mark.parametrize("edits", EDITS.values(), ids=EDITS)
@torch.no_grad()
def test_an_edited_text_in_pieces_is_the_edited_whole(model, edits):
    torch.manual_seed(0)
    edits = edits(model)
    tokens, reset = tokens_and_reset(8)
    whole, _ = model(tokens, None, reset, edits=edits)
    assert not torch.allclose(whole, model(tokens, None, reset)[0])
    for cuts in ([0, 7, 21], range(22)):
        state, logits = None, []
        for start, stop in pairwise(cuts):
            piece, state = model(tokens[:, start:stop], state, reset[:, start:stop], edits=edits)
            logits.append(piece)
        close(torch.cat(logits, dim=1), whole)


@torch.no_grad()
def test_edits_hold_where_their_mask_says():
    model = small_model("qfa").eval()
    mask_BT = torch.zeros(TOKENS.shape, dtype=torch.bool)
    mask_BT[0, 3] = True
    edits = Edits(add={1: torch.ones(16)}, added={2: 5.0}, mask_BT=mask_BT)
    seen = {}

    class All:
        def wants(self, name, depth):  # noqa: ARG002
            return name in ("residual", "added")

        def see(self, name, depth, value):
            seen[f"{name}.{depth}"] = value

    model.hidden(TOKENS, watch=All(), edits=edits)
    plain = traced(model, sites=("residual", "added"))
    close(seen["residual.1"][0, 3], plain["residual.1"][0, 3] + 1)
    seen["residual.1"][0, 3] = plain["residual.1"][0, 3]
    assert torch.equal(seen["residual.1"], plain["residual.1"])
    assert (seen["added.2"][0, 3] == 5).all()
    assert torch.equal(seen["added.2"][1], plain["added.2"][1])
    with pytest.raises(UserError, match="leave the mask out"):
        model.trace(TOKENS, edits=edits)


@torch.no_grad()
def test_an_edit_of_nothing_changes_no_bit(model):
    nothing = Edits(add={depth: 0.0 * torch.ones(model.config.hidden_size) for depth in range(model.depth + 1)})
    assert torch.equal(model(TOKENS, edits=nothing)[0], model(TOKENS)[0])
    targets = TOKENS.roll(-1, 1)
    assert torch.equal(model.surprisal(TOKENS, targets, edits=nothing)[0], model.surprisal(TOKENS, targets)[0])


@torch.no_grad()
def test_what_a_block_would_add_is_left_out_and_its_state_goes_on():
    model = small_model("qfa").eval()
    _, plain = model.hidden(TOKENS)
    _, edited = model.hidden(TOKENS, edits=Edits(added={0: 0.0}))
    close(edited.blocks[0].mixer.cell_BC, plain.blocks[0].mixer.cell_BC)
    stream = traced(model, sites=("residual",), edits=Edits(added={0: 0.0}))
    assert torch.equal(stream["residual.0"], stream["residual.1"])


@pytest.mark.parametrize("checkpointed", [False, True])
def test_gradients_flow_through_what_is_seen_and_what_is_put_in(checkpointed):
    model = small_model("qf").train()
    model.checkpoint_activations = checkpointed
    added_D = torch.zeros(16, requires_grad=True)
    seen = {}

    class Residuals:
        def wants(self, name, depth):  # noqa: ARG002
            return name == "residual"

        def see(self, name, depth, value):  # noqa: ARG002
            seen[depth] = value

    hidden_BTD, _ = model.hidden(TOKENS, watch=Residuals(), edits=Edits(add={1: added_D}))
    gradients = torch.autograd.grad(hidden_BTD.sum(), [added_D, seen[0], seen[2]])
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_two_threads_with_one_model_do_not_meet():
    model = small_model("qfqf")
    factors = [0.0, 0.5, 1.0, 2.0] * 4

    @torch.no_grad()
    def read(factor):
        return model.hidden(TOKENS, edits=Edits(read={1: lambda x_BTD: factor * x_BTD}))[0]

    alone = [read(factor) for factor in factors]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(read, factors))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize(("pattern", "settings", "preset"), CASES)
@torch.no_grad()
def test_the_state_has_names_and_the_order_of_0_1_0(pattern, settings, preset):
    model = small_model(pattern, settings, preset)
    _, state = model.hidden(TOKENS)
    assert isinstance(state, ModelState)
    assert len(state.blocks) == model.depth
    of_blocks = [tensor for part in state.blocks for tensor in tensors(part)]
    of_bigrams = tensors(state.embedding)
    assert [id(x) for x in tensors(state)] == [id(x) for x in (*of_blocks, *of_bigrams)]
    assert len(of_bigrams) == ("ngrams" in settings)

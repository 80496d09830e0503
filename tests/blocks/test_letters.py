"""Letters of one's own: blocks of one kind with other settings, each sized, trained and kept by itself."""

from __future__ import annotations

import pytest
import torch

import weft
from tests.training.test_run import StopAt, assert_same_run
from weft.errors import Interrupted, UserError
from weft.hf import WeftConfig, register
from weft.model import build
from weft.pretrained import load_model
from weft.sizing import configure, count_parameters, sized
from weft.training.recipe import make_recipe
from weft.training.resolve import described_model
from weft.training.run import train

LETTERS = {"G": {"block": "a", "num_kv_heads": 1, "window": 8}, "W": {"block": "feed_forward", "activation": "swiglu"}}


@pytest.mark.parametrize("settings", [{"letters": LETTERS}, {"letters": LETTERS, "hidden_size": 128}])
def test_what_they_leave_open_is_sized_by_the_usual_rules(settings):
    config = sized("qf GW af", parameters=1_000_000, vocab_size=512, settings=settings)
    with torch.device("meta"):
        real = build(config).parameter_count
    assert count_parameters(config) == real
    assert abs(real / 1e6 - 1) <= 0.01
    _, plain, grouped, gated, attention, other = config.blocks
    assert (grouped.kv_heads, grouped.window, attention.kv_heads, attention.window) == (1, 8, attention.num_heads, 256)
    assert (gated.activation, plain.activation) == ("swiglu", "relu_squared")
    assert plain == other
    assert gated.inner_size < plain.inner_size
    # All are stretched together, up to their rounding.
    by_rule = round(config.hidden_size * 8 / 3 / 8) * 8
    assert gated.inner_size / by_rule == pytest.approx(plain.inner_size / (4 * config.hidden_size), rel=0.15)


def test_sections_hold_for_letters_too_and_give_way_to_them():
    settings = {"hidden_size": 16, "attention": {"window": 9, "positions": "none"}, "letters": LETTERS}
    config = configure("aG x W", 30, settings)
    attention, grouped, fused, _ = config.blocks
    assert (attention.window, grouped.window, fused.window) == (9, 8, 9)
    assert grouped.positions == "none"


def test_a_letters_own_maps_are_its_own():
    letters = {"L": {"block": "f", "maps": {"kind": "low_rank", "rank": 3}}}
    config = configure("fL", 30, {"hidden_size": 16, "letters": letters})
    assert [block.maps.kind for block in config.blocks] == ["dense", "low_rank"]


def test_two_blocks_of_a_kind_train_resume_and_load_everywhere(tiny, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM

    narrow = {"N": {"block": "q", "cell_size": 6}, "G": {"block": "a", "num_heads": 4, "head_dim": 4, "window": 5}}
    values = tiny(model={"pattern": "qNf aG", "letters": narrow})
    train(values, tmp_path / "straight")
    with pytest.raises(Interrupted):
        train(values, tmp_path / "stopped", listener=StopAt(5, 15))
    train({}, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")
    run = tmp_path / "straight"
    model = load_model(run)
    assert [block.config.cell_size for block in model.blocks[:2]] == [32, 6]
    assert [block.config.window for block in model.blocks[3:]] == [16, 5]
    register()
    theirs = AutoModelForCausalLM.from_pretrained(run)
    tokens = torch.randint(0, 200, (1, 30))
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, model(tokens)[0])
    theirs.save_pretrained(tmp_path / "saved")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "saved").config.native.blocks == model.config.blocks
    sampling = weft.Sampling(temperature=0.0)
    written = weft.generate(run, "a", max_new_tokens=8, sampling=sampling)
    monkeypatch.setattr("weft.generation.fused.covers", lambda _: False)
    assert weft.generate(run, "a", max_new_tokens=8, sampling=sampling) == written


def test_a_run_is_gone_on_from_with_its_letters(tiny, tmp_path):
    narrow = {"N": {"block": "q", "cell_size": 6}}
    short = {"logging": {"samples": 0}, "steps": 2}
    train(tiny(model={"pattern": "qNf", "letters": narrow}, training=short), tmp_path / "run")
    model = {"pattern": "qNf", "hidden_size": 16}
    again = tiny(model=model | {"letters": {"N": {"block": "q", "cell_size": 6, "zoneout": 0.1}}})
    train(again, tmp_path / "again", init_from=tmp_path / "run")
    assert [getattr(block, "zoneout", None) for block in load_model(tmp_path / "again").config.blocks] == [0, 0.1, None]
    other = tiny(model=model | {"letters": {"N": {"block": "q", "cell_size": 7}}})
    with pytest.raises(UserError, match="leave out model.letters.N.cell_size"):
        train(other, tmp_path / "other", init_from=tmp_path / "run")
    training = {"start": {"block": "best"}, **short}
    some = tiny(model={"pattern": "[Nf]2", "letters": narrow}, training=training)
    train(some, tmp_path / "some", init_from=tmp_path / "run")
    assert load_model(tmp_path / "some").config.blocks == load_model(tmp_path / "run").config.blocks[1:]


HEADS = {"num_heads": 3, "num_kv_heads": 2}


@pytest.mark.parametrize(
    ("pattern", "letters", "words"),
    [
        ("qG", {}, "'G' is not a block.*model.letters defines"),
        ("qf", {"G": {"block": "a"}}, "'model.letters.G' is not in the pattern 'qf'"),
        (None, {"G": {"block": "a"}}, "give model.pattern too"),
        ("qG", {"G": {"window": 3}}, "'model.letters.G' names no kind of block"),
        ("qG", {"G": {"block": "z"}}, "'model.letters.G.block' is 'z': the blocks are a"),
        ("qG", {"G": {"block": "a", "windw": 3}}, "'model.letters.G.windw': did you mean 'window'"),
        ("qG", {"G": {"block": "a", "window": 0}}, "'model.letters.G.window' is 0"),
        ("qg", {"g": {"block": "a"}}, "'model.letters.g' is no letter of your own"),
        ("qG", {"G": {"block": "a", **HEADS}}, "multiple of num_kv_heads"),
    ],
)
def test_mistakes_are_told_in_a_sentence(pattern, letters, words):
    values = {"hidden_size": 16, "pattern": pattern, "letters": letters}
    with pytest.raises(UserError, match=words):
        described_model(make_recipe({"model": values}).model, 30)


@pytest.mark.parametrize("change", [{"pattern": "qfaf"}, {"architecture": "hybrid"}])
def test_another_pattern_leaves_the_letters_of_a_recipe_out(tiny, tmp_path, change):
    recipe = tiny(model={"pattern": "qGf", "letters": {"G": LETTERS["G"]}}, training={"steps": 1})
    run = weft.train(out=tmp_path / "run", recipe=recipe, settings={"model": change})
    assert not run.recipe.model.letters


def test_the_adapter_tells_the_heads_of_one_block():
    letters = {"G": {"block": "a", "num_heads": 4, "num_kv_heads": 2, "head_dim": 8}}
    config = configure("xf Gf", 30, {"hidden_size": 16, "letters": letters})
    told = WeftConfig(**config.model_dump(mode="json"))
    assert (told.num_attention_heads, told.num_key_value_heads, told.head_dim) == (4, 2, 8)


def test_a_recipe_with_letters_is_described_at_a_size_that_is_given(tmp_path):
    path = tmp_path / "letters.yaml"
    path.write_text("model: {pattern: qf Gf, letters: {G: {block: a, window: 8}}}")
    assert weft.describe(path, parameters="300k").parameters == pytest.approx(300_000, rel=0.01)

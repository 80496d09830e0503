"""A kind of block comes in by its own file and one line: everything else asks the registry."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
import torch
import yaml

import weft
from tests.blocks import toy
from tests.training.test_run import StopAt, assert_same_run
from weft import kinds
from weft.config import ModelConfig
from weft.errors import Interrupted, UserError
from weft.layers.state import tensors
from weft.model import build
from weft.pattern import expand
from weft.pretrained import load_config, load_model
from weft.reports.run.card import write_card
from weft.reports.run.finish import finish_run
from weft.sizing import count_parameters, sized
from weft.training.recipe import make_recipe
from weft.training.run import saved_recipe, train


@pytest.fixture(autouse=True)
def registered():
    kinds.kinds()
    kinds.register(toy.SPEC)
    yield
    kinds.unregister(toy.SPEC.letter)


def test_patterns_know_it():
    assert expand("(mf)2").letters == ("m", "f", "m", "f")
    with pytest.raises(UserError, match=r"x \(attn_qrnn\), m \(mean\)"):
        expand("mz")


def test_its_widths_meet_a_budget_beside_others():
    config = sized("mfqf mf", parameters=300_000, vocab_size=512)
    with torch.device("meta"):
        real = build(config).parameter_count
    assert count_parameters(config) == real
    assert abs(real / 300_000 - 1) <= 0.01
    assert config.blocks[0].inner_size != 3 * config.hidden_size  # stretched, as the others' widths


def test_its_section_of_a_recipe_is_checked_as_its_configuration_is():
    assert make_recipe({"model": {"mean": {"share": 0.25}}}).model.settings() == {"mean": {"share": 0.25}}
    with pytest.raises(UserError, match="Unknown key 'model.mean.shar': did you mean 'share'"):
        make_recipe({"model": {"mean": {"shar": 0.25}}})
    config = sized("mf", parameters=60_000, vocab_size=300, settings={"mean": {"share": 0.25, "inner_size": 12}})
    assert (config.blocks[0].share, config.blocks[0].inner_size) == (0.25, 12)


def test_its_maps_are_a_role_of_recipes():
    recipe = make_recipe({"model": {"maps": {"mean": {"kind": "low_rank", "rank": 4}}}})
    assert recipe.model.settings() == {"maps": {"mean": {"kind": "low_rank", "rank": 4}}}
    settings = {"maps": {"mean": {"kind": "low_rank", "rank": 4, "dense_first": 1}}}
    config = sized("mfm", parameters=60_000, vocab_size=300, settings=settings)
    assert [block.maps.kind for block in config.blocks] == ["dense", "dense", "low_rank"]
    with pytest.raises(UserError, match="Unknown key 'model.maps.median': did you mean 'mean'"):
        make_recipe({"model": {"maps": {"median": {"rank": 4}}}})


def test_config_json_holds_it():
    config = sized("m [f]2 {m}2", parameters=60_000, vocab_size=300)
    assert ModelConfig.parse(config.model_dump(mode="json")) == config


def test_it_can_be_described():
    described = weft.describe(sized("mf", parameters=60_000, vocab_size=300))
    assert [row.kind for row in described.blocks] == ["mean", "feed_forward"]


def test_it_trains_resumes_bit_for_bit_and_writes(tiny, tmp_path):
    values = tiny(model={"pattern": "mfa", "mean": {"share": 0.3}, "hidden_size": 16})
    train(values, tmp_path / "straight")
    with pytest.raises(Interrupted):
        train(values, tmp_path / "stopped", listener=StopAt(5, 15))
    train({}, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")
    run = tmp_path / "straight"
    assert saved_recipe(run).model.settings()["mean"] == {"share": 0.3}
    assert load_config(run).blocks[0].share == 0.3
    assert weft.generate(run, "a", max_new_tokens=8)
    model = load_model(run)
    tokens = torch.randint(0, 200, (2, 12))
    with torch.no_grad():
        whole, end = model(tokens)
        first, state = model(tokens[:, :5])
        second, state = model(tokens[:, 5:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    assert len(tensors(state)) == len(tensors(end))


def test_its_run_has_a_report_and_a_card(tiny, tmp_path):
    run = tmp_path / "run"
    train(tiny(model={"pattern": "mfa"}, training={"steps": 2, "logging": {"samples": 0}}), run)
    html = finish_run(run).read_text(encoding="utf-8")
    assert '<b class="k-m">running mean</b>' in html
    assert re.search(r'<i class="k-m"></i>running mean \d+ %', html)
    assert re.search(r'title="running mean: [\d,]+"', html)
    _, matter, body = (run / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert yaml.safe_load(matter)["tags"] == ["weft", "small-language-model", "transformer", "mean", "hybrid"]
    assert "| 0 | mean | mean of 48 |" in body


@pytest.mark.parametrize(("tag", "tags"), [("", ["transformer"]), ("my-mean", ["transformer", "my-mean", "hybrid"])])
def test_a_kind_says_its_tag(tmp_path, tag, tags):
    kinds.unregister(toy.SPEC.letter)
    kinds.register(dataclasses.replace(toy.SPEC, tag=tag))
    config = sized("mfa", parameters=60_000, vocab_size=300).model_dump(mode="json")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "weft", **config}))
    matter = write_card(tmp_path).read_text(encoding="utf-8").split("---\n", 2)[1]
    assert yaml.safe_load(matter)["tags"] == ["weft", "small-language-model", *tags]


@pytest.mark.parametrize(
    ("letter", "words"), [("M", "from a to z"), ("f", "there is a kind f"), ("n", r"m \(mean\) already")]
)
def test_a_letter_or_a_name_that_is_taken_is_refused(letter, words):
    spec = kinds.BlockSpec(letter=letter, name="mean", title="", config=toy.MeanConfig, block=toy.MeanBlock)
    with pytest.raises(ValueError, match=words):
        kinds.register(spec)

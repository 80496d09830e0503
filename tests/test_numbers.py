"""Every number that a configuration or an option takes has bounds, and what lies beyond is told in one sentence."""

from __future__ import annotations

import importlib
import math
import pkgutil
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest

import weft
from tests.command import assert_mistake, run_weft
from weft import memory, settings
from weft.cli.app import app
from weft.errors import UserError
from weft.memory import TooLargeError, available_bytes, check_memory
from weft.model import build
from weft.model_recipe import ModelRecipe
from weft.numbers import MAX_PARAMETERS
from weft.pattern import expand, parse_count
from weft.settings import FrozenConfig, section_of
from weft.sizing import configure, sized
from weft.training.recipe import TrainingConfig, make_recipe
from weft.words import short

DEEP: Any = []
for _ in range(900):
    DEEP = [DEEP]
# Beyond any bound, whatever a number is of; and what is no number.
WILD = {
    int: (-1, 10**26, 2**63, 2**64, -(10**26), math.nan, math.inf, 0.5, "many", [], DEEP, {}, object()),
    float: (-1.0, 1e300, -1e300, math.nan, math.inf, -math.inf, 10**400, "much", [], DEEP, {}, object()),
}
MEANT = {
    ("OptimizerConfig", "clip", 1e300),
    ("OptimizerConfig", "clip", math.inf),
    ("OptimizerConfig", "clip", 10**400),
}


def all_configurations() -> list[type[FrozenConfig]]:
    for module in pkgutil.walk_packages(weft.__path__, "weft."):
        if not module.name.startswith(("weft.ops.triton", "weft.__main__", "weft.export")):
            importlib.import_module(module.name)
    found, waiting = [], [FrozenConfig]
    while waiting:
        below = [each for each in waiting.pop().__subclasses__() if each.__module__.startswith("weft.")]
        found += below
        waiting += below
    return found


def numbers_in(annotation: Any) -> set[type]:
    """The kinds of numbers that a field takes, at whatever depth."""
    if get_origin(annotation) is Annotated or get_origin(annotation) in (tuple, list, dict, Union, UnionType):
        return set().union(*map(numbers_in, get_args(annotation)), set())
    return {annotation} & {int, float}


FIELDS = [
    (section, name, kind)
    for section in all_configurations()
    for name, field in section.model_fields.items()
    for kind in numbers_in(field.annotation)
]


def told(section: type[FrozenConfig], name: str, value: Any) -> str:
    """The sentence about ``value``; values that are missing beside it are not what it is about."""
    with pytest.raises(UserError) as mistake:
        settings.check_values({name: value}, section, where="here")
    return str(mistake.value)


@pytest.mark.parametrize(("section", "name", "kind"), FIELDS, ids=lambda part: getattr(part, "__name__", part))
def test_no_number_is_without_bounds(section, name, kind):
    """A new field without bounds fails here: take a kind of weft.numbers, or say the bounds at the field."""
    inner = section.model_fields[name].annotation
    nested = 0
    while (get_origin(inner) is tuple) or tuple in map(get_origin, get_args(inner)):
        inner = get_args(inner)[0] if get_origin(inner) is tuple else next(x for x in get_args(inner) if get_origin(x))
        nested += 1
    length = len(get_args(section.model_fields[name].annotation)) if name == "betas" else 1
    for value in WILD[kind]:
        if (section.__name__, name, value if isinstance(value, int | float) else None) in MEANT:
            continue
        wrapped = value
        for _ in range(nested):
            wrapped = [wrapped] * length
        sentence = told(section, name, wrapped)
        assert f"'here.{name}" in sentence
        assert "\n" not in sentence
        assert len(sentence) < 300


def test_a_field_of_numbers_is_found_at_any_depth():
    assert {(section.__name__, name) for section, name, _ in FIELDS} >= {
        ("MapConfig", "factors"),
        ("AdaptiveConfig", "cutoffs"),
        ("StartConfig", "block"),
        ("Plan", "seeds"),
    }


def test_an_unbounded_field_would_fail():
    class Loose(FrozenConfig):
        many: int = 1
        few: float = 0.5

    with pytest.raises(pytest.fail.Exception):
        told(Loose, "many", 10**26)
    with pytest.raises(pytest.fail.Exception):
        told(Loose, "few", 1e300)
    assert "finite" in told(Loose, "few", math.nan)


def test_sections_of_a_recipe_are_checked_as_the_models_are():
    sections = [name for name in ModelRecipe.model_fields if section_of(ModelRecipe, name)]
    assert sections == ["adaptive", "ngrams"]
    assert ModelRecipe.keys()[-4:] == ["attention", "feed_forward", "qrnn", "attn_qrnn"]
    for section, key, value, sentence in [
        ("attention", "head_dim", 0, "'model.attention.head_dim' is 0: input should be greater than 0."),
        ("attention", "window", 999_999_999_999, "'model.attention.window' is 999999999999"),
        ("qrnn", "zoneout", math.nan, "'model.qrnn.zoneout' is nan: input should be a finite number."),
        ("adaptive", "cutoffs", [], "'model.adaptive.cutoffs' is []"),
        ("attention", "windo", 3, "Unknown key 'model.attention.windo': did you mean 'window'?"),
    ]:
        with pytest.raises(UserError) as mistake:
            make_recipe({"model": {section: {key: value}}})
        assert str(mistake.value).startswith(sentence)
    with pytest.raises(UserError, match=r"'model.maps.qrnn.rank' is -3"):
        make_recipe({"model": {"maps": {"qrnn": {"rank": -3}}}})
    with pytest.raises(UserError, match=r"Unknown key 'model.maps.qrn': did you mean 'qrnn'"):
        make_recipe({"model": {"maps": {"qrn": {"rank": 3}}}})
    with pytest.raises(UserError, match=r"Unknown key 'model.maps.ran': did you mean '\w+.rank'"):
        make_recipe({"model": {"maps": {"ran": {}}}})
    with pytest.raises(UserError, match=r"'model.attention.num_heads' is 'x'"):
        sized("af", parameters="1M", settings={"attention": {"num_heads": "x"}})


def test_values_that_are_too_large_together_are_told():
    with pytest.raises(UserError, match="make a step of 34,359,738,368 tokens"):
        TrainingConfig.parse({"batch": {"batch_size": 1 << 15, "sequence_length": 1 << 20}})
    with pytest.raises(UserError, match="is more than 1,048,576 features"):
        configure("a", 300, {"hidden_size": 64, "attention": {"num_heads": 1 << 20, "head_dim": 64}})


@pytest.mark.parametrize("parameters", ["1e26", "9" * 26, "9" * 400, 0, MAX_PARAMETERS * 10])
def test_a_size_beyond_all_models_is_told_at_once(parameters):
    with pytest.raises(UserError) as mistake:
        sized("hybrid", parameters=parameters)
    assert len(str(mistake.value)) < 200


def test_a_count_that_is_none_is_told_in_short():
    with pytest.raises(UserError) as mistake:
        parse_count("x" * 100_000)
    assert len(str(mistake.value)) < 200
    assert len(short(10**5000)) < 100
    assert len(short(DEEP)) < 100


@pytest.mark.parametrize(
    "pattern", ["(" * 4999 + "a" + ")" * 5000, "[" * 40 + "a" + "]9" * 40, "qf" * 9999, "q" * 3000]
)
def test_a_pattern_beyond_all_models_is_told(pattern):
    with pytest.raises(UserError, match=r"Brackets nest|characters; the most|blocks; the most"):
        expand(pattern)


def test_a_model_that_memory_does_not_hold_is_told_before_it_is_made(monkeypatch):
    assert available_bytes() > 1e6
    check_memory(1, "This", "leave it")
    config = configure("f", 300, {"hidden_size": 1 << 18})  # 2 TB
    with pytest.raises(TooLargeError, match=r"A model of 549,[0-9,]+ parameters needs at least 2[0-9.]+ GB"):
        build(config)
    monkeypatch.setattr(memory, "available_bytes", lambda: 1e5)
    assert build(configure("f", 300, {"hidden_size": 16})).parameter_count < 25_000
    with pytest.raises(TooLargeError, match="make it smaller"):
        build(configure("f", 300, {"hidden_size": 64}))


def test_training_that_memory_does_not_hold_is_told_before_it_begins(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("\n".join(f"The weaver threw shuttle {n} of {n * n}." for n in range(400)))
    monkeypatch.setattr(memory, "available_bytes", lambda: 1e6)
    small = ["--tokenizer", "bytes", "--pattern", "fa", "--set", "model.hidden_size=64", "--steps", 1]
    ran = run_weft("train", tmp_path / "text.txt", "--out", tmp_path / "run", *small)
    assert_mistake(ran, "parameters on 8 segments of 128 tokens needs at least", "ask for fewer parameters")
    assert not (tmp_path / "run").exists()


def numeric_options() -> list[tuple[str, str]]:
    found = []
    for command in app.registered_commands:
        for name, annotation in get_type_hints(command.callback).items():
            if numbers_in(annotation):
                found.append((command.callback.__name__, f"--{name.replace('_', '-')}"))
    return found


WORDS = [("train", "--parameters"), ("train", "--tokens"), ("describe", "--parameters"), ("compare", "--parameters")]
WORDS += [("compare", "--tokens"), ("compare", "--learning-rates"), ("compare", "--seeds"), ("train", "--init-block")]


@pytest.mark.parametrize(("command", "option"), [*numeric_options(), *WORDS])
@pytest.mark.parametrize("value", ["-1", "1" + "0" * 26, "nan", "[[[[]]]]"])
def test_no_option_takes_a_number_that_nothing_has(tmp_path, monkeypatch, command, option, value):
    if option == "--learning-rates" and value.isdecimal():
        pytest.skip("a rate at which training diverges, which is told when it does")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("The weaver threw the shuttle.\n" * 100)
    needed = {"describe": ["af"], "cache": [], "demo": [], "serve": ["run"], "train": ["text.txt", "--out", "out"]}
    needed["compare"] = ["text.txt", "--out", "out", *(["--minutes", "1"] if option != "--tokens" else [])]
    arguments = needed.get(command, ["run"])
    if command in ("merge", "unshare", "tensorise"):
        arguments = [*arguments, "--out", "out"]
    if option == "--init-block":
        arguments = [*arguments, "--init-from", "run"]
    ran = run_weft(command, *arguments, f"{option}={value}")
    assert ran.code == 2
    assert "Traceback" not in ran.err
    assert "There is no run" not in ran.err, "the number is told only after the folder was looked for"
    assert not (tmp_path / "out").exists()

"""The pattern language reads what people write and points at what it cannot read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.architectures import ARCHITECTURES, default_pairs
from weft.errors import UserError
from weft.pattern import PatternError, expand, parse_count, written


def letters(pattern):
    stack = expand(pattern)
    return "".join(stack.letters[block] for block in stack.schedule)


def numbers(pattern):
    return list(expand(pattern).schedule)


@pytest.mark.parametrize(
    ("pattern", "kinds"),
    [
        ("(af)12", "af" * 12),
        ("(affff)4 f4", "affff" * 4 + "ffff"),
        ("(qf)2 (afqf)3", "qfqf" + "afqf" * 3),
        ("q6", "q" * 6),
        ("x2", "xx"),
        ("((qf)2a)2", "qfqfa" * 2),
        (" ( a f ) 2 ", "afaf"),
        ("[qfaf]3", "qfaf" * 3),
        ("(q)", "q"),
    ],
)
def test_expansion(pattern, kinds):
    assert letters(pattern) == kinds


@pytest.mark.parametrize(
    ("pattern", "blocks"),
    [
        ("(qf)2", [0, 1, 2, 3]),
        ("[qf]2", [0, 1, 0, 1]),
        ("[q2]2", [0, 1, 0, 1]),
        ("([q]2)2", [0, 0, 1, 1]),
        ("[(q)2]2f", [0, 1, 0, 1, 2]),
        ("[q[f]2]2", [0, 1, 1, 0, 1, 1]),
    ],
)
def test_square_brackets_share_parameters(pattern, blocks):
    assert numbers(pattern) == blocks


@pytest.mark.parametrize(
    ("pattern", "position", "word"),
    [
        ("", 0, "empty"),
        ("(af", 0, "never closed"),
        ("(a[f)2", 4, "closes nothing"),
        ("af)", 2, "closes nothing"),
        ("a()2", 1, "empty"),
        ("az", 1, "not a block"),
        ("3a", 0, "must follow"),
        ("a0", 1, "repeat count"),
        ("a99999", 1, "repeat count"),
        ("a{qf2", 1, "never closed"),
        ("(a1000)1000", 0, "most"),
    ],
)
def test_errors_point_at_the_character(pattern, position, word):
    with pytest.raises(PatternError, match=word) as caught:
        expand(pattern)
    assert caught.value.position == position
    shown, caret = str(caught.value).splitlines()[-2:]
    assert shown.strip() == pattern.strip()
    assert caret.index("^") - 2 == position


@given(st.text("afqx()[]{}0123456789 ", max_size=12))
def test_any_string_is_read_or_refused_politely(pattern):
    try:
        assert len(expand(pattern).schedule) >= 1
    except PatternError as error:
        assert 0 <= error.position <= len(pattern)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("pairs", range(2, 20))
def test_named_architectures_keep_their_promise(name, pairs):
    kinds = letters(ARCHITECTURES[name].pattern(pairs))
    if name in ("transformer", "transformer-xl"):
        assert kinds == "af" * pairs
    elif name == "par":
        assert len(kinds) == 2 * pairs
        assert kinds.count("a") == max(1, 2 * pairs // 5)
        assert max(i for i, kind in enumerate(kinds) if kind == "a") <= len(kinds) * 2 / 3
    elif name == "sha-qrnn":
        assert kinds.count("a") == 1
        assert kinds.endswith("qafqf")
    elif name == "hybrid":
        assert len(kinds) == 2 * pairs
        assert 1 <= kinds.count("a") <= pairs / 2
        assert kinds[0] == "q"
    else:
        assert set(kinds) == {"x" if name == "attn-qrnn" else "q"}


def test_published_par_strings():
    """x-transformers' reading of the rule: 24 blocks and 32 blocks."""
    assert letters(ARCHITECTURES["par"].pattern(12)) == "affff" * 4 + "ffff"
    assert letters(ARCHITECTURES["par"].pattern(16)) == "afff" * 6 + "f" * 8


@pytest.mark.parametrize(("pairs", "kinds"), [(2, "qfaf"), (3, "qfafqf"), (4, "qfqfafqf"), (7, "qfqfafqfqfqfaf")])
def test_attention_is_upper_middle_in_a_hybrid(pairs, kinds):
    assert letters(ARCHITECTURES["hybrid"].pattern(pairs)) == kinds


def test_depth_rule():
    assert [default_pairs(n) for n in (1e6, 2e6, 41e6)] == [3, 3, 12]


@pytest.mark.parametrize(
    ("text", "count"), [("2M", 2_000_000), ("2e6", 2_000_000), ("1.5k", 1500), ("1_000", 1000), (7, 7)]
)
def test_counts(text, count):
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "many", "-3", "2MM"])
def test_bad_counts(text):
    with pytest.raises(UserError, match="2M"):
        parse_count(text)


@pytest.mark.parametrize(
    "pattern",
    ["qf[qf]2", "(af)2[af]2", "f[f]2", "[qf]2qf[qf]2", "{qf}2[qf]2", "(q[fa]2)2", "[qf]3a", "qa{f}2 [af]3", "f{f}2f"],
)
def test_a_pattern_that_is_written_for_people_is_of_the_same_stack(pattern):
    stack = expand(pattern)
    again = expand(written(stack))
    assert (again.letters, again.schedule, again.centrals) == (stack.letters, stack.schedule, stack.centrals)


def bracketed(parts):
    """Return a strategy of groups of ``parts`` that repeat two or three times."""

    def group(given):
        inner, brackets, times = given
        return f"{brackets[0]}{''.join(inner)}{brackets[1]}{times}"

    return st.tuples(parts, st.sampled_from(["()", "[]", "{}"]), st.integers(2, 3)).map(group)


@given(
    st.recursive(st.sampled_from("afq"), lambda inner: bracketed(st.lists(inner, min_size=1, max_size=3)), max_leaves=5)
)
def test_any_pattern_that_is_written_for_people_is_of_the_same_stack(pattern):
    stack = expand(pattern)
    again = expand(written(stack))
    assert (again.letters, again.schedule, again.centrals) == (stack.letters, stack.schedule, stack.centrals)

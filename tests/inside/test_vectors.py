"""Steering vectors: made from pairs, kept under a name, added up, and scored."""

from __future__ import annotations

import json
import math

import pytest
import torch

import weft
from tests.command import assert_mistake, run_weft
from weft.generation.steering import Steering
from weft.inside import Edits, vectors
from weft.inside.pairs import Pair, read_pairs
from weft.inside.states import vectors_of

PAIRS = [Pair("", f"weaver {n} threw the shuttle", f"0123 {n} !? 456") for n in range(7)]
QUESTIONS = [Pair(f"Number {n}: the ", "weaver", "01") for n in range(6)]


def write_pairs(path, pairs=PAIRS):
    rows = [{"positive": pair.positive, "negative": pair.negative} for pair in pairs]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


@pytest.fixture
def opened(run):
    return weft.Run(run)


@pytest.fixture
def vector(opened):
    return vectors.make_vector(opened.model, opened.tokenizer, PAIRS, "words", sites="both")


def test_pairs_are_read_in_every_form(tmp_path):
    rows = [
        {"prompt": "a", "matching": "b", "other": "c"},
        {"question": "q", "answer_matching_behavior": "(A)", "answer_not_matching_behavior": "(B)"},
        {"positive": "x", "negative": "y"},
    ]
    expected = [Pair("a", "b", "c"), Pair("q", "(A)", "(B)"), Pair("", "x", "y")]
    lines, array = tmp_path / "lines.jsonl", tmp_path / "array.json"
    lines.write_text("\n\n".join(map(json.dumps, rows)))
    array.write_text(json.dumps(rows, indent=1))
    assert read_pairs(lines) == read_pairs(array) == expected


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ('{"positive": "a", "negative": "a"}\n{"positive": "a", "negative": "b"}', "both sides are the same"),
        ('{"positive": "", "negative": "a"}\n{"positive": "a", "negative": "b"}', "one side is empty"),
        ('{"positive": "a", "negative": "b"}', "holds 1 pair: give two"),
        ("", "holds 0 pairs"),
        ('{"positive": "a"}\n{"positive": "a", "negative": "b"}', "has not the fields of a pair"),
        ('{"positive": 1, "negative": "b"}\n{"positive": "a", "negative": "b"}', "must be texts"),
        ('{"positive": "a", "negative": "b"}\n{"pos', "Line 2"),
    ],
)
def test_what_is_wrong_with_pairs_is_said(tmp_path, content, word):
    path = tmp_path / "pairs.jsonl"
    path.write_text(content)
    with pytest.raises(weft.UserError, match=word):
        read_pairs(path)


@torch.no_grad()
def test_a_vector_is_the_mean_difference_at_every_depth_and_of_the_state(opened, vector):
    model, tokenizer = opened.model, opened.tokenizer
    sums = {}
    shifted = {}
    for pair in PAIRS:
        for text, sign in ((pair.positive, 1), (pair.negative, -1)):
            tokens = torch.tensor([[tokenizer.boundary_id, *tokenizer.encode(text).tolist()]])
            (piece,) = model.trace(tokens, piece=1000)
            for site, value in piece.values.items():
                sums[site] = sums.get(site, 0) + sign * value[0, -1] / len(PAIRS)
            for place, part in vectors_of(piece.state).items():
                shifted[place] = shifted.get(place, 0) + sign * part / len(PAIRS)
    torch.testing.assert_close(vector.residual_LD, torch.stack(list(sums.values())), rtol=1e-4, atol=1e-5)
    for place, part in vectors_of(vector.state).items():
        torch.testing.assert_close(part, shifted[place], rtol=1e-4, atol=1e-5)


def test_steering_towards_a_side_makes_it_likelier_and_away_unlikelier(opened):
    model, tokenizer = opened.model, opened.tokenizer
    vector = vectors.make_vector(model, tokenizer, PAIRS, "words", at="mean")

    def odds(multiplier):
        steer = vector.steering(multiplier)
        return sum(vectors.log_odds(model, tokenizer, pair, steer) for pair in PAIRS)

    assert odds(-0.3) < odds(0.0) < odds(0.3)
    assert odds(0.0) == pytest.approx(sum(vectors.log_odds(model, tokenizer, pair) for pair in PAIRS), abs=1e-5)


@pytest.mark.parametrize("method", ["mean", "lda"])
@pytest.mark.parametrize("at", ["last", "mean"])
def test_vectors_of_both_methods_have_the_length_of_the_mean_difference(opened, method, at):
    made = vectors.make_vector(opened.model, opened.tokenizer, PAIRS, "words", at=at, method=method)
    mean = vectors.make_vector(opened.model, opened.tokenizer, PAIRS, "words", at=at)
    torch.testing.assert_close(made.residual_LD.norm(dim=-1), mean.residual_LD.norm(dim=-1), rtol=1e-3, atol=1e-6)


def test_what_is_kept_is_what_was_made_and_vectors_add_up(opened, vector):
    model, folder = opened.model, opened.folder
    vectors.save_vector(vector, folder)
    kept = vectors.load_vector(folder, model, "words")
    assert torch.equal(kept.residual_LD, vector.residual_LD)
    assert (kept.depth, kept.sites, kept.pairs) == (vector.depth, "both", len(PAIRS))
    for place, part in vectors_of(vector.state).items():
        assert torch.equal(vectors_of(kept.state)[place], part)
    vectors.save_vector(vectors.make_vector(model, opened.tokenizer, QUESTIONS, "other"), folder)
    assert vectors.vector_names(folder) == ["other", "words"]
    both = vectors.steering(folder, model, {"words": 2.0, "other": -1.0})
    other = vectors.load_vector(folder, model, "other")
    expected = {vector.depth: 2 * vector.residual_LD[vector.depth]}
    more = -other.residual_LD[other.depth]
    expected[other.depth] = expected[other.depth] + more if other.depth in expected else more
    assert both.edits.add.keys() == expected.keys()
    for depth, vector_D in expected.items():
        torch.testing.assert_close(both.edits.add[depth], vector_D)
    once, twice = (vectors.steering(folder, model, {"words": times}).shift for times in (1.0, 2.0))
    state = model.empty_state(1, torch.device("cpu"))
    for one, two in zip(vectors_of(once(state)).values(), vectors_of(twice(state)).values(), strict=True):
        torch.testing.assert_close(2 * one, two)


def test_completions_are_scored_as_the_steered_model_writes_them(opened, vector):
    """The nats of a completion are those of its tokens, one after another, with the state in hand."""
    model, tokenizer = opened.model, opened.tokenizer
    steer = vector.steering(1.0)
    ids = [tokenizer.boundary_id, *tokenizer.encode("Number ").tolist()]
    after = tokenizer.encode("12: ").tolist()
    with torch.no_grad():
        _, state = model(torch.tensor([ids[:-1]]))
        state = steer.shift(state)
        nats, token = 0.0, ids[-1]
        for target in after:
            logits, state = model(torch.tensor([[token]]), state, edits=steer.edits)
            nats -= float(logits[0, -1].log_softmax(-1)[target])
            token = target
    assert vectors.completion_nats(model, tokenizer, "Number ", "12: ", steer) == pytest.approx(nats, rel=1e-4)


def test_figures_have_a_row_for_each_thing_that_is_steered(opened, vector):
    rows = vectors.figures(opened.model, opened.tokenizer, vector, QUESTIONS, (-1.0, 0.0, 1.0))
    assert len(rows) == 2 * 3 * 3
    for row in rows:
        assert 0 <= row["matching"] <= 1
        assert 0 <= row["wrong"] <= 1
        assert row["outside"] <= 1
        if row["multiplier"] == 0:
            assert abs(row["moved"]) < 1e-5
    same = {round(row["log_odds"], 5) for row in rows if row["multiplier"] == 0}
    assert len(same) == 1
    texts = vectors.figures(opened.model, opened.tokenizer, vector, PAIRS, (1.0,))
    assert all(row["matching"] is None for row in texts)


def test_the_commands_make_list_write_and_score(run, tmp_path):
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    told = run_weft("steer", run, "--pairs", pairs, "--name", "words", "--test", pairs, "--json")
    assert "7 pairs of" in told.err  # the test's pairs stand in the others
    assert len(told.json()["test"]) == 42
    assert run_weft("steer", run, "--json").json() == ["words"]
    assert "words" in run_weft("steer", run).out
    shown = run_weft("steer", run, "--pairs", pairs, "--name", "words", "--test", pairs)
    assert "moved the wrong way" in " ".join(shown.out.split()) or "log odds" in shown.out

    how = ("generate", run, "--prompt", "Number", "--temperature", 0, "--max-new-tokens", 20, "--no-memory", "--json")
    plain = run_weft(*how).json()
    steered = run_weft(*how, "--steer", "words=20").json()
    assert steered != plain
    assert run_weft(*how, "--steer", "words=0").json() == plain
    sampling = weft.Sampling(temperature=0)
    from_python = weft.generate(
        run, "Number", max_new_tokens=20, sampling=sampling, memory=False, steer={"words": 20.0}
    )
    assert from_python == steered[0]["text"]

    frozen = run_weft("evaluate", run, "--no-memory", "--json").json()["bits_per_byte"]
    assert run_weft("evaluate", run, "--no-memory", "--json", "--steer", "words=0").json()["bits_per_byte"] == frozen
    moved = run_weft("evaluate", run, "--no-memory", "--json", "--steer", "words=20").json()["bits_per_byte"]
    vector = vectors.load_vector(run, weft.Run(run).model, "words")
    edits = Edits(add={vector.depth: 20 * vector.residual_LD[vector.depth]})
    assert moved == pytest.approx(weft.Run(run).evaluate(memory=False, edits=edits).bits_per_byte)
    assert abs(moved - frozen) > 1e-3


def test_mistakes_are_told_in_a_sentence(run, tmp_path):
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    assert_mistake(run_weft("steer", run, "--pairs", pairs), "--name")
    assert_mistake(run_weft("steer", run, "--name", "words"), "--pairs")
    assert_mistake(run_weft("steer", run, "--pairs", pairs, "--name", "a/b"), "'a/b' is no name")
    assert_mistake(run_weft("steer", run, "--pairs", pairs, "--name", "a", "--sites", "all"), "no --sites 'all'")
    assert_mistake(run_weft("steer", run, "--pairs", tmp_path / "no.jsonl", "--name", "a"), "cannot be read")
    assert_mistake(run_weft("generate", run, "--steer", "words=1"), "has no vector 'words': make one")
    run_weft("steer", run, "--pairs", pairs, "--name", "words", "--sites", "state")
    assert_mistake(run_weft("generate", run, "--steer", "word=1"), "has no vector 'word': there are words")
    for wrong in ("words", "words=", "words=x", "=1"):
        assert_mistake(run_weft("generate", run, "--steer", wrong), "--steer takes a vector's name")
    for wrong in ("words=inf", "words=nan"):
        assert_mistake(run_weft("generate", run, "--steer", wrong), "give a finite number")
    assert_mistake(run_weft("generate", run, "--steer", "words=1", "--steer", "words=2"), "twice")
    assert_mistake(run_weft("generate", run, "--steer-range", "some"), "no --steer-range 'some'")
    assert_mistake(run_weft("evaluate", run, "--steer", "words=1"), "do not steer the state")
    assert_mistake(run_weft("evaluate", run, "--steer", "words=1", "--adapt"), "leave --tokens and --adapt out")
    path = run / "steering" / "words.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:50])
    assert_mistake(run_weft("generate", run, "--steer", "words=1"), "is damaged")
    path.write_bytes(whole)
    weights = bytearray((run / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (run / "model.safetensors").write_bytes(weights)
    assert_mistake(run_weft("generate", run, "--steer", "words=1"), "of other weights")


def test_a_model_is_written_with_and_scored_with_nothing_else_changed(opened, vector):
    assert isinstance(vector.steering(1.0), Steering)
    assert math.isfinite(vectors.log_odds(opened.model, opened.tokenizer, PAIRS[0]))
    with pytest.raises(weft.UserError, match="frozen weights"):
        opened.evaluate(edits=Edits(), adapt=True)

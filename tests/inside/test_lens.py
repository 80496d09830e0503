"""Every depth's guess of the next token: what a lens says, how it is trained, and what is kept of it."""

from __future__ import annotations

import math

import pytest
import torch

import weft
from tests.command import assert_mistake, run_weft
from weft.inside import lens as lenses
from weft.inside.lens import LENS, Lens, lens_figures, lens_grid, load_lens, train_lens
from weft.reading import read_split


@pytest.fixture(scope="module")
def made(trained) -> Lens:
    opened = weft.Run(trained)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lenses, "RATE", 2e-2)  # for a few steps
        return train_lens(opened.model, opened.tokenizer, *texts(opened, "train", "validation"))


def texts(run, *names):
    return [read_split(run.folder, run.tokenizer, (), name) for name in names]


def test_a_tuned_lens_is_never_worse_than_the_logit_lens_on_the_validation_text(made):
    assert all(tuned <= logit for tuned, logit in zip(made.tuned_kl, made.logit_kl, strict=True))
    assert made.tuned_kl[0] < 0.8 * made.logit_kl[0]
    assert (made.maps_LDD[0] != 0).any()


def test_a_depth_at_which_nothing_was_better_keeps_the_logit_lens(trained, monkeypatch):
    opened = weft.Run(trained)
    monkeypatch.setattr(lenses, "RATE", 1e6)  # makes everything worse
    lens = train_lens(opened.model, opened.tokenizer, *texts(opened, "train", "validation"))
    assert lens.tuned_kl == lens.logit_kl
    assert not lens.maps_LDD.any()
    assert not lens.biases_LD.any()


def test_training_leaves_the_model_as_it_was_and_comes_out_the_same(trained, made, monkeypatch):
    opened = weft.Run(trained)
    monkeypatch.setattr(lenses, "RATE", 2e-2)
    before = [parameter.detach().clone() for parameter in opened.model.parameters()]
    again = train_lens(opened.model, opened.tokenizer, *texts(opened, "train", "validation"))
    assert torch.equal(again.maps_LDD, made.maps_LDD)
    for parameter, was in zip(opened.model.parameters(), before, strict=True):
        assert torch.equal(parameter, was)
        assert parameter.grad is None


@torch.no_grad()
def test_figures_are_those_of_the_whole_text_and_end_in_the_models(trained, made):
    opened = weft.Run(trained)
    model, tokenizer = opened.model, opened.tokenizer
    (text,) = texts(opened, "test")
    figures = lens_figures(model, made, text, boundary_id=tokenizer.boundary_id)
    metrics = opened.evaluate(memory=False)
    assert figures.model == pytest.approx(metrics.bits_per_byte, abs=1e-6)
    assert [depth.block for depth in figures.depths] == ["embedding", "q", "f"]
    assert figures.depths[0].tuned < figures.depths[0].logit
    # By hand, a document at a time.
    nats = [0.0] * model.depth
    for document in range(text.documents):
        ids = torch.tensor(text.tokens[text.offsets[document] : text.offsets[document + 1]].astype("int64"))[None]
        (piece,) = model.trace(ids[:, :-1], piece=10_000)
        for depth in range(model.depth):
            logs = model.unembed(piece.values[f"residual.{depth}"]).log_softmax(-1)
            nats[depth] -= float(logs.gather(-1, ids[:, 1:, None]).sum())
    for depth, total in zip(figures.depths, nats, strict=True):
        assert depth.logit == pytest.approx(total / math.log(2) / text.bytes, rel=1e-5)


def test_the_gradient_is_that_of_the_mean_divergence(trained, monkeypatch):
    opened = weft.Run(trained)
    model = opened.model
    (text,) = texts(opened, "validation")
    how = {"lanes": 2, "length": 24, "boundary_id": opened.tokenizer.boundary_id}
    looked = next(lenses._looks(model, text, **how))
    maps = 0.1 * torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    lens = Lens(maps.requires_grad_(), torch.zeros(3, 16, requires_grad=True))
    scored = looked.targets_BT >= 0
    told = model.embedding.logits(looked.hidden_BTD).log_softmax(-1).detach()
    loss = 0.0
    for depth, x_BTD in enumerate(looked.residuals):
        said = model.unembed(lens.at(depth, x_BTD)).log_softmax(-1)
        loss = loss + torch.nn.functional.kl_div(said, told, log_target=True, reduction="none").sum(-1)[scored].mean()
    expected = torch.autograd.grad(loss, (lens.maps_LDD, lens.biases_LD))
    monkeypatch.setattr(lenses, "CHUNK_ELEMENTS", 1)
    monkeypatch.setattr(lenses, "FEWEST_ROWS", 7)  # several chunks
    for ours, theirs in zip(lenses._gradients(model, lens, looked), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_grid_says_what_each_depth_takes_for_likeliest(trained, made):
    opened = weft.Run(trained)
    rows = lens_grid(opened.model, made, opened.tokenizer, "the weaver")
    assert "".join(row.token for row in rows) == "the weaver"
    assert {len(row.guesses) for row in rows} == {opened.model.depth + 1}
    own = opened.score("the weaver", memory=False)
    assert sum(row.guesses[-1].bits for row in rows) == pytest.approx(own, rel=1e-5)


def test_the_command_trains_once_and_tells_every_depth(run, monkeypatch):
    first = run_weft("lens", run, "--json")
    told = first.json()
    assert "Training the lens" in first.err
    assert [depth["depth"] for depth in told["depths"]] == [0, 1, 2]
    assert set(told["depths"][0]) == {"depth", "block", "logit", "tuned"}
    assert told["model"] == pytest.approx(weft.Run(run).evaluate(memory=False).bits_per_byte, abs=1e-6)
    monkeypatch.setattr(lenses, "train_lens", None)  # it is there
    again = run_weft("lens", run, "--json")
    assert again.json() == told
    shown = run_weft("lens", run)
    assert f"{told['model']:.4f}" in shown.out
    grid = run_weft("lens", run, "--text", "the cloth", "--json").json()
    assert "".join(row["token"] for row in grid) == "the cloth"
    assert "cloth"[0] in run_weft("lens", run, "--text", "the cloth").out


def test_a_lens_of_other_weights_or_a_damaged_one_is_made_anew_and_said(run, made):
    lenses.save_lens(made, run)
    model = weft.Run(run).model
    heard = []
    kept = load_lens(run, model, heard.append)
    assert torch.equal(kept.maps_LDD, made.maps_LDD)
    assert kept.tuned_kl == made.tuned_kl
    assert not heard
    whole = (run / LENS).read_bytes()
    for damaged in (whole[:100], b"", whole.replace(b'"maps"', b'"mops"')):
        (run / LENS).write_bytes(damaged)
        assert load_lens(run, model, heard.append) is None
        assert "damaged" in heard.pop()
    (run / LENS).write_bytes(whole)
    weights = run / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert load_lens(run, model, heard.append) is None
    assert "of other weights" in heard.pop()


def test_mistakes_are_told_in_a_sentence(run, tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    assert_mistake(run_weft("lens", run, empty), "empty.txt")
    assert_mistake(run_weft("lens", run, "--split", "tests"), "no split 'tests'")
    assert_mistake(run_weft("lens", run, empty, "--text", "a"), "leave the files out")
    assert_mistake(run_weft("lens", run, "--text", ""), "--text")
    assert_mistake(run_weft("lens", tmp_path / "nowhere"), "nowhere")


def test_a_baseline_cannot_be_looked_into(tmp_path, trained):
    from tests.test_baselines import small_llama

    with pytest.raises(weft.UserError, match="holds a baseline"):
        lenses.check_traceable(small_llama(), tmp_path)

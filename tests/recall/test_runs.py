"""A run and its memory: the same numbers from every door, off when asked, damaged without loss."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest

import weft
from tests.cli.conftest import SHORT, SMALL, TEXT
from tests.command import assert_mistake, run_weft
from weft.recall import MEMORY, load_memory
from weft.recall.index import Index

NEW = "The weaver of Kaunas sang of quicksilver and of larks.\n\n\n" * 3


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "corpus.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def train(corpus, out, *options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEFT_MAX_STEPS", "3")
        return run_weft("train", corpus, "--out", out, "--steps", 500, *SMALL, *SHORT, *options)


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEFT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        assert train(corpus, out).code == 0
    return out


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def test_training_leaves_a_memory_and_tells_its_figures(trained):
    results = json.loads((trained / "results.json").read_text())
    for name in ("validation", "test"):
        told = results[name]
        assert told["bits_per_byte"] == told["bits_per_byte_memory"] < told["bits_per_byte_frozen"]
    again = run_weft("evaluate", trained, "--json").json()
    for key in ("bits_per_byte", "bits_per_byte_frozen", "bits_per_byte_memory"):
        assert again[key] == pytest.approx(results["test"][key], rel=1e-6)
    assert "holds the training text itself" in (trained / "README.md").read_text()
    assert "memory of the training text" in (trained / "report.html").read_text()


def test_the_weights_alone_are_what_they_were(trained, corpus, tmp_path):
    alone = run_weft("evaluate", trained, "--no-memory", "--json").json()
    assert "bits_per_byte_memory" not in alone
    assert "bits_per_byte_frozen" not in alone
    without = tmp_path / "without"
    assert train(corpus, without, "--set", "memory.enabled=false").code == 0
    assert not (without / MEMORY).exists()
    assert run_weft("evaluate", without, "--json").json()["bits_per_byte"] == alone["bits_per_byte"]
    assert_mistake(run_weft("evaluate", without, "--memory"), "has no memory of text", f"weft remember {without}")


@pytest.mark.parametrize("memory", [None, True, False])
@pytest.mark.parametrize("adapt", [False, True])
def test_every_door_gives_the_same_numbers(trained, adapt, memory):
    run = weft.Run(trained)
    whole = run.evaluate(adapt=adapt, memory=memory)
    by_token = run.token_bits(adapt=adapt, memory=memory)
    assert sum(bits for _, bits in by_token) / whole.bytes == pytest.approx(whole.bits_per_byte, rel=1e-6)
    if not adapt:
        text = "the weaver threw the shuttle"
        bits = run.score(text, memory=memory)
        (one,) = run.score([text], memory=memory)
        assert one == bits
        assert (bits < run.score(text, memory=False)) == (memory is not False)


def test_adaptation_has_the_memory_too(trained):
    run = weft.Run(trained)
    adaptive = run.evaluate(adapt=True)
    without = run.evaluate(adapt=True, memory=False)
    assert adaptive.bits_per_byte < without.bits_per_byte
    assert adaptive.bits_per_byte_frozen == without.bits_per_byte_frozen
    assert adaptive.bits_per_byte_memory == run.evaluate().bits_per_byte
    assert without.bits_per_byte_memory is None


def test_the_training_text_is_scored_by_the_weights_alone(trained):
    told = []
    figure = weft.Run(trained).evaluate(split="train", tell=told.append)
    assert figure.bits_per_byte_memory is None
    assert any("holds the training text" in line for line in told)


def test_what_is_written_goes_on_as_the_memory_knows(trained):
    run = weft.Run(trained)
    sampling = weft.Sampling(temperature=0)
    prompts = ["Number 7: the weaver threw the sh", "the cloth g"]
    written = run.generate(prompts, max_new_tokens=12, sampling=sampling)
    assert written[0].startswith("uttle")
    assert written == [run.generate(prompt, max_new_tokens=12, sampling=sampling) for prompt in prompts]
    assert written != run.generate(prompts, max_new_tokens=12, sampling=sampling, memory=False)
    shown = run_weft("generate", trained, "--prompt", prompts[0], "--max-new-tokens", 12, "--temperature", 0, "--json")
    assert shown.json()[0]["text"] == written[0]


def test_the_bits_of_what_is_written_and_read_are_those_of_the_score(trained):
    from weft.generation import Read, Written, write

    run = weft.Run(trained)
    prompt = "Number 7: the weaver threw "
    bits, text = 0.0, prompt
    events = write(run.model, run.tokenizer, [prompt], max_new_tokens=20, bits=True, memory=run.memory)
    for event in events:
        if isinstance(event, Read):
            bits += sum(token.bits for token in event.tokens)
        elif isinstance(event, Written):
            bits += event.token.bits
            text += event.token.text
    assert bits == pytest.approx(run.score(text), rel=1e-3)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "none"])
def test_a_damaged_memory_is_told_and_the_run_works_without_it(run, damage):
    path = run / MEMORY
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "flipped":
        data[-9] ^= 1
    elif damage == "empty":
        data = bytearray()
    else:
        data = bytearray(b'{"a": 1}' * 20)
    path.write_bytes(data)
    for command in (["evaluate", run], ["generate", run], ["evaluate", run, "--adapt"]):
        assert_mistake(run_weft(*command), "is damaged", f"weft remember {run}", "--no-memory")
        assert run_weft(*command, "--no-memory").code == 0
    assert run_weft("remember", run).code == 0
    assert run_weft("evaluate", run).code == 0


def test_a_memory_of_another_vocabulary_is_refused(run, corpus, tmp_path):
    other = tmp_path / "other"
    options = ["--tokenizer", "bpe", "--vocab-size", 300]
    assert train(corpus, other, *options).code == 0
    shutil.copy(other / MEMORY, run / MEMORY)
    assert_mistake(run_weft("evaluate", run), "of another vocabulary (300 tokens)", "--no-memory")

    # Also one of the same size.
    text = tmp_path / "other.txt"
    text.write_text(TEXT.replace("weaver", "quick fox").replace("cloth", "jumped over"), encoding="utf-8")
    alike = tmp_path / "alike"
    assert train(text, alike, *options).code == 0
    shutil.copy(other / MEMORY, alike / MEMORY)
    assert_mistake(run_weft("evaluate", alike), "of another vocabulary")


def test_newer_text_is_remembered_beside_the_training_text_once(run, tmp_path):
    more = tmp_path / "newer.txt"
    more.write_text(NEW, encoding="utf-8")
    asked = tmp_path / "asked.txt"
    asked.write_text("The weaver of Kaunas sang of larks.", encoding="utf-8")
    before = run_weft("evaluate", run, asked, "--json").json()
    tokens = weft.Run(run).memory.tokens
    for _ in range(2):
        made = run_weft("remember", run, more, "--json").json()
        assert [part["name"] for part in made["parts"]] == ["training text", "newer.txt"]
        assert made["tokens"] == tokens + made["parts"][1]["tokens"] > tokens
    after = run_weft("evaluate", run, asked, "--json").json()
    assert after["bits_per_byte_memory"] < 0.8 * before["bits_per_byte_memory"]
    assert after["bits_per_byte_frozen"] == before["bits_per_byte_frozen"]
    assert weft.Run(run).memory.tokens == made["tokens"]

    # What has grown takes the place of what it was.
    more.write_text(NEW + "\n\n\nAnd of vinegar.", encoding="utf-8")
    grown = run_weft("remember", run, more, "--json").json()
    assert len(grown["parts"]) == 2
    assert grown["parts"][1]["tokens"] > made["parts"][1]["tokens"]

    only = run_weft("remember", run, more, "--only", "--json").json()
    assert [part["name"] for part in only["parts"]] == ["newer.txt"]
    assert run_weft("remember", run, "--json").json()["tokens"] == tokens


def test_held_out_text_in_the_memory_is_told(run, corpus, tmp_path):
    told = run_weft("remember", run, corpus).err
    assert "of the validation text stands in these files word for word" in told
    assert "of the test text stands in these files word for word" in told
    other = tmp_path / "other.txt"
    other.write_text(NEW, encoding="utf-8")
    assert "word for word" not in run_weft("remember", run, other, "--only").err


def test_a_run_without_a_memory_remembers_the_files_alone(run, tmp_path):
    (run / MEMORY).unlink()
    assert run_weft("evaluate", run, "--json").json().keys().isdisjoint({"bits_per_byte_memory"})
    more = tmp_path / "newer.txt"
    more.write_text(NEW, encoding="utf-8")
    ran = run_weft("remember", run, more)
    assert "holds these files alone" in ran.err
    assert [part.name for part in weft.Run(run).memory.parts] == ["newer.txt"]


def test_what_cannot_be_remembered_leaves_the_memory_as_it_was(run, tmp_path):
    before = (run / MEMORY).read_bytes()
    empty = tmp_path / "empty.txt"
    empty.write_text("", encoding="utf-8")
    for path, words in ((empty, "empty"), (tmp_path / "missing.txt", "missing.txt")):
        assert_mistake(run_weft("remember", run, path), words)
        assert (run / MEMORY).read_bytes() == before
    assert_mistake(run_weft("remember", run, "--only"), "--only is for files")
    assert_mistake(run_weft("remember", tmp_path), "is not a run directory")


def test_a_disk_that_fills_leaves_the_memory_as_it_was(run, monkeypatch):
    import errno

    before = (run / MEMORY).read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("weft.files.os.fsync", full)
    assert_mistake(run_weft("remember", run), "The disk is full")
    monkeypatch.undo()
    assert (run / MEMORY).read_bytes() == before
    assert not list(run.glob("*.tmp"))
    assert not list(run.glob(".*.tmp"))


def test_a_memory_comes_back_as_it_was_saved(trained):
    run = weft.Run(trained)
    one, other = load_memory(trained, run.tokenizer), run.memory
    for mine, theirs in zip((*one.index, *one.shares), (*other.index, *other.shares), strict=True):
        assert (np.asarray(mine) == np.asarray(theirs)).all()
    assert one.parts == other.parts
    assert math.isfinite(one.shares.share_KC.sum())


def test_a_run_made_of_another_keeps_its_memory(trained, tmp_path):
    out = tmp_path / "products"
    assert run_weft("tensorise", trained, "--out", out).code == 0
    assert (out / MEMORY).read_bytes() == (trained / MEMORY).read_bytes()


def test_a_longer_run_makes_its_memory_anew(corpus, tmp_path):
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WEFT_MAX_STEPS", raising=False)
        assert run_weft("train", corpus, "--out", out, "--steps", 3, *SMALL, *SHORT).code == 0
        shares = weft.Run(out).memory.shares.given_KC
        assert run_weft("train", "--out", out, "--resume", "--steps", 12).code == 0
    assert (weft.Run(out).memory.shares.given_KC != shares).any()


def test_a_longer_run_tells_what_it_forgets(corpus, tmp_path):
    out = tmp_path / "run"
    more = tmp_path / "newer.txt"
    more.write_text(NEW, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WEFT_MAX_STEPS", raising=False)
        assert run_weft("train", corpus, "--out", out, "--steps", 3, *SMALL, *SHORT).code == 0
        assert run_weft("remember", out, more).code == 0
        ran = run_weft("train", "--out", out, "--resume", "--steps", 6)
    assert "Add newer.txt again with weft remember" in ran.out + ran.err


def test_a_memory_that_cannot_be_written_costs_no_results(corpus, tmp_path, monkeypatch):
    def full(*_):
        raise weft.UserError("the disk is full.")

    monkeypatch.setattr("weft.training.run.save_memory", full)
    out = tmp_path / "run"
    ran = train(corpus, out)
    assert ran.code == 0
    assert "has no memory of its training text: the disk is full." in ran.out + ran.err
    assert "bits_per_byte_memory" not in json.loads((out / "results.json").read_text())["test"]


@pytest.mark.parametrize("fault", ["order", "tokens", "end"])
def test_a_memory_that_leads_outside_itself_is_damaged(run, fault):
    from weft.recall import save_memory

    memory = weft.Run(run).memory
    tokens, order = (np.array(array) for array in memory.index)
    if fault == "order":
        order[3] = len(tokens) + 5
    elif fault == "tokens":
        tokens[3] = memory.vocab_size
    else:
        tokens[-1] = 3
    save_memory(replace(memory, index=Index(tokens, order)), run, weft.Run(run).tokenizer)
    assert_mistake(run_weft("evaluate", run), "is damaged")

"""lm-evaluation-harness scores a saved run, and what it says agrees with what we compute."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import small_model
from weft.data import train_tokenizer
from weft.hf import register
from weft.pretrained import load_model, load_tokenizer, save_model

EXAMPLES = Path(__file__).parents[1] / "examples" / "lm_eval"
WINDOW, WHOLE = 32, 1 << 20


@pytest.fixture(scope="module")
def run(tmp_path_factory, corpus_text) -> Path:
    folder = tmp_path_factory.mktemp("lm_eval") / "run"
    tokenizer = train_tokenizer("bpe", [corpus_text.encode()], 400)
    save_model(small_model("qfaf", {}, vocab_size=tokenizer.vocab_size), tokenizer, folder)
    return folder


def harness(run: Path, task: str, limit: int, **model_args: Any) -> dict[str, Any]:
    """Return the harness's results for ``task``, as its command would compute them."""
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (the extra 'eval')")
    register()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what other packages' modules warn of when they are first imported
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager
    results: dict[str, Any] = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(run), "trust_remote_code": True, **model_args},
        tasks=[task],
        task_manager=TaskManager(include_path=str(EXAMPLES), include_defaults=False),
        batch_size=4,
        device="cpu",
        bootstrap_iters=0,
        limit=limit,
    )
    return results


def records(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (EXAMPLES / name).read_text(encoding="utf-8").splitlines()]


@torch.no_grad()
def nats(run: Path, texts: list[str], window: int) -> list[float]:
    """Return each text's nats, read by the native model in windows that share no state.

    As the harness does, the last window reaches back so that it is as long as the others.
    """
    model, tokenizer = load_model(run), load_tokenizer(run)
    totals = []
    for text in texts:
        tokens, total = torch.tensor([[tokenizer.boundary_id, *tokenizer.encode(text)]]), 0.0
        for start in range(0, tokens.shape[1] - 1, window):
            end = min(start + window, tokens.shape[1] - 1)
            first = max(0, end - window)
            costs = model.surprisal(tokens[:, first:end], tokens[:, first + 1 : end + 1])[0]
            total += costs[0, start - first :].sum(dtype=torch.float64).item()
        totals.append(total)
    return totals


def test_bits_per_byte_are_ours_in_the_same_windows_and_streaming_gives_others(run):
    results = harness(run, "sewiki_rolling", limit=12, max_length=WINDOW, add_bos_token=False)
    theirs = results["results"]["sewiki_rolling"]
    texts = [record["text"] for record in records("sewiki_rolling.jsonl")[:12]]
    bits = math.log(2) * sum(len(text.encode()) for text in texts)
    ours = sum(nats(run, texts, WINDOW)) / bits
    assert theirs["bits_per_byte,none"] == pytest.approx(ours, rel=1e-5)
    assert theirs["byte_perplexity,none"] == pytest.approx(2**ours, rel=1e-4)
    assert abs(sum(nats(run, texts, WHOLE)) / bits - ours) > 1e-3


def test_the_choices_are_scored_after_the_boundary_and_the_question(run):
    results = harness(run, "sewiki_continuation", limit=10)
    samples = {sample["doc_id"]: sample for sample in results["samples"]["sewiki_continuation"]}
    asked = records("sewiki_continuation.jsonl")[:10]
    assert len(samples) == len(asked)
    correct = 0
    for number, record in enumerate(asked):
        question, *answered = nats(run, [record["question"] + end for end in ("", *record["choices"])], WHOLE)
        costs = [whole - question for whole in answered]
        theirs = [-response[0][0] for response in samples[number]["resps"]]
        assert theirs == pytest.approx(costs, rel=1e-4, abs=1e-3)
        correct += costs.index(min(costs)) == record["answer"]
    assert results["results"]["sewiki_continuation"]["acc,none"] == pytest.approx(correct / len(asked))


def test_the_example_data_are_test_documents_of_the_bundled_corpus():
    from weft.data.config import DataConfig
    from weft.data.splits import iter_documents

    documents = {text.decode() for text in iter_documents(DataConfig(sources=("weft:sewiki",)), "test")}
    assert {record["text"] for record in records("sewiki_rolling.jsonl")} <= documents
    whole = "\n".join(" ".join(line.split()) for text in documents for line in text.splitlines())
    for record in records("sewiki_continuation.jsonl"):
        found = [record["question"] + choice in whole for choice in record["choices"]]
        assert found.index(True) == record["answer"]
        assert sum(found) == 1

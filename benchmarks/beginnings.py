"""What a sentence costs by itself beside what it costs in its text, by how long training documents are cut.

    python -m benchmarks.beginnings weft:sewiki --name "Northern Sami" --longest 0,8192 --tokens 1.3M
    python -m benchmarks.beginnings slv.txt --name Slovene --longest 0,2048,8192,32768 --tokens 1.3M

Each length is a run of its own, all else is what `weft train` takes by default; 0 cuts nothing. The sentences are of
the validation text: "in its text" are their bits where the text is read from its beginning, "alone" where each is a
document. "sentences" in the place of a length trains on sentences alone, each a document, which bounds what any model
of this size can do without the text around. Results go into benchmarks/results/beginnings.json, beside those of other
texts.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

import weft
from benchmarks.machine import commands, describe
from weft.data import DataConfig, TokenizedSplit, Tokenizer, iter_documents, prepare
from weft.evaluation.scoring import score
from weft.experiments.ledger import Ledger
from weft.experiments.runner import Runner
from weft.pattern import parse_count
from weft.training.result import TrainingResult
from weft.training.run_folder import saved_recipe

RESULTS = Path(__file__).parent / "results" / "beginnings.json"
SENTENCE = re.compile(rb"[^\s][^\n]*?(?:[.!?\xe2\x80\xa6][\"')\xc2\xbb\xe2\x80\x9d]*(?=\s)|(?=\n)|$)")
SENTENCES = "sentences"  # in the place of a length
SHORTEST, LONGEST = 20, 400  # bytes of a sentence
MOST_SENTENCES = 2000


def main() -> None:
    """Train a run for each length; print and write what its sentences cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("--name", required=True)
    parser.add_argument("--longest", default="0,8192", help="bytes of the longest training document; 0 cuts nothing")
    parser.add_argument("--tokens", default="1.3M")
    parser.add_argument("--split", default="auto")
    parser.add_argument("--lines", action="store_true", help="each line is a document")
    parser.add_argument("--parameters", help="what the text and the tokens ask for, unless given")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    recipes = {longest: recipe(given, longest) for longest in given.longest.split(",")}

    def record(longest: str, result: TrainingResult) -> dict[str, Any]:
        told: dict[str, Any] = {"parameters": result.parameters}
        if longest == SENTENCES:
            told["alone"] = result.validation.bits_per_byte_of_weights
        else:
            told |= sentences(result.run)
            told |= {
                "validation": result.validation.bits_per_byte_of_weights,
                "test": result.test.bits_per_byte_of_weights,
                "bits_per_end": result.validation.bits_per_end,
                "from_nothing": weft.generate(result.run, ["", "", ""], max_new_tokens=40),
            }
        print(f"{given.name}, {longest}: {json.dumps(told, ensure_ascii=False)}", flush=True)
        return told

    with TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger.json")
        ledger.train(Runner(Path(folder)), recipes, record)
    before = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"commands": [], "texts": {}}
    texts = before["texts"]
    texts[given.name] = texts.get(given.name, {}) | ledger.runs
    now = {
        "commands": commands(before["commands"], "benchmarks.beginnings"),
        "machine": describe("cpu"),
        "texts": texts,
    }
    RESULTS.write_text(json.dumps(now, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def recipe(given: argparse.Namespace, longest: str) -> dict[str, Any]:
    """Return the recipe of a run whose training documents are cut at ``longest`` bytes, or are sentences."""
    data: dict[str, Any] = {"split": given.split}
    if given.lines:
        data["document_separator"] = "\n"
    if longest == SENTENCES:
        folder = Path("runs/beginnings") / given.name
        folder.mkdir(parents=True, exist_ok=True)
        parts = write_sentences(DataConfig(sources=(given.text,), **data), folder)
        data = {
            "sources": [parts["train"]],
            "document_separator": "\n",
            "validation": parts["validation"],
            "test": parts["validation"],
        }
    else:
        data |= {"sources": [given.text], "longest_document": int(longest)}
    training: dict[str, Any] = {"tokens": parse_count(given.tokens), "seed": given.seed}
    training["logging"] = {"validations": 4, "samples": 0}
    values: dict[str, Any] = {"data": data, "training": training}
    if given.parameters:
        values["model"] = {"parameters": parse_count(given.parameters)}
    return values


def sentences(run: Path) -> dict[str, float]:
    """Return the bits per byte of sentences of the validation text, in their text and each alone."""
    model, tokenizer = weft.load(run), weft.load_tokenizer(run)
    validation = prepare(saved_recipe(run).data, tokenizer=tokenizer).validation
    nats = score(model, validation, boundary_id=tokenizer.boundary_id)
    chosen = _choose(validation, tokenizer)
    within = sum(float(nats[first:end].sum()) for first, end, _ in chosen)
    alone = _alone([text for _, _, text in chosen], tokenizer)
    cost = float(score(model, alone, boundary_id=tokenizer.boundary_id).sum(dtype=np.float64))
    size = sum(len(text) for _, _, text in chosen)
    in_text, by_itself = (value / math.log(2) / size for value in (within, cost))
    return {"sentences": len(chosen), "in_text": in_text, "alone": by_itself, "ratio": by_itself / in_text}


def write_sentences(config: DataConfig, folder: Path) -> dict[str, str]:
    """Write the sentences of the training and of the validation text, a line each; return the files."""
    written = {}
    for part in ("train", "validation"):
        texts: list[bytes] = []
        for document in iter_documents(config, part):
            texts += [text for _, _, text in _found(document)]
        kept = texts if part == "train" else _sample(texts)
        path = folder / f"{part}.txt"
        path.write_bytes(b"\n".join(kept))
        written[part] = str(path)
    return written


def _found(document: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield where the sentences of a document begin and end, and their bytes."""
    for match in SENTENCE.finditer(document):
        start, stop = match.span()
        if SHORTEST <= stop - start <= LONGEST:
            yield start, stop, match.group()


def _sample(found: list[Any]) -> list[Any]:
    """Return some of the sentences, evenly spread."""
    return found[:: -(-len(found) // MOST_SENTENCES)]


def _choose(split: TokenizedSplit, tokenizer: Tokenizer) -> list[tuple[int, int, bytes]]:
    """Return sentences, evenly spread over the text: their first token, the one behind their last, their bytes."""
    found = []
    for document in range(split.documents):
        tokens: NDArray[Any] = split.document(document)
        sizes = np.array([len(tokenizer.token_bytes(int(token))) for token in tokens])
        ends = np.cumsum(sizes)  # of the bytes of each token
        place = int(split.offsets[document])
        for start, stop, text in _found(tokenizer.decode_bytes(tokens)):
            first, end = np.searchsorted(ends, [start, stop - 1], side="right") + np.array([0, 1])
            found.append((place + int(first), place + int(end), text))
    return _sample(found)


def _alone(texts: list[bytes], tokenizer: Tokenizer) -> TokenizedSplit:
    """Return a split of which each text is a document."""
    documents = [np.append(tokenizer.boundary_id, tokenizer.encode_bytes(text)) for text in texts]
    offsets = np.cumsum([0, *map(len, documents)])
    return TokenizedSplit(np.concatenate(documents), offsets, sum(map(len, texts)), None, None)


if __name__ == "__main__":
    main()

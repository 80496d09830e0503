from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.support import made_up_documents
from weft.data import prepare_streamed, streamed
from weft.data.config import DataConfig
from weft.data.hub import HubDataset, parse_source
from weft.data.prepare import prepare, tokenize_sources
from weft.data.prepared import PreparedData, TokenizedSplit
from weft.data.segments import IGNORED, Segment
from weft.data.stream import join_states, open_stream
from weft.data.streamed import StreamedSplit
from weft.errors import UserError

datasets = pytest.importorskip("datasets", reason="needs the extra 'data'")
huggingface_hub = pytest.importorskip("huggingface_hub")

DOCUMENTS = made_up_documents(300)
HELD_OUT = {7: "validation", 13: "test"}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Many blocks in a small corpus, and a cache of the library's own where a test can look into it."""
    monkeypatch.setattr(streamed, "BLOCK_DOCUMENTS", 37)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    for module in (datasets.config, huggingface_hub.constants):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def table(documents: list[str] | None = None, **columns: list[Any]) -> Any:
    return datasets.Dataset.from_dict({"text": DOCUMENTS if documents is None else documents} | columns)


def write(folder: Path, kind: str) -> str:
    """Write the documents in one of the formats; return the source that names them."""
    if kind == "saved":
        table().save_to_disk(folder / "saved", num_shards=3)
        return f"hf:{folder}/saved"
    if kind == "splits":
        parts = {"train": table(), "validation": table(DOCUMENTS[:9]), "test": table(DOCUMENTS[9:20])}
        datasets.DatasetDict(parts).save_to_disk(folder / "splits")
        return f"hf:{folder}/splits"
    if kind == "folder":
        (folder / "data").mkdir()
        table().to_parquet(folder / "data" / "train-0.parquet")
        table(DOCUMENTS[:9]).to_parquet(folder / "data" / "test-0.parquet")
        return f"hf:{folder}/data"
    if kind == "arrow":
        table().save_to_disk(folder / "saved")
        return f"hf:{next((folder / 'saved').glob('*.arrow'))}"
    writer = {"parquet": "to_parquet", "csv": "to_csv", "jsonl": "to_json"}[kind]
    for part in range(2):
        getattr(table(DOCUMENTS[part * 150 : (part + 1) * 150]), writer)(folder / f"{part}.{kind}")
    return f"hf:{folder}/*.{kind}"


def prepared(source: str, **settings: Any) -> PreparedData:
    return prepare(DataConfig(sources=(source,), **{"tokenizer": "bytes", **settings}))


@pytest.fixture
def data(tmp_path: Path) -> PreparedData:
    return prepared(write(tmp_path, "parquet"))


def texts(split: TokenizedSplit, data: PreparedData) -> list[str]:
    return [data.tokenizer.decode(split.document(i)) for i in range(split.documents)]


def opened(data: PreparedData, **settings: Any) -> Any:
    return open_stream(data, **{"batch_size": 4, "sequence_length": 16, "seed": 3, **settings})


def same(one: Segment, other: Segment) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def passed_on(state: Any) -> Any:
    return json.loads(json.dumps(state))


def take(stream: Any, number: int) -> list[Segment]:
    return [next(stream) for _ in range(number)]


def joined(segments: list[Segment]) -> Segment:
    return Segment(*map(np.concatenate, zip(*segments, strict=True)))


def lanes_text(segments: list[Segment], data: PreparedData) -> Iterator[str]:
    """Yield the whole documents that the segments hold, lane by lane."""
    for lane in np.concatenate([segment.inputs_BT for segment in segments], axis=1):
        starts = np.flatnonzero(lane == data.tokenizer.boundary_id)
        for start, stop in itertools.pairwise(starts):
            yield data.tokenizer.decode(lane[start:stop])


# What is read


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl", "arrow", "saved", "splits", "folder"])
def test_the_lanes_hold_the_documents_that_are_not_held_out(tmp_path: Path, kind: str) -> None:
    data = prepared(write(tmp_path, kind))
    assert isinstance(data.train, StreamedSplit)
    own = {"splits": ["validation", "test"], "folder": ["test"]}.get(kind, [])
    training = [text for i, text in enumerate(DOCUMENTS) if HELD_OUT.get(i % 20, "train") in ["train", *own]]
    for part, fold in (("validation", 7), ("test", 13)):
        held = DOCUMENTS[fold::20]
        expected = held if part not in own else DOCUMENTS[:9] if (kind, part) != ("splits", "test") else DOCUMENTS[9:20]
        assert texts(getattr(data, part), data) == expected
    assert (data.train.bytes, data.train.documents) == (sum(len(t.encode()) for t in training), len(training))
    assert data.train.scored_tokens == data.train.bytes
    stream = opened(data, sequence_length=512)
    read: list[Segment] = []
    while stream.epoch < 2:
        read.append(next(stream))
    seen = list(lanes_text(read, data))
    assert set(seen) == set(training)
    assert seen != training[: len(seen)]


def test_long_documents_that_stream_are_cut_as_others_are(tmp_path: Path) -> None:
    data = prepared(write(tmp_path, "parquet"), longest_document=40)
    stream = opened(data, batch_size=1, sequence_length=64, predict_boundary=True)
    read: list[Segment] = []
    while stream.epoch < 1:
        read.append(next(stream))
    again = opened(data, batch_size=1, sequence_length=64, predict_boundary=True, state=passed_on(stream.state))
    assert same(next(stream), next(again))
    inputs, targets, _ = (np.concatenate(parts, axis=1)[0] for parts in zip(*read, strict=True))
    boundary = data.tokenizer.boundary_id
    places = np.flatnonzero(inputs[1:] == boundary)
    assert np.diff(places).max() <= 1 + 4 * 40
    predicted = targets[places] == boundary
    assert 0 < predicted.sum() < len(places)
    for place in places[1:]:  # where the end is a target, a document ends
        start = places[places < place].max() + 2
        piece = data.tokenizer.decode(inputs[start : place + 1])
        assert any(text.endswith(piece) for text in DOCUMENTS) == (targets[place] == boundary)


def test_targets_follow_and_resets_stand_at_boundaries(data: PreparedData) -> None:
    boundary = data.tokenizer.boundary_id
    for predict in (False, True):
        segments = take(opened(data, predict_boundary=predict), 40)
        inputs, targets, reset = (np.concatenate(parts, axis=1) for parts in zip(*segments, strict=True))
        following = inputs[:, 1:].copy()
        if not predict:
            following[following == boundary] = IGNORED
        assert np.array_equal(targets[:, :-1], following)
        assert np.array_equal(reset, inputs == boundary)
        assert reset[:, 0].all()
        assert [part.dtype for part in segments[0]] == [np.int64, np.int64, np.bool_]
        assert all(part.flags.c_contiguous for part in segments[0])


def test_lanes_are_given_equal_shares(tmp_path: Path) -> None:
    """However unequal the documents, no lane is given more than a document ahead of the others."""
    documents = ["x" * (2000 if i % 10 == 0 else 20) for i in range(400)]
    table(documents).to_parquet(tmp_path / "a.parquet")
    stream = opened(prepared(f"hf:{tmp_path}/a.parquet"), sequence_length=4000)
    take(stream, 100)
    waiting = [
        sum(len(document.data) for document in lane.texts) + sum(len(document.tokens) for document in lane.read)
        for lane in stream._own.values()
    ]
    assert max(waiting) - min(waiting) < 3 * max(map(len, documents))


def test_seeds_and_passes_differ_and_repeat_exactly(data: PreparedData) -> None:
    one, other, again = (take(opened(data, seed=seed, sequence_length=512), 60) for seed in (1, 2, 1))
    assert all(map(same, one, again))
    assert not any(map(same, one, other))
    assert opened(data).epoch == 0


def test_a_document_longer_than_a_block_is_read_whole(tmp_path: Path) -> None:
    documents = ["x" * 5000, *DOCUMENTS[:30]]
    table(documents).to_parquet(tmp_path / "a.parquet")
    data = prepared(f"hf:{tmp_path}/a.parquet", longest_document=0)
    assert documents[0] in set(lanes_text(take(opened(data, sequence_length=256), 200), data))


# Going on


@pytest.mark.parametrize("steps", [0, 1, 25, 130, 700])
def test_a_stream_goes_on_from_its_state_to_the_token(data: PreparedData, steps: int) -> None:
    stream = opened(data)
    take(stream, steps)
    again = opened(data, state=passed_on(stream.state))
    assert again.epoch == stream.epoch
    for _ in range(200):
        assert same(next(again), next(stream))
    assert again.state == stream.state


@pytest.mark.parametrize("kind", ["csv", "jsonl", "arrow", "saved"])
def test_every_format_goes_on_in_the_middle_of_a_block(tmp_path: Path, kind: str) -> None:
    data = prepared(write(tmp_path, kind), tokenizer="bpe", vocab_size=300)
    stream = opened(data)
    take(stream, 150)
    again = opened(data, state=passed_on(stream.state))
    assert all(map(same, take(again, 150), take(stream, 150)))


def test_the_ranks_together_are_one_process_with_all_lanes(data: PreparedData) -> None:
    whole = opened(data)
    ranks = [opened(data, batch_size=2, rank=rank, world_size=2) for rank in (0, 1)]
    for _ in range(500):
        assert same(joined([next(rank) for rank in ranks]), next(whole))


@pytest.mark.parametrize("steps", [3, 140, 333])
def test_the_joined_state_serves_any_number_of_ranks(data: PreparedData, steps: int) -> None:
    whole = opened(data)
    ranks = [opened(data, batch_size=2, rank=rank, world_size=2) for rank in (0, 1)]
    for stream in (whole, *ranks):
        take(stream, steps)
    state = passed_on(join_states([rank.state for rank in ranks]))
    alone = opened(data, state=state)
    four = [opened(data, batch_size=1, rank=rank, world_size=4, state=state) for rank in range(4)]
    for _ in range(200):
        expected = next(whole)
        assert same(next(alone), expected)
        assert same(joined([next(rank) for rank in four]), expected)


def test_another_number_of_lanes_goes_on_near_by(data: PreparedData) -> None:
    stream = opened(data, sequence_length=64)
    take(stream, 100)
    again = opened(data, batch_size=3, sequence_length=64, state=passed_on(stream.state))
    assert abs(again.epoch - stream.epoch) < 0.3
    assert next(again).inputs_BT.shape == (3, 64)


def test_only_the_documents_in_use_are_read_again(data: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = opened(data)
    take(stream, 600)
    state = passed_on(stream.state)
    encoded: list[int] = []
    original = type(data.tokenizer).encode_stream

    def counting(self: Any, pieces: Any) -> Any:
        for piece, ids in original(self, pieces):
            encoded.append(len(piece.data))
            yield piece, ids

    monkeypatch.setattr(type(data.tokenizer), "encode_stream", counting)
    next(opened(data, state=state))
    assert len(encoded) <= 2 * 4


# Held-out parts, the cache, and nothing else on the disk


def test_what_is_held_out_is_bounded_and_the_rest_is_trained_on(tmp_path: Path) -> None:
    source = write(tmp_path, "parquet")
    data = prepared(f"{source}?held_out=500")
    held = texts(data.validation, data)
    assert held == DOCUMENTS[7::20][: len(held)]
    assert sum(len(text.encode()) for text in held[:-1]) < 500 <= data.validation.bytes
    stream = opened(data, sequence_length=512)
    read = take(stream, 1)
    while stream.epoch < 2:
        read += take(stream, 1)
    assert set(DOCUMENTS[7::20][len(held) :]) <= set(lanes_text(read, data))
    assert not set(held) & set(lanes_text(read, data))


def test_files_given_for_the_held_out_parts_replace_the_rule(tmp_path: Path) -> None:
    given = tmp_path / "given.txt"
    given.write_text("one\n\n\ntwo", "utf-8")
    data = prepared(write(tmp_path, "parquet"), validation=(str(given),))
    assert texts(data.validation, data) == ["one", "two"]
    assert texts(data.test, data) == DOCUMENTS[13::20]
    assert data.train.documents == 300 - 15


def test_the_training_text_is_never_written(tmp_path: Path, own_cache: Path) -> None:
    source = write(tmp_path, "jsonl")
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    data = prepared(source, tokenizer="bpe", vocab_size=300)
    take(opened(data), 300)
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path not in before]
    assert any(path.is_relative_to(tmp_path / "hf") for path in written), "the library writes its locks where we look"
    held_out = data.validation.scored_tokens + data.test.scored_tokens
    tokens = [path.stat().st_size for path in written if path.suffix == ".tokens"]
    assert sum(tokens) == 2 * (held_out + data.validation.documents + data.test.documents)
    training = DOCUMENTS[0].splitlines()[0].encode()
    assert not any(training in path.read_bytes() for path in written)
    assert all(own_cache in path.parents or path.stat().st_size == 0 for path in written)


def test_the_second_time_comes_from_the_cache_and_changes_are_seen(tmp_path: Path) -> None:
    source = write(tmp_path, "parquet")

    def said() -> tuple[StreamedSplit, list[str]]:
        lines: list[str] = []
        train = prepare(DataConfig(sources=(source,), vocab_size=300), progress=lines.append).train
        assert isinstance(train, StreamedSplit)
        return train, lines

    first, lines = said()
    again, lines_again = said()
    assert any(line.startswith("Tokenizing") for line in lines)
    assert not any(line.startswith("Tokenizing") for line in lines_again)
    assert (again.identity, again.bytes, again.held) == (first.identity, first.bytes, first.held)
    table([*DOCUMENTS[:149], "another text"]).to_parquet(tmp_path / "0.parquet")
    changed, lines_changed = said()
    assert any(line.startswith("Tokenizing") for line in lines_changed)
    assert changed.identity != first.identity


def test_a_run_that_goes_on_finds_the_same_text(tmp_path: Path) -> None:
    """Resuming gives the tokenizer instead of training one: another entry of the cache, the same identity."""
    source = write(tmp_path, "saved")
    first = prepared(source, tokenizer="bpe", vocab_size=300)
    again = prepare(DataConfig(sources=(source,)), tokenizer=first.tokenizer)
    assert again.train.identity == first.train.identity


def test_sizes_are_estimated_from_the_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "SAMPLE_BYTES", 4000)
    monkeypatch.setattr(prepare_streamed, "MEASURED_BYTES", 2000)
    table().save_to_disk(tmp_path / "saved")
    data = prepared(f"hf:{tmp_path}/saved?held_out=300", tokenizer="bpe", vocab_size=300)
    true = sum(len(text.encode()) for text in DOCUMENTS)
    assert isinstance(data.train, StreamedSplit)
    assert 0.6 < data.train.bytes / true < 1.6
    assert "about" in data.summary
    assert data.train.lanes_that_fit(10) == (data.train.scored_tokens + data.train.documents) // 10


def test_a_split_of_a_dataset_can_be_scored(tmp_path: Path, data: PreparedData) -> None:
    split = tokenize_sources([write(tmp_path, "splits") + "?split=test"], data.tokenizer)
    assert texts(split, data) == DOCUMENTS[9:20]


# What can go wrong


def test_the_package_is_asked_for_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path, "parquet")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'weft-lm\[data\]'"):
        prepared(source)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?column=body", "no column 'body': it has text, number"),
        ("?column=number", "holds int, not text"),
        ("?split=dev", "no split 'dev': it has train"),
        ("?validation=dev", "no split 'dev': it has train"),
        ("?colum=text", "no option 'colum': did you mean 'column'"),
        ("?held_out=many", "many"),
    ],
)
def test_what_the_dataset_does_not_have_is_named(tmp_path: Path, query: str, message: str) -> None:
    table(number=list(range(300))).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=message) as told:
        prepared(f"hf:{tmp_path}/a.parquet{query}")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("source", ["hf:", "hf:nobody/nothing", "hf:/none/at/all.parquet", "hf:{}/notes.md", "hf:{}/x"])
def test_a_dataset_that_cannot_be_opened_is_one_sentence(tmp_path: Path, source: str) -> None:
    (tmp_path / "notes.md").write_text("text")
    (tmp_path / "x").mkdir()
    with pytest.raises(UserError, match=r"hf:|cannot be opened") as told:
        prepared(source.format(tmp_path))
    assert "\n" not in str(told.value)


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(UserError, match="failed"):
        prepared(f"hf:{tmp_path}/a.jsonl")


def test_texts_that_are_empty_or_missing_are_passed_over(tmp_path: Path) -> None:
    texts = ["", *DOCUMENTS[:20], None, *DOCUMENTS[20:40]]
    table(texts).to_parquet(tmp_path / "a.parquet")
    data = prepared(f"hf:{tmp_path}/a.parquet")
    assert data.train.documents == 36
    assert [len(documents) for documents in iter(data.train.read().block, [])] == [36]


def test_too_few_documents_to_hold_some_out(tmp_path: Path) -> None:
    table(DOCUMENTS[:5]).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match="no validation split and too few documents"):
        prepared(f"hf:{tmp_path}/a.parquet")


def test_a_closed_vocabulary_needs_a_size(tmp_path: Path) -> None:
    source = write(tmp_path, "parquet")
    with pytest.raises(UserError, match="data.vocab_size"):
        prepared(source, tokenizer="closed-words")
    assert prepared(source, tokenizer="closed-words", vocab_size=50).validation.unknown_words


def test_a_source_is_taken_apart() -> None:
    source = parse_source("hf:owner/name?config=nn&split=all&column=body&revision=v1&held_out=1M", "ignored")
    told = (source.name, source.config, source.split, source.column, source.revision, source.held_out)
    assert told == ("owner/name", "nn", "all", "body", "v1", 1_000_000)
    assert parse_source("hf:owner/name", "body").column == "body"


def test_a_place_in_the_texts_is_kept_exactly(tmp_path: Path) -> None:
    dataset = HubDataset(parse_source(write(tmp_path, "parquet")))
    for number in (1, 36, 149, 150, 151, 300):
        reader = dataset.texts("train")
        before = list(itertools.islice(reader, number))
        rest = dataset.texts("train", passed_on(reader.mark()))
        assert [*before, *rest] == DOCUMENTS

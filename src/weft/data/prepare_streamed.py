"""Preparing a training text that streams: held-out parts go through the cache, the rest stays where it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from weft.data.cache import cached, content_key
from weft.data.config import CLOSED, HUB, DataConfig, SplitName
from weft.data.documents import Fragment, Layout, whole_documents
from weft.data.forms import Form, FormWatch
from weft.data.hub import HubDataset, parse_source
from weft.data.prepared import (
    PreparedData,
    TokenizedSplit,
    cache_settings,
    form_remarks,
    open_split,
    summarize,
    write_split,
)
from weft.data.sources import SourceFile, resolve_sources
from weft.data.splits import iter_files
from weft.data.streamed import (
    FOLDS,
    Beginning,
    StreamedSplit,
    estimate,
    own_split,
    read_beginning,
    sample_identity,
)
from weft.data.tokenizer_training import default_vocab_size, train_tokenizer
from weft.data.tokenizers import MIN_VOCAB_SIZE, Tokenizer
from weft.data.unify import AS_IT_IS, Unify
from weft.errors import UserError

MEASURED_BYTES = 2_000_000  # of the sample, to learn how many tokens a byte makes
Progress = Callable[[str], None]


def prepare_streamed(config: DataConfig, tokenizer: Tokenizer | None, tell: Progress) -> PreparedData:
    """Open the dataset; make tokenizer, validation and test, or find them in the cache.

    The cache is keyed by the dataset's files (names and revisions on the hub; sizes and dates here). The
    training text is never written anywhere.
    """
    tell("Opening the dataset.")
    dataset = HubDataset(parse_source(config.sources[0], config.text_key), config.unify)
    given: dict[SplitName, tuple[SourceFile, ...]] = {}
    for part in FOLDS:
        if files := getattr(config, part):
            given[part] = resolve_sources(files, config.unify)

    # Find the entry of the cache by all that it depends on, or build it.
    settings = cache_settings(config.model_dump(exclude={"sources", "path", "validation", "test"}), tokenizer)
    settings |= {"dataset": asdict(dataset.source), "files": dataset.fingerprint(dates=True)}
    settings["longest_document"] = config.cut_above
    if tokenizer is None:
        settings["tokenizer"] = config.tokenizer_kind
    key = content_key(settings, {str(part): files for part, files in given.items()})
    entry, told = cached(key, lambda folder: _build(folder, dataset, given, config, tokenizer, tell))
    train = StreamedSplit(
        dataset=dataset,
        held={int(fold): stop for fold, stop in told["held"].items()},  # JSON has made strings of the keys
        bytes=told["bytes"],
        documents=told["documents"],
        tokens_per_byte=told["tokens_per_byte"],
        identity=told["identity"],
        cut_above=config.cut_above,
        form=Form.from_json(told["form"]),
    )
    validation, test = (open_split(entry, part, told[part]) for part in FOLDS)
    for line in form_remarks(train, validation, test):
        tell(line)
    tell(told["summary"])
    settled = {"longest_document": config.cut_above}
    tokenizer = tokenizer or Tokenizer.load(entry)
    return PreparedData(tokenizer, train, validation, test, told["summary"], settled, key=key, rule=told["rule"])


def tokenize_dataset(
    sources: Sequence[str], tokenizer: Tokenizer, text_key: str, unify: Unify = AS_IT_IS
) -> TokenizedSplit:
    """Tokenize one split of a dataset without holding anything out, through the cache: text to score."""
    if len(sources) > 1:
        raise UserError(f"A source '{HUB}...' stands alone: leave the others out.")
    dataset = HubDataset(parse_source(sources[0], text_key), unify)
    values = {"dataset": asdict(dataset.source), "files": dataset.fingerprint(dates=True), "whole": True}
    settings = cache_settings(values | asdict(unify), tokenizer)

    def build(folder: Path) -> dict[str, Any]:
        return write_split(folder, "all", own_split(dataset, dataset.source.split), tokenizer)

    entry, told = cached(content_key(settings, {}), build)
    return open_split(entry, "all", told)


def _build(
    folder: Path,
    dataset: HubDataset,
    given: dict[SplitName, tuple[SourceFile, ...]],
    config: DataConfig,
    tokenizer: Tokenizer | None,
    tell: Progress,
) -> dict[str, Any]:
    """Fill an entry of the cache."""
    # A held-out part is, in this order: files that were given, a split of the dataset's own, or documents of
    # the training split.
    own: dict[SplitName, str] = {}
    taken: list[SplitName] = []
    for part in FOLDS:
        if part in given:
            continue
        if name := dataset.held_out(part):
            own[part] = name
        else:
            taken.append(part)
    tell("Reading the first documents.")
    beginning = read_beginning(dataset, taken)
    size, documents = estimate(dataset, beginning)
    if tokenizer is None:
        tell(f"Training the tokenizer ({config.tokenizer_kind}).")
        tokenizer = _train(beginning, size, config)
        tokenizer.save(folder)
    layout = Layout(config.document_separator, config.text_key)
    told: dict[str, Any] = {}
    for part in FOLDS:
        tell(f"Tokenizing the {part} split.")
        fragments: Iterable[Fragment]
        if part in given:
            fragments = iter_files(given[part], layout, any_bytes=tokenizer.kind == "bytes")
        elif part in own:
            fragments = own_split(dataset, own[part])
        else:
            fragments = whole_documents(beginning.held_out[part])
        told[part] = write_split(folder, part, fragments, tokenizer)
    watch = FormWatch()
    for _ in watch.passing(whole_documents(beginning.sample)):
        pass
    form = watch.form()
    length = f"{size:,} bytes" if beginning.whole else f"about {size:,} bytes"
    rule = f"held out; the training text streams ({length}){config.unify.note()}"
    return told | {
        "held": beginning.held,
        "bytes": size,
        "documents": documents,
        "tokens_per_byte": _tokens_per_byte(beginning, tokenizer),
        "form": None if form is None else form.to_json(),
        "identity": sample_identity(dataset, beginning, tokenizer.to_json()),
        "rule": rule,
        "summary": summarize([told[part] for part in FOLDS], tokenizer, rule),
    }


def _train(beginning: Beginning, size: int, config: DataConfig) -> Tokenizer:
    kind = config.tokenizer_kind
    if kind == "bytes":
        return train_tokenizer(kind, (), config.vocab_size or MIN_VOCAB_SIZE)
    if kind == CLOSED and config.vocab_size is None:
        raise UserError(
            f"A closed vocabulary is not known while the text streams: say how many of the first words with "
            f"data.vocab_size, or use another tokenizer than {CLOSED}."
        )
    vocab_size = config.vocab_size or default_vocab_size(size)
    return train_tokenizer(kind, beginning.sample, vocab_size, exact=config.vocab_size is not None)


def _tokens_per_byte(beginning: Beginning, tokenizer: Tokenizer) -> float:
    """Return the tokens that a byte of the first documents makes, boundaries not counted."""
    documents: list[bytes] = []
    size = 0
    for document in beginning.sample:
        documents.append(document)
        size += len(document)
        if size >= MEASURED_BYTES:
            break
    tokens = 0
    for _, ids in tokenizer.encode_stream(tokenizer.cut(whole_documents(documents))):
        tokens += len(ids)
    return tokens / size

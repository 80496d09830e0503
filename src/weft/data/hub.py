"""Hugging Face datasets as sources of text that streams: ``hf:NAME?option=value&...``.

NAME is a dataset of the hub (``owner/name``) or a path: what ``save_to_disk`` wrote, a folder of data files,
or parquet, arrow, csv, tsv, json or jsonl files (a glob works). What exists on the disk is a path. No code
of a dataset is ever run.
"""

from __future__ import annotations

import copy
import difflib
import glob
import hashlib
import json
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from weft.data.config import HUB
from weft.data.nesting import json_files, require_flat
from weft.data.sources import require_file
from weft.data.unify import AS_IT_IS, Unify
from weft.errors import UserError
from weft.pattern import parse_count

HELD_OUT_BYTES = 2_000_000
_BUILDERS = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
}


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """A source ``hf:...``, taken apart.

    ``split`` is what is trained on; ``validation`` and ``test`` name the dataset's own splits (by default
    those of these names, where it has them); ``column`` holds the text; ``held_out`` bounds the bytes of
    each held-out part (None: a split of the dataset's own is taken whole, else 2,000,000 bytes of
    documents).
    """

    name: str
    config: str | None = None
    split: str = "train"
    column: str = "text"
    revision: str | None = None
    validation: str | None = None
    test: str | None = None
    held_out: int | None = None


def parse_source(source: str, text_key: str = "text") -> HubSource:
    """Return what ``hf:NAME?option=value&...`` says; UserError for an option that does not exist."""
    name, _, query = source.removeprefix(HUB).partition("?")
    if not name:
        raise UserError(f"'{source}' names no dataset: write {HUB}owner/name or {HUB}path/to/files.")
    options: dict[str, Any] = dict(parse_qsl(query, keep_blank_values=True))
    known = [field.name for field in fields(HubSource) if field.name != "name"]
    for option in options:
        if option in known:
            continue
        hint = f"there is {', '.join(known)}."
        if near := difflib.get_close_matches(option, known, n=1, cutoff=0.5):
            hint = f"did you mean '{near[0]}'?"
        raise UserError(f"A source {HUB}... has no option '{option}': {hint}")
    if "held_out" in options:
        options["held_out"] = parse_count(options["held_out"])
    options.setdefault("column", text_key)
    return HubSource(name=name, **options)


class HubDataset:
    """The splits of a dataset, opened for streaming: nothing of their text is written to the disk.

    ``unify`` is what is made one in its texts.
    """

    def __init__(self, source: HubSource, unify: Unify = AS_IT_IS) -> None:
        self.source = source
        self.unify = unify
        self._splits, self._files = _open(source)
        if source.split not in self._splits:
            raise UserError(self._no_split(source.split))

    def held_out(self, part: str) -> str | None:
        """Return the split that serves as ``part`` (validation or test), or None where there is none."""
        asked: str | None = getattr(self.source, part)
        if asked is not None and asked not in self._splits:
            raise UserError(self._no_split(asked))
        if asked:
            return asked
        if part in self._splits and part != self.source.split:
            return part
        return None

    def texts(self, split: str, position: dict[str, Any] | None = None) -> HubTexts:
        """Return the texts of a split, from a place that :meth:`HubTexts.mark` gave."""
        return HubTexts(self.source, self._splits[split], position, self.unify)

    def rows(self, split: str) -> int | None:
        """Return the number of records of a split, where the dataset tells it."""
        described = self._splits[split].info.splits
        if not described or split not in described:
            return None
        return described[split].num_examples or None

    @cached_property
    def file_bytes(self) -> int:
        """The size of the dataset's files, where they are on this machine; else 0."""
        size = 0
        for files in self._files.values():
            for file, *_ in files:
                if Path(file).is_file():
                    size += Path(file).stat().st_size
        return size

    def fingerprint(self, *, dates: bool) -> str:
        """Return a string that changes with the files: hub names and revisions, local sizes and ``dates``."""
        described: dict[str, list[list[Any]]] = {}
        for split, files in self._files.items():
            described[split] = []
            for file, *version in files:
                if not Path(file).is_file():
                    described[split].append([file, version])
                elif dates:
                    described[split].append([Path(file).stat().st_size, version])
                else:  # a copy of the files is the same text, wherever it lies and whenever it was made
                    described[split].append([Path(file).stat().st_size, ""])
        return hashlib.blake2b(json.dumps(described, sort_keys=True).encode(), digest_size=16).hexdigest()

    def _no_split(self, name: str) -> str:
        return f"The dataset '{self.source.name}' has no split '{name}': it has {', '.join(self._splits)}."


class HubTexts(Iterator[str]):
    """The texts of one split from a place that :meth:`mark` gave; empty ones are passed over."""

    def __init__(
        self, source: HubSource, dataset: Any, position: dict[str, Any] | None, unify: Unify = AS_IT_IS
    ) -> None:
        self._source = source
        self._unify = unify
        # A dataset keeps the place that it was read to, so each reading has its own.
        self._dataset = copy.deepcopy(dataset)
        if position:
            self._dataset.load_state_dict(position)
        self._records: Iterator[dict[str, Any]] = iter(self._dataset)
        # Closed at the latest when the interpreter ends, while the library's modules are still there to close
        # it with.
        weakref.finalize(self, self._records.close)  # type: ignore[attr-defined]

    def mark(self) -> dict[str, Any]:
        """Return the place after the last text, as plain JSON; it takes a moment, so not at every text."""
        place: dict[str, Any] = self._dataset.state_dict()
        return place

    def __next__(self) -> str:
        while True:
            try:
                record = next(self._records)
            except (StopIteration, UserError):
                raise
            except Exception as error:  # whatever the network, the files and their many formats raise
                raise UserError(
                    f"Reading the dataset '{self._source.name}' failed ({_first_line(error)}): look at it and at the "
                    "connection, then go on (a run goes on with resume=True)."
                ) from error
            if text := self._text(record):  # empty records are no documents
                return text

    def _text(self, record: dict[str, Any]) -> str:
        column = self._source.column
        if column not in record:
            known = ", ".join(record)
            raise UserError(
                f"The dataset '{self._source.name}' has no column '{column}': it has {known}; name the one with the "
                f"text with {HUB}...?column=NAME."
            )
        text = record[column]
        if text is not None and not isinstance(text, str):
            raise UserError(
                f"The column '{column}' of the dataset '{self._source.name}' holds {type(text).__name__}, not text: "
                f"name another with {HUB}...?column=NAME."
            )
        return self._unify.document(text or "")


def _open(source: HubSource) -> tuple[dict[str, Any], dict[str, list[tuple[str, ...]]]]:
    """Return the splits as iterable datasets, and their files with what tells one version from another."""
    try:
        import datasets
    except ImportError:
        raise UserError(f"Sources {HUB}... need the package datasets: pip install 'weft-lm[data]'.") from None
    try:
        path = Path(source.name).expanduser()
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            return _saved(datasets, path)
        builder = _builder(datasets, source, path)
        splits = {str(split): dataset for split, dataset in builder.as_streaming_dataset().items()}
        files: dict[str, list[tuple[str, ...]]] = {}
        for split, names in (builder.config.data_files or {}).items():
            # Its metadata is the library's: a revision of the hub, an entity tag, or the date of a local
            # file.
            versions = zip(names, names.origin_metadata, strict=False)
            files[str(split)] = [(str(file), *map(str, version)) for file, version in versions]
        return splits, files
    except UserError:
        raise
    except Exception as error:  # the library raises many kinds, also plain ValueError and RuntimeError
        raise UserError(
            f"The dataset '{source.name}' cannot be opened ({_first_line(error)}): check its name or path, its config "
            "and the connection."
        ) from error


def _saved(datasets: Any, path: Path) -> tuple[dict[str, Any], dict[str, list[tuple[str, ...]]]]:
    """Open what ``save_to_disk`` wrote; its files are mapped into memory, not copied."""
    loaded = datasets.load_from_disk(str(path))
    named = {"train": loaded}
    if isinstance(loaded, datasets.DatasetDict):
        named = dict(loaded)
    splits: dict[str, Any] = {}
    files: dict[str, list[tuple[str, ...]]] = {}
    for name, dataset in named.items():
        splits[name] = dataset.to_iterable_dataset()
        files[str(name)] = []
        for file in dataset.cache_files:
            date = Path(file["filename"]).stat().st_mtime_ns
            files[str(name)].append((file["filename"], str(date)))
    return splits, files


def _builder(datasets: Any, source: HubSource, path: Path) -> Any:
    """Return the library's builder for a folder, a dataset of the hub, or data files."""
    is_pattern = glob.has_magic(source.name) and not path.exists()
    if path.is_dir():
        # The library's reader of JSON ends the whole process at a line that nests too deep.
        for file in json_files(path):
            require_flat(file)
        return datasets.load_dataset_builder(str(path.resolve()), source.config, revision=None)
    if not (path.exists() or is_pattern or source.name[0] in "/.~"):  # which is no path here
        return datasets.load_dataset_builder(source.name, source.config, revision=source.revision)
    found = [str(path)]
    if is_pattern:
        found = sorted(glob.glob(str(path)))  # noqa: PTH207
    if not found or not Path(found[0]).exists():
        raise UserError(f"There is no '{source.name}': give {HUB} the path of data files, or owner/name of the hub.")
    for file in map(Path, found):
        require_file(file)
        require_flat(file)
    suffix = ""
    # The last that is known: "text.json.csv" is a table, "text.csv.gz" too.
    for part in Path(found[0]).suffixes:
        if part in _BUILDERS:
            suffix = part
    if not suffix:
        raise UserError(f"'{found[0]}' is none of {', '.join(_BUILDERS)}: give plain text as a source without '{HUB}'.")
    settings = {"sep": "\t"} if suffix == ".tsv" else {}
    files = [str(Path(file).resolve()) for file in found]
    return datasets.load_dataset_builder(_BUILDERS[suffix], data_files=files, **settings)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    return lines[0].rstrip(".")

"""What a run remembers of its texts, so that others are not taken for them: files, form, and the cache's entry.

Names are as they were given and, of the files in a folder or of a pattern, relative to it: where on a machine the texts
lie is kept in the run's recipe alone.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from weft.data.cache import content_hash, kept, kind_of
from weft.data.config import BUNDLED, HUB, DataConfig
from weft.data.forms import Form
from weft.data.prepared import FORMAT_VERSION, PreparedData, TokenizedSplit, open_split
from weft.data.sources import SourceFile, resolve_sources
from weft.data.streamed import StreamedSplit
from weft.data.tokenizers import Tokenizer
from weft.errors import UserError

_GROUPS = ("sources", "validation", "test")
_MOST_TOLD = 3  # of the changes of a source
_Files = dict[str, tuple[str, int, str]]  # by its name: how it is read, its bytes, a hash of its content


@dataclass(frozen=True, kw_only=True)
class TextRecord:
    """The texts of a run.

    ``files`` are those of each source, by group, in the order in which these were given; ``stream`` tells a text that
    streams from others; ``prepared`` and ``tokenizer`` name what the cache may still have.
    """

    files: Mapping[str, Sequence[_Files]]
    stream: str | None
    form: Form | None
    prepared: str
    tokenizer: str

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "format": FORMAT_VERSION,
            "files": self.files,
            "stream": self.stream,
            "form": self.form and self.form.to_json(),
            "prepared": self.prepared,
            "tokenizer": self.tokenizer,
        }

    @classmethod
    def from_json(cls, told: Any) -> TextRecord | None:
        """Return what :meth:`to_json` wrote; None for anything else."""
        try:
            files = {str(group): [*map(_files_from, sources)] for group, sources in told["files"].items()}
            return cls(
                files=files,
                stream=told["stream"] and str(told["stream"]),
                form=Form.from_json(told["form"]),
                # What another version wrote is made anew.
                prepared=str(told["prepared"]) if told["format"] == FORMAT_VERSION else "",
                tokenizer=str(told["tokenizer"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            return None

    def changes(self, data: DataConfig, located: DataConfig) -> list[str]:
        """Say what is not as it was; ``located`` has the names of ``data`` as they lead to the texts now."""
        told = []
        for group, given in _given(data).items():
            before, now = self.files.get(group, ()), [_files_of(name) for name in _given(located)[group]]
            if _in_order(before) == _in_order(now):
                continue
            for name, then, files in zip_longest(given, before, now):
                if lines := _differences(then or {}, files or {}):
                    more = f" and {len(lines) - _MOST_TOLD:,} more" if len(lines) > _MOST_TOLD else ""
                    told.append(f"'{name}': {', '.join(lines[:_MOST_TOLD])}{more}")
        return told

    def split(self, name: str, tokenizer: Tokenizer) -> TokenizedSplit | None:
        """Return a split of the text as it was, where the cache still has it."""
        entry = kept(self.prepared) if self.tokenizer == tokenizer_hash(tokenizer) else None
        if entry is None or name not in entry[1]:
            return None
        return open_split(entry[0], name, entry[1][name])


def record(located: DataConfig, prepared: PreparedData) -> TextRecord:
    """Return what is to be remembered of the texts that the names of ``located`` lead to, and ``prepared``."""
    train = prepared.train
    return TextRecord(
        files={group: [_files_of(name) for name in names] for group, names in _given(located).items()},
        stream=train.identity if isinstance(train, StreamedSplit) else None,
        form=train.form,
        prepared=prepared.key,
        tokenizer=tokenizer_hash(prepared.tokenizer),
    )


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """Return a string that is another for another tokenizer."""
    return hashlib.blake2b(tokenizer.to_json().encode(), digest_size=16).hexdigest()


def _files_from(told: Mapping[str, Any]) -> _Files:
    """Return the files of a source, as JSON has them."""
    return {str(name): (str(kind), int(size), str(content)) for name, (kind, size, content) in told.items()}


def _given(data: DataConfig) -> dict[str, list[str]]:
    """Return the sources that are files of one's own, by group: a published corpus and a dataset are checked apart."""
    groups: dict[str, list[str]] = {}
    for group in _GROUPS:
        names = getattr(data, group)
        if group == "sources" and (data.published or data.streamed):
            names = ()
        groups[group] = list(names)
    return groups


def _files_of(name: str) -> _Files:
    """Return the files of a source by their names within it; none where there is nothing any more."""
    try:
        found = resolve_sources([name])
    except UserError:
        return {}
    base = _base(name)
    return {_within(file, base): (_kind(file), file.path.stat().st_size, content_hash(file)) for file in found}


def _base(name: str) -> Path:
    """Return the folder to which the files of a source are relative."""
    if name.startswith(BUNDLED):
        return resolve_sources([name])[0].path.parent
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        return path.parent
    parts = path.parts
    fixed = next((index for index, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return Path(*parts[:fixed])


def _within(file: SourceFile, base: Path) -> str:
    try:
        return file.path.relative_to(base).as_posix()
    except ValueError:  # a pattern whose beginning is written in another way than what it leads to
        return file.path.name


def _kind(file: SourceFile) -> str:
    return f"{kind_of(file)}{file.compression}"


def _in_order(sources: Iterable[_Files]) -> list[tuple[str, int, str]]:
    """Return what is read, one file after another: names do not matter, where they leave the order as it is."""
    return [told for files in sources for told in files.values()]


def _differences(before: _Files, now: _Files) -> list[str]:
    """Say of each file what became of it."""
    if before and not now:
        return ["nothing is there any more"]
    gone = {name: told for name, told in before.items() if name not in now}
    new = {name: told for name, told in now.items() if name not in before}
    lines = []
    for name, told in list(gone.items()):
        if other := next((other for other, new_told in new.items() if new_told == told), None):
            lines.append(f"{name} is now {other}")
            del gone[name], new[other]
    lines += [f"{name} is gone" for name in gone]
    lines += [f"{name} was added" for name in new]
    return lines + [f"{name} has changed" for name in now if name in before and before[name] != now[name]]


# Where the texts are


def found_at(data: DataConfig, located: DataConfig | None = None) -> dict[str, str]:
    """Return the absolute names of those of ``data`` that name places on this machine.

    ``located`` has the names as they lead there now, where these are not those of ``data``.
    """
    places = {}
    for name, found in zip(_places(data), _places(located or data), strict=True):
        if (place := absolute(found)) != name:
            places[name] = place
    return places


def _places(data: DataConfig) -> list[str]:
    """Return the names that may be those of places: that of a published corpus is not."""
    sources = () if data.published else data.sources
    return [*sources, *data.validation, *data.test, *([data.path] if data.path else [])]


def absolute(name: str) -> str:
    """Return a source's name as it holds in any folder."""
    if name.startswith(BUNDLED):
        return name
    if name.startswith(HUB):
        place, question, query = name.removeprefix(HUB).partition("?")
        local = Path(place).expanduser().exists() or glob.has_magic(place) or place.startswith(("/", ".", "~"))
        return f"{HUB}{absolute(place)}{question}{query}" if local else name
    path = Path(name).expanduser()
    if path.is_absolute():
        return str(path)
    if glob.has_magic(name) and not path.exists():  # a pattern, of which the present folder is no part
        return os.path.join(glob.escape(str(Path.cwd())), path)  # noqa: PTH118
    return str(path.absolute())


def located(data: DataConfig, places: Mapping[str, str]) -> DataConfig:
    """Return ``data`` with the places that :func:`found_at` told."""
    names: dict[str, Any] = {group: tuple(places.get(name, name) for name in getattr(data, group)) for group in _GROUPS}
    names["path"] = places.get(data.path, data.path) if data.path else data.path
    return data.model_copy(update=names)

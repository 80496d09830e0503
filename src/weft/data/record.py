"""What a run remembers of its texts, to tell others from them: files, form, and the cache's entry.

Names are as they were given and, of the files in a folder or of a pattern, relative to it: where on a
machine the texts lie is kept in the run's recipe alone.
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
from weft.data.sources import resolve_sources
from weft.data.streamed import StreamedSplit
from weft.data.tokenizers import Tokenizer
from weft.errors import UserError

_GROUPS = ("sources", "validation", "test")
_MOST_TOLD = 3  # of the changes of a source
_Files = dict[str, tuple[str, int, str]]  # by its name: how it is read, its bytes, a hash of its content


@dataclass(frozen=True, kw_only=True)
class TextRecord:
    """The texts of a run.

    ``files`` are those of each source, by group, in the order in which these were given; ``stream`` tells a
    text that streams from others; ``prepared`` and ``tokenizer`` name what the cache may still have.
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
            files: dict[str, list[_Files]] = {}
            for group, sources in told["files"].items():
                files[str(group)] = [_files_from(source) for source in sources]
            prepared = ""
            if told["format"] == FORMAT_VERSION:  # what another version wrote into the cache is made anew
                prepared = str(told["prepared"])
            return cls(
                files=files,
                stream=told["stream"] and str(told["stream"]),
                form=Form.from_json(told["form"]),
                prepared=prepared,
                tokenizer=str(told["tokenizer"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            return None

    def changes(self, data: DataConfig, located: DataConfig) -> list[str]:
        """Say what is not as it was; ``located`` has the names of ``data`` as they lead to the texts now."""
        told: list[str] = []
        for group, given in _given(data).items():
            before = self.files.get(group, ())
            now = [_files_of(name) for name in _given(located)[group]]
            if _in_order(before) == _in_order(now):
                continue
            for name, then, files in zip_longest(given, before, now):
                lines = _differences(then or {}, files or {})
                if not lines:
                    continue
                line = f"'{name}': {', '.join(lines[:_MOST_TOLD])}"
                if len(lines) > _MOST_TOLD:
                    line += f" and {len(lines) - _MOST_TOLD:,} more"
                told.append(line)
        return told

    def split(self, name: str, tokenizer: Tokenizer) -> TokenizedSplit | None:
        """Return a split of the text as it was, where the cache still has it."""
        if self.tokenizer != tokenizer_hash(tokenizer):
            return None
        entry = kept(self.prepared)
        if entry is None:
            return None
        folder, told = entry
        if name not in told:
            return None
        return open_split(folder, name, told[name])


def record(located: DataConfig, prepared: PreparedData) -> TextRecord:
    """Return what is to be remembered of ``prepared`` and the texts that ``located`` names."""
    train = prepared.train
    files: dict[str, list[_Files]] = {}
    for group, names in _given(located).items():
        files[group] = [_files_of(name) for name in names]
    return TextRecord(
        files=files,
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
    files: _Files = {}
    for name, (kind, size, content) in told.items():
        files[str(name)] = (str(kind), int(size), str(content))
    return files


def _given(data: DataConfig) -> dict[str, list[str]]:
    """Return the sources that are the user's files, by group; published corpora and datasets are checked apart."""
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
    files: _Files = {}
    for file in found:
        try:
            within = file.path.relative_to(base).as_posix()
        except ValueError:  # a pattern whose beginning is written in another way than what it leads to
            within = file.path.name
        kind = f"{kind_of(file)}{file.compression}"
        files[within] = (kind, file.path.stat().st_size, content_hash(file))
    return files


def _base(name: str) -> Path:
    """Return the folder to which the files of a source are relative."""
    if name.startswith(BUNDLED):
        return resolve_sources([name])[0].path.parent
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        return path.parent
    # A pattern: the folders before the first part with a wildcard.
    fixed: list[str] = []
    for part in path.parent.parts:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return Path(*fixed)


def _in_order(sources: Iterable[_Files]) -> list[tuple[str, int, str]]:
    """Return what is read, one file after another: names do not matter where they leave the order as it is."""
    told: list[tuple[str, int, str]] = []
    for files in sources:
        told.extend(files.values())
    return told


def _differences(before: _Files, now: _Files) -> list[str]:
    """Say of each file what became of it."""
    if before and not now:
        return ["nothing is there any more"]
    renamed: list[str] = []
    gone: list[str] = []
    added: list[str] = []
    changed: list[str] = []
    for name, told in now.items():
        if name not in before:
            added.append(name)
        elif before[name] != told:
            changed.append(name)
    for name, told in before.items():
        if name in now:
            continue
        # A new name for a content that is gone elsewhere is a file that was renamed.
        for other in added:
            if now[other] == told:
                renamed.append(f"{name} is now {other}")
                added.remove(other)
                break
        else:
            gone.append(name)
    lines = renamed
    for names, what in ((gone, "is gone"), (added, "was added"), (changed, "has changed")):
        lines += [f"{name} {what}" for name in names]
    return lines


# Where the texts are


def found_at(data: DataConfig, located: DataConfig | None = None) -> dict[str, str]:
    """Return the absolute names of those of ``data`` that name places on this machine.

    ``located`` has the names as they lead there now, where these are not those of ``data``.
    """
    places: dict[str, str] = {}
    for name, found in zip(_places(data), _places(located or data), strict=True):
        place = absolute(found)
        if place != name:
            places[name] = place
    return places


def _places(data: DataConfig) -> list[str]:
    """Return the names that may be those of places: that of a published corpus is not."""
    names = [*data.validation, *data.test]
    if not data.published:
        names = [*data.sources, *names]
    if data.path:
        names.append(data.path)
    return names


def absolute(name: str) -> str:
    """Return a source's name as it holds in any folder."""
    if name.startswith(BUNDLED):
        return name
    if name.startswith(HUB):
        place, question, query = name.removeprefix(HUB).partition("?")
        if Path(place).expanduser().exists() or glob.has_magic(place) or place.startswith(("/", ".", "~")):
            return f"{HUB}{absolute(place)}{question}{query}"
        return name  # a dataset of the hub
    path = Path(name).expanduser()
    if path.is_absolute():
        return str(path)
    if glob.has_magic(name) and not path.exists():  # a pattern, of which the present folder is no part
        return os.path.join(glob.escape(str(Path.cwd())), path)  # noqa: PTH118
    return str(path.absolute())


def located(data: DataConfig, places: Mapping[str, str]) -> DataConfig:
    """Return ``data`` with the places that :func:`found_at` told."""
    names: dict[str, Any] = {}
    for group in _GROUPS:
        names[group] = tuple(places.get(name, name) for name in getattr(data, group))
    if data.path:
        names["path"] = places.get(data.path, data.path)
    return data.model_copy(update=names)

"""Fetching a file over HTTP: resumable, verified, and whole or not there."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from weft.errors import UserError

Progress = Callable[[str], None]
Verify = Callable[[Path], None]
BLOCK_BYTES = 1 << 18
TIMEOUT_SECONDS = 30.0
TRIES = 5  # of one mirror in a row that bring nothing new
PAUSE_SECONDS = 1.0  # before another try; grows
MESSAGE_SECONDS = 5.0
TRANSIENT = (408, 429, 500, 502, 503, 504)  # answers of a server that may give the file a little later


class _BrokenOff(Exception):  # noqa: N818 - not an error: the rest is asked for again
    """The connection ended before the file did."""


class WrongChecksumError(UserError):
    """What came is not what was published."""


_NETWORK: tuple[type[Exception], ...] = (
    _BrokenOff,
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
    ssl.SSLError,
)


@dataclass(frozen=True)
class _Origin:
    """Which version of which file a partial download belongs to."""

    url: str
    validator: str  # a strong ETag or the time of the last change; "" if the server names none


def download(
    urls: Sequence[str], target: Path, *, checksum: str | None, progress: Progress, verify: Verify = lambda _: None
) -> Path:
    """Return ``target``, fetched from the first of ``urls`` (mirrors) that gives it, unless it is there.

    What has come stays in ``target.part`` when the connection ends, and the next call asks only for the
    rest. The file takes its name in one step, after its checksum (``md5:...``) agrees and ``verify`` has
    raised no UserError; else it is dropped and the next mirror asked. Several processes may call at once:
    one fetches, the others wait. UserError says what failed at every mirror, or how the checksum differs.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_name(f"{target.name}.lock")):
            if target.is_file():  # perhaps fetched by another process while this one waited
                return target
            return _from_mirrors(urls, target, checksum, progress, verify)
    except OSError as error:  # what the network raises does not come here
        raise UserError(
            f"Cannot write '{target.parent}' ({error.strerror or error}): make room there, or set WEFT_CACHE to "
            "another folder."
        ) from None


def _from_mirrors(urls: Sequence[str], target: Path, checksum: str | None, progress: Progress, verify: Verify) -> Path:
    failures: list[str] = []
    for url in urls:
        try:
            return _fetch(url, target, checksum, progress, verify)
        except WrongChecksumError as error:
            failures.append(str(error))
        except _NETWORK as error:
            failures.append(f"{url}: {_reason(error)}")
    raise UserError(_all_failed(target, failures))


def check_file(path: Path, checksum: str) -> str | None:
    """Return the checksum of a file, in the notation of ``checksum``, where it is another; else None."""
    algorithm, _, expected = checksum.partition(":")
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, algorithm).hexdigest()
    if found == expected:
        return None
    return f"{algorithm}:{found}"


def _fetch(url: str, target: Path, checksum: str | None, progress: Progress, verify: Verify) -> Path:
    """Return ``target``, fetched from one mirror; WrongChecksumError where another file came."""
    # Ask until all of it is there, or several tries in a row brought nothing.
    part = target.with_name(f"{target.name}.part")
    tries = 0
    while True:
        before = _size(part)
        try:
            _fetch_rest(url, part, progress)
            break
        except urllib.error.HTTPError as error:
            error.close()
            if error.code not in TRANSIENT:
                raise
            reason: Exception = error
        except _NETWORK as error:
            reason = error
        if _size(part) > before:
            tries = 0
        tries += 1
        if tries >= TRIES:
            raise reason
        time.sleep(PAUSE_SECONDS * tries)

    # It takes its name only when it is what was published; else nothing of it is kept to go on from.
    if checksum and (found := check_file(part, checksum)):
        _forget(part)
        raise WrongChecksumError(f"{url}: its checksum should be {checksum}, but is {found}")
    try:
        verify(part)
    except UserError as error:
        _forget(part)
        raise WrongChecksumError(f"{url}: {error}") from None
    part.replace(target)
    _forget(part)
    progress(f"Downloaded {target.name} ({_size(target):,} bytes, {checksum or 'checksum not known: unverified'}).")
    return target


def _fetch_rest(url: str, part: Path, progress: Progress) -> None:
    """Ask for what is missing of ``part`` and append it; _BrokenOff where the answer ends too early."""
    start = _size(part)
    origin = _origin(part)
    if start and (origin is None or origin.url != url):
        start = 0  # nobody knows what it is a part of
    headers = {"User-Agent": "weft", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if origin and origin.validator:  # of a file that has changed since, the server then sends all
            headers["If-Range"] = origin.validator
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not start:  # 416: there is nothing from ``start`` on
            raise
        error.close()
        if error.headers.get("Content-Range") == f"bytes */{start}":
            return  # it was whole
        _forget(part)
        raise _BrokenOff("the server has another file than before") from None
    with answer:
        if start and not _continues(answer, start):
            start = 0
        total = _expected(answer, start)
        if not start:
            _remember(part, _Origin(url, _validator(answer)))
        with part.open("ab" if start else "wb") as stream:
            _copy(answer, stream, start, total, part.name.removesuffix(".part"), progress)
    if total is not None and _size(part) != total:
        raise _BrokenOff(f"the connection ended after {_size(part):,} of {total:,} bytes")


def _copy(answer: Any, stream: IO[bytes], done: int, total: int | None, name: str, progress: Progress) -> None:
    """Append the answer to ``stream``, which has ``done`` bytes of ``total``; tell at times how far it is."""
    of = ""
    if total:
        of = f" of {total / 1e6:,.1f}"
    told = time.monotonic()
    progress(f"Downloading {name}: {done / 1e6:,.1f}{of} MB.")
    while block := answer.read(BLOCK_BYTES):
        stream.write(block)
        done += len(block)
        if time.monotonic() - told >= MESSAGE_SECONDS:
            told = time.monotonic()
            progress(f"Downloading {name}: {done / 1e6:,.1f}{of} MB.")


def _continues(answer: Any, start: int) -> bool:
    """Tell whether the answer begins where we stopped; a server without ranges sends the whole file."""
    content_range = str(answer.headers.get("Content-Range", ""))
    return answer.status == 206 and content_range.startswith(f"bytes {start}-")


def _expected(answer: Any, start: int) -> int | None:
    """Return the bytes of the whole file, where the server says how many it sends."""
    length = answer.headers.get("Content-Length")
    if length and length.isdecimal():
        return start + int(length)
    return None


def _validator(answer: Any) -> str:
    """Return what tells this version of the file from others; weak tags (``W/``) do not tell bytes apart."""
    tag = str(answer.headers.get("ETag", ""))
    if tag and not tag.startswith("W/"):
        return tag
    return str(answer.headers.get("Last-Modified", ""))


def _remember(part: Path, origin: _Origin) -> None:
    _beside(part).write_text(json.dumps(asdict(origin)), encoding="utf-8")


def _origin(part: Path) -> _Origin | None:
    try:
        return _Origin(**json.loads(_beside(part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _beside(part).unlink(missing_ok=True)


def _beside(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _size(path: Path) -> int:
    if path.exists():
        return path.stat().st_size
    return 0


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that the system takes back however this process ends."""
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code} ({error.reason})"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return str(error) or type(error).__name__


def _all_failed(target: Path, failures: list[str]) -> str:
    again = "look at your connection and run again"
    if kept := _size(target.with_name(f"{target.name}.part")):
        again = f"run again to go on after the {kept:,} bytes that came"
    return (
        f"{target.name} could not be downloaded ({'; '.join(failures)}): {again}, or get the file elsewhere and "
        "name it with data.path."
    )

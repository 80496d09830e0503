from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest

from tests.data.site import CONTENT, Site
from weft.data import download as module
from weft.data.download import download
from weft.errors import UserError

SUM = f"md5:{hashlib.md5(CONTENT).hexdigest()}"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.0)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "file.zip"


def fetch(site: Site, target: Path, *names: str, checksum: str | None = SUM) -> list[str]:
    said: list[str] = []
    urls = [site.url(name) for name in names or ("file.zip",)]
    assert download(urls, target, checksum=checksum, progress=said.append) == target
    return said


def leftovers(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir() if path.suffix != ".lock")


def test_a_file_arrives_whole_and_once(site: Site, target: Path) -> None:
    said = fetch(site, target)
    assert target.read_bytes() == CONTENT
    assert leftovers(target) == ["file.zip"]
    assert said[0] == "Downloading file.zip: 0.0 of 0.5 MB."
    assert SUM in said[-1]
    fetch(site, target)
    assert len(site.asked) == 1


def test_an_unknown_checksum_is_called_unverified(site: Site, target: Path) -> None:
    assert "unverified" in fetch(site, target, checksum=None)[-1]


def test_progress_is_told_now_and_then(site: Site, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", 1000)
    few = fetch(site, target)
    target.unlink()
    monkeypatch.setattr(module, "MESSAGE_SECONDS", 0.0)
    many = fetch(site, target)
    assert (len(few), len(many)) == (2, 2 + len(CONTENT) // 1000)


def test_a_connection_that_breaks_is_taken_up_where_it_ended(site: Site, target: Path) -> None:
    site.most = 200_000
    fetch(site, target)
    assert target.read_bytes() == CONTENT
    assert [wanted for _, wanted in site.asked] == ["", "bytes=200000-", "bytes=400000-"]


def test_a_process_that_ended_is_followed_by_another_that_goes_on(
    site: Site, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt  # comes after the first connection has ended

    site.most = 100_000
    with monkeypatch.context() as patch:
        patch.setattr(module.time, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch(site, target)
    assert leftovers(target) == ["file.zip.part", "file.zip.part.json"]
    site.most = None
    fetch(site, target)
    assert target.read_bytes() == CONTENT
    assert [wanted for _, wanted in site.asked] == ["", "bytes=100000-"]
    assert leftovers(target) == ["file.zip"]


def test_a_server_without_ranges_is_read_from_the_start(site: Site, target: Path) -> None:
    site.most, site.ranges = 100_000, False
    with pytest.raises(UserError, match=r"ended after 100,000 of 512,000 bytes.*after the 100,000 bytes.*data.path"):
        fetch(site, target)
    site.most = None
    fetch(site, target)
    assert target.read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_read_from_the_start(site: Site, target: Path) -> None:
    site.most = 100_000
    other = CONTENT[::-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TRIES", 0)
        with pytest.raises(UserError):
            fetch(site, target)
    site.files["/file.zip"], site.tag, site.most = other, '"two"', None
    fetch(site, target, checksum=None)
    assert target.read_bytes() == other


def test_a_part_that_was_whole_is_only_named(site: Site, target: Path) -> None:
    fetch(site, target)
    target.rename(target.with_name("file.zip.part"))
    origin = module._Origin(site.url(), site.tag)
    module._remember(target.with_name("file.zip.part"), origin)
    fetch(site, target)
    assert target.read_bytes() == CONTENT
    assert [wanted for _, wanted in site.asked] == ["", "bytes=512000-"]


def test_a_part_from_nowhere_is_not_trusted(site: Site, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("file.zip.part").write_bytes(b"something else")
    fetch(site, target, checksum=None)
    assert target.read_bytes() == CONTENT


def test_a_wrong_checksum_names_both_and_leaves_nothing(site: Site, target: Path) -> None:
    site.files["/file.zip"] = b"an error page"
    found = hashlib.md5(b"an error page").hexdigest()
    with pytest.raises(UserError, match=rf"should be {SUM}, but is md5:{found}.*data.path"):
        fetch(site, target)
    assert leftovers(target) == []


def test_another_mirror_is_asked_where_one_fails(site: Site, target: Path) -> None:
    site.files |= {"/bad/file.zip": b"an error page", "/good/file.zip": CONTENT}
    fetch(site, target, "none/file.zip", "bad/file.zip", "good/file.zip")
    assert target.read_bytes() == CONTENT
    assert [path for path, _ in site.asked] == ["/none/file.zip", "/bad/file.zip", "/good/file.zip"]


def test_a_file_that_no_mirror_has_is_told_with_every_reason(site: Site, target: Path) -> None:
    with pytest.raises(UserError, match=r"none/file.zip: the server answers 404.*look at your connection.*data.path"):
        fetch(site, target, "none/file.zip")
    port = site.address.rpartition(":")[2]
    with pytest.raises(UserError, match="could not be downloaded") as told:
        download([f"http://127.0.0.1:{port}0/x"], target, checksum=None, progress=lambda _: None)
    assert "\n" not in str(told.value)


def test_a_server_that_is_busy_is_asked_again(site: Site, target: Path) -> None:
    site.failures = [503, 429]
    fetch(site, target)
    assert len(site.asked) == 3


def test_of_two_at_once_one_fetches(site: Site, target: Path) -> None:
    threads = [threading.Thread(target=fetch, args=(site, target)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() == CONTENT
    assert len(site.asked) == 1

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.data.site import Handler, Site
from tests.data.support import made_up_documents


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "weft-cache"
    monkeypatch.setenv("WEFT_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def documents() -> list[str]:
    return made_up_documents(240)


@pytest.fixture
def corpus_file(tmp_path: Path, documents: list[str]) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("\n\n\n".join(documents) + "\n", encoding="utf-8", newline="")
    return path


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"site": site}))
    site.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()

from __future__ import annotations

from pathlib import Path

import pytest

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

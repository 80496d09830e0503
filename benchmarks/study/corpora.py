"""The corpora of the study, from the files that their publishers give away.

python -m benchmarks.study.corpora --eltec-slv eltec-slv.txt.xz --hywiki hy.xml.xz --wiki7 wiki7 --out runs/corpora

- Northern Sami: ``weft:sewiki``, bundled; nothing to do.
- Slovene: the first 10 MB of the novels of ELTeC-slv as one text; give ``--split lines`` with it.
- Armenian: the first 100,000 lines of a dump of the Armenian Wikipedia; give ``--split bytes`` with it.

- Seven languages: the first 3.6 MB of each dump of wiki7, in ``wiki7-25M``, for models of bytes; ``--split bytes``.

The first 600 KB of each of the three stand in ``NAME-600k``, for the question of many passes.

It prints what PPMd (variant H, order 12; the extra ``demo``) makes of each test text after the training text.
"""

from __future__ import annotations

import argparse
import lzma
from pathlib import Path

from weft.data import DataConfig, iter_documents
from weft.evaluation.compressors import conditional_bits_per_byte, ppmd

SLOVENE_BYTES = 10_000_000
SMALL_BYTES = 600_000
LANGUAGE_BYTES = 3_600_000  # seven times, 90 % of it for training: 22.7 MB


def main() -> None:
    """Write the corpora that were given, and print their points of reference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--eltec-slv", type=Path, help="the novels, xz")
    parser.add_argument("--hywiki", type=Path, help="the dump, xz")
    parser.add_argument("--wiki7", type=Path, help="the folder with a dump of each language, xz")
    parser.add_argument("--out", type=Path, default=Path("runs/corpora"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    made = {"sewiki": DataConfig(sources=("weft:sewiki",))}
    if given.eltec_slv:
        slovene = _write(given.out / "slv.txt", lzma.decompress(given.eltec_slv.read_bytes())[:SLOVENE_BYTES])
        made["slv"] = DataConfig(sources=(slovene,), split="lines")
    if given.hywiki:
        armenian = _write(given.out / "hy.xml", lzma.decompress(given.hywiki.read_bytes()))
        made["hy"] = DataConfig(sources=(armenian,), split="bytes")
    for name, config in made.items():
        _write_beginning(given.out, name, config)
    if given.wiki7:
        made["wiki7-25M"] = DataConfig(sources=_write_languages(given.wiki7, given.out / "wiki7-25M"), split="bytes")
    for name, config in made.items():
        separator = b"" if config.split == "bytes" else config.document_separator.encode()
        train, test = (separator.join(iter_documents(config, split)) for split in ("train", "test"))
        bits = conditional_bits_per_byte(train, test, ppmd)
        print(
            f"{name}: {len(train):,} bytes of training text; PPMd, order 12, on its test text: {bits:.3f} bits per byte"
        )


def _write_languages(dumps: Path, out: Path) -> tuple[str, ...]:
    """Write the beginning of each dump and return the files."""
    out.mkdir(exist_ok=True)
    written = []
    for dump in sorted(dumps.glob("*.xml.xz")):
        with lzma.open(dump) as file:
            beginning = file.read(LANGUAGE_BYTES).decode(errors="ignore")
        written.append(_write(out / dump.stem, beginning.encode()))
    return tuple(written)


def _write_beginning(out: Path, name: str, config: DataConfig) -> None:
    """Write the first documents of the training text, or of its only document the beginning."""
    beginning, suffix = bytearray(), ".xml" if config.split == "bytes" else ".txt"
    for document in iter_documents(config, "train"):
        beginning += document.rstrip(b"\n") + f"\n{config.document_separator}\n".encode()
        if len(beginning) >= SMALL_BYTES:
            break
    whole = bytes(beginning[:SMALL_BYTES]).decode(errors="ignore")
    _write(out / f"{name}-600k{suffix}", whole.encode())


def _write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


if __name__ == "__main__":
    main()

"""A training text that streams: held-out parts and tokenizer are prepared, the rest is read in training."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from weft.data.config import SplitName
from weft.data.documents import Fragment
from weft.data.forms import Form
from weft.data.hub import HELD_OUT_BYTES, HubDataset
from weft.data.splits import FOLD, TEST_FOLD, VALIDATION_FOLD
from weft.errors import UserError

SAMPLE_BYTES = 32_000_000  # what the tokenizer learns from
BLOCK_DOCUMENTS = 2048
BLOCK_BYTES = 8_000_000
FOLDS: dict[SplitName, int] = {"validation": VALIDATION_FOLD, "test": TEST_FOLD}


@dataclass(frozen=True)
class StreamedSplit:
    """Documents that are read, and made into tokens, while they are trained on.

    - ``held`` tells for a fold (document number modulo 20) the first document that is not held out any more.
    - ``bytes`` and ``documents`` are those of one pass, *estimated* from the beginning unless that was all;
      ``tokens_per_byte`` is that of the beginning.
    - ``identity`` changes when the text does, as far as its beginning, the files' sizes and the hub's
      revision tell.
    - ``cut_above``: documents of more bytes are cut, as :class:`weft.data.DataConfig` says; 0 cuts none.
    - ``form`` is the form of the beginning.
    """

    dataset: HubDataset
    held: dict[int, int]
    bytes: int
    documents: int
    tokens_per_byte: float
    identity: str
    cut_above: int = 0
    form: Form | None = None

    @property
    def ending_documents(self) -> int:
        """The number of documents, each of which ends, in one pass; estimated."""
        return self.documents

    @property
    def scored_tokens(self) -> int:
        """The number of tokens that are text in one pass, boundaries not counted; estimated."""
        return max(1, round(self.bytes * self.tokens_per_byte))

    def lanes_that_fit(self, sequence_length: int) -> int:
        """Return how many lanes of ``sequence_length`` tokens one pass can fill, by the estimate."""
        return (self.scored_tokens + self.documents) // sequence_length

    def read(self, place: dict[str, Any] | None = None) -> DocumentReader:
        """Return the training documents of one pass, from a :attr:`DocumentReader.place` on."""
        return DocumentReader(self.dataset, self.held, place)


class DocumentReader:
    """One pass over the training documents; ``place`` (plain JSON) is where the next block begins."""

    def __init__(self, dataset: HubDataset, held: dict[int, int], place: dict[str, Any] | None) -> None:
        place = place or {"position": None, "document": 0, "bytes": 0}
        self._held = held
        self._document: int = place["document"]
        self._bytes: int = place["bytes"]
        self._texts = dataset.texts(dataset.source.split, place["position"])
        self.place: dict[str, Any] = place

    @property
    def read_bytes(self) -> int:
        """The bytes of the training documents of this pass so far."""
        return self._bytes

    def block(self) -> list[bytes]:
        """Return the next documents, about 8 MB or 2,048 of them; none at the end of the pass."""
        documents: list[bytes] = []
        size = 0
        for text in self._texts:
            number = self._document
            self._document += 1
            if number >= self._held.get(number % FOLD, 0):
                documents.append(text.encode())
                size += len(documents[-1])
            if len(documents) == BLOCK_DOCUMENTS or size >= BLOCK_BYTES:
                break
        self._bytes += size
        # Marked once a block and not at every document, as telling the place takes the library a moment.
        self.place = {"position": self._texts.mark(), "document": self._document, "bytes": self._bytes}
        return documents


@dataclass(frozen=True)
class Beginning:
    """What was found in the first documents: the parts that are held out, and a sample of the rest."""

    held_out: dict[SplitName, list[bytes]]
    held: dict[int, int]
    sample: list[bytes]
    whole: bool


def read_beginning(dataset: HubDataset, parts: Iterable[SplitName]) -> Beginning:
    """Read as many documents as the held-out ``parts`` and the tokenizer's sample need.

    Document i, from 0, is validation where i mod 20 is 7 and test where it is 13, while that part has fewer
    than ``held_out`` bytes; all others, and all later ones, are training text.
    """
    limit = dataset.source.held_out or HELD_OUT_BYTES
    wanted: dict[int, SplitName] = {}
    held_out: dict[SplitName, list[bytes]] = {}
    for part in parts:
        wanted[FOLDS[part]] = part
        held_out[part] = []
    sizes = dict.fromkeys(wanted, 0)  # of what is held out, by fold
    sample: list[bytes] = []
    sampled = 0
    held: dict[int, int] = {}
    whole = True
    for number, text in enumerate(dataset.texts(dataset.source.split)):
        document = text.encode()
        fold = number % FOLD
        if fold in wanted and sizes[fold] < limit:
            held_out[wanted[fold]].append(document)
            sizes[fold] += len(document)
            held[fold] = number + 1  # from this one on the fold's documents are training text
        elif sampled < SAMPLE_BYTES:
            sample.append(document)
            sampled += len(document)
        if sampled >= SAMPLE_BYTES and all(size >= limit for size in sizes.values()):
            whole = False
            break
    name = dataset.source.name
    for part, documents in held_out.items():
        if not documents:
            raise UserError(
                f"The dataset '{name}' has no {part} split and too few documents to hold some out: give more text, "
                "or files of their own with data.validation and data.test."
            )
    if not sample:
        raise UserError(f"The dataset '{name}' has no text to train on: check its column and split.")
    return Beginning(held_out, held, sample, whole)


def own_split(dataset: HubDataset, split: str) -> Iterator[Fragment]:
    """Yield the documents of a split of the dataset's own, up to ``held_out`` bytes where that is given."""
    size = 0
    for text in dataset.texts(split):
        document = text.encode()
        yield Fragment(True, document)
        size += len(document)
        if dataset.source.held_out and size >= dataset.source.held_out:
            break
    if not size:
        raise UserError(f"The split '{split}' of the dataset '{dataset.source.name}' has no text: choose another.")


def estimate(dataset: HubDataset, beginning: Beginning) -> tuple[int, int]:
    """Return about how many bytes and documents one pass over the training text has."""
    size = sum(map(len, beginning.sample))
    documents = len(beginning.sample)
    if beginning.whole:
        return size, documents
    # The dataset may say how many records it has, else its files' size is taken for that of their text.
    if rows := dataset.rows(dataset.source.split):
        return round(size / documents * rows), rows
    total = max(size, dataset.file_bytes)
    return total, round(documents * total / size)


def sample_identity(dataset: HubDataset, beginning: Beginning, tokenizer: str) -> str:
    """Return a string that is another for another text, tokenizer or choice of held-out parts."""
    digest = hashlib.blake2b(digest_size=16)
    told = (dataset.source.split, dataset.source.column, sorted(beginning.held.items()), tokenizer)
    for part in (repr(told).encode(), dataset.fingerprint(dates=False).encode(), *beginning.sample):
        # The lengths keep texts apart that are the same one behind another, but cut elsewhere.
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()

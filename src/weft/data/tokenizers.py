"""One family of tokenizers, all over bytes, so that any text comes back as it went in; and one exception.

Whatever the kind, ids 0..255 are the bytes themselves (in Hugging Face's printable spelling of bytes), the
pieces that were learned follow, and the two special tokens come last. The exception is ``closed-words``
(:mod:`weft.data.closed_words`), which exists because published perplexities are over a closed vocabulary of
words.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from weft.arguments import told
from weft.data.config import CLOSED, TokenizerKind
from weft.data.documents import Fragment
from weft.data.pieces import PIECE_BYTES, cut_pieces
from weft.data.published import LINE_END_WORD
from weft.errors import UserError
from weft.files import write_atomic

if TYPE_CHECKING:
    import tokenizers
    from numpy.typing import NDArray

BOUNDARY = "<|boundary|>"
PADDING = "<|padding|>"
NUM_BYTES = 256
NUM_SPECIAL = 2
MIN_VOCAB_SIZE = NUM_BYTES + NUM_SPECIAL
BATCH_BYTES = 1 << 20
UNKNOWN_WORD = "<unk>"  # of the closed vocabulary

# Letters with their marks and joiners (Indic scripts, Persian) stay together; digits stand alone; a space
# goes with what follows it; white space ends at the last line end.
_LETTERS = r"\p{L}\p{M}\x{200C}\x{200D}"
_BLANKS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
WORD_PATTERN = rf" ?[{_LETTERS}]+| ?\p{{N}}+| ?[^\s\p{{N}}{_LETTERS}]+|{_BLANKS}"
SUBWORD_PATTERN = rf" ?[{_LETTERS}]+| ?\p{{N}}| ?[^\s\p{{N}}{_LETTERS}]+|{_BLANKS}"
CHARACTER_PATTERN = r"[\s\S]"
PATTERNS: dict[TokenizerKind, str | None] = {
    "bytes": None,
    "characters": CHARACTER_PATTERN,
    "words": WORD_PATTERN,
    "bpe": SUBWORD_PATTERN,
    "unigram": SUBWORD_PATTERN,
}


class Tokenizer:
    """Text to token ids and back, exactly, for any Unicode text (kind ``bytes``: for any bytes).

    Kind ``closed-words`` keeps neither spacing nor unknown words: what comes back has a space before each
    word and each line end, as the WikiText files have.

    ``backend`` is a ``tokenizers.Tokenizer`` of the family described above; :func:`train_tokenizer` and
    :meth:`load` make them. The special tokens never come out of :meth:`encode`: a text that spells them is
    text.
    """

    def __init__(self, kind: TokenizerKind, backend: tokenizers.Tokenizer) -> None:
        self.kind: TokenizerKind = kind
        self.backend = backend
        self.backend.encode_special_tokens = True
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        id_of: Any = backend.token_to_id
        self.boundary_id: int = id_of(BOUNDARY)
        self.padding_id: int = id_of(PADDING)

    def __repr__(self) -> str:
        return f"Tokenizer(kind={self.kind!r}, vocab_size={self.vocab_size})"

    @property
    def unknown_id(self) -> int | None:
        """The id of every word that is not in a closed vocabulary; None where nothing is unknown."""
        if self.kind != CLOSED:
            return None
        found: int | None = self.backend.token_to_id(UNKNOWN_WORD)
        return found

    def cut(self, fragments: Iterable[Fragment]) -> Iterator[Fragment]:
        """Yield the pieces that are encoded on their own; see :func:`weft.data.pieces.cut_pieces`."""
        return cut_pieces(fragments, between_words=self.kind == CLOSED)

    def encode(self, text: str) -> NDArray[np.int32]:
        """Return the ids of ``text`` (T); long texts are cut as :func:`weft.data.pieces.cut_pieces` says."""
        if not isinstance(text, str):
            raise UserError(f"The text is {told(text)}: give a string.")
        try:
            return self.encode_bytes(text.encode())
        except UnicodeEncodeError:  # half a surrogate pair, as a shell passes bytes that are not UTF-8
            raise UserError("The text is not valid Unicode: give UTF-8.") from None

    def encode_bytes(self, data: bytes) -> NDArray[np.int32]:
        """Return the ids of ``data`` (T); UnicodeDecodeError if not UTF-8 and the kind not ``bytes``."""
        if self.kind == "bytes":
            return _byte_ids(data)
        pieces: Iterable[Fragment] = [Fragment(True, data)]
        if len(data) > PIECE_BYTES:
            pieces = self.cut(pieces)
        ids = [np.zeros(0, np.int32)]  # an empty text has no pieces, and there must be something to join
        ids += [ids_of_piece for _, ids_of_piece in self.encode_stream(pieces)]
        return np.concatenate(ids)

    def encode_stream(self, pieces: Iterable[Fragment]) -> Iterator[tuple[Fragment, NDArray[np.int32]]]:
        """Yield each piece with its ids, encoding about 1 MiB at a time on all cores."""
        for batch in _batched(pieces):
            data = [piece.data for piece in batch]
            yield from zip(batch, self._encode_batch(data), strict=True)

    def _encode_batch(self, batch: Sequence[bytes]) -> list[NDArray[np.int32]]:
        if self.kind == "bytes":
            return [_byte_ids(data) for data in batch]
        texts = [data.decode() for data in batch]
        with parallelism():
            encodings = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    def decode_bytes(self, ids: Iterable[int] | NDArray[Any]) -> bytes:
        """Return the bytes that ``ids`` stand for, special tokens dropped."""
        if self.kind == "bytes":
            array = ids if isinstance(ids, np.ndarray) else np.fromiter(ids, np.int64)
            return bytes(array[array < NUM_BYTES].astype(np.uint8).tobytes())
        return b"".join(map(self.token_bytes, ids))

    def decode(self, ids: Iterable[int] | NDArray[Any]) -> str:
        """Return the text that ``ids`` stand for; what is not UTF-8 becomes U+FFFD."""
        return self.decode_bytes(ids).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of one token; none for a special one, and for an embedding's rows beyond the tokens."""
        return self._token_bytes[token_id] if token_id < self.vocab_size else b""

    @cached_property
    def _token_bytes(self) -> list[bytes]:
        table = [b""] * self.vocab_size  # special tokens have no bytes
        vocabulary = self.backend.get_vocab(with_added_tokens=False)
        if self.kind == CLOSED:
            for word, token_id in vocabulary.items():
                table[token_id] = b" \n" if word == LINE_END_WORD else f" {word}".encode()
            return table
        byte_of = bytes_of_characters()
        for token, token_id in vocabulary.items():
            table[token_id] = bytes(byte_of[character] for character in token)
        return table

    def to_json(self) -> str:
        """Return the whole tokenizer as JSON, the same for the same tokenizer."""
        return str(self.backend.to_str())

    def save(self, folder: str | Path) -> None:
        """Write ``tokenizer.json`` and ``tokenizer_config.json``, which ``AutoTokenizer`` reads as well.

        There, as with any other model, a text that spells a special token holds that token: templates of
        chats and trainers write the end of a text so. Weft's own reading stays :meth:`encode`.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "tokenizer.json", self._with_boundary())
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": ["input_ids", "attention_mask"],
            "padding_side": "left",
            "bos_token": BOUNDARY,
            "eos_token": BOUNDARY,
            "pad_token": PADDING,
            "split_special_tokens": False,
            "clean_up_tokenization_spaces": False,
            "weft_kind": self.kind,
        }
        write_atomic(folder / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")

    def _with_boundary(self) -> str:
        """Return the JSON of a tokenizer that begins each text with the boundary token, as training does."""
        from tokenizers import Tokenizer as Backend
        from tokenizers.processors import TemplateProcessing

        backend = Backend.from_str(self.to_json())
        backend.post_processor = TemplateProcessing(
            single=f"{BOUNDARY} $A",
            pair=f"{BOUNDARY} $A {BOUNDARY}:1 $B:1",
            special_tokens=[(BOUNDARY, self.boundary_id)],
        )
        return str(backend.to_str())

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Read what :meth:`save` wrote; UserError where the folder has no tokenizer of this family."""
        import tokenizers

        folder = Path(folder)
        try:
            config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
            text = (folder / "tokenizer.json").read_text(encoding="utf-8")
        except (OSError, ValueError, RecursionError):
            raise UserError(
                f"'{folder}' has no readable tokenizer.json and tokenizer_config.json: give a folder that Weft saved."
            ) from None
        kind: Any = None
        if isinstance(config, dict):
            kind = config.get("weft_kind")
        if kind not in get_args(TokenizerKind):
            raise UserError(f"The tokenizer in '{folder}' was not made by Weft: give a folder that Weft saved.")
        try:
            backend = tokenizers.Tokenizer.from_str(text)
            # It puts the boundary first, for Hugging Face; here the caller does.
            backend.post_processor = None
            backend.no_truncation()
            backend.no_padding()
        except BaseException as error:  # the library raises plain Exception, and a panic of its own that is none
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise UserError(f"'{folder / 'tokenizer.json'}' is damaged: restore it from where it was saved.") from None
        if fault := _fault(kind, backend):
            raise UserError(
                f"'{folder / 'tokenizer.json'}' is no tokenizer of kind {kind}, as {fault}: give Weft's own."
            )
        return cls(kind, backend)


def _fault(kind: TokenizerKind, backend: tokenizers.Tokenizer) -> str | None:
    """Say why ``backend`` does not keep the promises of the family, or None where it does."""
    model: Any = backend.model
    expected = {"unigram": "Unigram", CLOSED: "WordLevel"}.get(kind, "BPE")
    if (found := type(model).__name__) != expected:
        return f"its model is {found}, not {expected}"
    ids = backend.get_vocab(with_added_tokens=True)
    if sorted(ids.values()) != list(range(len(ids))):
        return "its ids have gaps"
    if missing := [token for token in (BOUNDARY, PADDING) if token not in ids]:
        return f"it has no {missing[0]}"
    if kind == CLOSED:
        if UNKNOWN_WORD in ids:
            return None
        return f"it has no {UNKNOWN_WORD}"
    # Of all other kinds: ids 0..255 are the bytes, every token is made of bytes, and a text comes back
    # exactly.
    byte_of = bytes_of_characters()
    if any(ids.get(character) != byte for character, byte in byte_of.items()):
        return "its first 256 tokens are not the bytes"
    pieces = backend.get_vocab(with_added_tokens=False)
    if not set("".join(pieces.keys() - {BOUNDARY, PADDING})) <= byte_of.keys():
        return "a token of it is not spelled in bytes"
    try:
        spelled = "".join(backend.encode(_PROBE, add_special_tokens=False).tokens)
    except Exception:  # such as that of a unigram model that meets what it does not know
        return "it cannot encode a text"
    if bytes(byte_of.get(character, 0) for character in spelled) != _PROBE.encode():
        return "it does not give a text back as it was"
    return None


# A text that normalizers and other splitters would change.
_PROBE = "A Line,  of 12 Ŋŋ é\u0301 字\r\n\tand <|boundary|>."


def assemble(kind: TokenizerKind, model: tokenizers.models.Model) -> Tokenizer:
    """Put the model between the byte spelling and the special tokens of the family."""
    import tokenizers

    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizer(PATTERNS[kind])
    backend.decoder = tokenizers.decoders.ByteLevel()
    add_special_tokens(backend)
    return Tokenizer(kind, backend)


def add_special_tokens(backend: tokenizers.Tokenizer) -> None:
    """Give ``backend`` the two special tokens, whose ids come behind those of its model."""
    from tokenizers import AddedToken

    special = [AddedToken(token, special=True, normalized=False) for token in (BOUNDARY, PADDING)]
    backend.add_special_tokens(special)


def pre_tokenizer(pattern: str | None, longest: int | None = None) -> tokenizers.pre_tokenizers.PreTokenizer:
    """Return what splits a text by ``pattern`` and spells its bytes as characters.

    ``longest`` is the most characters of a piece: longer ones are cut.
    """
    from tokenizers import Regex, pre_tokenizers

    parts: list[Any] = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    if longest is not None:
        parts.insert(0, pre_tokenizers.FixedLength(length=longest))
    if pattern is not None:
        parts.insert(0, pre_tokenizers.Split(Regex(pattern), "isolated"))
    return pre_tokenizers.Sequence(parts) if len(parts) > 1 else parts[0]


def byte_characters() -> list[str]:
    """Return the printable character that stands for each byte (the spelling of GPT-2's tokenizer)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    characters: list[str] = []
    spare = 0x100  # bytes without a printable character take those from U+0100 on, one after another
    for byte in range(NUM_BYTES):
        if byte in printable:
            characters.append(chr(byte))
        else:
            characters.append(chr(spare))
            spare += 1
    return characters


def bytes_of_characters() -> dict[str, int]:
    """Return the byte that each character stands for: :func:`byte_characters` the other way round."""
    return {character: byte for byte, character in enumerate(byte_characters())}


@contextmanager
def parallelism() -> Iterator[None]:
    """Let the tokenizers library use all cores inside, and be safe to fork outside.

    The library warns of (and a forked child may hang on) threads unless the environment says what is wanted;
    what the user says there holds.
    """
    name = "TOKENIZERS_PARALLELISM"
    if os.environ.get(name, "") not in ("", _OUTSIDE):
        yield
        return
    os.environ[name] = "true"
    try:
        yield
    finally:
        os.environ[name] = _OUTSIDE


_OUTSIDE = "off"  # the library takes it for "false"; a user would write "false" or "0"


def _byte_ids(data: bytes) -> NDArray[np.int32]:
    return np.frombuffer(data, dtype=np.uint8).astype(np.int32)


def _batched(pieces: Iterable[Fragment]) -> Iterator[list[Fragment]]:
    """Group pieces to about ``BATCH_BYTES``."""
    batch: list[Fragment] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.data)
        if size >= BATCH_BYTES:
            yield batch
            batch = []
            size = 0
    if batch:
        yield batch

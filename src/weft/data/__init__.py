"""Corpora, splits, tokenizers and resumable streams of tokens; this room knows no model."""

from weft.data.cache import clear_cache
from weft.data.config import DataConfig, SplitName, SplitRule, TokenizerKind
from weft.data.prepare import prepare, tokenize_sources
from weft.data.prepared import PreparedData, TokenizedSplit
from weft.data.published import PUBLISHED
from weft.data.segments import IGNORED, Segment, TrainingStream
from weft.data.splits import iter_documents
from weft.data.stream import join_states, open_stream
from weft.data.streamed import StreamedSplit
from weft.data.token_stream import StreamState, TokenStream
from weft.data.tokenizer_training import default_vocab_size, train_tokenizer
from weft.data.tokenizers import Tokenizer

__all__ = [
    "IGNORED",
    "PUBLISHED",
    "DataConfig",
    "PreparedData",
    "Segment",
    "SplitName",
    "SplitRule",
    "StreamState",
    "StreamedSplit",
    "TokenStream",
    "TokenizedSplit",
    "Tokenizer",
    "TokenizerKind",
    "TrainingStream",
    "clear_cache",
    "default_vocab_size",
    "iter_documents",
    "join_states",
    "open_stream",
    "prepare",
    "tokenize_sources",
    "train_tokenizer",
]

"""Corpora, splits, tokenizers and resumable streams of tokens; this room knows no model."""

from weft.data.cache import cache_dir, clear_cache
from weft.data.config import DataConfig, SplitName, SplitRule, TokenizerKind
from weft.data.prepare import PreparedData, TokenizedSplit, prepare, tokenize_sources
from weft.data.splits import iter_documents
from weft.data.stream import IGNORED, Segment, StreamState, TokenStream, max_lanes
from weft.data.tokenizer_training import default_vocab_size, train_tokenizer
from weft.data.tokenizers import Tokenizer

__all__ = [
    "IGNORED",
    "DataConfig",
    "PreparedData",
    "Segment",
    "SplitName",
    "SplitRule",
    "StreamState",
    "TokenStream",
    "TokenizedSplit",
    "Tokenizer",
    "TokenizerKind",
    "cache_dir",
    "clear_cache",
    "default_vocab_size",
    "iter_documents",
    "max_lanes",
    "prepare",
    "tokenize_sources",
    "train_tokenizer",
]

"""Write text: one loop over the explicit state (:mod:`weft.generation.writing`), in the fastest form there is.

:func:`write` tells everything as it happens; :func:`generate`, :func:`stream` and :func:`stream_all` give the text.
:func:`make_decoder` is the step below them: one token after another, without a text.
"""

from weft.generation.decoder import ENDED, Decoder, PlainDecoder, Precision
from weft.generation.fastest import make_decoder
from weft.generation.sampling import COLDEST, HOTTEST, Sampling, draw
from weft.generation.text import GrowingText, stop_strings
from weft.generation.texts import Chunk, generate, in_order, stream, stream_all
from weft.generation.writing import PREFILL, Ended, Event, Read, Token, Written, write

__all__ = [
    "COLDEST",
    "ENDED",
    "HOTTEST",
    "PREFILL",
    "Chunk",
    "Decoder",
    "Ended",
    "Event",
    "GrowingText",
    "PlainDecoder",
    "Precision",
    "Read",
    "Sampling",
    "Token",
    "Written",
    "draw",
    "generate",
    "in_order",
    "make_decoder",
    "stop_strings",
    "stream",
    "stream_all",
    "write",
]

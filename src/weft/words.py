"""Numbers as people write them (counts, bytes, times), text that can be shown, and any value in short."""

from __future__ import annotations

import re
import reprlib

SHOWN = 60  # characters of a value
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = SHOWN
_NOT_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffd]")


def valid_text(text: str) -> str:
    """Return ``text`` without what is no text: bytes that were not UTF-8 (U+FFFD), control characters, surrogates."""
    return _NOT_TEXT.sub("", text)


def figure(value: float, digits: int) -> str:
    """Return a measurement with ``digits`` after the point, from a million on as 8.8e19."""
    if value < 1e6:
        return f"{value:,.{digits}f}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def count(value: float) -> str:
    """Return a number in three figures: 950, 2.03M, 41.0k."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit * 0.9995:
            return f"{value / limit:#.3g}{unit}".replace(".k", "k").replace(".M", "M").replace(".G", "G")
    return f"{value:.0f}"


def size(value: float) -> str:
    """Return a number of bytes: 900 B, 12.5 kB, 3.1 MB."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= limit:
            return f"{value / limit:.1f} {unit}"
    return f"{value:.0f} B"


def duration(seconds: float) -> str:
    """Return a time: 42 s, 7 min 05 s, 3 h 20 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def short(value: object) -> str:
    """Return ``value`` as Python writes it; of what is long or deeply nested the ends alone."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a number of thousands of digits"

"""The frame of every report: one HTML page with its style inside, which needs nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from importlib.resources import files

# What may not stand in HTML, and lone surrogates, which cannot be written as UTF-8.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def page(title: str, subtitle: str, sections: Iterable[tuple[str, str]]) -> str:
    """Return the page; ``sections`` are headings (plain, or '') and HTML, those without HTML are left out."""
    body = ""
    for name, html in sections:
        if html:
            heading = f"<h2>{name}</h2>" if name else ""
            body += f"<section>{heading}{html}</section>"
    style = files("weft.reports").joinpath("report.css").read_text(encoding="utf-8")
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{text(title)} - Weft</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<style>{style}</style></head><body><main><header><h1>{text(title)}</h1>{subtitle}</header>"
        f"{body}</main></body></html>\n"
    )


def text(value: object) -> str:
    """Return ``value`` safe to stand in HTML, whatever it holds."""
    return escape(_CONTROL.sub("\ufffd", str(value)))

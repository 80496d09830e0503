"""A server for one run: transformers' OpenAI-compatible endpoints, endpoints of our own, and a page in front of them.

Needs the extra ``serve``; :func:`require_extra` says so in a sentence. Import ``weft.serve.server`` after it.
"""

from __future__ import annotations

from importlib.util import find_spec

from weft.errors import UserError

__all__ = ["require_extra"]

_NEEDED = ("fastapi", "openai", "starlette", "uvicorn")


def require_extra() -> None:
    """Raise UserError where a package that the server needs is not installed."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise UserError(f"'weft serve' needs {', '.join(missing)}: install it with pip install 'weft-lm[serve]'.")

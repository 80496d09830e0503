"""The one place where YAML is read: plain values alone, and none that is small in the file and huge in memory.

Values are null, truth values, numbers, text, lists and dicts. A date is text, as no field of ours is a date. A type by
tag (``!!python/...``, also ``!!set``) is refused. Aliases may be used, as in a file of variants, but what a file stands
for once they are written out is bounded, as is its depth.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from weft.errors import UserError

MAX_NESTING = 32
MAX_VALUES = 100_000  # that a small file may stand for with its aliases written out
MOST_EXPANSION = 20  # values that a large one may stand for, over those that it writes
MAX_BYTES = 10_000_000


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the bounds of this module; whatever is wrong is a YAMLError."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as the base class declares it
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def fetch_flow_collection_start(self, token: Any) -> None:
        if self.flow_level >= MAX_NESTING:  # the scanner reads ahead, and slower with every open bracket
            raise yaml.YAMLError(f"lists and dicts nest more than {MAX_NESTING} deep")
        super().fetch_flow_collection_start(token)

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None:
            self._sizes: dict[int, int] = {}
            self._size(node, 1)
        return node

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        tag: str = getattr(event, "tag", None) or "!"
        if tag != "!":
            raise yaml.YAMLError(f"it names a type ({tag.replace('tag:yaml.org,2002:', '!!')})")
        self._depth = getattr(self, "_depth", 0) + 1
        if self._depth > MAX_NESTING:
            raise yaml.YAMLError(f"lists and dicts nest more than {MAX_NESTING} deep")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def _size(self, node: Any, depth: int) -> int:
        """Return how many values ``node`` stands for with its aliases written out."""
        if depth > MAX_NESTING:
            raise yaml.YAMLError(f"its aliases nest more than {MAX_NESTING} deep")
        if id(node) not in self._sizes:
            inner = node.value if isinstance(node, yaml.CollectionNode) else []
            parts = [part for item in inner for part in (item if isinstance(item, tuple) else (item,))]
            self._sizes[id(node)] = 1 + sum(self._size(part, depth + 1) for part in parts)
        if self._sizes[id(node)] > max(MAX_VALUES, MOST_EXPANSION * len(self._sizes)):
            raise yaml.YAMLError(f"its aliases stand for more than {MAX_VALUES:,} values")
        return self._sizes[id(node)]


def parse_yaml(text: str) -> Any:
    """Return the value that ``text`` writes; yaml.YAMLError where it is none, or more than this module takes."""
    if len(text) > MAX_BYTES:
        raise yaml.YAMLError(f"it has more than {MAX_BYTES:,} characters")
    try:
        return yaml.load(text, _Loader)
    except (ValueError, RecursionError) as error:  # such as a number of thousands of digits
        raise yaml.YAMLError(f"a value cannot be read ({str(error).splitlines()[0]})") from None


def read_yaml(path: Path, *, missing: str, broken: str) -> Any:
    """Return what a YAML file holds; UserError, which begins with one of the two, where it cannot be read."""
    if not path.is_file():
        raise UserError(f"{missing}: give a YAML file.")
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{broken}: {str(error).splitlines()[0]}.") from None

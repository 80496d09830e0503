"""The kinds of blocks that models are made of, by their letters and names: one :class:`BlockSpec` registers a kind.

Whatever needs to know which kinds there are (the pattern language, recipes, sizing, ``config.json``,
descriptions) asks here, so that a new kind touches its own file and the line that registers it. Weft's own
are registered by :mod:`weft.blocks`, which the first question loads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

from weft.errors import UserError

if TYPE_CHECKING:
    from weft.blocks.base import Block
    from weft.config import BlockConfig

_BUILT_IN = "weft.blocks"
_by_letter: dict[str, BlockSpec] = {}


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A width that sizing may change to meet a budget.

    Of all open widths of a model those of the lowest ``order`` are stretched, together. ``maps`` names the
    fields of the maps that the width must suit, where they are made of blocks.
    """

    width: str
    order: int = 0
    maps: tuple[str, ...] = ("maps",)


@dataclass(frozen=True, kw_only=True)
class BlockSpec:
    """A kind of block.

    ``letter`` stands for it in patterns, ``name`` is the ``kind`` of its configuration and its section in recipes, and
    ``title`` is what people call it. ``block`` is made as ``block(config, shell)`` from its own configuration and the
    model's. ``stretches`` are the widths that sizing may change. ``tag`` is what the model card calls a model with
    such blocks (None: as the kind is named; "" for a kind that mixes no tokens); one with several tags is a hybrid.
    """

    letter: str
    name: str
    title: str
    config: type[BlockConfig]
    block: type[Block]
    stretches: tuple[Stretch, ...] = ()
    tag: str | None = None


def register(spec: BlockSpec) -> BlockSpec:
    """Make a kind of block known; ValueError for a letter or a name that is taken, or a letter that is none."""
    if not ("a" <= spec.letter <= "z" and len(spec.letter) == 1):
        raise ValueError(f"a kind's letter is one from a to z, not '{spec.letter}'")
    if spec.config.model_fields["kind"].default != spec.name:
        raise ValueError(f"the field kind of {spec.config.__name__} must be '{spec.name}' by default")
    for other in _by_letter.values():
        if spec.letter == other.letter or spec.name == other.name:
            raise ValueError(f"{spec.letter} ({spec.name}): there is a kind {other.letter} ({other.name}) already")
    _by_letter[spec.letter] = spec
    return spec


def unregister(letter: str) -> None:
    """Make a kind of block unknown again."""
    del _by_letter[letter]


def kinds() -> Mapping[str, BlockSpec]:
    """Return all kinds by their letters, in the order in which they were registered."""
    import_module(_BUILT_IN)
    return MappingProxyType(_by_letter)


def kind_named(name: str) -> BlockSpec | None:
    """Return the kind of that name or letter; None where there is none."""
    for spec in kinds().values():
        if name in (spec.letter, spec.name):
            return spec
    return None


def kind_of(config: BlockConfig) -> BlockSpec:
    """Return the kind that a block's configuration is of; UserError where nobody has registered it."""
    spec = kind_named(config.kind)
    if spec is None:
        raise UserError(f"There is no kind of block '{config.kind}': the kinds are {known_kinds()}.")
    return spec


def map_roles() -> tuple[str, ...]:
    """Return the roles that the linear maps of blocks have, each once: the keys of a recipe's ``model.maps``."""
    roles: dict[str, None] = {}  # in the order of the kinds
    for spec in kinds().values():
        roles |= dict.fromkeys(spec.config.map_roles.values())
    return tuple(roles)


def known_kinds() -> str:
    """Return all letters with their names, for a sentence."""
    return ", ".join(f"{letter} ({spec.name})" for letter, spec in kinds().items())

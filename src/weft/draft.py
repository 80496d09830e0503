"""A model on its way from a recipe to its configuration: its blocks are known, some of their widths are not."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from weft.config import BlockConfig, MapConfig, ModelConfig
from weft.kinds import BlockSpec, Stretch
from weft.model_recipe import ModelRecipe
from weft.pattern import Stack, expand

BLOCKY = ("block_dense", "block_shuffle")  # kinds of maps whose widths are multiples of their blocks
WidthKey = tuple[str, int]  # of widths that are stretched as one: their field, and what they are by rule


@dataclass(frozen=True, eq=False)
class OpenBlock:
    """A block of which ``given`` are the fields that are known.

    ``parts`` says by how many blocks the maps of each field would be made were they none of the dense ones:
    widths suit these everywhere, so that all blocks of a kind have the same. ``where`` names the block's
    settings in messages, and ``said`` by their keys those fields that the recipe itself gives.
    """

    spec: BlockSpec
    given: Mapping[str, Any]
    said: Mapping[str, str]
    parts: Mapping[str, int]
    where: str

    def parts_of(self, fields: tuple[str, ...]) -> int:
        """Return what the widths of the maps of ``fields`` are multiples of."""
        return math.lcm(*(self.parts.get(field, 1) for field in fields))

    def configured(self, hidden_size: int, widths: Mapping[str, int] | None = None) -> BlockConfig:
        """Return the configuration, with ``widths`` and all others by rule."""
        given = {**self.given, **(widths or {})}
        filled = self.spec.config.with_widths(given, hidden_size, self.parts_of(tuple(self.parts)))
        return self.spec.config.parse(filled, where=self.where)

    def stretched(self, hidden_size: int, widths: Mapping[WidthKey, int]) -> BlockConfig:
        """Return the configuration, with those of its open widths that ``widths`` has."""
        config = self.configured(hidden_size)
        changed = {}
        for stretch in self.open_stretches(config):
            key = (stretch.width, getattr(config, stretch.width))  # the width by rule
            if key in widths:
                changed[stretch.width] = widths[key]
        return self.configured(hidden_size, changed) if changed else config

    def open_stretches(self, config: BlockConfig) -> tuple[Stretch, ...]:
        """Return the widths that sizing may change."""
        found = []
        for stretch in self.spec.stretches:
            if stretch.width not in self.given and config.may_stretch(stretch.width):
                found.append(stretch)
        return tuple(found)


@dataclass(frozen=True, eq=False)
class Draft:
    """The stack of a recipe's pattern; blocks that are told apart by nothing are one object."""

    pattern: str
    stack: Stack
    shell: Mapping[str, Any]
    blocks: tuple[OpenBlock, ...]

    @classmethod
    def of(cls, recipe: ModelRecipe, pattern: str, shell: Mapping[str, Any] | None = None) -> Draft:
        """Return the draft of ``pattern`` with the settings of ``recipe``; ``shell`` is laid over its shell."""
        stack = expand(pattern, recipe.letters)
        return cls(pattern, stack, {**recipe.shell, **(shell or {})}, open_blocks(recipe, stack))

    @property
    def hidden_size(self) -> int | None:
        """The model's width, where it is known."""
        return self.shell.get("hidden_size")

    @property
    def different_blocks(self) -> list[OpenBlock]:
        """Each block that is told apart from the others."""
        return list({id(block): block for block in self.blocks}.values())

    def configured(
        self, hidden_size: int, vocab_size: int, widths: Mapping[WidthKey, int] | None = None
    ) -> ModelConfig:
        """Return the configuration of this width, in which ``widths`` replace those that the rules have."""
        made = {id(block): block.stretched(hidden_size, widths or {}) for block in self.different_blocks}
        values = {
            **self.shell,
            "hidden_size": hidden_size,
            "pattern": self.pattern,
            "vocab_size": vocab_size,
            "blocks": tuple(made[id(block)] for block in self.blocks),
            "schedule": self.stack.schedule,
            "centrals": self.stack.centrals,
            "loops": self.stack.loops,
        }
        return ModelConfig.parse(values, where="model")


def open_blocks(recipe: ModelRecipe, stack: Stack) -> tuple[OpenBlock, ...]:
    """Return the blocks of ``stack`` with the fields that ``recipe`` gives them: by their letter, by their kind."""
    seen: Counter[str] = Counter()  # blocks so far, by the role of their maps
    made: dict[tuple[Any, ...], OpenBlock] = {}
    blocks = []
    for letter, central in zip(stack.letters, stack.centrals, strict=True):
        spec, own = recipe.of_letter(letter)
        # What its maps are made of: this depends on the block's place among those of the role, as the first
        # ones may be dense. Blocks in { } have no place among them.
        by_role: dict[str, MapConfig] = {}
        for field, role in spec.config.map_roles.items():
            of_role = recipe.maps_of(role)
            by_role[field] = of_role.of_block(role, seen[role]) if central is None else of_role.in_braces()
        if central is None:
            seen.update(set(spec.config.map_roles.values()))

        # Blocks that nothing tells apart are one object, which is sized once.
        key = (letter, *by_role.values())
        if key not in made:
            made[key] = _open_block(recipe, letter, spec, own, by_role)
        blocks.append(made[key])
    return tuple(blocks)


def _open_block(
    recipe: ModelRecipe, letter: str, spec: BlockSpec, own: Mapping[str, Any], by_role: Mapping[str, MapConfig]
) -> OpenBlock:
    """Return a block of the kind ``spec``; ``own`` are the fields of its letter, ``by_role`` what maps are made of.

    What is nearer to the block goes first: its letter, its kind's section, other
    kinds' sections, ``model.maps``.
    """
    roles = spec.config.map_roles
    fields: dict[str, Any] = {}
    said = {field: f"model.maps.{role}" for field, role in roles.items() if role in recipe.maps}
    for name, (value, key) in _inherited(recipe, spec).items():
        fields[name] = value
        said[name] = key
    for name, value in recipe.section(spec).items():
        fields[name] = value
        said[name] = f"model.{spec.name}.{name}"
    for name, value in own.items():
        fields[name] = value
        said[name] = f"model.letters.{letter}.{name}"

    # The widths of all blocks of a role suit its structured maps, also where this one's are dense.
    parts = {field: _parts(fields.get(field, recipe.maps_of(role))) for field, role in roles.items()}
    where = f"model.letters.{letter}" if own else f"model.{spec.name}"
    return OpenBlock(spec, {**by_role, **fields}, said, parts, where)


def _inherited(recipe: ModelRecipe, spec: BlockSpec) -> dict[str, tuple[Any, str]]:
    """Return the fields that a kind takes from the sections of others, each with the key under which it is given."""
    found: dict[str, tuple[Any, str]] = {}
    for name, fields in spec.config.inherited.items():
        section = (recipe.model_extra or {}).get(name, {})
        for field in fields:
            if field in section:
                found[field] = (section[field], f"model.{name}.{field}")
    return found


def _parts(maps: MapConfig | Mapping[str, Any]) -> int:
    """Return the blocks that maps are made of, 1 where they are made of none."""
    config = maps if isinstance(maps, MapConfig) else MapConfig.parse(maps, where="maps")
    return config.blocks if config.kind in BLOCKY else 1

"""What a recipe says of its model: every field of :class:`weft.config.ModelConfig`, any of which may be left open.

The fields themselves are declared once, in :class:`weft.config.Shell` and in the configuration of each kind
of block; here they are collected. A section named after a kind (``attention``, ``qrnn`` ...) holds fields of
all its blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    create_model,
    field_validator,
    model_serializer,
    model_validator,
)

from weft.config import MapConfig, NGramsConfig, Shell
from weft.kinds import BlockSpec, kind_named, kinds, known_kinds, map_roles
from weft.numbers import Parameters, Place
from weft.pattern import parse_count
from weft.settings import (
    FrozenConfig,
    WrongSettingError,
    check_values,
    open_fields,
    renamed,
    unknown_key,
)


class RoleMapsConfig(MapConfig):
    """What the maps of one role are made of, in all blocks that have it.

    The first ``dense_first`` blocks of the role keep dense maps (None: one for structured feed-forwards, as
    published, else none; matrix products have none), and so do ``dense_blocks``, which are numbers among
    those of the role.
    """

    dense_first: Place | None = None
    dense_blocks: tuple[Place, ...] = ()

    def of_block(self, role: str, place: int) -> MapConfig:
        """Return the maps of the block that is number ``place`` of those with this role."""
        published = 1 if role == "feed_forward" and self.kind != "matrix_product" else 0
        first = published if self.dense_first is None else self.dense_first
        if place < first or place in self.dense_blocks:
            return MapConfig()
        return self.of_all()

    def of_all(self) -> MapConfig:
        """Return the maps of a block that is none of the dense ones."""
        return MapConfig(**{name: getattr(self, name) for name in MapConfig.model_fields})

    def in_braces(self) -> MapConfig:
        """Return the maps of a block in the pattern's ``{ }``: matrix products, as they are given or by default."""
        return self.of_all() if self.kind == "matrix_product" else MapConfig(kind="matrix_product")


if TYPE_CHECKING:

    class OpenShell(FrozenConfig):
        """The fields of :class:`weft.config.Shell`, of which these are read by name."""

        hidden_size: int | None = None
        dropout: float | None = None

else:
    OpenShell = create_model("OpenShell", __base__=FrozenConfig, __module__=__name__, **open_fields(Shell))


class ModelRecipe(OpenShell):
    """Which model to build; what is left open is sized by rule (:mod:`weft.sizing`).

    Beside the fields here and those of the shell there is a section for each kind of block, whose fields hold
    for all blocks of that kind. ``letters`` are letters of one's own in the pattern, capitals: each names
    under ``block`` the kind that it is and has any of its fields. ``maps`` says for each role
    (:func:`weft.kinds.map_roles`) what the linear maps of all blocks are made of that have it; a fused
    block's attention has the role ``attention``, too.

    Where neither ``parameters`` nor ``hidden_size`` is given the size fits the corpus, and with a
    budget of minutes the machine. ``baseline`` names a model of another house instead
    (:mod:`weft.baselines`), for comparisons.
    """

    model_config = ConfigDict(extra="allow")  # sections of kinds of blocks: _check_sections refuses all else

    architecture: str = "hybrid"
    pattern: str | None = None
    letters: dict[str, dict[str, Any]] = Field(default_factory=dict)
    parameters: Parameters | None = None
    baseline: str | None = None
    preset: Literal["modern", "classic"] | None = None
    maps: dict[str, dict[str, Any]] = Field(default_factory=dict)  # by role: those of the registered kinds

    @model_validator(mode="before")
    @classmethod
    def _check_sections(cls, values: Any) -> Any:
        """Check the section of each kind of block as that kind has it, and drop empty ones."""
        if not isinstance(values, Mapping):
            return values
        checked = {}
        for key, value in renamed({"model": values})["model"].items():
            if key in cls.model_fields:
                checked[key] = value
                continue
            spec = kind_named(key)
            if spec is None or key != spec.name:
                raise WrongSettingError(unknown_key(f"model.{key}", cls.keys()))
            if value is not None and not isinstance(value, Mapping):
                raise WrongSettingError(f"'model.{key}' must hold keys and values.")
            if value:
                checked[key] = check_values(value, spec.config, where=f"model.{key}")
        return checked

    @field_validator("parameters", mode="before")
    @classmethod
    def _count(cls, value: Any) -> Any:
        return parse_count(value) if isinstance(value, str) else value

    @field_validator("maps")
    @classmethod
    def _check_maps(cls, maps: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Check what the maps of each role are made of."""
        checked = {}
        for role, given in maps.items():
            if role not in map_roles():
                inner = {field: f"{known}.{field}" for known in map_roles() for field in RoleMapsConfig.model_fields}
                raise WrongSettingError(unknown_key(f"model.maps.{role}", map_roles(), inner))
            checked[role] = check_values(given, RoleMapsConfig, where=f"model.maps.{role}")
        return checked

    def maps_of(self, role: str) -> RoleMapsConfig:
        """Return what the maps of a role are made of: dense, where nothing is said of it."""
        return RoleMapsConfig.parse(self.maps.get(role, {}), where=f"model.maps.{role}")

    @field_validator("letters")
    @classmethod
    def _check_letters(cls, letters: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Check the settings of each letter as the kind has them that it names."""
        checked = {}
        for letter, given in letters.items():
            where = f"model.letters.{letter}"
            if not ("A" <= letter <= "Z" and len(letter) == 1):
                raise WrongSettingError(f"'{where}' is no letter of your own: take one capital, such as G.")
            if "block" not in given:
                raise WrongSettingError(f"'{where}' names no kind of block: give it block, one of {known_kinds()}.")
            spec = kind_named(str(given["block"]))
            if spec is None:
                raise WrongSettingError(f"'{where}.block' is '{given['block']}': the blocks are {known_kinds()}.")
            settings = {key: value for key, value in given.items() if key != "block"}
            checked[letter] = {"block": spec.letter, **check_values(settings, spec.config, where=where)}
        return checked

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.letters and self.pattern is None:
            raise WrongSettingError("'model.letters' are for a pattern: give model.pattern too.")
        for letter in self.letters:
            if letter not in (self.pattern or ""):
                raise WrongSettingError(
                    f"'model.letters.{letter}' is not in the pattern '{self.pattern}': leave it out."
                )
        return self

    @classmethod
    def keys(cls) -> list[str]:
        """Return all keys that there are: what is asked for, the shell, and a section for each kind of block."""
        asked = [name for name in cls.model_fields if name not in Shell.model_fields]
        sections = [spec.name for spec in kinds().values()]
        return [*asked, *Shell.model_fields, *sections]

    @model_serializer(mode="wrap")
    def _in_order(self, values_of: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write the keys in the order in which people read them."""
        values = values_of(self)
        return {key: values[key] for key in self.keys() if key in values}

    @property
    def shell(self) -> dict[str, Any]:
        """The fields of :class:`weft.config.Shell` that are given."""
        given = {name: getattr(self, name) for name in Shell.model_fields}
        return {name: value for name, value in given.items() if value not in (None, {})}

    def section(self, spec: BlockSpec) -> dict[str, Any]:
        """Return the fields that are given for all blocks of a kind."""
        return dict((self.model_extra or {}).get(spec.name, {}))

    def of_letter(self, letter: str) -> tuple[BlockSpec, dict[str, Any]]:
        """Return the kind of block that a letter of the pattern stands for, and the fields that it alone is given."""
        own = self.letters.get(letter)
        if own is None:
            return kinds()[letter], {}
        return kinds()[own["block"]], {key: value for key, value in own.items() if key != "block"}

    def settings(self) -> dict[str, Any]:
        """Return everything that this recipe fixes of the model beside its pattern and size, as nested values."""
        settings = self.shell | (self.model_extra or {}) | {"letters": self.letters, "maps": self.maps}
        return {name: value for name, value in settings.items() if value not in (None, {})}

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any], **asked: Any) -> Self:
        """Return the recipe of nested ``settings``, in which an empty section ``ngrams`` asks for its defaults."""
        values = dict(settings)
        if values.get("ngrams") == {}:
            values["ngrams"] = NGramsConfig().model_dump()
        return cls.parse(values | {name: value for name, value in asked.items() if value is not None}, where="model")

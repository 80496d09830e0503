"""The base of every configuration in the house, and how what is wrong with one is told in a sentence."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Self, get_args

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, core_schema

from weft import words
from weft.errors import UserError


class FrozenConfig(BaseModel):
    """Base of every configuration in the house: immutable, and an unknown key is an error that names the nearest.

    Numbers have bounds where they are declared (:mod:`weft.numbers`); NaN and infinity are none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str = "") -> Self:
        """Validate ``values``; raise a one-sentence :class:`UserError` for the first thing that is wrong.

        ``where`` names the place the values came from (a section of a recipe), for the message.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise UserError(explain(error, cls, where)) from None


def explain(error: ValidationError, model: type[BaseModel], where: str = "") -> str:
    """Return one sentence for the first problem in ``error``, naming the nearest known key where one is unknown."""
    problem = error.errors()[0]
    path = [str(part) for part in problem["loc"]]
    dotted = ".".join(([where] if where else []) + path)
    if problem["type"] == "extra_forbidden":
        known = list(_section(model, path[:-1]).model_fields)
        near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"the keys here are {', '.join(known)}."
        return f"Unknown key '{dotted}': {hint}"
    message = problem["msg"].removeprefix("Value error, ")
    if not dotted or isinstance(problem["input"], Mapping | BaseModel):  # about values together, not about one
        return f"In '{dotted}', {message}." if dotted else f"{message[:1].upper()}{message[1:].rstrip('.')}."
    shown = words.short(problem["input"])
    told = message.removeprefix(f"{shown} is ").rstrip(".")
    return f"'{dotted}' is {shown}: {told[:1].lower()}{told[1:]}."


def _section(model: type[BaseModel], path: list[str]) -> type[BaseModel]:
    """Return the nested configuration class that ``path`` leads to."""
    for name in path:
        if name not in model.model_fields or (inner := section_of(model, name)) is None:
            break
        model = inner
    return model


def section_of(model: type[BaseModel], name: str) -> type[FrozenConfig] | None:
    """Return the configuration whose values the field ``name`` of ``model`` holds, all or some; else None."""
    field = model.model_fields[name]
    for mark in field.metadata:
        if isinstance(mark, Values):
            return mark.section
    for part in (field.annotation, *get_args(field.annotation)):  # `Section`, or `Section | None`
        if isinstance(part, type) and issubclass(part, FrozenConfig):
            return part
    return None


class Values:
    """Marks a dict that holds some of the fields of ``section``, at any depth: each is checked as it is there.

    What only the whole section can tell (whether values fit each other) is left to the section.
    """

    def __init__(self, section: type[FrozenConfig]) -> None:
        self.section = section

    def __get_pydantic_core_schema__(self, _source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        fields = {}
        for name, field in self.section.model_fields.items():
            inner = section_of(self.section, name)
            optional = type(None) in get_args(field.annotation)
            kind: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
            if inner:
                kind = Annotated[dict[str, Any], Values(inner)]
                kind = kind | None if optional else kind
            fields[name] = core_schema.typed_dict_field(handler.generate_schema(kind), required=False)
        config = core_schema.CoreConfig(allow_inf_nan=False)
        return core_schema.typed_dict_schema(fields, extra_behavior="forbid", config=config)


@cache
def _values_of(section: type[FrozenConfig]) -> TypeAdapter[dict[str, Any]]:
    return TypeAdapter(Annotated[dict[str, Any], Values(section)])


def check_values(values: Mapping[str, Any], section: type[FrozenConfig], *, where: str) -> dict[str, Any]:
    """Return ``values``, some of the fields of ``section``, as it has them; UserError for the first that is wrong."""
    try:
        return _values_of(section).validate_python(dict(values))
    except ValidationError as error:
        raise UserError(explain(error, section, where)) from None

"""The base of every configuration in the house, and how what is wrong with one is told in a sentence."""

from __future__ import annotations

import difflib
import sys
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from types import FrameType
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, core_schema

from weft import words
from weft.errors import OldKeyWarning, UserError


class WrongSettingError(UserError):
    """A sentence about one setting, which it names: whoever checks a larger section tells it as it is."""


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
            raise WrongSettingError(explain(error, cls, where)) from None

    def changed(self, **values: Any) -> Self:
        """Return a copy with other values, checked as all are."""
        return self.parse(dict(self) | values)

    def given(self) -> set[str]:
        """Return the dotted keys of the values that somebody gave, here and in sections: all else are defaults."""
        keys = set()
        for name in self.model_fields_set:
            value = getattr(self, name)
            if isinstance(value, FrozenConfig):
                keys |= {f"{name}.{key}" for key in value.given()}
            else:
                keys.add(name)
        return keys

    def replace(self, values: Mapping[str, Any]) -> Self:
        """Return this configuration with the ``values`` of dotted keys, which count as given; nothing is checked."""
        changed: dict[str, Any] = {}
        for key, value in values.items():
            name, _, inner = key.partition(".")
            if inner:
                section = changed.get(name, getattr(self, name))
                changed[name] = section.replace({inner: value})
            else:
                changed[name] = value
        return self.model_copy(update=changed)


def explain(error: ValidationError, model: type[BaseModel], where: str = "") -> str:
    """Return one sentence for the first problem in ``error``, naming the nearest known key where one is unknown."""
    problem = error.errors()[0]
    if isinstance(told := problem.get("ctx", {}).get("error"), WrongSettingError):
        return str(told)
    path = [str(part) for part in problem["loc"]]
    dotted = ".".join([where, *path] if where else path)
    cause = problem.get("ctx", {}).get("error")
    if dotted and isinstance(cause, UserError) and dotted in str(cause):  # of a section that names the place itself
        return str(cause)
    if problem["type"] == "extra_forbidden":
        section = _section(model, path[:-1])
        known = list(section.model_fields)
        return unknown_key(dotted, known, _inner_keys(section))
    message = problem["msg"].removeprefix("Value error, ")
    if not dotted:
        return f"{message[:1].upper()}{message[1:].rstrip('.')}."
    if isinstance(problem["input"], Mapping | BaseModel):  # about values together, not about one
        return f"In '{dotted}', {message}."
    shown = words.short(problem["input"])
    told = message.removeprefix(f"{shown} is ").rstrip(".")
    return f"'{dotted}' is {shown}: {told[:1].lower()}{told[1:]}."


def unknown_key(dotted: str, known: Sequence[str], inner: Mapping[str, str] | None = None) -> str:
    """Return the sentence about a key that there is not, with the nearest of those ``known``.

    ``inner`` are keys of sections, each with the section's name before it.
    """
    places = dict(inner or {}) | {key: key for key in known}
    near = difflib.get_close_matches(dotted.rpartition(".")[2], places, n=1, cutoff=0.5)
    if not near:
        return f"Unknown key '{dotted}': the keys here are {', '.join(known)}."
    nearest = places[near[0]]
    if nearest == dotted:  # it is right, but written as one key
        section, _, key = dotted.partition(".")
        return f"Unknown key '{dotted}': values are nested, so write {{'{section}': {{'{key}': ...}}}}."
    return f"Unknown key '{dotted}': did you mean '{nearest}'?"


def _section(model: type[BaseModel], path: list[str]) -> type[BaseModel]:
    """Return the nested configuration class that ``path`` leads to."""
    for name in path:
        if name not in model.model_fields or (inner := section_of(model, name)) is None:
            break
        model = inner
    return model


def _inner_keys(model: type[BaseModel]) -> dict[str, str]:
    """Return the keys of the sections of ``model``, each with the section's name before it."""
    keys: dict[str, str] = {}
    for name in model.model_fields:
        if inner := section_of(model, name):
            keys |= {key: f"{name}.{key}" for key in inner.model_fields}
    return keys


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

    What only the whole section can tell (whether values fit each other) is left to the section. A field that
    can have one value alone, such as the ``kind`` of a block, is no setting.
    """

    def __init__(self, section: type[FrozenConfig]) -> None:
        self.section = section

    def __get_pydantic_core_schema__(self, _source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        fields = {}
        for name, field in self.section.model_fields.items():
            if get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1:
                continue
            kind: Any = field.annotation
            if inner := section_of(self.section, name):
                optional = type(None) in get_args(field.annotation)
                kind = Annotated[dict[str, Any], Values(inner)]
                if optional:
                    kind = kind | None
            elif field.metadata:  # bounds
                kind = Annotated[kind, *field.metadata]
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
        raise WrongSettingError(explain(error, section, where)) from None


def open_fields(section: type[FrozenConfig]) -> dict[str, Any]:
    """Return the fields of ``section`` for :func:`pydantic.create_model`, each of which may be left open.

    A value that is left open is None; of a nested section some values may be given,
    and none are an empty dict.
    """
    fields: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        if inner := section_of(section, name):
            fields[name] = (Annotated[dict[str, Any], Values(inner)], Field(default_factory=dict))
        else:
            kind: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
            fields[name] = (kind | None, None)
    return fields


# Keys of recipes that had another name in version 0.1.0, and what they are called now. A key may have become
# a section that holds it: `training.optimizer` was a word.
RENAMED = {
    "model.peer": "model.baseline",
    "model.attention.memory": "model.attention.window",
    "model.qrnn.window": "model.qrnn.kernel_size",
    "training.lanes": "training.batch.batch_size",
    "training.length": "training.batch.sequence_length",
    "training.accumulation": "training.batch.accumulation",
    "training.optimizer": "training.optimizer.name",
    "training.muon_takes": "training.optimizer.muon_takes",
    "training.learning_rate": "training.optimizer.learning_rate",
    "training.weight_decay": "training.optimizer.weight_decay",
    "training.betas": "training.optimizer.betas",
    "training.momentum": "training.optimizer.momentum",
    "training.clip": "training.optimizer.clip",
    "training.schedule": "training.schedule.shape",
    "training.warmup": "training.schedule.warmup",
    "training.decay": "training.schedule.decay",
    "training.init_from": "training.start.run",
    "training.init_block": "training.start.block",
    "training.validations": "training.logging.validations",
    "training.validation_tokens": "training.logging.validation_tokens",
    "training.samples": "training.logging.samples",
    "training.checkpoint_every": "training.logging.checkpoint_every",
    "training.log_every": "training.logging.log_every",
    "training.tensorboard": "training.logging.tensorboard",
    "training.ema": "training.methods.average.decay",
    "training.guide": "training.methods.guides",
    "training.teacher": "training.methods.distillation",
    "training.only": "training.methods.only.parameters",
    "training.ngrams_rate": "training.methods.ngrams.rate",
}


def renamed(values: Mapping[str, Any], *, warn: bool = True) -> dict[str, Any]:
    """Return nested ``values`` of a recipe with old keys (:data:`RENAMED`) under their new names.

    One :class:`~weft.errors.OldKeyWarning` names all that were found. Without ``warn`` nothing is said: this
    is for what an earlier version wrote, where every key is there, and None is the default of whatever has
    it. Raises UserError where a value is given under both names.
    """
    found, old = rename(values)
    if warn:
        warn_of_old_keys(old)
        return found
    for key in old:
        # Sections that are empty then go too: that of a method would switch it on.
        path = RENAMED[key].split(".")
        if _inside(found, path[:-1])[path[-1]] is None:
            del _inside(found, path[:-1])[path[-1]]
            while len(path := path[:-1]) > 1 and not _inside(found, path):
                del _inside(found, path[:-1])[path[-1]]
    return found


def rename(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return nested ``values`` with old keys under their new names, and the old keys that were found."""
    found: list[str] = []
    result = _copied(values)
    for old, new in RENAMED.items():
        *path, last = old.split(".")
        section = _inside(result, path)
        if last not in section:
            continue
        value = section[last]
        if new.startswith(f"{old}.") and isinstance(value, Mapping):  # it is the section already
            continue
        del section[last]
        *path, last = new.split(".")
        target = result
        for name in path:
            target = target.setdefault(name, {})
            if not isinstance(target, dict):
                raise UserError(
                    f"'{old}' is called '{new}' now, but '{name}' is {words.short(target)}: give a section."
                )
        if last in target:
            raise UserError(f"'{old}' is the old name of '{new}': keep one of the two.")
        target[last] = value
        found.append(old)
    return result, found


def warn_of_old_keys(old: Sequence[str]) -> None:
    """Warn, once for all of them, of old keys that were read."""
    if old:
        told = ", ".join(f"{key} is {RENAMED[key]}" for key in dict.fromkeys(old))
        message = f"Old keys of a recipe were read; by their new names, {told}."
        warnings.warn(message, OldKeyWarning, stacklevel=_frames_of_weft())


def _frames_of_weft() -> int:
    """Return the stack level of the nearest caller outside of Weft, seen from whoever calls this."""
    level = 1
    frame: FrameType | None = sys._getframe(1)
    while frame and frame.f_globals.get("__name__", "").partition(".")[0] == "weft":
        frame = frame.f_back
        level += 1
    return level


def _copied(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested mappings as dicts of their own."""
    copied = {}
    for key, value in values.items():
        copied[key] = _copied(value) if isinstance(value, Mapping) else value
    return copied


def _inside(values: dict[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """Return the section that ``path`` leads to; an empty one where there is none."""
    for name in path:
        inner = values.get(name)
        values = inner if isinstance(inner, dict) else {}
    return values

"""What the functions of Python's door take, checked before they begin.

An argument of one name means the same in every function, so a table says what each takes. What does not fit
is one sentence, as on the command line.
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from numbers import Integral
from typing import Any, NamedTuple, ParamSpec, TypeVar

from weft.config import ModelConfig
from weft.errors import UserError

SPLITS = ("train", "validation", "test")
SHOWN = 60  # characters of a value that are told; of what is longer, its class

StrPath = str | os.PathLike[str]  # a weft.Run is one as well
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Takes(NamedTuple):
    """What an argument takes: whether a value fits, and what to give instead of one that does not.

    Where there may be several, they come in whatever can be gone through, and are handed on as a list.
    """

    fits: Callable[[Any], bool]
    words: str
    several: bool = False


def is_path(value: Any) -> bool:
    """Say whether ``value`` can name a file."""
    return isinstance(value, str | os.PathLike)


def _is_list(value: Any) -> bool:
    """Say whether ``value`` holds several: text holds letters, and a mapping its keys, which nobody means."""
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)


def _several(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: fits(value) or (_is_list(value) and all(map(fits, value)))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_file_or_mapping(value: Any) -> bool:
    return is_path(value) or isinstance(value, Mapping)


def _is_count(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 0


RUN = Takes(is_path, "the path of a run directory, or a weft.Run")
PATHS = Takes(_several(is_path), "a path or a list of paths", several=True)
TEXTS = Takes(_several(_is_text), "a string or a list of strings", several=True)
POSITIVE = Takes(lambda value: _is_count(value) and value > 0, "a whole number above 0")
COUNT = Takes(_is_count, "a whole number, 0 or more")
FILE = Takes(_is_file_or_mapping, "the path of a YAML file, or its values as a dictionary")
ARGUMENTS = {
    "run": RUN,
    "folder": RUN,
    "init_from": RUN,
    "config": Takes(lambda value: isinstance(value, ModelConfig), "a ModelConfig, such as weft.sized(...) returns"),
    "out": Takes(is_path, "the path of a folder"),
    "sources": PATHS,
    "files": PATHS,
    "prompts": TEXTS,
    "texts": TEXTS,
    "stop": TEXTS,
    "pattern": Takes(_is_text, "an architecture or a pattern, such as 'hybrid' or '(qf)4'"),
    "split": Takes(lambda value: value in SPLITS, ", ".join(SPLITS[:-1]) + " or " + SPLITS[-1]),
    "max_new_tokens": COUNT,
    "memory": Takes(lambda value: isinstance(value, bool), "True, False, or None for whether there is one"),
    "window": POSITIVE,
    "applications": POSITIVE,
    "recipe": FILE,
    "variants": FILE,
    "settings": Takes(_is_mapping, "a dictionary, such as {'training': {'minutes': 30}}"),
    "architectures": Takes(_is_list, "a list of architectures and patterns", several=True),
    "baselines": Takes(_is_list, "a list of names", several=True),
    "learning_rates": Takes(_is_list, "a list of numbers", several=True),
    "seeds": Takes(_is_list, "a list of whole numbers", several=True),
}

# Arguments that had another name in version 0.1, and what they are called now.
RENAMED = {"memory": "window", "peers": "baselines"}


def checked(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Return ``function``, which raises UserError for an argument that is not what :data:`ARGUMENTS` says.

    An argument that is given by its old name (:data:`RENAMED`) is taken under its new
    one, with a FutureWarning.
    """
    signature = inspect.signature(function)

    @wraps(function)
    def check(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        for old, new in RENAMED.items():
            if old in kwargs and old not in signature.parameters and new in signature.parameters:
                _rename(kwargs, old, new)
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:  # too many arguments, or one of another name: the call says which
            return function(*args, **kwargs)
        for name, value in bound.arguments.items():
            takes = ARGUMENTS.get(name)
            if not takes or value is signature.parameters[name].default:
                continue
            if takes.several and _is_list(value) and not isinstance(value, list | tuple):
                value = list(value)  # also what can be gone through once
                bound.arguments[name] = value
            if not takes.fits(value):
                raise UserError(f"'{name}' is {told(value)}: give {takes.words}.")
        return function(*bound.args, **bound.kwargs)

    return check


def _rename(arguments: dict[str, Any], old: str, new: str) -> None:
    """Move the argument ``old`` to the name ``new``; UserError where both are given."""
    if new in arguments:
        raise UserError(f"'{old}' is the old name of '{new}': give one of them.")
    warnings.warn(f"'{old}' is now called '{new}'.", FutureWarning, stacklevel=3)
    arguments[new] = arguments.pop(old)


def told(value: Any) -> str:
    """Return ``value`` as it is shown in a sentence: as it is written, or if that is long its class."""
    written = repr(value)
    return written if len(written) <= SHOWN and "\n" not in written else f"of the class {type(value).__name__}"

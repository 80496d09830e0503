"""The methods of training, by the name of their section of a recipe, ``training.methods.NAME``.

A method is a file in this folder with a :class:`MethodConfig`, the fields of its section, and with what
:meth:`MethodConfig.build` makes of them: a hook (:mod:`weft.training.hooks`), which takes part in every step
beside the loss, or an objective (:mod:`weft.training.objective`), which is the loss. One line below registers
it; nothing else in the package names it.

The line holds where the class is, not the class itself, so that a recipe is read without torch as long as it
asks for no method.
"""

from __future__ import annotations

import difflib
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from weft.errors import UserError
from weft.settings import FrozenConfig

if TYPE_CHECKING:
    from weft.language_model import LanguageModel
    from weft.training.hooks import Hook
    from weft.training.objective import Objective
    from weft.training.parallel import Processes

SECTION = "training.methods"


class MethodConfig(FrozenConfig):
    """The settings of one method, and the way from them to what trains."""

    compiles: ClassVar[bool] = True  # whether training.compile may be "on" beside it

    @abstractmethod
    def build(self, model: LanguageModel, processes: Processes) -> Hook | Objective:
        """Return the hook or the objective for ``model``; UserError where it does not fit the model or the processes.

        The model has the weights to start from, on whatever device.
        """

    def teacher(self) -> str | None:
        """Return the run that this method reads while it trains, whose tokenizer the new one must have; None: none."""
        return None


class Method(NamedTuple):
    """A registered method: where its configuration is (``module:class``), or the class itself.

    One that is ``always`` there is built for every training, from its defaults where the recipe has no
    section of it.
    """

    config: str | type[MethodConfig]
    always: bool

    def config_class(self) -> type[MethodConfig]:
        """Return the class of its configuration."""
        if not isinstance(self.config, str):
            return self.config
        module, _, name = self.config.partition(":")
        found: type[MethodConfig] = getattr(import_module(module), name)
        return found


_METHODS: dict[str, Method] = {}


def register(name: str, config: str | type[MethodConfig], *, always: bool = False) -> None:
    """Add a method. Hooks act in the order in which they are registered."""
    assert name not in _METHODS, f"the method {name} is there already"
    _METHODS[name] = Method(config, always)


@contextmanager
def registered(name: str, config: type[MethodConfig]) -> Iterator[None]:
    """Have a method for as long as the context lasts."""
    register(name, config)
    try:
        yield
    finally:
        del _METHODS[name]


register("only", "weft.training.methods.only:OnlyConfig")
register("ngrams", "weft.training.methods.ngrams:NGramsTrainingConfig", always=True)
register("guides", "weft.training.methods.guides:GuidesConfig")
register("distillation", "weft.training.methods.distillation:DistillationConfig")
register("average", "weft.training.methods.average:AverageConfig")


def parse_methods(sections: Mapping[str, Any]) -> dict[str, MethodConfig]:
    """Return the settings of every method that ``sections`` ask for, in the order of registration.

    A section is a mapping, or a configuration that was made before; None leaves the method out. UserError for
    a name that is not registered, and for settings that are wrong.
    """
    for name in sections:
        if name not in _METHODS:
            hint = f"the methods are {', '.join(_METHODS)}."
            near = difflib.get_close_matches(str(name), _METHODS, n=1, cutoff=0.5)
            if near:
                hint = f"did you mean '{near[0]}'?"
            raise UserError(f"Unknown key '{SECTION}.{name}': {hint}")
    parsed = {}
    for name, method in _METHODS.items():
        section = sections.get(name)
        if section is None:
            continue
        if isinstance(section, MethodConfig):
            parsed[name] = section
        elif isinstance(section, Mapping):
            parsed[name] = method.config_class().parse(section, where=f"{SECTION}.{name}")
        else:
            raise UserError(f"The section '{SECTION}.{name}' must hold keys and values, not {section!r}.")
    return parsed


def with_standing(chosen: Mapping[str, MethodConfig]) -> dict[str, MethodConfig]:
    """Return ``chosen`` and the methods that are always there, in the order of registration."""
    wanted = {}
    for name, method in _METHODS.items():
        if name in chosen:
            wanted[name] = chosen[name]
        elif method.always:
            wanted[name] = method.config_class()()
    return wanted


def teachers(chosen: Mapping[str, MethodConfig]) -> dict[str, str]:
    """Return the runs that methods read while they train, by the fields that name them."""
    runs = {}
    for name, config in chosen.items():
        run = config.teacher()
        if run:
            runs[f"{SECTION}.{name}.run"] = run
    return runs

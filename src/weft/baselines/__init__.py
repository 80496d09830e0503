"""Models of other houses behind our protocol, so that no comparison is with a straw man of our making.

A baseline is trained by our loop on our data. It is a module here and a line in :data:`BASELINES`: its name,
which is also the ``model_type`` in the ``config.json`` of its runs, and where it is. The module has what
:class:`Baseline` lists, and its models implement :class:`weft.language_model.LanguageModel`.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from weft.files import json_object

if TYPE_CHECKING:
    from weft.language_model import LanguageModel

# The module of each; it is imported when it is asked for.
BASELINES = {
    "llama": "weft.baselines.llama",
}
CONTEXT = 512  # tokens that a baseline sees at once, unless told otherwise
OWN = "weft"


class Source(Protocol):
    """The way of a model from and to the folder of a run: what the module of a baseline has, and ours."""

    def load_model(self, folder: Path, *, window: int | None = None, applications: int | None = None) -> LanguageModel:
        """Read the model, in evaluation mode; UserError for what the model does not have."""

    def fresh_model(self, folder: Path, *, seed: int) -> LanguageModel:
        """Return a freshly initialised model of the folder's ``config.json``, which its checkpoints fit."""

    def save_config(self, config: Any, folder: Path) -> None:
        """Write ``config.json`` and what belongs to it."""

    def is_described(self, folder: Path) -> bool:
        """Return whether what :meth:`save_config` wrote is there and whole."""


class Baseline(Source, Protocol):
    """What the module of a baseline has besides: it makes a model of a budget."""

    def sized(self, *, parameters: int, vocab_size: int, context: int = CONTEXT, dropout: float = 0.0) -> Any:
        """Return the configuration of ``parameters`` parameters within 1 %, embedding included; UserError for none."""

    def build(self, config: Any, *, seed: int) -> LanguageModel:
        """Return a freshly initialised model, always the same for a seed; UserError where memory does not hold it."""


def source(model_type: str) -> Source:
    """Return where models of this type come from."""
    return cast("Source", import_module(BASELINES.get(model_type, "weft.pretrained")))


def baseline(name: str) -> Baseline:
    """Return the module of a baseline, one of :data:`BASELINES`."""
    return cast("Baseline", import_module(BASELINES[name]))


def model_type_in(folder: Path) -> str:
    """Return the type of the model of a run directory: ``weft`` also where that cannot be read."""
    try:
        values = json_object((folder / "config.json").read_bytes()) or {}
    except OSError:
        return OWN
    found = values.get("model_type")
    return found if isinstance(found, str) and found in BASELINES else OWN


def is_baseline(folder: Path) -> bool:
    """Return whether a run directory holds the configuration of a baseline."""
    return model_type_in(folder) in BASELINES


def load_any(folder: Path, *, window: int | None = None, applications: int | None = None) -> LanguageModel:
    """Read the model of a run directory, ours or a baseline, in evaluation mode; see ``weft.pretrained.load_model``."""
    return source(model_type_in(folder)).load_model(folder, window=window, applications=applications)

"""Making one run of another without training: the verbs of :mod:`weft.api`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.arguments import StrPath, checked
from weft.config import MapConfig
from weft.errors import UserError
from weft.files import alone_in, disk_errors
from weft.model import WeftModel
from weft.pretrained import load_model

Transformed = tuple[WeftModel, float | None]  # a model made of another, and the error that it has beside it


@dataclass(frozen=True, kw_only=True)
class Made:
    """A run that was made of another without training; ``before`` are the parameters of that one.

    ``error`` is the largest relative error of a map (Frobenius norm), where maps were approximated.
    """

    run: Path
    parameters: int
    before: int
    error: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain data for ``--json``."""
        told = {"run": str(self.run), "parameters": self.parameters, "before": self.before}
        return told if self.error is None else told | {"error": self.error}


@checked
def merge_factors(run: StrPath, out: StrPath) -> Made:
    """Write the model of ``run`` to ``out`` with the factors of its structured maps multiplied out: the same function.

    Raises UserError where there are none, and where ``out`` holds something.
    """
    from weft.compress.merge import merge_maps

    def transform(model: WeftModel) -> Transformed:
        if not model.config.has_structured_maps:
            raise UserError(f"'{Path(run)}' has dense maps alone: there is nothing to multiply out.")
        return merge_maps(model), None

    return _made(run, out, "merge", transform)


@checked
def unshare(run: StrPath, out: StrPath) -> Made:
    """Write the model of ``run`` to ``out`` with a copy of its own for each application of a shared block.

    Raises UserError where nothing is shared, and where ``out`` holds something.
    """
    from weft.compress.unshare import unshare_blocks

    def transform(model: WeftModel) -> Transformed:
        if len(model.schedule) == len(model.blocks):
            pattern = model.config.pattern
            raise UserError(
                f"The pattern of '{Path(run)}', '{pattern}', repeats no block: there is nothing to take apart."
            )
        return unshare_blocks(model), None

    return _made(run, out, "unshare", transform)


@checked
def tensorise(
    run: StrPath,
    out: StrPath,
    *,
    bond: int | None = None,
    adapter: int = 0,
    factors: Sequence[Sequence[int]] = (),
) -> Made:
    """Write the model of ``run`` to ``out`` with matrix products for its dense maps.

    They are exact unless ``bond`` limits the bonds. ``adapter`` is the rank of what each can learn beside, which starts
    at nothing; ``factors`` are what sizes are products of. Raises UserError where the maps are not all dense.
    """
    from weft.compress.tensorise import tensorise_maps

    how = MapConfig.parse({"kind": "matrix_product", "bond": bond, "adapter": adapter, "factors": factors})

    def transform(model: WeftModel) -> Transformed:
        products, errors = tensorise_maps(model, how)
        return products, max(errors.values(), default=0.0)

    return _made(run, out, "tensorise", transform)


def _made(run: StrPath, out: StrPath, verb: str, transform: Callable[[WeftModel], Transformed]) -> Made:
    """Write what ``transform`` makes of the model of ``run`` to ``out``, which is looked at before anything is made."""
    from weft.compress.folder import check_free, write_made

    check_free(Path(out))  # before the work; again when nobody else can write there
    origin = load_model(Path(run))
    with disk_errors(Path(out)), alone_in(Path(out), make=True):
        check_free(Path(out))
        model, error = transform(origin)
        write_made(model, Path(run), Path(out), f"weft {verb} {Path(run)}")
    return Made(run=Path(out), parameters=model.parameter_count, before=origin.parameter_count, error=error)

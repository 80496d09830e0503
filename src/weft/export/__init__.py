"""A trained model as a file that other programs run.

``weft export`` and :func:`export` write ONNX; importing this package imports none of torch and onnx.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from weft.errors import UserError

if TYPE_CHECKING:
    from weft.export.folder import Exported

FORMATS = ("onnx",)
_NEEDED = ("onnx", "onnxscript", "onnxruntime")


def export(
    run: str | Path,
    out: str | Path | None = None,
    *,
    format: str = "onnx",
    progress: Callable[[str], None] | None = None,
) -> Exported:
    """Write the model of a run directory to the folder ``out`` (default: ``RUN/onnx``), checked against the model.

    An earlier export there is replaced once the new one is whole. ``progress`` is told what is done next.
    Raises UserError for an unknown format, a missing extra, a folder that holds something else, and a
    program that does not give the model's logits.
    """
    if format not in FORMATS:
        raise UserError(f"There is no export format '{format}': the formats are {', '.join(FORMATS)}.")
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise UserError(f"Export to ONNX needs {', '.join(missing)}: pip install 'weft-lm[export]'.")
    from weft.export.folder import export_folder

    run = Path(run)
    folder = run / format if out is None else Path(out)
    return export_folder(run, folder, progress or (lambda _: None))


__all__ = ["FORMATS", "export"]

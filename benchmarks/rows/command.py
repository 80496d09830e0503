"""``weft --help`` over importing what it is made with, in fresh processes; torch must not be among what it loads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.harness import Bar, Sheet, Unit

ASKED = Bar("at most", 3.0)
HEAVY = ("torch", "transformers", "numba", "numpy", "matplotlib", "datasets")
LOADED = f"""
import json, sys
from weft.cli import main
sys.argv = ["weft", "--help"]
try:
    main()
except SystemExit:
    pass
print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""


def measure(sheet: Sheet) -> None:
    race = sheet.race("help")
    race.enter("weft --help", lambda: _process(str(Path(sys.executable).with_name("weft")), "--help"))
    race.enter("import typer, rich", lambda: _process(sys.executable, "-c", "import typer, rich"))
    times = race.run()
    heavy = _loaded()
    ratio = times.ratio("weft --help", "import typer, rich")
    sheet.line(
        "weft --help over python -c 'import typer, rich'",
        measured=" over ".join(f"{1000 * times.median(name):.0f}" for name in times.seconds) + " ms",
        ratio=ratio,
        bar=ASKED,
        met=None if ratio is None else ASKED.holds(ratio.value) and "torch" not in heavy,
        note=f"loads {', '.join(heavy)}" if heavy else "loads no torch",
    )


def _process(*command: str) -> Unit:
    return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _loaded() -> list[str]:
    """Return which heavy packages ``weft --help`` loads."""
    done = subprocess.run([sys.executable, "-c", LOADED], check=True, capture_output=True, text=True)
    heavy: list[str] = json.loads(done.stdout.splitlines()[-1])
    return heavy

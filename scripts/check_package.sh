#!/usr/bin/env bash
# Build the wheel and the sdist, install each into an empty environment and run it: what a user would get.
#
#   scripts/check_package.sh
#   PYTHON=python3.13 scripts/check_package.sh
#
# WEFT_MAX_STEPS cuts the demo's training short (5 steps unless set).
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
constraints=$PWD/constraints.txt
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1 WEFT_CACHE=$work/cache WEFT_MAX_STEPS=${WEFT_MAX_STEPS:-5}
unset PYTHONPATH

"$PYTHON" -m venv "$work/build"
"$work/build/bin/pip" install --quiet build
"$work/build/bin/python" -m build --outdir "$work/dist" .  # the sdist, and of it the wheel
wheel=$(echo "$work"/dist/weft_lm-*-py3-none-any.whl)
sdist=$(echo "$work"/dist/weft_lm-*.tar.gz)

"$PYTHON" - "$wheel" "$sdist" <<'END'
import sys, tarfile, zipfile
DATA = ("py.typed", "corpora/sewiki.txt.xz", "serve/page/index.html", "serve/page/page.css", "reports/report.css")
wheel, sdist = sys.argv[1:]
packed = {"wheel": zipfile.ZipFile(wheel).namelist(), "sdist": tarfile.open(sdist).getnames()}
missing = [f"{kind}: weft/{name}" for kind, names in packed.items() for name in DATA
           if not any(path.endswith(f"weft/{name}") for path in names)]
if missing:
    sys.exit("missing in the " + ", ".join(missing))
END

"$PYTHON" -m venv "$work/empty"
"$work/empty/bin/pip" install --quiet --constraint "$constraints" "$wheel[demo]"
cd "$work"
version=$("$work/empty/bin/weft" --version)
echo "$version"
"$work/empty/bin/python" - <<'END'
from importlib.metadata import version
import weft
assert weft.__version__ == version("weft-lm"), weft.__version__
for name in weft.__all__:
    getattr(weft, name)
END
"$work/empty/bin/weft" demo --out "$work/demo"
test -s "$work/demo/model.safetensors"
test -s "$work/demo/report.html"

"$PYTHON" -m venv --system-site-packages "$work/source"
"$work/source/bin/pip" install --quiet --no-deps "$sdist"  # that it builds and installs by itself
echo "The wheel and the sdist build, install and run."

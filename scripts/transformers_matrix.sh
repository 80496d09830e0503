#!/usr/bin/env bash
# Run the tests of the Hugging Face adapter with the oldest transformers that Weft supports, with 5.23 (the last to
# call the cache past_key_values) and with the newest.
#
#   scripts/transformers_matrix.sh                      # 5.17.*, 5.23.* and the newest below 6
#   scripts/transformers_matrix.sh '==5.19.*' '==5.21.*'
#   PYTHON=/path/to/python scripts/transformers_matrix.sh
#
# Each version gets a throwaway environment that borrows everything else (torch, weft, pytest) from $PYTHON's.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
[ $# -gt 0 ] || set -- '==5.17.*' '==5.23.*' '>=5.17,<6'
borrowed=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=()
for version in "$@"; do
    environment=$work/$(tr -dc '0-9.' <<<"$version")
    "$PYTHON" -m venv "$environment"
    own=$("$environment/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
    # addsitedir, unlike a plain path, also follows the .pth file of an editable weft.
    echo "import site; site.addsitedir('$borrowed')" >"$own/borrowed.pth"
    "$environment/bin/pip" install --quiet --disable-pip-version-check --upgrade "transformers$version"
    echo "transformers$version: $("$environment/bin/python" -c 'import transformers; print(transformers.__version__)')"
    OMP_NUM_THREADS=1 "$environment/bin/python" -m pytest -p no:cacheprovider tests/hf || failed+=("$version")
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed with transformers ${failed[*]}" >&2
    exit 1
fi

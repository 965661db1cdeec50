#!/usr/bin/env bash
# Measure firstlight on one GPU in one call of under eight minutes, against nanoGPT and transformers; needs no network.
#
#   benchmarks/gpu.sh --nanogpt ~/nanoGPT                        # a clone of https://github.com/karpathy/nanoGPT; without it its rows are left out
#   benchmarks/gpu.sh --rehearse                                 # the same script on a CPU, with tiny models, before a GPU is paid for
#   PYTHON=python3 benchmarks/gpu.sh --wheels wheels ...         # with packages from a folder of wheels, on a machine that has only torch
#
# Further options (--out, --budget, --only) are those of gpu.py, which prints each row as it is measured and writes gpu.md and gpu.json.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-$here/../.venv/bin/python}
[ -x "$(command -v "$python")" ] || python=python3

words=()
while [ $# -gt 0 ]; do
  if [ "$1" = --wheels ]; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$2"/*.whl
    export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
    shift 2
  else
    words+=("$1")
    shift
  fi
done
# The code of this checkout, whether it is installed or not.
export PYTHONPATH="$here/../src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
"$python" -W ignore "$here/gpu.py" ${words[@]+"${words[@]}"}

#!/usr/bin/env bash
# Makes the environment: install.sh PYTHON VENV LIST. Called by make; says what it does, keeps a log.
set -euo pipefail
python=$1 venv=$2 list=$3 log=$2.log
torch_cpu_index=https://download.pytorch.org/whl/cpu

"$python" - <<'PY' || exit 1
import sys
if sys.version_info < (3, 11):
    sys.exit(f"Roundhouse needs Python 3.11 or newer, {sys.executable} is {sys.version.split()[0]}: "
             "call make with PYTHON=python3.11")
PY
if [ ! -x "$venv/bin/python" ]; then
  "$python" -m venv "$venv" || { echo "python's venv module is missing (Debian: apt install python3-venv)"; exit 1; }
fi
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@" >>"$log" 2>&1; }
fail() { tail -n 20 "$log" >&2; echo "The installation failed; its log: $log" >&2; exit 1; }

: >"$log"
echo "Installing $(grep -cv '^#' "$list") packages into $venv (once, about two minutes; log: $log)"
case $list in
  *cpu.txt)
    torch=$(grep '^torch==' "$list")
    # The configured index may lack the +cpu build: then PyTorch's own index has it.
    pip install --no-deps "$torch" || pip install --no-deps --index-url "$torch_cpu_index" "$torch" || fail
    pip install --no-deps -r "$list" || fail ;;
  *)
    echo "vLLM has no wheel for this system: the demo samples with transformers instead"
    pip install -r "$list" || fail ;;
esac
pip install --no-deps --no-build-isolation -e . || fail

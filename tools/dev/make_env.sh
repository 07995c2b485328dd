#!/usr/bin/env bash
# Creates the virtual environment in which the demo and the tests run.
#
#   VENV    folder of the environment                 (default: .venv)
#   PYTHON  interpreter to create it with, >= 3.10    (default: python3)
#   STACK   libraries of OpenMMLab, official or onedl (default: official)
#   TORCH   requirement for torch                     (default: torch==2.13.0)
#
# What is not set now but was when the environment was made stays as it was. A
# stamp in it names what it was made from: as long as that is the same, running
# the script again does nothing. Anything else, an interrupted run too, is
# removed and made anew.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$ROOT"
VENV=${VENV:-.venv}
CHOICES=$VENV/.mmseg_dhr_choices

# Prints what was asked for when the environment was made: `chosen NAME`.
chosen() {
  sed -n "s/^$1=//p" "$CHOICES" 2>/dev/null || true
}

PYTHON=${PYTHON:-$(chosen PYTHON)}
STACK=${STACK:-$(chosen STACK)}
TORCH=${TORCH:-$(chosen TORCH)}
CHOSEN=$(printf '%s\n' "PYTHON=$PYTHON" "STACK=$STACK" "TORCH=$TORCH")
PYTHON=${PYTHON:-python3}
STACK=${STACK:-official}
TORCH=${TORCH:-torch==2.13.0}
TIMM=timm==1.0.31
PYDENSECRF=pydensecrf2==1.1
REQUIREMENTS=requirements/dev
STAMP=$VENV/.mmseg_dhr_stamp
LOG=$VENV/setup.log
STEPS=7
step=0

fail() {
  echo "make_env: $1" >&2
  exit 1
}

# Runs one quiet step: `run TITLE HINT COMMAND...`. On failure shows the end of
# its output and what to do.
run() {
  local title=$1 hint=$2
  shift 2
  step=$((step + 1))
  echo "[$step/$STEPS] $title"
  if ! "$@" >>"$LOG" 2>&1; then
    tail -n 25 "$LOG" >&2
    fail "could not finish step $step, $title. $hint
The whole output is in $LOG; the next run starts over."
  fi
}

pip_install() {
  # The constraint keeps every later step from replacing torch.
  "$VENV/bin/python" -m pip install --no-input --disable-pip-version-check \
    --progress-bar off -c "$VENV/constraints.txt" "$@"
}

trap 'fail "interrupted; the next run starts over."' INT TERM

check_inputs() {
  case $STACK in
    official | onedl) ;;
    *) fail "STACK must be official or onedl, but is '$STACK'." ;;
  esac
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
    fail "'$PYTHON' is no Python >= 3.10. Name one: make env PYTHON=python3.11"
  if [ -e "$VENV" ] && [ ! -e "$VENV/pyvenv.cfg" ]; then
    # Whatever that is, it is not ours to remove.
    [ -z "$(ls -A "$VENV")" ] || fail "$VENV exists and is no virtual environment. Move it away or set VENV."
  fi
}

# Prints a hash of all that decides what the environment holds.
fingerprint() {
  "$PYTHON" - "$ROOT" "$STACK" "$TORCH" <<'PY'
import hashlib
import pathlib
import sys

root = pathlib.Path(sys.argv[1])
digest = hashlib.sha256(repr((*sys.argv[1:], sys.version)).encode())
files = ['tools/dev/make_env.sh', 'setup.py', 'mmseg_dhr/version.py']
files += sorted(str(p.relative_to(root)) for p in root.glob('requirements/**/*.txt'))
for name in files:
    digest.update(name.encode() + b'\0' + (root / name).read_bytes() + b'\0')
print(digest.hexdigest())
PY
}

check_build_tools() {
  command -v "${CXX:-c++}" >/dev/null ||
    fail "no C++ compiler ('${CXX:-c++}'), which pydensecrf2 is built with. Install one (Debian, Ubuntu: apt-get install g++) or set CXX."
  "$PYTHON" -c 'import os, sysconfig; p = sysconfig.get_path("include"); raise SystemExit(not os.path.exists(p + "/Python.h"))' ||
    fail "'$PYTHON' has no header files, which pydensecrf2 is built with. Install them (Debian, Ubuntu: apt-get install python3-dev)."
}

create_venv() {
  rm -rf "$VENV"
  "$PYTHON" -m venv "$VENV" ||
    fail "'$PYTHON -m venv' failed (Debian, Ubuntu: apt-get install python3-venv)."
  echo "$CHOSEN" >"$CHOICES"
  : >"$LOG"
  : >"$VENV/constraints.txt"
}

install_torch() {
  pip_install --upgrade pip 'setuptools<81' wheel && pip_install "$TORCH" 'setuptools<81' || return
  "$VENV/bin/python" - >"$VENV/constraints.txt" <<'PY'
import torch

print('torch==' + torch.__version__)
if tuple(map(int, torch.__version__.split('.')[:2])) < (2, 3):
    print('numpy<2')  # it was compiled for NumPy 1
PY
}

# With the Cython that pydensecrf2 asks for, it does not compile for Python 3.13.
install_libraries() {
  pip_install -r "$REQUIREMENTS/libraries.txt" 'cython>=3.1,<4' || return
  pip_install --no-deps --no-build-isolation "$PYDENSECRF"
}

install_openmmlab() {
  # The forks come as source and build without their operators when isolated.
  MMCV_WITH_OPS=0 pip_install --no-deps -r "$REQUIREMENTS/$STACK.txt"
}

# timm imports torchvision. Where torch is a build without CUDA there may be no
# matching torchvision; release 0.16.2 is the last one that imports without its
# compiled operators, and timm needs none of them. Its wheel for Python 3.11
# serves every version, as only the Python files of it are used.
install_timm() {
  local matching site
  pip_install --no-deps "$TIMM" || return
  matching=$("$VENV/bin/python" -c '
import torch

major, minor, patch = torch.__version__.split("+")[0].split(".")[:3]
print(f"0.{int(minor) + 15}.{patch}")')
  if pip_install --no-deps "torchvision==$matching" && "$VENV/bin/python" -c 'import timm'; then
    return
  fi
  "$VENV/bin/python" -m pip uninstall -y torchvision || return
  site=$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  pip_install --no-deps --only-binary=:all: --python-version 3.11 --implementation cp \
    --target "$site" torchvision==0.16.2 || return
  "$VENV/bin/python" -c 'import timm'
}

main() {
  local wanted
  check_inputs
  wanted=$(fingerprint)
  if [ "$(cat "$STAMP" 2>/dev/null || true)" = "$wanted" ] && "$VENV/bin/python" -c ''; then
    return
  fi
  check_build_tools
  echo "Making the environment $VENV ($STACK libraries); this takes some minutes, once."
  create_venv
  run "$TORCH" 'Is there a build of it for this Python? Set TORCH to another release.' install_torch
  run 'libraries, pydensecrf2 is compiled' 'If a compiler error is shown, the C++ compiler is too old.' \
    install_libraries
  run "libraries of OpenMMLab ($STACK)" 'Is the package index reachable?' install_openmmlab
  run "$TIMM and torchvision" 'Is the package index reachable?' install_timm
  run 'development tools' 'Is the package index reachable?' pip_install -r "$REQUIREMENTS/tools.txt"
  run 'mmseg_dhr, editable' 'See the output above.' pip_install --no-deps --no-build-isolation -e .
  # Not mmseg_dhr itself: a mistake in its code is no reason to start over.
  run 'check that the libraries import' 'See the output above.' \
    "$VENV/bin/python" -c 'import mmengine, mmcv, numba, ot, pydensecrf.densecrf, timm'
  echo "$wanted" >"$STAMP"
}

main

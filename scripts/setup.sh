#!/bin/sh
# Set up .venv from the requirement files: `scripts/setup.sh [cpu|gpu|auto]`. Needs a shell and Python 3.11 or 3.12.
# Takes no time if nothing changed. PYTHON is the interpreter to use (default: python3), and TORCH_CPU_INDEX a mirror of
# PyTorch's index of CPU builds. Packages come from the sources that pip is configured to use; see scripts/lock.sh.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
TORCH_CPU_INDEX=${TORCH_CPU_INDEX:-https://download.pytorch.org/whl/cpu}

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 2; }
may_install() { [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; }
apt_install() {
    apt-get install -y -q "$@" > "$log" 2>&1 && return
    apt-get update -q >> "$log" 2>&1 && apt-get install -y -q "$@" >> "$log" 2>&1
}

choose_accelerator() {  # sets accelerator and why
    case "$1" in
        cpu | gpu) accelerator=$1 why="you asked for it" ;;
        auto)
            if command -v nvidia-smi > /dev/null && gpus=$(nvidia-smi --query-gpu=name --format=csv,noheader 2> /dev/null) \
                && [ -n "$gpus" ]; then
                accelerator=gpu why="nvidia-smi lists $(echo "$gpus" | wc -l) GPUs ($(echo "$gpus" | head -n 1))"
            else
                accelerator=cpu why="nvidia-smi lists no GPU"
            fi ;;
        *) fail "ACCELERATOR is '$1'; expected cpu, gpu or auto" ;;
    esac
}

install_bubblewrap() {  # isolates the programs that a model writes; everything else works without it
    if command -v bwrap > /dev/null; then return; fi
    if may_install && apt_install bubblewrap; then
        say "installed bubblewrap with apt-get"
    else
        say "bubblewrap is missing, so programs cannot run in isolation. Install it as root: apt-get install bubblewrap"
    fi
}

make_venv() {
    command -v "$PYTHON" > /dev/null || fail "$PYTHON was not found; install Python 3.11 or 3.12, or say where it is: PYTHON=/path/to/python3"
    version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    case "$version" in
        3.11 | 3.12) ;;
        *) fail "$PYTHON is Python $version; the locked packages are for 3.11 and 3.12. Choose one of these: PYTHON=python3.12" ;;
    esac
    if [ -x .venv/bin/python ]; then
        present=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null || echo broken)
        if [ "$present" = "$version" ]; then return; fi
        say ".venv has Python $present, not $version: recreating it"
        rm -rf .venv
    fi
    if ! "$PYTHON" -c 'import ensurepip' 2> /dev/null; then
        say "$PYTHON cannot create virtual environments: ensurepip is missing"
        if ! may_install || ! apt_install "python$version-venv"; then
            fail "install it as root: apt-get install python$version-venv"
        fi
        say "installed python$version-venv with apt-get"
    fi
    "$PYTHON" -m venv .venv
}

torch_is_missing() { [ "$accelerator" = cpu ] && grep -qE '(no version of|distribution found for) torch==' "$log"; }

install_from() {  # install_from [INDEX]: install the locks from pip's sources, and from this index if one is given
    locks="--no-deps -r requirements/$accelerator.txt -r requirements/dev.txt"
    index=${1:+--extra-index-url=$1}
    # shellcheck disable=SC2046,SC2086
    if .venv/bin/uv pip install --python .venv/bin/python --index-strategy unsafe-best-match \
            $(.venv/bin/python scripts/pip_sources.py) $index $locks > "$log" 2>&1; then
        return
    fi
    if torch_is_missing; then return 1; fi
    # pip can use credentials that uv does not know: client certificates, keyrings, netrc.
    # shellcheck disable=SC2086
    .venv/bin/python -m pip install --no-input $index $locks > "$log" 2>&1
}

install_packages() {
    .venv/bin/python -m pip install --no-input --no-deps "$(grep '^uv==' requirements/dev.txt)" > "$log" 2>&1 \
        && if install_from; then return; fi
    if torch_is_missing; then
        say "pip's sources do not have the +cpu build of torch: adding PyTorch's index of CPU builds"
        if install_from "$TORCH_CPU_INDEX"; then return; fi
    fi
    tail -n 15 "$log" >&2
    fail "cannot install the requirements; the full output is in $log"
}

install_project() {  # install .venv/bin/rltf from this folder; setuptools is in the locks, so nothing is downloaded
    if [ ! -f pyproject.toml ]; then return; fi  # the Docker image installs the requirements before it copies the program
    .venv/bin/python -m pip install --no-input --no-index --no-deps --no-build-isolation --editable . > "$log" 2>&1 \
        || { tail -n 15 "$log" >&2; fail "cannot install the command rltf; the full output is in $log"; }
    cp pyproject.toml .venv/.project
}

started=$(date +%s)
log=.venv-setup.log
choose_accelerator "${1:-auto}"
wanted=$("$PYTHON" --version 2>&1 || true; cat requirements/"$accelerator".txt requirements/dev.txt)
stamp=.venv/.requirements
if [ -x .venv/bin/python ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    if [ ! -f pyproject.toml ] || { [ -x .venv/bin/rltf ] && cmp -s pyproject.toml .venv/.project; }; then exit 0; fi
    install_project
    rm -f "$log"
    say "installed the command .venv/bin/rltf"
    exit 0
fi

say "using the $accelerator requirements: $why"
install_bubblewrap
make_venv
say "installing $(cat requirements/"$accelerator".txt requirements/dev.txt | grep -c ==) packages (a few minutes the first time)"
install_packages
install_project
printf '%s\n' "$wanted" > "$stamp"
rm -f "$log"
say "ready after $(($(date +%s) - started)) s"

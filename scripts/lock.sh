#!/bin/sh
# Lock the requirements named in pyproject.toml: requirements/cpu.txt, gpu.txt and dev.txt.
# The locks name versions and markers only, no index, so that they install from whatever sources pip is configured with.
# Needs uv. Arguments are passed on to `uv pip compile`, for example `--upgrade`.
set -eu
cd "$(dirname "$0")/.."
UV=$(realpath "$(command -v "${UV:-uv}")")
locks=$PWD/requirements
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# vLLM asks for torchvision, torchaudio and torchcodec, for images and sound. On CPU nothing uses them, and their general
# builds cannot be imported beside the CPU build of torch. On a GPU vLLM imports torchvision before it starts.
never="sys_platform == 'never'"
without="\"torchvision; $never\", \"torchaudio; $never\", \"torchcodec; $never\""

environment="sys_platform == 'linux' and platform_machine == 'x86_64' and implementation_name == 'cpython'"
environment="$environment and platform_python_implementation == 'CPython' and python_full_version < '3.13'"

compile() {  # compile NAME OVERRIDES METADATA ARGUMENTS...: lock pyproject.toml with these rules into NAME.txt
    name=$1
    {
        cat pyproject.toml
        printf '\n[tool.uv]\noverride-dependencies = [%s]\ndependency-metadata = [%s]\n' "$2" "$3"
        printf 'environments = ["%s"]\n' "$environment"
    } > "$work/pyproject.toml"
    shift 3
    (cd "$work" && "$UV" pip compile pyproject.toml --universal --python-version 3.11 --quiet --no-annotate \
        --custom-compile-command scripts/lock.sh --output-file "$locks/$name.txt" "$@")
    # The rules that hold for every line are no news.
    sed -i -E "s/ ; (python_full_version < '3.13' and )?implementation_name == 'cpython' .*'linux'$//" \
        "requirements/$name.txt"
}

# CPU. torch's +cpu build lives on an index of its own, which need not be at hand to lock: it differs from the build on
# the default index in needing no CUDA libraries, so that one is resolved without them, and then renamed.
stated='{ name = "torch", version = "2.13.0", requires-dist = ["filelock", "typing-extensions>=4.10", '
stated="$stated"'"setuptools>=77.0.3", "sympy>=1.13.3", "networkx>=2.5.1", "jinja2", "fsspec>=0.8.5"] }'
# Its wheel for Linux needs what its wheel for Windows, which uv reads, does not.
stated="$stated"', { name = "intel-openmp", version = "2024.2.1", requires-dist = ["intel-cmplr-lib-ur==2024.2.1"] }'
[ ! -f requirements/cpu.txt ] || sed -i 's/^torch==2.13.0+cpu/torch==2.13.0/' requirements/cpu.txt
compile cpu "$without, \"torch==2.13.0\"" "$stated" --extra cpu "$@"
sed -i 's/^torch==2.13.0/torch==2.13.0+cpu/' requirements/cpu.txt

# GPU. Starts from the CPU lock, so that what both worlds need has one version.
[ -f requirements/gpu.txt ] || sed 's/+cpu//' requirements/cpu.txt > requirements/gpu.txt
compile gpu "" "" --extra gpu "$@"

# Tools: what they add to the lock of the CPU world; their versions hold for both.
plain() { sed 's/+cpu//' requirements/cpu.txt; }
touch requirements/dev.txt
{ plain; cat requirements/dev.txt; } > "$work/before.txt"
cp "$work/before.txt" requirements/dev.txt
compile dev "$without, \"torch==2.13.0\"" "$stated" --extra cpu --extra dev "$@"
plain | grep == > "$work/cpu.txt"
grep -v -x -F -f "$work/cpu.txt" requirements/dev.txt > "$work/dev.txt"
cp "$work/dev.txt" requirements/dev.txt

#!/bin/sh
# Lock the requirements named in pyproject.toml: requirements/cpu.txt, gpu.txt and dev.txt.
# The locks contain versions and markers but no index, so they install from whatever sources pip is configured to use.
# Needs uv. Arguments go to `uv pip compile`, for example `--upgrade`.
set -eu
cd "$(dirname "$0")/.."
UV=$(realpath "$(command -v "${UV:-uv}")")
locks=$PWD/requirements
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# vLLM asks for torchvision, torchaudio and torchcodec, for images and sound. On a CPU nothing uses them, and their usual
# builds cannot be imported along with the CPU build of torch. On a GPU, vLLM imports torchvision when it starts.
never="sys_platform == 'never'"
without="\"torchvision; $never\", \"torchaudio; $never\", \"torchcodec; $never\""

environment="sys_platform == 'linux' and platform_machine == 'x86_64' and implementation_name == 'cpython'"
environment="$environment and platform_python_implementation == 'CPython' and python_full_version < '3.13'"

compile() {  # compile NAME OVERRIDES METADATA ARGUMENTS...: lock pyproject.toml into NAME.txt with these rules
    name=$1
    {
        cat pyproject.toml
        printf '\n[tool.uv]\noverride-dependencies = [%s]\ndependency-metadata = [%s]\n' "$2" "$3"
        printf 'environments = ["%s"]\n' "$environment"
    } > "$work/pyproject.toml"
    shift 3
    (cd "$work" && "$UV" pip compile pyproject.toml --universal --python-version 3.11 --quiet --no-annotate \
        --custom-compile-command scripts/lock.sh --output-file "$locks/$name.txt" "$@")
    # Drop the markers that are the same on every line.
    sed -i -E "s/ ; (python_full_version < '3.13' and )?implementation_name == 'cpython' .*'linux'$//" \
        "requirements/$name.txt"
}

# CPU. torch's +cpu build is on a separate index, which may be out of reach here. It is the build on the default index
# without the CUDA libraries, so resolve that one without them, then rename it.
stated='{ name = "torch", version = "2.13.0", requires-dist = ["filelock", "typing-extensions>=4.10", '
stated="$stated"'"setuptools>=77.0.3", "sympy>=1.13.3", "networkx>=2.5.1", "jinja2", "fsspec>=0.8.5"] }'
# uv reads the requirements of the Windows wheel; the Linux wheel needs one more package.
stated="$stated"', { name = "intel-openmp", version = "2024.2.1", requires-dist = ["intel-cmplr-lib-ur==2024.2.1"] }'
[ ! -f requirements/cpu.txt ] || sed -i 's/^torch==2.13.0+cpu/torch==2.13.0/' requirements/cpu.txt
compile cpu "$without, \"torch==2.13.0\"" "$stated" --extra train --extra serve --extra cpu "$@"
sed -i 's/^torch==2.13.0/torch==2.13.0+cpu/' requirements/cpu.txt

# GPU. Starts from the CPU lock, so packages in both have the same version.
[ -f requirements/gpu.txt ] || sed 's/+cpu//' requirements/cpu.txt > requirements/gpu.txt
compile gpu "" "" --extra train --extra serve --extra gpu "$@"

# Tools: only what they add to the CPU lock. Their versions suit both locks.
plain() { sed 's/+cpu//' requirements/cpu.txt; }
touch requirements/dev.txt
{ plain; cat requirements/dev.txt; } > "$work/before.txt"
cp "$work/before.txt" requirements/dev.txt
compile dev "$without, \"torch==2.13.0\"" "$stated" --extra train --extra serve --extra cpu --extra dev "$@"
plain | grep == > "$work/cpu.txt"
grep -v -x -F -f "$work/cpu.txt" requirements/dev.txt > "$work/dev.txt"
cp "$work/dev.txt" requirements/dev.txt

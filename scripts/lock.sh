#!/bin/sh
# Lock the requirements named in pyproject.toml: requirements/cpu.txt, gpu.txt and dev.txt. For the trainers that do not go
# with these, requirements/trainers/NAME.txt has what scripts/trainer_venv.py installs on top of them.
# The locks are for Linux on x86-64 and arm64. They contain versions and markers but no index, so they install from
# whatever sources pip is configured to use.
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

environment="sys_platform == 'linux' and implementation_name == 'cpython'"
environment="$environment and platform_python_implementation == 'CPython' and python_full_version < '3.13'"

compile() {  # compile NAME OVERRIDES METADATA ARGUMENTS...: lock pyproject.toml (and FILE.in) into NAME.txt by these rules
    name=$1
    {
        cat pyproject.toml
        printf '\n[tool.uv]\noverride-dependencies = [%s]\ndependency-metadata = [%s]\n' "$2" "$3"
        printf 'environments = ["%s and platform_machine == %s", ' "$environment" "'x86_64'"
        printf '"%s and platform_machine == %s"]\n' "$environment" "'aarch64'"
    } > "$work/pyproject.toml"
    shift 3
    (cd "$work" && "$UV" pip compile pyproject.toml --universal --python-version 3.11 --quiet --no-annotate \
        --custom-compile-command scripts/lock.sh --output-file "$locks/$name.txt" "$@")
    # Drop the parts of markers that are the same on every line.
    sed -i -E -e "s/(python_full_version < '3.13'|implementation_name == 'cpython') and //g" \
        -e "s/ and (platform_python_implementation == 'CPython'|sys_platform == 'linux')//g" \
        -e "s/ ; \(?platform_machine == 'aarch64'\)? or \(?platform_machine == 'x86_64'\)?$//" "requirements/$name.txt"
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
only_new() {  # only_new NAME FILES...: take the lines of these locks out of NAME.txt
    name=$1
    shift
    sed 's/+cpu//' "$@" | grep == > "$work/known.txt"
    grep -v -x -F -f "$work/known.txt" "requirements/$name.txt" > "$work/new.txt"
    cp "$work/new.txt" "requirements/$name.txt"
}
touch requirements/dev.txt
{ plain; cat requirements/dev.txt; } > "$work/before.txt"
cp "$work/before.txt" requirements/dev.txt
compile dev "$without, \"torch==2.13.0\"" "$stated" --extra train --extra serve --extra cpu --extra dev "$@"
only_new dev requirements/cpu.txt

# Trainers that want other versions than `train` does. Each is resolved together with the grader alone.
mkdir -p requirements/trainers
trainer() {  # trainer NAME REQUIREMENT
    name=trainers/$1
    echo "$2" > "$work/$1.in"
    shift 2
    touch "requirements/$name.txt"
    { plain; cat requirements/dev.txt "requirements/$name.txt"; } > "$work/before.txt"
    cp "$work/before.txt" "requirements/$name.txt"
    compile "$name" "$without, \"torch==2.13.0\"" "$stated" "${name#trainers/}.in" "$@"
    only_new "$name" requirements/cpu.txt requirements/dev.txt
}
trainer verl verl==0.9.1 "$@"
trainer verifiers verifiers==0.4.0 "$@"
trainer verifiers-rubric verifiers==0.3.1 "$@"

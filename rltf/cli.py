"""The command `rltf`.

    rltf train [--config configs/NAME.yaml] [--SECTION.FIELD VALUE ...]
    rltf evaluate | grade | serve | doctor | show-prompt | explain | augment | decontaminate | report | completion ...

A command is imported only once its name is known, and torch, Ray and vLLM only once the options are parsed, so that
help and mistakes show up at once. `launch.py`, `evaluate.py` and `python -m sandbox|rewards|problems|reporting` are
other ways into the same functions.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rltf.entry import run_command
from rltf.errors import UserError
from rltf.plugins import OBJECTIVES, offered
from rltf.settings import PlanOptions, Settings
from rltf.settings.reference import Entry, SectionEntry, leaf_fields, sections
from rltf.settings_sources import SHORT_OPTIONS, load_settings

UNUSABLE_INPUT = 2
HELP = ("-h", "--help")
MAX_WIDTH = 100


@dataclass(frozen=True, slots=True)
class Command:
    """A command of `rltf`: the function that runs it, and the arguments that go before the user's own.

    `extra` is the package's extra with what it needs beside the grader. Commands without a function are jobs, which
    `launch` runs.
    """

    summary: str
    function: str | None = None
    before: tuple[str, ...] = ()
    extra: str = "train"


COMMANDS: Mapping[str, Command] = {
    "train": Command("Train a code model with reinforcement learning. Without arguments: the starter job."),
    "plan": Command("Predict what will sit idle, and how many actors to use.", before=("--plan",)),
    "replay": Command("Repeat the recorded updates of a run.", before=("--replay",)),
    "evaluate": Command("Measure pass@k of a model, or of a file of programs.", "rltf.evaluate:main"),
    "grade": Command("Grade a file of programs.", "rltf.sandbox.command:main", ("grade",)),
    "serve": Command("Grade programs for clients over HTTP.", "rltf.serving.command:main", extra="serve"),
    "doctor": Command("Show how well this machine isolates programs.", "rltf.sandbox.command:main", ("doctor",)),
    "critic": Command(
        "Train a critic on graded programs, for the algorithm coderl.", "rltf.evaluation.critic_command:main"
    ),
    "train-repair": Command(
        "Train a model that repairs programs, for rltf evaluate --repair.", "rltf.evaluation.repair_command:main"
    ),
    "show-prompt": Command("Print the exact prompts of a job.", "rltf.controller.command:main"),
    "explain": Command(
        "Show what a reward says about each token of a program.", "rltf.rewards.command:main", ("explain",)
    ),
    "augment": Command("Add tests to problems that have too few.", "rltf.augmentation.__main__:main"),
    "decontaminate": Command("Find training problems that benchmarks contain as well.", "rltf.problems.command:main"),
    "report": Command("Write the report of a run, or compare runs.", "rltf.reporting.command:main"),
    "completion": Command("Print a line for .bashrc that completes commands and settings.", "rltf.cli:completion"),
}

# Options of a job that are not settings.
_JOB_OPTIONS = {
    "--config FILE.yaml": "Settings file. (default: configs/starter.yaml)",
    "--dry-run": "Check the job, print its settings and the resources that each actor asks for, then exit.",
    "--resume RUN_DIR": "Continue the run in this folder; RUN_DIR/checkpoints/step-N: from this checkpoint.",
    "--replay RUN_DIR": "Repeat the updates that a run recorded (run.log_batches), then exit.",
    "--plan": "Predict what will sit idle, and how many generators and sandboxes to use, then exit.",
    "--help [SECTION]": "List the settings of a section; `--help all` lists every setting.",
}
_COMMON = (
    "algorithm", "run.name", "run.num_steps", "model.name", "problems.train", "problems.evaluation",
    "generator.num_generators", "generator.num_generations", "learner.batch_size", "learner.optim.learning_rate",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command of `rltf` and return its exit status."""
    return run_command("rltf", lambda: _run(list(sys.argv[1:] if arguments is None else arguments) or ["--help"]))


def _run(arguments: Sequence[str]) -> int:
    name, *rest = arguments
    if name in HELP:
        if not rest:
            print(_overview())
            return 0
        name, rest = (rest[0], ["--help"]) if rest[0] in COMMANDS else ("train", ["--help", *rest])
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"the commands are {', '.join(COMMANDS)}"
        return _refuse("rltf", f"unknown command {name!r}: {hint}")
    command = COMMANDS[name]
    if command.function is None:
        return launch([*command.before, *rest], f"rltf {name}")
    module, _, function = command.function.partition(":")
    try:
        with _packages_of(f"rltf {name}", command.extra):
            status: int = getattr(importlib.import_module(module), function)([*command.before, *rest])
            return status
    except UserError as error:
        return _refuse("rltf", str(error))


@contextlib.contextmanager
def _packages_of(command: str, extra: str = "train") -> Iterator[None]:
    """Turn a missing package into a UserError that says what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "rltf"):
            raise
        raise UserError(
            f"{command} needs the package {package}, which comes with the extra `{extra}`: pip install 'rltf[{extra}]'"
        ) from error


def launch(arguments: Sequence[str], program: str = "launch.py") -> int:
    """Train, plan or replay as `arguments` say, and return the exit status: 2 if the user has to fix something."""
    try:
        for at, argument in enumerate(arguments):
            if argument in HELP:
                print(job_help(program, next(iter(arguments[at + 1 :]), None)))
                return 0
        with _packages_of(program):
            if (address := remote_address(arguments)) is not None:
                from rltf.controller.submit import submit

                return submit(address, arguments)
            settings, options = load_settings(arguments)
            from rltf.job import run_job

            return run_job(settings, options, program)
    except UserError as error:
        return _refuse(program, str(error))


def completion(arguments: Sequence[str]) -> int:
    """Print the bash command that completes the words of `rltf`; zsh runs it after `bashcompinit`."""
    if arguments:
        print('usage: rltf completion\n\nPut this into .bashrc: eval "$(rltf completion)"')
        return 0 if arguments[0] in HELP else UNUSABLE_INPUT
    paths = leaf_fields(Settings) | leaf_fields(PlanOptions, ("plan",))
    words = [*COMMANDS, *(option.split()[0] for option in _JOB_OPTIONS), *("--" + ".".join(path) for path in paths)]
    print(f"complete -o default -W '{' '.join(words)}' rltf")
    return 0


def remote_address(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> str | None:
    """The `cluster.address` of a cluster that a job should be submitted to, or None if the job runs here."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--cluster.address", dest="address", default=environ.get("RLTF_CLUSTER__ADDRESS", ""))
    address: str = parser.parse_known_args(list(arguments))[0].address
    return address if "://" in address else None


def job_help(program: str, section: str | None) -> str:
    """Help for a job: the sections in a line each, or the settings of one section. Raises UserError."""
    tree = [*sections(Settings), *sections(PlanOptions, ("plan",))]
    if section is not None:
        shown = [part for part in tree if section == "all" or f"{part.name}.".startswith(f"{section}.")]
        if not shown:
            names = [part.name for part in tree if part.name]
            nearest = difflib.get_close_matches(section, names, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"the sections are {', '.join(names)}, or all"
            raise UserError(f"--help {section}: no such section; {hint}")
        return "\n".join(line for part in shown for line in _unfolded(part))
    entries = {entry.name: entry for part in tree for entry in part.settings}
    lines = [f"usage: {program} [--config FILE.yaml] [--SECTION.FIELD VALUE ...]", ""]
    command = COMMANDS.get(program.removeprefix("rltf "), COMMANDS["train"])
    lines += _wrapped(command.summary)
    lines += ["", "options:", *_columns(_JOB_OPTIONS)]
    lines += ["", "common settings:", *_columns({_option(entries[name]): _about(entries[name]) for name in _COMMON})]
    lines += ["", f"sections (`{program} --help SECTION` lists the settings of one):"]
    lines += _columns(
        {part.name: f"{part.description.partition('. ')[0].removesuffix('.')}." for part in tree if len(part.path) == 1}
    )
    lines += [
        "",
        *_wrapped(
            "Settings come from the defaults, the settings file, environment variables (RLTF_SECTION__FIELD) and the "
            "command line; later sources win."
        ),
    ]
    return "\n".join(lines)


def _overview() -> str:
    lines = ["usage: rltf COMMAND ...", "", *_wrapped("Reinforcement learning of code models from unit-test feedback.")]
    lines += ["", "commands:", *_columns({name: command.summary for name, command in COMMANDS.items()})]
    return "\n".join(
        [*lines, "", "`rltf COMMAND --help` explains a command, `rltf --help SECTION` a section of settings."]
    )


def _unfolded(section: SectionEntry) -> Iterator[str]:
    yield f"{section.name or 'settings'}:"
    yield from _wrapped(section.description, indent=2)
    for entry in section.settings:
        yield ""
        yield f"  {_option(entry)}"
        yield from _wrapped(_about(entry), indent=6)
    yield ""


def _option(entry: Entry) -> str:
    names = [f"--{entry.name}", *SHORT_OPTIONS.get(entry.path, ())]
    installed = offered(OBJECTIVES, entry.choices) if entry.path == ("algorithm",) else ()
    return f"{', '.join(names)} {entry.takes or '{' + ','.join([*entry.choices, *installed]) + '}'}"


def _about(entry: Entry) -> str:
    return f"{entry.description} (default: {entry.default})"


def _columns(rows: Mapping[str, str]) -> Iterator[str]:
    """Names on the left, texts on the right; a text starts below a name that is too long."""
    width = max(len(name) for name in rows if len(name) <= 32) + 4
    for name, text in rows.items():
        first, *more = _wrapped(text, indent=width)
        if len(name) + 4 > width:
            yield f"  {name}"
            yield first
        else:
            yield f"  {name}".ljust(width) + first[width:]
        yield from more


def _wrapped(text: str, indent: int = 0) -> list[str]:
    width = min(shutil.get_terminal_size().columns, MAX_WIDTH)
    return textwrap.wrap(
        text, width, initial_indent=" " * indent, subsequent_indent=" " * indent, break_on_hyphens=False
    )


def _refuse(program: str, message: str) -> int:
    sys.stderr.write(f"{program}: {message}\n")
    return UNUSABLE_INPUT


if __name__ == "__main__":
    sys.exit(main())

"""Filling the settings tree from a YAML file, the environment and the command line; later sources win.

Every mistake is reported here, before anything starts, with the place where it was made: the file and line, the
environment variable, or the option. An unknown name comes with the nearest one that exists.

The command line is parsed by argparse. pydantic-settings' parser offers the names of enum members instead of their
values, splits SPECs at commas, cannot take both `--run.deterministic` and `--run.deterministic true`, and does not say
which source a wrong value came from.
"""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from rltf.errors import UserError
from rltf.files import read_text, yaml_message
from rltf.settings import PlanOptions, SandboxSettings, Settings
from rltf.settings.reference import FieldPath, is_list, is_mapping, is_optional, leaf_fields

ENV_PREFIX = "RLTF_"
ENV_DELIMITER = "__"
STARTER_CONFIG = Path(__file__).parent / "configs" / "starter.yaml"

# Short names for frequent options. Files and the environment use the full name only.
SHORT_OPTIONS: dict[FieldPath, tuple[str, ...]] = {
    ("model", "name"): ("--model",),
    ("problems", "validate_references"): ("--problems.validate",),
}

# Settings of the sandbox that say nothing about how a program is run.
_OF_WORKERS = {
    "min_workers", "max_workers", "min_isolation", "num_cpus", "backlog_per_worker", "idle_s", "start_timeout_s",
}  # fmt: skip

# Names from earlier versions, and what replaced them: a name, or a sentence.
RENAMED = {
    "buffer.max_staleness": "buffer.max_off_policy_versions",
    "generator.greedy": "it is gone; rewards.baseline decides whether to sample a greedy decode",
    "generator.samples_per_problem": "generator.num_generations",
    "learner.checkpoint_every": "checkpoint.every",
    "learner.decay_steps": "learner.optim.decay_steps",
    "learner.importance_cap": "learner.loss.rollout_is_threshold",
    "learner.importance_correction": "it is gone; set learner.loss.rollout_is_threshold, to null for no correction",
    "learner.keep_checkpoints": "checkpoint.keep",
    "learner.kl_weight": "learner.loss.kl_loss_coef",
    "learner.learning_rate": "learner.optim.learning_rate",
    "learner.max_grad_norm": "learner.optim.max_grad_norm",
    "learner.normalisation": "learner.loss.loss_agg_mode",
    "learner.ratio_clip": "it is now two settings: learner.loss.clip_ratio_low and learner.loss.clip_ratio_high",
    "learner.rl_weight": "learner.loss.rl_weight",
    "learner.supervised_weight": "learner.loss.supervised_weight",
    "learner.token_budget": "learner.micro_batch_tokens",
    "learner.warm_start": "learner.sft",
    "learner.warmup_steps": "learner.optim.warmup_steps",
    "learner.weight_decay": "learner.optim.weight_decay",
    "model.max_length": "model.max_model_len",
    "plan": "it is an option of the command `rltf plan`, not a setting",
    "rewards.preset": "algorithm",
    "sandbox.require": "sandbox.min_isolation",
}


@dataclass(frozen=True, slots=True)
class CliOptions:
    """What the command line asks for besides settings. `plan` is None unless the job should only be planned.

    `resume` is a run folder, and `checkpoint` the one to resume from if it is not the newest.
    """

    config: Path
    dry_run: bool = False
    resume: Path | None = None
    checkpoint: Path | None = None
    replay: Path | None = None
    plan: PlanOptions | None = None


@dataclass(frozen=True, slots=True)
class _Given:
    """A value, and where it comes from."""

    value: Any
    origin: str


def load_settings(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> tuple[Settings, CliOptions]:
    """Resolve the settings of a job.

    Without `--config` the file is `configs/starter.yaml`. With `--resume RUN_DIR` or `--replay RUN_DIR` it is the
    settings file in that run's folder. `--resume RUN_DIR/checkpoints/step-N` chooses a checkpoint of the run. `environ`
    defaults to the process's environment.

    Raises UserError for an unknown name, a value that does not fit, or a file that cannot be read.
    """
    fields = leaf_fields(Settings)
    plan_fields = leaf_fields(PlanOptions, ("plan",))
    arguments = _parse(argv, fields | plan_fields)
    checkpoint = arguments.resume if arguments.resume is not None and _is_checkpoint(arguments.resume) else None
    if checkpoint is not None:
        arguments.resume = checkpoint.parent.parent
    run, config = _run_and_config(arguments)
    given = _merged(
        _yaml_file(config, fields),
        _environment(os.environ if environ is None else environ, fields),
        _command_line(arguments, fields),
        is_own_file=run is not None,
    )
    if run is not None:
        given["run", "dir"] = _Given(str(run), "the run's folder")
    plan = _command_line(arguments, plan_fields)
    if plan and not arguments.plan:
        raise UserError(f"{next(iter(plan.values())).origin} is an option of `rltf plan` and needs --plan here")
    try:
        settings = Settings.model_validate(_nested(given))
        options = CliOptions(
            config=config,
            dry_run=arguments.dry_run,
            resume=arguments.resume,
            checkpoint=checkpoint,
            replay=arguments.replay,
            plan=PlanOptions.model_validate(_nested(plan).get("plan", {})) if arguments.plan else None,
        )
    except ValidationError as error:
        raise UserError(_explain(error, given if error.title == Settings.__name__ else plan)) from None
    return settings, options


def load_sandbox_settings(argv: Sequence[str]) -> SandboxSettings:
    """The sandbox's settings of a command that is not a job: `--sandbox.FIELD VALUE` for what concerns a program's run.

    Raises UserError as `load_settings` does.
    """
    fields = sandbox_fields()
    arguments = _parsed(_setting_parser(fields), argv, fields)
    given = _command_line(arguments, fields)
    try:
        return Settings.model_validate(_nested(given)).sandbox
    except ValidationError as error:
        raise UserError(_explain(error, given)) from None


def sandbox_fields() -> dict[FieldPath, FieldInfo]:
    """The settings of the sandbox that concern a program's run, and not the workers of a job."""
    fields = leaf_fields(SandboxSettings, ("sandbox",))
    return {path: field for path, field in fields.items() if path[-1] not in _OF_WORKERS}


def to_yaml(settings: Settings) -> str:
    """The resolved settings as YAML text that `--config` accepts."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class _Parser(argparse.ArgumentParser):
    """Reports mistakes as UserError, so that every wrong setting fails the same way."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def _parse(argv: Sequence[str], fields: Mapping[FieldPath, FieldInfo]) -> argparse.Namespace:
    parser = _setting_parser(fields)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--replay", type=Path)
    return _parsed(parser, argv, fields)


def _setting_parser(fields: Mapping[FieldPath, FieldInfo]) -> _Parser:
    parser = _Parser(add_help=False, allow_abbrev=False)
    for path, field in fields.items():
        parser.add_argument(
            "--" + ".".join(path),
            *SHORT_OPTIONS.get(path, ()),
            dest=".".join(path),
            nargs="+" if is_list(field) else "?" if field.annotation is bool else None,
            const="true" if field.annotation is bool else None,
            default=argparse.SUPPRESS,
        )
    return parser


def _parsed(parser: _Parser, argv: Sequence[str], fields: Mapping[FieldPath, FieldInfo]) -> argparse.Namespace:
    arguments, unknown = parser.parse_known_args(list(argv))
    for argument in unknown:
        if argument.startswith("--"):
            name = argument[2:].split("=")[0]
            raise UserError(f"unknown option --{name}: {_hint(name, fields, before='--')}")
        raise UserError(f"unexpected argument {argument!r}: give settings as --section.field VALUE")
    return arguments


def _is_checkpoint(path: Path) -> bool:
    return path.parent.name == "checkpoints" and path.name.startswith("step-")


def _run_and_config(arguments: argparse.Namespace) -> tuple[Path | None, Path]:
    """The run to resume or to replay, if any, and the settings file to read."""
    runs = {name: getattr(arguments, name) for name in ("resume", "replay") if getattr(arguments, name) is not None}
    if len(runs) > 1:
        raise UserError("--resume continues a run and --replay repeats its updates: give only one of them")
    for name, run in runs.items():
        if arguments.config is not None:
            raise UserError(f"--{name} uses the settings in the run's folder: leave --config out")
        if not (run / "settings.yaml").is_file():
            raise UserError(f"--{name} {run}: not a run folder, it has no settings.yaml")
        return run, run / "settings.yaml"
    return None, arguments.config or STARTER_CONFIG


def _command_line(arguments: argparse.Namespace, fields: Mapping[FieldPath, FieldInfo]) -> dict[FieldPath, _Given]:
    given = {}
    for path, field in fields.items():
        name = ".".join(path)
        if name in arguments:
            words = getattr(arguments, name)
            one = words if isinstance(words, str) else words[0] if len(words) == 1 else None
            given[path] = _Given(words if one is None else _parse_text(one, field, f"--{name}"), f"--{name}")
    return given


def _environment(environ: Mapping[str, str], fields: Mapping[FieldPath, FieldInfo]) -> dict[FieldPath, _Given]:
    given = {}
    paths = {_variable(".".join(path)): path for path in fields}
    for variable in sorted(environ):
        if not variable.startswith(ENV_PREFIX):
            continue
        if variable not in paths:
            name = variable.removeprefix(ENV_PREFIX).lower().replace(ENV_DELIMITER, ".")
            nearest = None if _replacement(name) else _nearest(name, fields)
            hint = f"did you mean {_variable(nearest)}?" if nearest else _hint(name, fields)
            raise UserError(f"unknown environment variable {variable}: {hint}")
        path = paths[variable]
        origin = f"environment variable {variable}"
        given[path] = _Given(_parse_text(environ[variable], fields[path], origin), origin)
    return given


def _variable(name: str) -> str:
    return ENV_PREFIX + name.replace(".", ENV_DELIMITER).upper()


def _yaml_file(file: Path, fields: Mapping[FieldPath, FieldInfo]) -> dict[FieldPath, _Given]:
    given: dict[FieldPath, _Given] = {}
    try:
        root = yaml.compose(read_text(file), Loader=yaml.SafeLoader)
        if root is not None:
            _walk_yaml(root, (), file, fields, given)
    except OSError as error:
        raise UserError(f"cannot read the settings file {file}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(yaml_message(file, error)) from None
    return given


def _walk_yaml(
    node: yaml.Node, path: FieldPath, file: Path, fields: Mapping[FieldPath, FieldInfo], given: dict[FieldPath, _Given]
) -> None:
    """Add the mapping at `node` to `given`. Works on nodes instead of values, because nodes know their lines."""
    if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null":
        return  # a section whose lines are all commented out
    if not isinstance(node, yaml.MappingNode):
        where = f"{file}:{node.start_mark.line + 1}"
        raise UserError(f"{where}: expected settings (NAME: VALUE) under {'.'.join(path) or 'the file'}")
    seen: dict[FieldPath, str] = {}
    for key_node, value_node in node.value:
        where = f"{file}:{key_node.start_mark.line + 1}"
        child = (*path, str(key_node.value))
        name = ".".join(child)
        if child in seen:
            raise UserError(f"{where}: {name} is given twice, first at {seen[child]}")
        seen[child] = where
        if child in fields:
            given[child] = _Given(_constructed(value_node, where), where)
        elif any(leaf[: len(child)] == child for leaf in fields):
            _walk_yaml(value_node, child, file, fields, given)
        else:
            raise UserError(f"{where}: unknown setting {name}: {_hint(name, fields)}")


def _merged(*sources: Mapping[FieldPath, _Given], is_own_file: bool) -> dict[FieldPath, _Given]:
    """The values of all sources; later sources win.

    A source that names other problems to train on also drops the reference programs that an earlier source chose for
    the problems of its own job. If the file is the run's own (`is_own_file`), it is the same job, and they stay.
    """
    train, supervised = ("problems", "train"), ("problems", "supervised")
    merged: dict[FieldPath, _Given] = {}
    for source in sources:
        if train in source and not is_own_file:
            merged.pop(supervised, None)
        merged.update(source)
    return merged


def _nested(given: Mapping[FieldPath, _Given]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, item in given.items():
        section = tree
        for key in path[:-1]:
            section = section.setdefault(key, {})
        section[path[-1]] = item.value
    return tree


def _constructed(node: yaml.Node, origin: str) -> Any:
    """The value of a YAML node. Raises UserError for a mapping with the same name twice: YAML would drop the first."""
    if isinstance(node, yaml.MappingNode):
        names = [name.value for name, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"{origin}: {name} is given twice")
    return yaml.SafeLoader("").construct_document(node)


def _parse_text(text: str, field: FieldInfo, origin: str) -> Any:
    """A value given as text. pydantic reads numbers and booleans itself; lists, mappings and null are read here."""
    if (is_list(field) and text.startswith("[")) or (is_mapping(field) and text.startswith("{")):
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            assert node is not None, "there is text"
            return _constructed(node, origin)
        except yaml.YAMLError:
            return text  # pydantic reports what it is not
    if is_list(field):
        return [text]
    return None if is_optional(field) and text.lower() in ("null", "none") else text


def _nearest(name: str, fields: Mapping[FieldPath, FieldInfo]) -> str | None:
    """The setting most like `name`: by its dotted name, its last part, or its initials (`lr`); None if none is."""
    last = name.rpartition(".")[2]

    def likeness(path: FieldPath) -> tuple[float, bool]:
        whole = difflib.SequenceMatcher(None, name, ".".join(path)).ratio()
        part = difflib.SequenceMatcher(None, last, path[-1]).ratio()
        initials = "".join(word[0] for word in path[-1].split("_"))
        is_in_section = name.startswith(".".join((*path[:-1], "")))
        return max(whole, 0.95 * part, 0.9 * (len(last) > 1 and last == initials)), is_in_section

    best = max(fields, key=likeness)
    return ".".join(best) if likeness(best)[0] >= 0.6 else None


def _replacement(name: str) -> str | None:
    """What to use in place of a name from an earlier version: a name, or a sentence."""
    for old, new in RENAMED.items():
        if name == old or name.startswith(f"{old}."):
            return new if " " in new else new + name.removeprefix(old)
    return None


def _hint(name: str, fields: Mapping[FieldPath, FieldInfo], before: str = "") -> str:
    if (new := _replacement(name)) is not None:
        return new if " " in new else f"it was renamed; use {before}{new}"
    if (nearest := _nearest(name, fields)) is not None:
        return f"did you mean {before}{nearest}?"
    section = name.split(".")[0]
    known = sorted({path[1] for path in fields if path[0] == section and len(path) > 1})
    if known:
        return f"{section} has {', '.join(known)}"
    return f"the sections are {', '.join(dict.fromkeys(path[0] for path in fields if len(path) > 1))}"


def _explain(error: ValidationError, given: Mapping[FieldPath, _Given]) -> str:
    """One line for each wrong value: its name, what was given, where, and what was expected."""
    lines = []
    for detail in error.errors():
        location = tuple(part for part in detail["loc"] if isinstance(part, str))
        if location not in given and ("plan", *location) in given:
            location = ("plan", *location)
        message = detail["msg"].removeprefix("Value error, ")
        origin = f" ({given[location].origin})" if location in given else ""
        if detail["type"] == "value_error":  # a check of our own; one across fields names them itself
            place = f"{'.'.join(location)}{origin}: " if location else ""
            lines.append(f"{place}{message}")
        else:
            lines.append(f"{'.'.join(location)} = {detail['input']!r}{origin}: {message[0].lower()}{message[1:]}")
    return "\n".join(lines)

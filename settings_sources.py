"""Filling the settings tree: YAML file, then environment, then command line, later over earlier.

Whatever is wrong is found here, before anything starts, and is said in terms of where it stands: the file and line, the
environment variable, or the option. An unknown name comes with the nearest one that exists.
"""

from __future__ import annotations

import argparse
import difflib
import os
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import InitSettingsSource

from errors import UserError
from settings import Settings

ENV_PREFIX = "RLTF_"
ENV_DELIMITER = "__"
STARTER_CONFIG = Path(__file__).parent / "configs" / "starter.yaml"

FieldPath = tuple[str, ...]
# What is typed most has a short name on the command line; files and the environment have the one name.
SHORT_OPTIONS: dict[FieldPath, tuple[str, ...]] = {
    ("model", "name"): ("--model",),
    ("problems", "validate_references"): ("--problems.validate",),
}


# Names of earlier versions: an old file or command line gets an error that says the new one.
RENAMED = {
    "buffer.max_staleness": "buffer.max_off_policy_versions",
    "generator.greedy": "rewards.baseline, which decides whether a greedy decode is sampled",
    "generator.samples_per_problem": "generator.num_generations",
    "learner.checkpoint_every": "checkpoint.every",
    "learner.decay_steps": "learner.optim.decay_steps",
    "learner.importance_cap": "learner.loss.rollout_is_threshold",
    "learner.importance_correction": "learner.loss.rollout_is_threshold (none: no correction)",
    "learner.keep_checkpoints": "checkpoint.keep",
    "learner.kl_weight": "learner.loss.kl_loss_coef",
    "learner.learning_rate": "learner.optim.learning_rate",
    "learner.max_grad_norm": "learner.optim.max_grad_norm",
    "learner.normalisation": "learner.loss.loss_agg_mode",
    "learner.ratio_clip": "learner.loss.clip_ratio_low and learner.loss.clip_ratio_high",
    "learner.rl_weight": "learner.loss.rl_weight",
    "learner.supervised_weight": "learner.loss.supervised_weight",
    "learner.token_budget": "learner.micro_batch_tokens",
    "learner.warm_start": "learner.sft",
    "learner.warmup_steps": "learner.optim.warmup_steps",
    "learner.weight_decay": "learner.optim.weight_decay",
    "model.max_length": "model.max_model_len",
    "rewards.preset": "algorithm",
    "sandbox.require": "sandbox.min_isolation",
}


@dataclass(frozen=True, slots=True)
class CliOptions:
    """What the command line asks for besides settings."""

    config: Path
    dry_run: bool
    resume: Path | None
    replay: Path | None = None
    plan: bool = False


@dataclass(frozen=True, slots=True)
class _Source:
    """Values of one source as a nested mapping, and where each of them stands, for messages."""

    values: dict[str, Any]
    origins: dict[FieldPath, str]


def load_settings(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> tuple[Settings, CliOptions]:
    """Resolve the settings of a job.

    Without `--config` the file is `configs/starter.yaml`; with `--resume RUN_DIR` or `--replay RUN_DIR` it is the
    settings that the run wrote into its folder. `environ` defaults to the process's environment.

    Raises UserError for an unknown name, a value that does not fit, a file that cannot be read.
    """
    fields = leaf_fields(Settings)
    parser = _build_parser(fields)
    arguments, unknown = parser.parse_known_args(list(argv))
    for argument in unknown:
        if argument.startswith("--"):
            name = argument[2:].split("=")[0]
            raise UserError(f"unknown option --{name}: {_hint(name, fields, before='--')}")
        raise UserError(f"unexpected argument {argument!r}: settings are given as --section.field value")
    options = _cli_options(arguments)
    sources = (
        _command_line(arguments, fields),
        _environment(os.environ if environ is None else environ, fields),
        _yaml_file(options.config, fields),
    )
    if (run := options.resume or options.replay) is not None:
        sources[0].values.setdefault("run", {})["dir"] = str(run)
    try:
        settings = Settings(
            _build_sources=(tuple(InitSettingsSource(Settings, source.values) for source in sources), {})
        )
    except ValidationError as error:
        raise UserError(_explain(error, sources)) from None
    return settings, options


def leaf_fields(model: type[BaseModel], prefix: FieldPath = ()) -> dict[FieldPath, FieldInfo]:
    """All settings that hold a value, by path, in the order of the tree."""
    leaves: dict[FieldPath, FieldInfo] = {}
    for name, field in model.model_fields.items():
        path = (*prefix, name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            leaves |= leaf_fields(field.annotation, path)
        else:
            leaves[path] = field
    return leaves


def to_yaml(settings: Settings) -> str:
    """The resolved settings as a YAML text that `--config` takes."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class _Parser(argparse.ArgumentParser):
    """Reports mistakes as UserError, so that there is one way in which settings fail."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def _build_parser(fields: Mapping[FieldPath, FieldInfo]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="launch.py",
        allow_abbrev=False,
        description="Train a code model with reinforcement learning from unit-test feedback.",
        epilog=f"Environment variables {ENV_PREFIX}SECTION{ENV_DELIMITER}FIELD set the same fields.",
    )
    parser.add_argument("--config", type=Path, help="YAML file with settings (default: configs/starter.yaml)")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved settings and resources, and exit")
    parser.add_argument(
        "--plan", action="store_true", help="say who will idle and how many generators and sandboxes it takes, and exit"
    )
    parser.add_argument("--resume", type=Path, metavar="RUN_DIR", help="go on with the run in this folder")
    parser.add_argument(
        "--replay", type=Path, metavar="RUN_DIR", help="make the updates again that this run kept (run.log_batches)"
    )
    groups: dict[str, argparse._ArgumentGroup] = {}
    for path, field in fields.items():
        if path[0] not in groups:
            groups[path[0]] = parser.add_argument_group(path[0])
        default = field.get_default(call_default_factory=True, validated_data={})
        groups[path[0]].add_argument(
            "--" + ".".join(path),
            *SHORT_OPTIONS.get(path, ()),
            dest=".".join(path),
            nargs="+" if _is_list(field) else "?" if field.annotation is bool else None,
            const="true" if field.annotation is bool else None,
            default=argparse.SUPPRESS,
            metavar="VALUE",
            help=f"{field.description} [{default}]".replace("%", "%%"),
        )
    return parser


def _cli_options(arguments: argparse.Namespace) -> CliOptions:
    config: Path | None = arguments.config
    runs = {name: getattr(arguments, name) for name in ("resume", "replay") if getattr(arguments, name) is not None}
    if len(runs) > 1:
        raise UserError("--resume goes on with a run, --replay makes its updates again: give one of them")
    for name, run in runs.items():
        if config is not None:
            raise UserError(f"--{name} takes the settings of the run in its folder; leave --config out")
        config = run / "settings.yaml"
        if not config.is_file():
            raise UserError(f"--{name} {run}: no run folder (it holds no settings.yaml)")
    return CliOptions(
        config=config or STARTER_CONFIG,
        dry_run=arguments.dry_run,
        resume=arguments.resume,
        replay=arguments.replay,
        plan=arguments.plan,
    )


def _command_line(arguments: argparse.Namespace, fields: Mapping[FieldPath, FieldInfo]) -> _Source:
    source = _Source({}, {})
    for path, field in fields.items():
        name = ".".join(path)
        if name in arguments:
            words = getattr(arguments, name)
            value: Any = words
            if isinstance(words, str):
                value = _parse_text(words, field)
            elif len(words) == 1:
                value = _parse_text(words[0], field)
            _insert(source, path, value, f"--{name}")
    return source


def _environment(environ: Mapping[str, str], fields: Mapping[FieldPath, FieldInfo]) -> _Source:
    source = _Source({}, {})
    paths = {ENV_PREFIX + ENV_DELIMITER.join(path).upper(): path for path in fields}
    for variable in sorted(environ):
        if not variable.startswith(ENV_PREFIX):
            continue
        if variable not in paths:
            wanted = variable.removeprefix(ENV_PREFIX).lower().replace(ENV_DELIMITER, ".")
            nearest = None if wanted in RENAMED else _nearest(wanted, fields)
            hint = f"did you mean {ENV_PREFIX}{nearest.replace('.', ENV_DELIMITER).upper()}?" if nearest else ""
            raise UserError(f"unknown environment variable {variable}: {hint or _hint(wanted, fields)}")
        path = paths[variable]
        _insert(source, path, _parse_text(environ[variable], fields[path]), f"environment variable {variable}")
    return source


def _yaml_file(file: Path, fields: Mapping[FieldPath, FieldInfo]) -> _Source:
    source = _Source({}, {})
    try:
        root = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        if root is not None:
            _walk_yaml(root, (), file, fields, source)
    except OSError as error:
        raise UserError(f"cannot read the settings file {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text: {error}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{file}:{line}: no valid YAML: {error.problem}") from None
    return source


def _walk_yaml(
    node: yaml.Node, path: FieldPath, file: Path, fields: Mapping[FieldPath, FieldInfo], source: _Source
) -> None:
    """Add the mapping at `node` to `source`. Works on nodes rather than on values, since nodes know their lines."""
    where = f"{file}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null":
        return  # a section whose lines are all commented out
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{where}: expected a mapping of settings under {'.'.join(path) or 'the file'}")
    for key_node, value_node in node.value:
        key_where = f"{file}:{key_node.start_mark.line + 1}"
        child = (*path, str(key_node.value))
        name = ".".join(child)
        if child in source.origins:
            raise UserError(f"{key_where}: {name} is given twice (before: {source.origins[child]})")
        source.origins[child] = key_where
        if child in fields:
            loader = yaml.SafeLoader("")
            _insert(source, child, loader.construct_document(value_node), key_where)
        elif any(leaf[: len(child)] == child for leaf in fields):
            _walk_yaml(value_node, child, file, fields, source)
        else:
            raise UserError(f"{key_where}: unknown setting {name}: {_hint(name, fields)}")


def _insert(source: _Source, path: FieldPath, value: Any, origin: str) -> None:
    values = source.values
    for key in path[:-1]:
        values = values.setdefault(key, {})
    values[path[-1]] = value
    source.origins[path] = origin


def _is_list(field: FieldInfo) -> bool:
    return get_origin(field.annotation) in (tuple, list)


def _parse_text(text: str, field: FieldInfo) -> Any:
    """A value given as text. pydantic reads numbers and booleans itself; here are lists and nothing."""
    if _is_list(field):
        if text.startswith("["):
            try:
                return yaml.safe_load(text)
            except yaml.YAMLError:
                return text  # pydantic says that it is no list
        return [text]
    is_optional = get_origin(field.annotation) in (Union, types.UnionType) and type(None) in get_args(field.annotation)
    return None if is_optional and text.lower() in ("null", "none") else text


def _nearest(name: str, fields: Mapping[FieldPath, FieldInfo]) -> str | None:
    """The setting most like `name`, by its whole dotted name or by its last part; None where none is like it."""
    last = name.rpartition(".")[2]

    def likeness(path: FieldPath) -> float:
        whole = difflib.SequenceMatcher(None, name, ".".join(path)).ratio()
        return max(whole, 0.95 * difflib.SequenceMatcher(None, last, path[-1]).ratio())

    best = max(fields, key=likeness)
    return ".".join(best) if likeness(best) >= 0.6 else None


def _hint(name: str, fields: Mapping[FieldPath, FieldInfo], before: str = "") -> str:
    for old, new in RENAMED.items():
        if name == old or name.startswith(f"{old}."):
            return f"it was renamed; use {before if ' ' not in new else ''}{new}{name.removeprefix(old)}"
    nearest = _nearest(name, fields)
    if nearest is not None:
        return f"did you mean {before}{nearest}?"
    section = name.split(".")[0]
    known = sorted({path[1] for path in fields if path[0] == section and len(path) > 1})
    if known:
        return f"{section} has {', '.join(known)}"
    return f"the sections are {', '.join(dict.fromkeys(path[0] for path in fields if len(path) > 1))}"


def _explain(error: ValidationError, sources: Sequence[_Source]) -> str:
    """One line for each wrong value: its name, what was given, where, and what was expected."""
    lines = []
    for detail in error.errors():
        location = tuple(part for part in detail["loc"] if isinstance(part, str))
        origin = next((source.origins[location] for source in sources if location in source.origins), None)
        message = detail["msg"].removeprefix("Value error, ")
        if detail["type"] == "value_error":  # a check across fields, which names them itself
            section = f"{'.'.join(location)}: " if location else ""
            lines.append(f"{section}{message}")
        else:
            given = f" ({origin})" if origin else ""
            lines.append(f"{'.'.join(location)} = {detail['input']!r}{given}: {message[0].lower()}{message[1:]}")
    return "\n".join(lines)

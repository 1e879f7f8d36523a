"""What each setting takes, in words: for `--help` and for docs/settings.md."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

FieldPath = tuple[str, ...]

# A run folder may be moved.
_APART = {("run", "dir")}

_TYPES: dict[type, str] = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH", bool: "BOOL", dict: "MAPPING"}
_BOUNDS = {annotated_types.Ge: "≥", annotated_types.Gt: ">", annotated_types.Le: "≤", annotated_types.Lt: "<"}
_UNITS = ((1024**3, "GiB"), (1024**2, "MiB"))


@dataclass(frozen=True, slots=True)
class Entry:
    """One setting in words. `takes` names its type, or is empty if `choices` says it all."""

    path: FieldPath
    takes: str
    choices: tuple[str, ...]
    default: str
    description: str

    @property
    def name(self) -> str:
        """The dotted name, as on the command line."""
        return ".".join(self.path)


@dataclass(frozen=True, slots=True)
class SectionEntry:
    """One section in words, with the settings directly in it."""

    path: FieldPath
    description: str
    settings: tuple[Entry, ...]

    @property
    def name(self) -> str:
        """The dotted name, empty for the root of the tree."""
        return ".".join(self.path)


def leaf_fields(model: type[BaseModel], prefix: FieldPath = ()) -> dict[FieldPath, FieldInfo]:
    """All settings that hold a value, by path, in the order of the tree."""
    leaves: dict[FieldPath, FieldInfo] = {}
    for name, field in model.model_fields.items():
        section = section_of(field)
        leaves |= {(*prefix, name): field} if section is None else leaf_fields(section, (*prefix, name))
    return leaves


def differing(model: type[BaseModel], old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """The settings that differ between two dumps of `model`: by dotted name, the old value and the new one in words."""
    changed = {}
    for path in leaf_fields(model):
        before, after = _at(old, path), _at(new, path)
        if before != after and path not in _APART:
            changed[".".join(path)] = f"{before} -> {after}"
    return changed


def _at(tree: Any, path: FieldPath) -> Any:
    """The value at `path`; None if the tree, of an earlier version, does not have it."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def sections(model: type[BaseModel], path: FieldPath = ()) -> Iterator[SectionEntry]:
    """The sections of the tree, `model` itself first."""
    fields = model.model_fields.items()
    own = tuple(entry((*path, name), field) for name, field in fields if section_of(field) is None)
    yield SectionEntry(path, " ".join((model.__doc__ or "").split()), own)
    for name, field in fields:
        if (section := section_of(field)) is not None:
            yield from sections(section, (*path, name))


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The model of a field that is a section, else None."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def is_list(field: FieldInfo) -> bool:
    """Whether the field takes any number of values."""
    return any(get_origin(kind) is tuple for kind in (field.annotation, *get_args(field.annotation)))


def is_mapping(field: FieldInfo) -> bool:
    """Whether the field takes names with their values."""
    return any(get_origin(kind) is dict for kind in (field.annotation, *get_args(field.annotation)))


def is_optional(field: FieldInfo) -> bool:
    """Whether the field takes null."""
    return get_origin(field.annotation) in (Union, types.UnionType) and type(None) in get_args(field.annotation)


def entry(path: FieldPath, field: FieldInfo) -> Entry:
    """The setting at `path` in words."""
    kind, bounds = _plain(field.annotation, list(field.metadata))
    examples = tuple(map(str, field.examples or ()))
    choices = (*(str(member.value) for member in kind), *examples) if issubclass(kind, Enum) else ()
    takes = (" ".join(examples) or f"{_TYPES[kind]} {', '.join(bounds)}".strip()) if not choices else ""
    if is_list(field):
        takes += " ..."
        if is_mapping(field):
            takes += f" or {_TYPES[dict]}"
    if is_optional(field):
        takes += " or null"
    default = field.get_default(call_default_factory=True, validated_data={})
    return Entry(path, takes, choices, _in_words(default, path[-1]), field.description or "")


def _plain(annotation: Any, metadata: list[Any]) -> tuple[type[Any], list[str]]:
    """The one type behind an annotation without null, list and bounds; and the bounds in words."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        return _plain(inner, [*metadata, *more])
    if origin is dict:
        return dict, []
    if origin is not None:  # X | None, tuple[X, ...]
        inner = next(argument for argument in get_args(annotation) if argument not in (type(None), ...))
        return _plain(inner, metadata)
    signs = [(item, kind, sign) for kind, sign in _BOUNDS.items() for item in metadata if isinstance(item, kind)]
    bounds = [f"{sign} {getattr(item, kind.__name__.lower())}" for item, kind, sign in signs]
    bounds += [f"multiple of {item.multiple_of}" for item in metadata if isinstance(item, annotated_types.MultipleOf)]
    return annotation, bounds


def _in_words(value: Any, name: str) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return " ".join(str(item) for item in value) or "empty"
    if name.endswith("_bytes"):
        unit, unit_name = next((unit, name) for unit, name in _UNITS if value % unit == 0)
        return f"{value} ({value // unit} {unit_name})"
    return f"{value:g}" if isinstance(value, float) else str(value)

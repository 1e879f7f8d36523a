"""Write docs/settings.md, the page of all settings, from the settings tree: `python -m scripts.settings_page`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rltf.settings import PlanOptions, Settings
from rltf.settings.reference import Entry, SectionEntry, sections
from rltf.settings_sources import RENAMED, SHORT_OPTIONS

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"

INTRODUCTION = """\
<!-- Written by scripts/settings_page.py from the settings tree: edit the descriptions in settings/, not this page. -->

# Settings

Settings come from four sources. Later ones win, field by field:

1. the defaults on this page,
2. a YAML file: `--config FILE.yaml`; without it, `configs/starter.yaml`,
3. environment variables: `RLTF_LEARNER__OPTIM__LEARNING_RATE=1e-5`,
4. the command line: `--learner.optim.learning_rate 1e-5`.

Lists are words on the command line (`--evaluation.ks 1 5`) and YAML lists in files and environment variables
(`[1, 5]`). A switch needs no value (`--run.deterministic`). `null` or `none` empties a setting that allows it.
`rltf train --dry-run` prints the resolved settings; `rltf train --help learner` shows a section of this page.

`algorithm` changes some defaults in `rewards` and `learner.loss`. This page shows those of `rltf`;
[the method](method.md) compares all three.
"""
RENAMED_INTRODUCTION = """\
## Names from earlier versions

If a file, a variable or an option uses an old name, the error message gives the new one.

| Old name | Now |
|---|---|
"""


def settings_page() -> str:
    """The page as Markdown."""
    parts = [INTRODUCTION]
    parts += ["\n".join(_section(section)) for section in sections(Settings)]
    parts += ["\n".join(_section(section)) for section in sections(PlanOptions, ("plan",))]
    renamed = [f"| `{old}` | {new if ' ' in new else f'`{new}`'} |" for old, new in RENAMED.items()]
    return "\n".join([*parts, RENAMED_INTRODUCTION + "\n".join(renamed)]) + "\n"


def _section(section: SectionEntry) -> Iterator[str]:
    if section.path:
        yield f"{'#' * (len(section.path) + 1)} {section.name}\n"
        yield f"{section.description}\n"
    if section.settings:
        yield "| Setting | Type | Default | Description |\n|---|---|---|---|"
        for entry in section.settings:
            yield f"| {_names(entry)} | {_type(entry)} | `{entry.default}` | {entry.description} |"
        yield ""


def _names(entry: Entry) -> str:
    short = ", ".join(f"`{option}`" for option in SHORT_OPTIONS.get(entry.path, ()))
    return f"`{entry.name}`" + (f" (option also {short})" if short else "")


def _type(entry: Entry) -> str:
    return ", ".join(f"`{choice}`" for choice in entry.choices) or entry.takes


if __name__ == "__main__":
    PAGE.write_text(settings_page(), encoding="utf-8")

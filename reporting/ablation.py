"""Table and figure of an ablation: held-out pass@1 of each row, and what each gains over the one it is compared with."""

from __future__ import annotations

from pathlib import Path

import yaml

from reporting.rows import read_rows

OFFLINE = "offline"
ROWS = {
    "sl": "SL only",
    "coarse": "+ coarse",
    "coarse-fine": "+ fine",
    "rltf": "+ adaptive (preset `rltf`)",
    "static": "+ static analysis",
    OFFLINE: "`rltf`, offline samples",
    "rltf-paper": "preset `rltf-paper`",
    "rltf-code": "preset `rltf-code`",
}


def is_finished(folder: Path) -> bool:
    """Whether the run's last evaluation is there."""
    if not (folder / "settings.yaml").is_file():
        return False
    settings = yaml.safe_load((folder / "settings.yaml").read_text())
    rows = read_rows(folder / "evaluations.jsonl")
    return bool(rows) and rows[-1]["step"] == settings["run"]["num_steps"]

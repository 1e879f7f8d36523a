"""The Prometheus rules and the Grafana dashboard name existing series, and the rules fire when they should."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from ray.util.metrics import Histogram

from rltf.reporting.telemetry import SERIES

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy/grafana/dashboards/rltf.json"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="needs promtool (`apt-get install prometheus`)")


def names_in(text: str) -> set[str]:
    return set(re.findall(r"\bray_rltf_\w+", text))


def exported_names() -> set[str]:
    names = set()
    for one in SERIES:
        ends = ("_bucket", "_count", "_sum") if one.kind is Histogram else ("",)
        names |= {one.exported + end for end in ends}
    return names


def test_the_dashboard_shows_every_series_and_no_other() -> None:
    shown = names_in(DASHBOARD.read_text())
    assert shown <= exported_names()
    for one in SERIES:
        assert any(name.startswith(one.exported) for name in shown), f"{one.name} is on no panel"


def test_alerts_use_existing_series() -> None:
    rules = [
        rule for group in yaml.safe_load((ROOT / "deploy/alerts.yml").read_text())["groups"] for rule in group["rules"]
    ]
    assert rules
    for rule in rules:
        assert names_in(rule["expr"]) <= exported_names(), rule["alert"]


def test_panels_do_not_overlap_and_have_descriptions() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        assert panel["type"] == "row" or panel["description"]
    assert taken


def test_grafana_finds_dashboard_and_prometheus() -> None:
    """Grafana replaces `${NAME}` with a variable, but knows no defaults like `${NAME:-x}`."""
    folder = ROOT / "deploy/grafana"
    for path in [folder / "grafana.ini", *folder.glob("provisioning/*/*.yml")]:
        assert set(re.findall(r"\$\{(.*?)\}", path.read_text())) <= {"PWD"}, path
    paths = configparser.ConfigParser(interpolation=None)
    paths.read(folder / "grafana.ini")
    provisioning = Path(paths["paths"]["provisioning"].replace("${PWD}", str(ROOT)))
    (provider,) = yaml.safe_load((provisioning / "dashboards/rltf.yml").read_text())["providers"]
    assert Path(provider["options"]["path"].replace("${PWD}", str(ROOT))) == DASHBOARD.parent
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://localhost:9090"  # as in docs/monitoring.md


def test_every_series_is_documented() -> None:
    page = (ROOT / "docs/monitoring.md").read_text()
    for one in SERIES:
        assert f"`{one.exported}`" in page, f"{one.exported} is not in docs/monitoring.md"


RAY_NODES = "/tmp/ray/prom_metrics_service_discovery.json"


@needs_promtool
def test_prometheus_accepts_configuration_and_rules(tmp_path: Path) -> None:
    nodes = tmp_path / "nodes.json"  # the list that Ray writes, which exists only where Ray has run
    nodes.write_text('[{"targets": ["localhost:8080"]}]')
    shutil.copy(ROOT / "deploy" / "alerts.yml", tmp_path)
    text = (ROOT / "deploy" / "prometheus.yml").read_text()
    assert RAY_NODES in text
    (tmp_path / "prometheus.yml").write_text(text.replace(RAY_NODES, str(nodes)))
    for arguments in (["config", "prometheus.yml"], ["rules", "alerts.yml"]):
        done = subprocess.run(
            [str(PROMTOOL), "check", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_alerts_fire_when_they_should_and_only_then() -> None:
    command = [str(PROMTOOL), "test", "rules", "tests/deploy/alert_cases.yml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

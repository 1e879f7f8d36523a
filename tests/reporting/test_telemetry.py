"""Every declared series reaches Ray's metrics endpoint and, through Prometheus, every panel of the dashboard."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.util.metrics import Histogram

from rltf.reporting.telemetry import RUN_TAG, SERIES

ROOT = Path(__file__).parents[2]
PROMETHEUS = shutil.which("prometheus")
ANSWER_S = 60.0

pytestmark = pytest.mark.ray


@dataclass(frozen=True)
class Exporting:
    """A run in progress: the port of its metrics endpoint, and the endpoint's text after everything was set once."""

    port: int
    text: str


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def exporting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporting]:
    port, text = free_port(), tmp_path_factory.mktemp("endpoint") / "metrics.txt"
    command = [sys.executable, "-m", "tests.reporting.exporting_run", str(port), str(text)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield Exporting(port, text.read_text())
    process.communicate("", timeout=60)


def test_every_series_is_on_the_metrics_endpoint(exporting: Exporting) -> None:
    for one in SERIES:
        sample = one.exported + ("_bucket" if one.kind is Histogram else "")
        found = re.search(rf"^{sample}\{{(.*)\}} \S+$", exporting.text, re.MULTILINE)
        assert found, f"{sample} is missing"
        for tag in (RUN_TAG, *one.tags):
            assert f'{tag}="' in found[1], f"{sample} has no tag {tag}"
        assert f"# HELP {one.exported} {one.description}" in exporting.text
        assert f"# TYPE {one.exported} {one.kind.__name__.lower()}" in exporting.text


def test_counts_include_a_replaced_generator(exporting: Exporting) -> None:
    sampled = re.search(r'^ray_rltf_sampled_tokens_total\{.*generator="generator-0".*\} (\S+)$', exporting.text, re.M)
    assert sampled
    assert float(sampled[1]) == 1000 + 500 + 200  # the last 200 come from its successor


def test_staleness_is_a_histogram_over_samples(exporting: Exporting) -> None:
    pattern = r'^ray_rltf_staleness_versions_bucket\{.*le="([^"]+)".*\} (\S+)$'
    buckets = dict(re.findall(pattern, exporting.text, re.M))
    assert (float(buckets["0.5"]), float(buckets["1.5"]), float(buckets["+Inf"])) == (12, 15, 16)


@pytest.fixture(scope="module")
def prometheus(exporting: Exporting, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prometheus with our configuration, except for the file with Ray's list of nodes."""
    if PROMETHEUS is None:
        pytest.skip("needs prometheus (`apt-get install prometheus`)")
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text())
    (folder / "nodes.json").write_text(json.dumps([{"targets": [f"localhost:{exporting.port}"]}]))
    config["scrape_configs"][0]["file_sd_configs"][0]["files"] = [str(folder / "nodes.json")]
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    shutil.copy(ROOT / "deploy/alerts.yml", folder)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    options = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("w") as log:
        listen = f"--web.listen-address=127.0.0.1:{port}"
        process = subprocess.Popen([PROMETHEUS, *options, listen], stdout=log, stderr=subprocess.STDOUT)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(timeout=30)


def asked(address: str, path: str, **parameters: str) -> Any:
    with urllib.request.urlopen(f"{address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=10) as reply:
        return json.load(reply)["data"]


def dashboard_queries() -> dict[str, str]:
    """Every query of every panel, as Grafana would send it for the run `test-run`."""
    dashboard = json.loads((ROOT / "deploy/grafana/dashboards/rltf.json").read_text())
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        .replace("$__rate_interval", "15s")
        .replace("$__range", "1m")
        .replace("$run", "test-run")
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    }


def test_prometheus_answers_every_query_of_the_dashboard(prometheus: str) -> None:
    unanswered = dashboard_queries()
    assert len(unanswered) > 30
    deadline = time.monotonic() + ANSWER_S
    while unanswered and time.monotonic() < deadline:
        time.sleep(1.0)
        try:
            for title, query in list(unanswered.items()):
                result = asked(prometheus, "query", query=query)["result"]
                if any(sample["value"][1] not in ("NaN", "+Inf") for sample in result):
                    del unanswered[title]
        except OSError:  # it is still starting
            continue
    assert not unanswered


def test_prometheus_knows_every_series_and_its_help_text(prometheus: str) -> None:
    known = asked(prometheus, "metadata")
    for one in SERIES:
        # The OpenMetrics format leaves `_total` out of the name of a counter.
        found = known.get(one.exported) or known[one.exported.removesuffix("_total")]
        assert [metadata["help"] for metadata in found] == [one.description]
    assert {series["run"] for series in asked(prometheus, "series", **{"match[]": "ray_rltf_step"})} == {"test-run"}


def test_the_alert_for_grader_faults_becomes_pending(prometheus: str) -> None:
    """The grader failed on one program in eight."""
    rules = {rule["name"]: rule for group in asked(prometheus, "rules")["groups"] for rule in group["rules"]}
    assert all(rule["health"] != "err" for rule in rules.values()), rules
    deadline = time.monotonic() + ANSWER_S
    while rules["GraderFaults"]["state"] == "inactive" and time.monotonic() < deadline:
        time.sleep(0.5)
        rules = {rule["name"]: rule for group in asked(prometheus, "rules")["groups"] for rule in group["rules"]}
    assert rules["GraderFaults"]["state"] == "pending"
    assert rules["DiskNearlyFull"]["health"] == "ok"

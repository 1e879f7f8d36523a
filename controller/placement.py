"""Where the actors of a run go: learner and generators all at once or not at all, each on its kind of node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rltf.controller.cluster import NodeKind, kind_request, uses_kinds
from rltf.errors import UserError
from rltf.settings import ClusterSettings, GeneratorSettings, Settings
from rltf.supervise import StallError, answer

# The cloud may have to provide a machine, boot it and set it up first.
CLUSTER_START_S = 1800.0
LOCAL_START_S = 300.0


@dataclass(frozen=True, slots=True)
class Placement:
    """Resources reserved for the learner (bundle 0) and the generators (the others, in order).

    An evaluation has no learner, and then `first_generator` is 0.
    """

    group: PlacementGroup
    bundles: tuple[Mapping[str, float], ...]
    uses_kinds: bool
    num_ranks: int = 1
    first_generator: int = 1

    def learner(self) -> dict[str, Any]:
        """Ray's options for each rank of the learner."""
        return self._options(0, self.num_ranks)

    def generator(self, index: int) -> dict[str, Any]:
        """Ray's options for a generator actor."""
        return self._options(self.first_generator + index)

    def sandbox(self) -> dict[str, float]:
        """Custom resources for a sandbox worker. These come and go, so nothing is reserved for them."""
        return kind_request("sandbox", uses=self.uses_kinds)

    def _options(self, bundle: int, num_actors: int = 1) -> dict[str, Any]:
        wanted = {name: amount / num_actors for name, amount in self.bundles[bundle].items()}
        return {
            "num_cpus": wanted.pop("CPU", 0.0),
            "num_gpus": wanted.pop("GPU", 0.0),
            "resources": wanted,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(self.group, bundle),
        }


def room_timeout_s(cluster: ClusterSettings) -> float:
    """How long to wait for resources: a cluster may have to start machines."""
    return LOCAL_START_S if cluster.address == "local" else CLUSTER_START_S


async def hold_room(settings: Settings, *, timeout_s: float) -> Placement:
    """Reserve resources for learner and generators, all at once, so that no run waits with half of what it needs.

    Raises UserError if they are not available within `timeout_s`.
    """
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    kinds = uses_kinds(there)
    learner, generator, ranks = settings.learner, settings.generator, settings.learner.num_workers
    bundles = (
        # All ranks in one bundle, so on one node: they write a checkpoint together.
        _bundle("learner", learner.num_cpus * ranks, learner.num_gpus * ranks, kinds=kinds),
        *[_bundle("generator", generator.num_cpus, generator.num_gpus, kinds=kinds)] * generator.num_generators,
    )
    if settings.cluster.address == "local":
        _check_machine(bundles, settings, there)
    asked = (
        f"the learner asks for {_words(bundles[0])}, each of {generator.num_generators} generators for "
        f"{_words(bundles[1])}"
    )
    # PACK: few nodes, but as many as it takes.
    group = await _reserve(bundles, "PACK", timeout_s, "room for learner and generators", asked)
    return Placement(group, bundles, kinds, ranks)


async def hold_generators(generator: GeneratorSettings, *, timeout_s: float) -> Placement:
    """Reserve resources for generators alone, on different nodes if possible. Raises UserError as `hold_room`."""
    kinds = uses_kinds(ray.cluster_resources())  # type: ignore[no-untyped-call]
    bundles = (_bundle("generator", generator.num_cpus, generator.num_gpus, kinds=kinds),) * generator.num_generators
    asked = f"each of {generator.num_generators} generators asks for {_words(bundles[0])}"
    group = await _reserve(bundles, "SPREAD", timeout_s, "room for generators", asked)
    return Placement(group, bundles, kinds, first_generator=0)


async def _reserve(
    bundles: Sequence[Mapping[str, float]], strategy: str, timeout_s: float, what: str, asked: str
) -> PlacementGroup:
    """Reserve all bundles, or raise UserError after `timeout_s`."""
    group: PlacementGroup = placement_group([dict(bundle) for bundle in bundles], strategy=strategy)
    try:
        await answer(group.ready(), timeout_s, what)
    except StallError as error:
        remove_placement_group(group)
        there = _words(ray.cluster_resources())  # type: ignore[no-untyped-call]
        raise UserError(
            f"{error}: {asked}; the cluster has {there}. Lower num_gpus, num_cpus or generator.num_generators, or add "
            "nodes (`ray status` says what the autoscaler waits for)"
        ) from error
    return group


def _check_machine(bundles: Sequence[Mapping[str, float]], settings: Settings, there: Mapping[str, float]) -> None:
    """Raise UserError unless this machine, whose Ray cannot grow, has the minimum that the run needs."""
    sandbox = settings.sandbox
    needed = {name: sum(bundle.get(name, 0.0) for bundle in bundles) for name in ("CPU", "GPU")}
    needed["CPU"] += sandbox.min_workers * sandbox.num_cpus
    for name, amount in needed.items():
        if amount > there.get(name, 0.0):
            raise UserError(
                f"learner, generators and {sandbox.min_workers} sandbox workers ask for {amount:g} {name}s, and this "
                f"machine has {there.get(name, 0.0):g}: lower learner.num_{name.lower()}s, "
                f"generator.num_{name.lower()}s or the numbers of generators and sandbox workers, or use a cluster"
            )


def _bundle(kind: NodeKind, num_cpus: float, num_gpus: float, *, kinds: bool) -> dict[str, float]:
    wanted = {"CPU": num_cpus, "GPU": num_gpus} | kind_request(kind, uses=kinds)
    # Ray rejects an empty bundle: a sliver of a core stands for an actor that needs nothing.
    return {name: amount for name, amount in wanted.items() if amount > 0} or {"CPU": 0.001}


def _words(resources: Mapping[str, float]) -> str:
    named = {name: amount for name, amount in resources.items() if ":" not in name and "memory" not in name}
    return ", ".join(f"{amount:g} {name}" for name, amount in sorted(named.items())) or "nothing"

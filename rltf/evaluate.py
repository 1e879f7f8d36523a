"""`rltf evaluate`: pass@k of a model or of a file of programs, in this process or on a Ray cluster."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from rltf.errors import UserError
from rltf.evaluation.command import evaluate, parser
from rltf.evaluation.places import Site
from rltf.evaluation.sources import is_served
from rltf.sandbox.command import limits_of, positive, run_logged
from rltf.sandbox.grading import Graders


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate, print the table, and return the exit status; 2 means the evaluation cannot run as asked."""
    return run_logged(_evaluate, _parser(), arguments)


def _parser() -> argparse.ArgumentParser:
    found = parser()
    # One per core, but of which machines is known later.
    found.set_defaults(workers=None)
    add = found.add_argument_group("on a cluster").add_argument
    cluster = "sample and grade on the Ray cluster at this address (auto: the one that this machine belongs to), in up "
    add("--cluster.address", dest="cluster", metavar="HOST:PORT", help=cluster + "to --workers sandboxes")
    engines = "engines that sample the model (default: as many as there are GPUs for; without GPUs, one for each node)"
    add("--generator.num_generators", dest="num_generators", type=positive, metavar="N", help=engines)
    gpus = "GPUs of each, which may be a share of one; 0: sample on CPUs (default: 1)"
    add("--generator.num_gpus", dest="num_gpus", type=_share, metavar="X", help=gpus)
    add("--generator.num_cpus", dest="num_cpus", type=_amount, metavar="X", help="CPU cores of each (default: 1)")
    return found


def _amount(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number from 0, got {text}")
    return value


def _share(text: str) -> float:
    value = _amount(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"an engine uses one GPU at most, got {text}; raise the number of generators")
    return value


def _evaluate(options: argparse.Namespace) -> None:
    limits = limits_of(options)
    _check(options)
    if options.cluster is None:
        num_workers = options.workers or len(os.sched_getaffinity(0))
        evaluate(options, limits, Site(Graders(num_workers, limits, options.min_isolation)))
        return
    from rltf.cluster_evaluation import on_cluster  # takes seconds to import

    with on_cluster(options, limits) as site:
        evaluate(options, limits, site)


def _check(options: argparse.Namespace) -> None:
    """Raise UserError for options that would have no effect, or that a cluster cannot serve."""
    given = [name for name in ("num_generators", "num_gpus", "num_cpus") if getattr(options, name) is not None]
    if given and options.cluster is None:
        raise UserError(f"--generator.{given[0]} is for engines on a cluster: add --cluster.address")
    if given and (options.model is None or is_served(options.model)):
        raise UserError(f"--generator.{given[0]}: only a model folder or Hub id is sampled here; remove the option")
    if options.cluster is not None and (options.critic or options.repair):
        raise UserError("--cluster.address: critic sampling runs in one process; remove it, or --critic and --repair")

"""pass@k of a model, or of a file of programs made elsewhere: the options of `rltf evaluate`, and what it prints.

    python evaluate.py --model DIR_OR_HUB_ID --problems SPEC [SPEC ...] --num-samples 20 --k 1 5 --output DIR
    python evaluate.py --samples FILE.jsonl --problems SPEC --k 1 5 --output DIR

`DIR/results.json` holds pass@k with 95 % intervals, `DIR/samples.jsonl` every program with its verdict. With several
SPECs, each has a folder of these in DIR. If the command is interrupted, the same command continues. `--against
OTHER_DIR` compares problem by problem with another evaluation.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rltf.errors import UserError
from rltf.evaluation.candidates import candidate_lines
from rltf.evaluation.places import EnginePlace, Site
from rltf.evaluation.run import run_evaluations
from rltf.evaluation.sources import ProgramSource, SamplesFile, add_sampling_options, is_served, model_source
from rltf.evaluation.turns import turn_lines
from rltf.sandbox.command import add_grading_options, positive
from rltf.sandbox.compare import Comparison
from rltf.settings import SandboxSettings


def evaluate(options: argparse.Namespace, limits: SandboxSettings, site: Site) -> None:
    """Evaluate at the `site` as the options of `parser` say, within these `limits` for programs, and print the table.

    Raises UserError if the evaluation cannot run as asked.
    """
    results = run_evaluations(
        _source(options, site.engines),
        options.problems,
        options.output,
        options.k,
        site.graders,
        comparison=Comparison(options.comparison),
        against=options.against,
        limits=limits,
    )
    print(_table(results, options.against))
    print(f"written: {options.output / 'results.json'}")


def parser() -> argparse.ArgumentParser:
    """The options of the command, without those for a cluster."""
    found = argparse.ArgumentParser(prog="rltf evaluate", description="pass@k of a model or of a file of programs.")
    source = found.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="model folder, GGUF file, Hub id, or a server: http(s)://HOST/v1[#MODEL]")
    source.add_argument("--samples", type=Path, metavar="FILE.jsonl", help="rows of task_id, completion_id and code")
    add_grading_options(found, several=True)
    add = found.add_argument
    add("--output", required=True, type=Path, metavar="DIR", help="folder of the results; an unfinished one continues")
    add("--k", type=positive, nargs="+", default=[1], help="the k of pass@k (default: 1)")
    looser = "apps: report by the APPS harness's looser rules as well"
    add("--comparison", choices=[one.value for one in Comparison], default=Comparison.STRICT.value, help=looser)
    add("--against", type=Path, metavar="DIR", help="an earlier evaluation to compare with")
    model = found.add_argument_group("with --model")
    add_sampling_options(model, num_samples=1, temperature=0.6)
    shown = "most answers to a problem; from 2 on, the model reads what its program did on the examples (default: 1)"
    model.add_argument("--turns", type=positive, default=1, metavar="N", help=shown)
    second = found.add_argument_group("critic sampling, with --model")
    add = second.add_argument
    add("--critic", type=Path, metavar="DIR", help="a critic (rltf critic): refine programs that pass the examples")
    add("--repair", metavar="DIR", help="a model (rltf train-repair): repair programs if none passes the examples")
    shown = "programs of a problem that are repaired: the critic's best, else the first (default: 1)"
    add("--num-repaired", type=positive, metavar="M", help=shown)
    add(
        "--equal-budget",
        action="store_true",
        help="sample as many more plain programs as the second round's tokens buy",
    )
    return found


def _source(options: argparse.Namespace, engines: EnginePlace | None) -> ProgramSource:
    if options.samples is not None:
        if len(options.problems) > 1:
            raise UserError("--samples takes a single SPEC, because problems of several may have the same task_id")
        if options.turns > 1:
            raise UserError("--turns: programs in a file cannot be repaired; give a --model")
        if options.critic or options.repair:
            raise UserError("--critic and --repair: a file of programs cannot be sampled from; give a --model")
        return SamplesFile(options.samples)
    k = max(options.k)
    if k > options.num_samples:
        raise UserError(
            f"pass@{k} needs {k} programs per problem, but --num-samples is {options.num_samples}; raise it"
        )
    if options.critic or options.repair:
        return _critic_sampling(options, engines)
    if options.num_repaired is not None or options.equal_budget:
        raise UserError("--num-repaired and --equal-budget are for critic sampling: add --critic or --repair")
    return model_source(options, options.turns, engines)


def _critic_sampling(options: argparse.Namespace, engines: EnginePlace | None) -> ProgramSource:
    """Raises UserError if the options contradict each other."""
    for one in filter(None, (options.model, options.repair)):
        if is_served(one):
            raise UserError(f"--critic and --repair need token ids, which a server does not give: {one}; give a folder")
    if options.turns > 1:
        raise UserError("--turns: critic sampling has rounds of its own; remove --turns, or --critic and --repair")
    if options.num_repaired is not None and not options.repair:
        raise UserError("--num-repaired needs a repair model: add --repair")
    model = model_source(options, engines=engines)
    # Imported late, as models are.
    from rltf.evaluation.critic_sampling import CriticSampling
    from rltf.evaluation.model import SampledModel

    assert isinstance(model, SampledModel)
    # A repair model answers in the second turn.
    repair = replace(model, name=options.repair, turns=2) if options.repair else None
    num_repaired = options.num_repaired or 1
    return CriticSampling(
        model=model,
        critic=options.critic,
        repair=repair,
        num_repaired=num_repaired,
        at_budget=options.equal_budget,
    )


def _table(results: Mapping[str, dict[str, Any]], against: Path | None) -> str:
    """pass@k in percent with its interval, one line per SPEC and group, by each of the rules; then the differences."""
    names = list(results) if len(results) > 1 else []
    width = max(map(len, names), default=0)
    lines = []
    for spec, found in results.items():
        head = f"{spec:<{width}} " if names else ""
        for comparison, rules, name, group, value in _passes(found):
            low, high = rules["intervals"][name][group]
            lines.append(f"{head}{name:>9} {comparison:<7} {group:<14} {value:7.2%}   [{low:.2%}, {high:.2%}]")
        lines += [head + line for line in turn_lines(found.get("turns", ()))]
        lines += [head + line for line in candidate_lines(found.get("critic_sampling", {}))]
    if against is not None:
        lines.append(f"difference from {against}, problem by problem:")
        for spec, found in results.items():
            head = f"{spec:<{width}} " if names else ""
            for comparison, _, name, group, value in _passes(found["against"]):
                (low, high), difference = value["interval"], value["difference"]
                lines.append(
                    f"{head}{name:>9} {comparison:<7} {group:<14} {difference:+7.2%}   [{low:+.2%}, {high:+.2%}]"
                )
    return "\n".join(lines)


def _passes(results: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str, str, Any]]:
    """Each pass@k in the results: the comparison, the results by it, the name, the group and the value."""
    for comparison, rules in [("strict", results), ("apps", results.get("apps", {}))]:
        for name, groups in rules.items():
            if name.startswith("pass@"):
                yield from ((comparison, rules, name, group, value) for group, value in groups.items())

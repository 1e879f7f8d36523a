"""`make mbpp`: a pretrained model learns from MBPP's unit tests, measured before and after on MBPP and HumanEval.

    make mbpp [MBPP=mbpp.jsonl] [HUMANEVAL=HumanEval.jsonl.gz] [MODEL=NAME] [FOLDER=DIR] [SEEDS='0 1'] [CONTROL=1]

Every step is one command of this program, and is printed before it runs. If anything interrupts it, the same command
continues. Options other than those of `_parser` are settings of the training runs, `configs/mbpp_smollm2.yaml`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from rltf.entry import Interrupted, run_command
from rltf.errors import UserError
from rltf.evaluation.store import read_samples
from rltf.files import checkpoints, read_json, write_json
from rltf.problems import load
from rltf.problems.fingerprints import some
from rltf.problems.spec import parse_spec
from rltf.reporting.comparisons import Passes, interval
from rltf.sandbox.verdict import Outcome
from rltf.settings import CACHE_DIR
from rltf.settings_sources import load_settings
from scripts.smollm2 import smollm2

CONFIG = "configs/mbpp_smollm2.yaml"
# How programs are drawn: four of each problem, and the one that is most likely, token by token.
SAMPLED, GREEDY = "sampled", "greedy"
SAMPLING = {
    SAMPLED: ("--num-samples", "4", "--k", "1", "4", "--temperature", "0.6", "--top-p", "1.0"),
    GREEDY: ("--num-samples", "1", "--k", "1", "--temperature", "0"),
}
# How often the SFT model solves the training problems: RL mostly skips those it never solves.
PILOT = ("--num-samples", "8", "--k", "1", "8")
# One update that changes nothing, after SFT: its checkpoint is the model that the other runs start from.
START = ("--run.num_steps", "1", "--learner.optim.learning_rate", "0", "--problems.evaluation", "[]")
BASE, SFT, RL, CONTROL = "base", "sft", "rl", "control"
# The control's samples have no gradient, so it draws few.
TRAINING = {RL: (), CONTROL: ("--learner.loss.rl_weight", "0", "--learner.batch_size", "8")}


@dataclass(frozen=True, slots=True)
class Job:
    """What to train and where. `mbpp` and `humaneval` are what follows `KIND:` in a SPEC."""

    folder: Path
    model: str | None
    mbpp: str
    humaneval: str
    limit: int | None
    seeds: tuple[int, ...]
    with_control: bool
    settings: tuple[str, ...]

    def benchmarks(self) -> dict[str, str]:
        """The SPEC of each benchmark that models are measured on."""
        first = "" if self.limit is None else f"[0:{self.limit}]"
        return {"mbpp": f"mbpp:{self.mbpp}?split=test{first}", "humaneval": f"humaneval:{self.humaneval}{first}"}

    def trained(self) -> dict[str, list[str]]:
        """The kinds of model that training makes from the SFT model, and their names, one per seed."""
        kinds = [RL, CONTROL] if self.with_control else [RL]
        return {kind: [f"{kind}-{seed}" for seed in self.seeds] for kind in kinds}

    def problems(self) -> list[str]:
        """The SPECs of the training problems. The first has the reference programs."""
        return [f"mbpp:{self.mbpp}?split={split}" for split in ("train", "prompt")]

    def training(self, name: str, model: str) -> list[str]:
        """The options of the training run `name`, which starts from `model`."""
        train = self.problems()
        options = ["--config", CONFIG, "--run.dir", str(self.folder / name), "--model.name", model]
        options += ["--problems.train", *train, "--problems.supervised", train[0]]
        if name == SFT:
            return [*options, *self.settings, *START]
        kind, _, seed = name.rpartition("-")
        options += ["--problems.pass_rates", *(str(self.pilot() / parse_spec(spec).name) for spec in train)]
        options += ["--problems.evaluation", f"mbpp:{self.mbpp}?split=validation[0:30]", "--learner.sft.num_steps", "0"]
        return [*options, "--run.seed", seed, *TRAINING[kind], *self.settings]

    def answers(self) -> list[str]:
        """The options of evaluations for prompts and answers as in training."""
        settings = load_settings(self.training(f"{RL}-{self.seeds[0]}", "any"))[0]
        model, kwargs = settings.model, settings.model.chat_template_kwargs
        given = {
            "--max-tokens": str(settings.generator.max_tokens),
            "--chat-template": model.chat_template.value,
            "--chat-template-kwargs": json.dumps(kwargs) if kwargs else None,
            "--system-prompt": model.system_prompt,
            "--prompt-template": model.prompt_template,
        }
        words = [word for name, value in given.items() if value is not None for word in (name, value)]
        return [*words, *(("--stop", *settings.generator.stop) if settings.generator.stop else ())]

    def pilot_options(self) -> list[str]:
        """The options of the pilot, which samples as RL does."""
        generator = load_settings(self.training(f"{RL}-{self.seeds[0]}", "any"))[0].generator
        return [*PILOT, "--temperature", f"{generator.temperature:g}", "--top-p", f"{generator.top_p:g}"]

    def pilot(self) -> Path:
        """The folder of the SFT model's evaluation on the training problems."""
        return self.folder / "pilot"

    def evaluation(self, name: str, drawn: str) -> Path:
        """The folder of a model's evaluation."""
        folder = self.folder / ("evaluations" if self.limit is None else f"first-{self.limit}")
        return folder / f"{name}-{drawn}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is left to do, print the table, and return the exit status."""
    job = job_of(arguments)
    try:
        _check(job)
        _claim(job)
        base = job.model or smollm2(CACHE_DIR)
        evaluate(job, BASE, base)
        start = train(job, SFT, base)
        evaluate(job, SFT, start)
        _evaluate(job, start, job.problems(), job.pilot_options(), job.pilot())
        for names in zip(*job.trained().values(), strict=True):
            for name in names:
                evaluate(job, name, train(job, name, start))
        Console().print(table(job))
    except UserError as error:
        print(f"make mbpp: {error}", file=sys.stderr)
        return 2
    return 0


def job_of(arguments: Sequence[str] | None) -> Job:
    """What the command line asks for."""
    given, settings = _parser().parse_known_args(arguments)
    seeds = tuple(dict.fromkeys(given.seeds))
    return Job(
        given.folder, given.model, given.mbpp, given.humaneval, given.limit, seeds, given.control, tuple(settings)
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make mbpp", allow_abbrev=False)
    add = parser.add_argument
    add("--model", help="Hub id, folder or GGUF file of a chat model (default: SmolLM2-135M-Instruct)")
    add("--mbpp", default="google-research-datasets/mbpp", help="mbpp.jsonl (default: from the Hub)")
    add("--humaneval", default="openai/openai_humaneval", help="HumanEval.jsonl.gz (default: from the Hub)")
    add("--folder", type=Path, default=Path("runs/mbpp-smollm2"), help="where all runs go (default: %(default)s)")
    add("--limit", type=int, help="evaluate on the first LIMIT problems of each benchmark only")
    add("--seeds", type=int, nargs="+", default=[0], help="a training run for each (default: 0)")
    add("--control", action="store_true", help="also train each seed with the supervised term alone")
    return parser


def _check(job: Job) -> None:
    """Raise UserError, before hours of work, for a benchmark that cannot be had and for settings that do not exist."""
    load_settings(job.training(f"{RL}-{job.seeds[0]}", "any"))
    try:
        for spec in (*job.benchmarks().values(), f"mbpp:{job.mbpp}?split=train"):
            load(spec)
    except UserError as error:
        files = "make mbpp MBPP=mbpp.jsonl HUMANEVAL=HumanEval.jsonl.gz"
        raise UserError(f"{error}\nWith files of your own: {files}") from error


def _claim(job: Job) -> None:
    """Record the job in its folder. Raises UserError if the folder has results of another one."""
    record = job.folder / "job.json"
    asked = {"MODEL": job.model, "MBPP": job.mbpp, "HUMANEVAL": job.humaneval, "settings": list(job.settings)}
    kept = read_json(record) if record.is_file() else asked
    for name, value in asked.items():
        if kept.get(name) != value:
            raise UserError(
                f"{job.folder} has results of another job: {name} was {kept.get(name)}, and is {value} now; give "
                "another FOLDER, or remove that one"
            )
    job.folder.mkdir(parents=True, exist_ok=True)
    write_json(record, asked)


def train(job: Job, name: str, model: str) -> str:
    """Train until the last checkpoint is there, and return its folder."""
    options = job.training(name, model)
    num_steps = load_settings(options)[0].run.num_steps
    run = job.folder / name
    last = run / "checkpoints" / f"step-{num_steps}"
    if last not in checkpoints(run / "checkpoints"):
        if (run / "settings.yaml").is_file():
            options = ["--resume", str(run), *options[options.index("--run.dir") + 2 :]]
        _run("launch.py", *options)
    return str(last)


def evaluate(job: Job, name: str, model: str) -> None:
    """Evaluate a model on the benchmarks if there are no results yet."""
    for drawn, sampling in SAMPLING.items():
        _evaluate(job, model, job.benchmarks().values(), sampling, job.evaluation(name, drawn))


def _evaluate(job: Job, model: str, specs: Iterable[str], sampling: Iterable[str], folder: Path) -> None:
    """Evaluate unless that is done. Programs that met errors of the grader are graded again."""
    if not _is_graded(folder / "results.json"):
        options = ["--model", model, "--problems", *specs, *sampling, *job.answers()]
        _run("evaluate.py", *options, "--output", str(folder))


def _is_graded(results: Path) -> bool:
    """Whether an evaluation of several SPECs has its results, and a verdict on every program."""
    if not results.is_file():
        return False
    return all(Outcome.INFRASTRUCTURE_ERROR not in found["outcomes"] for found in read_json(results).values())


def _run(*command: str) -> None:
    """Run a command of this program. It gets every signal that comes to this process, and ends as it likes."""
    print("\n$ python", shlex.join(command), flush=True)
    interrupted = None
    with subprocess.Popen([sys.executable, *command], start_new_session=True) as process:
        while process.poll() is None:
            try:
                process.wait()
            except Interrupted as stop:
                interrupted = stop
                process.send_signal(stop.status - 128)
    if interrupted is not None:
        interrupted.add_note("the same command continues")
        raise interrupted
    if process.returncode < 0:
        killed = signal.Signals(-process.returncode).name
        raise UserError(f"{command[0]} was ended by {killed}, perhaps for lack of memory; the same command continues")
    if process.returncode != 0:
        raise SystemExit(process.returncode)


def table(job: Job) -> Table:
    """pass@1 of the models on each benchmark, and its difference from the start and from the control."""
    seeds = f"{len(job.seeds)} seeds and problems" if len(job.seeds) > 1 else "problems"
    shown = Table(title=f"pass@1 in percent, with 95 % intervals over {seeds}")
    for column in ("benchmark", "programs", "model", "pass@1", f"minus {SFT}", f"minus {CONTROL}"):
        shown.add_column(column)
    for row in _rows(job):
        shown.add_row(*row)
    return shown


def _rows(job: Job) -> Iterator[tuple[str, ...]]:
    models = {BASE: [BASE], SFT: [SFT], **job.trained()}
    for benchmark in job.benchmarks():
        for drawn in SAMPLING:
            found = {model: _passes(job, names, benchmark, drawn) for model, names in models.items()}
            for model, passes in found.items():
                others = [other for other in (SFT, CONTROL) if model in TRAINING and other != model]
                gains = [str(interval(passes - found[other])) if other in found else "" for other in others]
                yield (benchmark, drawn, model, str(interval(passes)), *gains)


def _passes(job: Job, names: Sequence[str], benchmark: str, drawn: str) -> Passes:
    """The share of each problem's programs that pass [models, problems].

    Raises UserError if a problem has no program with a verdict.
    """
    shares = []
    for name in names:
        total: Counter[str] = Counter()
        passed: Counter[str] = Counter()
        for row in read_samples(job.evaluation(name, drawn) / parse_spec(job.benchmarks()[benchmark]).name):
            total[row["task_id"]] += row["outcome"] != Outcome.INFRASTRUCTURE_ERROR
            passed[row["task_id"]] += row["passed"]
        if lost := [task_id for task_id in total if not total[task_id]]:
            raise UserError(
                f"no program of {name} for {some(lost)} could be graded; the same command grades them again"
            )
        shares.append([passed[task_id] / total[task_id] for task_id in sorted(total)])
    return np.array(shares)


if __name__ == "__main__":
    sys.exit(run_command("make mbpp", main))

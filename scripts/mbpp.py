"""`make mbpp`: a pretrained model learns from MBPP's unit tests, measured before and after on MBPP and HumanEval.

    make mbpp [MBPP=mbpp.jsonl] [HUMANEVAL=HumanEval.jsonl.gz] [MODEL=NAME] [FOLDER=DIR] [ARGS='--run.seed 1']

Every step is one command of this program, and is printed before it runs. If anything interrupts it, the same command
continues. Options other than those of `_parser` are settings of the training run, `configs/mbpp_smollm2.yaml`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from entry import Interrupted, run_command
from errors import UserError
from files import checkpoints, read_json
from problems import load
from scripts.smollm2 import smollm2
from settings import CACHE_DIR
from settings_sources import load_settings

CONFIG = "configs/mbpp_smollm2.yaml"
NUM_SAMPLES = 4
SAMPLING = ("--num-samples", str(NUM_SAMPLES), "--k", "1", str(NUM_SAMPLES), "--temperature", "0.6", "--top-p", "1.0")
# As in the config: a chat model with short answers.
ANSWERS = ("--max-tokens", "160", "--chat-template", "--dtype", "float32")
# One update that changes nothing, after SFT: its checkpoint is the model that RL starts from.
START = ("--run.num_steps", "1", "--learner.optim.learning_rate", "0", "--problems.evaluation", "[]")
MODELS = ("base", "sft", "rl")


@dataclass(frozen=True, slots=True)
class Job:
    """What to train and where. `mbpp` and `humaneval` are what follows `KIND:` in a SPEC."""

    folder: Path
    mbpp: str
    humaneval: str
    limit: int | None
    settings: tuple[str, ...]

    def benchmarks(self) -> dict[str, str]:
        """The SPEC of each benchmark that models are measured on."""
        first = "" if self.limit is None else f"[0:{self.limit}]"
        return {"mbpp": f"mbpp:{self.mbpp}?split=test{first}", "humaneval": f"humaneval:{self.humaneval}{first}"}

    def training(self, name: str, model: str) -> list[str]:
        """The options of the training run `name`."""
        train = f"mbpp:{self.mbpp}?split=train"
        options = ["--config", CONFIG, "--run.dir", str(self.folder / name), "--model.name", model]
        options += ["--problems.train", train, f"mbpp:{self.mbpp}?split=prompt", "--problems.supervised", train]
        options += ["--problems.evaluation", f"mbpp:{self.mbpp}?split=validation[0:30]", *self.settings]
        return [*options, *START] if name == "sft" else options

    def results(self, name: str, benchmark: str) -> Path:
        """The folder of an evaluation."""
        return self.folder / ("evaluations" if self.limit is None else f"first-{self.limit}") / f"{name}-{benchmark}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is left to do, print the table, and return the exit status."""
    options, settings = _parser().parse_known_args(arguments)
    job = Job(options.folder, options.mbpp, options.humaneval, options.limit, tuple(settings))
    try:
        _check(job)
        base = options.model or smollm2(CACHE_DIR)
        evaluate(job, "base", base)
        evaluate(job, "sft", train(job, "sft", base), against="base")
        evaluate(job, "rl", train(job, "rl", base), against="sft")
        Console().print(table(job))
    except UserError as error:
        print(f"make mbpp: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make mbpp", allow_abbrev=False)
    add = parser.add_argument
    add("--model", help="Hub id, folder or GGUF file of a chat model (default: SmolLM2-135M-Instruct)")
    add("--mbpp", default="google-research-datasets/mbpp", help="mbpp.jsonl (default: from the Hub)")
    add("--humaneval", default="openai/openai_humaneval", help="HumanEval.jsonl.gz (default: from the Hub)")
    add("--folder", type=Path, default=Path("runs/mbpp-smollm2"), help="where all runs go (default: %(default)s)")
    add("--limit", type=int, help="evaluate on the first LIMIT problems of each benchmark only")
    return parser


def _check(job: Job) -> None:
    """Raise UserError, before hours of work, for a benchmark that cannot be had and for settings that do not exist."""
    load_settings(job.training("rl", "any"))
    try:
        for spec in (*job.benchmarks().values(), f"mbpp:{job.mbpp}?split=train"):
            load(spec)
    except UserError as error:
        files = "make mbpp MBPP=mbpp.jsonl HUMANEVAL=HumanEval.jsonl.gz"
        raise UserError(f"{error}\nWith files of your own: {files}") from error


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


def evaluate(job: Job, name: str, model: str, *, against: str | None = None) -> None:
    """Evaluate a model on every benchmark that has no result for it yet."""
    for benchmark, spec in job.benchmarks().items():
        folder = job.results(name, benchmark)
        if (folder / "results.json").is_file():
            continue
        compared = [] if against is None else ["--against", str(job.results(against, benchmark))]
        options = ["--model", model, "--problems", spec, *SAMPLING, *ANSWERS, *compared]
        _run("evaluate.py", *options, "--output", str(folder))


def _run(*command: str) -> None:
    """Run a command of this program. It gets every signal that comes to this process, and ends as it likes."""
    print("\n$ python", " ".join(command), flush=True)
    interrupted = None
    with subprocess.Popen([sys.executable, *command], start_new_session=True) as process:
        while process.poll() is None:
            try:
                process.wait()
            except Interrupted as signal:
                interrupted = signal
                process.send_signal(signal.status - 128)
    if interrupted is not None:
        interrupted.add_note("the same command continues")
        raise interrupted
    if process.returncode != 0:
        raise SystemExit(process.returncode)


def table(job: Job) -> Table:
    """pass@1 of each model on each benchmark, and its difference from the model before it, with 95 % intervals."""
    shown = Table(title="pass@1 in percent, with 95 % intervals over problems")
    for column in ("benchmark", "model", "pass@1", "gain"):
        shown.add_column(column)
    for benchmark, name, results in _all_results(job):
        low, high = results["intervals"]["pass@1"]["all"]
        gain = ""
        if against := results.get("against"):
            found = against["pass@1"]["all"]
            gain = f"{found['difference']:+.1%} [{found['interval'][0]:+.1%}, {found['interval'][1]:+.1%}]"
        shown.add_row(benchmark, name, f"{results['pass@1']['all']:.1%} [{low:.1%}, {high:.1%}]", gain)
    return shown


def _all_results(job: Job) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for benchmark in job.benchmarks():
        for name in MODELS:
            yield benchmark, name, read_json(job.results(name, benchmark) / "results.json")


if __name__ == "__main__":
    sys.exit(run_command("make mbpp", main))

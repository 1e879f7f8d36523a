"""Train a code model with reinforcement learning from unit-test feedback.

        problems ──> generators ──> sandbox pool ──> scored samples ──> online buffer ──> learner
                      actors/         sandbox/          rewards/            learner/     learner/
                         ^                                                                  │
                         └───────────────── weights, every refresh_every updates ───────────┘

    python launch.py [--config configs/NAME.yaml] [--SECTION.FIELD VALUE ...] [--dry-run] [--resume RUN_DIR]
                     [--replay RUN_DIR] [--plan]

Every box is a Ray actor or a set of them; this process wires them, and passes ids, counts and references only.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import ray
from rich.console import Console

from controller.cluster import check_resources
from controller.connection import start_ray, while_head_lives
from controller.errors import UNUSABLE_INPUT, user_message
from controller.ledger import LedgerCounts
from controller.problem_sets import ProblemSets, load_problem_sets, without_failing_references
from controller.reports import GradedRollout, GradedSample
from controller.rollouts import GradingCounts
from controller.start import check_model, start_controller, step_of
from controller.submit import remote_address, submit
from errors import UserError
from evaluation import EvaluationResult
from files import newest_checkpoint
from learner.metrics import StepMetrics
from reporting import Progress, RunFolder
from reporting.planning import plan_ring
from reporting.replaying import replay_run
from reporting.summary import print_plan, print_summary
from reporting.telemetry import Telemetry
from settings import Settings
from settings_sources import CliOptions, load_settings

logger = logging.getLogger("launch")


@dataclass(slots=True)
class Job:
    """One run: what it is told is written down and shown."""

    settings: Settings
    problems: ProblemSets
    folder: RunFolder
    progress: Progress
    resume: Path | None
    telemetry: Telemetry
    evaluations: list[tuple[int, EvaluationResult]] = field(default_factory=list)
    publish_s: float = 0.0
    last_step: float = field(default_factory=time.monotonic)

    def on_step(self, metrics: StepMetrics, grading: GradingCounts, ledger: LedgerCounts) -> None:
        """After every update."""
        now = time.monotonic()
        row = metrics.row() | asdict(grading) | {"publish_s": self.publish_s, "elapsed_s": now - self.last_step}
        self.last_step, self.publish_s = now, 0.0
        self.folder.metrics(row)
        self.folder.ledger(metrics.step, ledger)
        self.progress.step(row)
        self.telemetry.step(metrics, self.settings.run.num_steps)

    def on_graded(self, graded: GradedRollout) -> None:
        """After every rollout that was graded."""
        self.telemetry.graded(graded)

    def on_refresh(self, version: int, shown: Sequence[GradedSample], seconds: float) -> None:
        """After every publication of weights."""
        self.publish_s += seconds
        self.telemetry.publication(seconds)
        if shown:
            self.folder.samples(version, shown, self.problems.by_id)

    def on_evaluation(self, step: int, result: EvaluationResult, num_passed: Mapping[str, int]) -> None:
        """After every evaluation."""
        problems = ", ".join(self.settings.problems.evaluation)
        row = {"step": step, "problems": problems, **result.to_json(), "num_passed": num_passed}
        self.folder.evaluation(row)
        self.progress.evaluation(row)
        self.telemetry.evaluation(result)
        self.evaluations.append((step, result))

    def on_rewind(self, step: int, why: str) -> None:
        """After updates were undone."""
        self.folder.rewind(step)
        self.progress.note(why, style="yellow")
        self.evaluations = [(at, result) for at, result in self.evaluations if at <= step]

    async def run(self) -> None:
        """Start the actors, train, evaluate; whatever happens, leave a checkpoint of what was learnt."""
        checkpoint = None if self.resume is None else newest_checkpoint(self.resume.resolve() / "checkpoints")
        if self.resume is not None and checkpoint is None:
            self._say(f"{self.resume} did not come to a checkpoint: it starts again from the beginning")
        actors, controller = await start_controller(self.settings, self.problems, self.progress, self, checkpoint)
        if checkpoint is None and self.settings.evaluation.initial:
            self.progress.stage("evaluation before")
            await controller.evaluate()
        self.progress.stage("reinforcement learning")
        self.last_step = time.monotonic()
        try:
            async with self.telemetry.watching(actors.generators, actors.pool, actors.buffer):
                await controller.run()
        except asyncio.CancelledError:
            path = await controller.save_interrupted()
            if path is not None:
                self.progress.note(f"interrupted: {path} holds the model; go on with --resume {self.folder.path}")
            raise
        self.progress.stage("evaluation after")
        await controller.evaluate()
        await actors.close()

    def _say(self, text: str) -> None:
        logger.warning("%s", text)
        self.progress.note(text)


def main(argv: list[str] | None = None) -> int:
    """Run the job; returns the exit status."""
    console = Console()
    errors = Console(stderr=True)
    arguments = sys.argv[1:] if argv is None else argv
    try:
        if (address := remote_address(arguments)) is not None:
            return submit(address, arguments, console)
        settings, options = load_settings(arguments)
        if options.dry_run:
            print_plan(settings, console)
            return 0
        if options.replay is not None:
            return replay_run(options.replay, settings, console)
        if options.plan:
            return plan_ring(settings, console)
        check_resources(settings)
        name = settings.model.name
        if Path(name).is_dir() or name.startswith((".", "/", "~")):  # else it may be the hub's, or is to be made
            check_model(Path(name).expanduser(), settings)
        problems = load_problem_sets(settings.problems, settings.sandbox)
        if settings.problems.validate_references:
            cache = settings.run.folder.parent / "references.json"
            problems = without_failing_references(problems, settings.sandbox, cache)
        return _launch(settings, options, problems, console)
    except UserError as error:
        errors.print(f"launch.py: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        return 2


def _launch(settings: Settings, options: CliOptions, problems: ProblemSets, console: Console) -> int:
    started = time.monotonic()
    if options.resume is None:
        folder = RunFolder.create(settings.run.folder, settings)
    else:
        checkpoint = newest_checkpoint(options.resume / "checkpoints")
        folder = RunFolder.resume(options.resume, settings, -1 if checkpoint is None else step_of(checkpoint))
    log = folder.path / "launch.log"
    logging.basicConfig(filename=log, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.raiseExceptions = False  # a log that cannot be written must not hide why
    for warning in problems.warnings:
        logger.warning("%s", warning)
    status = 0
    with Progress(settings.run.num_steps, console) as progress:
        for warning in problems.warnings:
            progress.note(warning)
        try:
            with folder:
                progress.stage("Ray")
                dashboard = start_ray(settings)
                telemetry = Telemetry(settings.run.name, settings.buffer)
                job = Job(settings, problems, folder, progress, options.resume, telemetry)
                if dashboard:
                    progress.note(f"Ray dashboard: http://{dashboard}")
                head = ray.get_runtime_context().gcs_address
                asyncio.run(while_head_lives(job.run(), head, lambda text: progress.note(text, style="red")))
        except KeyboardInterrupt:
            logger.info("interrupted")
            status = 130
        except BaseException as error:  # the process border: said in words, the traceback in the log
            logger.exception("the run failed")
            message, status = user_message(error)
            traceback = "" if status == UNUSABLE_INPUT else f"\n(traceback in {log})"
            progress.note(f"launch.py: {message}{traceback}", style="red")
        finally:
            ray.shutdown()
    if status == UNUSABLE_INPUT and options.resume is None:
        shutil.rmtree(folder.path)  # nothing was learnt: the name is free for the job with the mended settings
    if status == 0:
        print_summary(console, folder.path, job.evaluations, progress.stages, time.monotonic() - started)
    return status


if __name__ == "__main__":
    sys.exit(main())

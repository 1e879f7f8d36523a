"""One job, from its settings to a finished run folder: wires the actors, and writes down and shows what they say.

Imported only once the settings are known, because it brings torch and Ray.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import ray
from rich.console import Console

from controller.cluster import check_resources
from controller.connection import NO_DASHBOARD, start_ray, while_head_lives
from controller.errors import FAILED, user_message
from controller.ledger import LedgerCounts
from controller.problem_sets import ProblemSets, load_problem_sets, without_failing_references
from controller.reports import GradedRollout, GradedSample
from controller.rollouts import GradingCounts
from controller.start import check_model, start_controller, step_of
from evaluation import EvaluationResult
from files import newest_checkpoint
from learner.metrics import StepMetrics
from reporting import Progress, RunFolder
from reporting.planning import plan_ring
from reporting.replaying import replay_run
from reporting.summary import print_plan, print_summary
from reporting.telemetry import Telemetry
from sandbox.limits import Limits
from settings import Settings
from settings_sources import CliOptions

logger = logging.getLogger("launch")


@dataclass(slots=True)
class Job:
    """One run: writes down and shows what happens in it."""

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
        """Start the actors, train, evaluate; whatever happens, leave a checkpoint of what was learned."""
        checkpoint = None if self.resume is None else newest_checkpoint(self.resume.resolve() / "checkpoints")
        if self.resume is not None and checkpoint is None:
            self._say(f"{self.resume} has no checkpoint: starting again from the beginning")
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
                self.progress.note(f"interrupted: the model is in {path}; continue with --resume {self.folder.path}")
            raise
        self.progress.stage("evaluation after")
        await controller.evaluate()
        await actors.close()

    def _say(self, text: str) -> None:
        logger.warning("%s", text)
        self.progress.note(text)


def run_job(settings: Settings, options: CliOptions, program: str = "launch.py") -> int:
    """Do what `options` ask for: show the job, replay it, plan it or run it. Returns the exit status.

    Raises UserError for settings, problems or a machine that the job cannot run with.
    """
    console = Console()
    if options.dry_run:
        print_plan(settings, console)
        return 0
    if options.replay is not None:
        return replay_run(options.replay, settings, console)
    if options.plan is not None:
        return plan_ring(settings, options.plan, console)
    check_resources(settings)
    name = settings.model.name
    if Path(name).is_dir() or name.startswith((".", "/", "~")):  # otherwise it is a Hub id, or still to be built
        check_model(Path(name).expanduser(), settings)
    problems = load_problem_sets(settings.problems, Limits.of(settings.sandbox))
    if settings.problems.validate_references:
        cache = settings.run.folder.parent / "references.json"
        problems = without_failing_references(problems, settings.sandbox, cache)
    return _train(settings, options.resume, problems, console, program)


def _train(settings: Settings, resume: Path | None, problems: ProblemSets, console: Console, program: str) -> int:
    started = time.monotonic()
    folder = _run_folder(settings, resume)
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
                job = Job(settings, problems, folder, progress, resume, telemetry)
                if dashboard:
                    progress.note(f"Ray dashboard: http://{dashboard}")
                elif settings.cluster.dashboard:
                    progress.note(NO_DASHBOARD, style="yellow")
                head = ray.get_runtime_context().gcs_address
                asyncio.run(while_head_lives(job.run(), head, lambda text: progress.note(text, style="red")))
        except KeyboardInterrupt:
            logger.info("interrupted")
            status = 130
        except BaseException as error:  # the process border: the message for people, the traceback in the log
            logger.exception("the run failed")
            message, status = user_message(error)
            progress.note(f"{program}: {message}", style="red")
        finally:
            ray.shutdown()
        if status and resume is None and not folder.has_learned():
            log = _without_folder(folder.path, keep_log=status == FAILED)
        if status == FAILED:
            progress.note(f"(traceback in {log})", style="red")
    if status == 0:
        print_summary(console, folder.path, job.evaluations, progress.stages, time.monotonic() - started)
    return status


def _run_folder(settings: Settings, resume: Path | None) -> RunFolder:
    if resume is None:
        return RunFolder.create(settings.run.folder, settings)
    checkpoint = newest_checkpoint(resume / "checkpoints")
    return RunFolder.resume(resume, settings, -1 if checkpoint is None else step_of(checkpoint))


def _without_folder(folder: Path, *, keep_log: bool) -> Path:
    """Delete the folder of a run that learned nothing, so that its name is free again; returns where its log is."""
    log = folder.with_name(f"{folder.name}.log")
    if keep_log:
        shutil.move(folder / "launch.log", log)
    shutil.rmtree(folder)
    return log

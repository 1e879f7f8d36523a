"""Train a code model with reinforcement learning from unit-test feedback.

        problems ──> generators ──> sandbox pool ──> scored samples ──> online buffer ──> learner
                      actors/         sandbox/          rewards/            learner/     learner/
                         ^                                                                  │
                         └───────────────── weights, every refresh_every updates ───────────┘

    python launch.py [--config configs/NAME.yaml] [--SECTION.FIELD VALUE ...] [--dry-run] [--resume RUN_DIR]

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

from actors.model_folder import UnusableModelError, check_engine, load_tokenizer
from evaluation import EvaluationResult
from learner.checkpoints import CheckpointError, checkpoints
from learner.metrics import StepMetrics
from problems import ProblemsError
from reporting import Progress, RunFolder, RunFolderError
from reporting.summary import print_plan, print_summary
from reporting.telemetry import Telemetry
from ring.cluster import Actors, ResourcesError, check_resources, prepare_model, start_actors, start_ray
from ring.coordinator import GradingCounts, Ring
from ring.errors import UNUSABLE_INPUT, user_message
from ring.problem_sets import ProblemSets, load_problem_sets, without_failing_references
from ring.reports import GradedRollout, GradedSample
from ring.waiting import answer
from sandbox.sandbox import IsolationError
from settings import Settings
from settings_sources import CliOptions, SettingsError, load_settings

logger = logging.getLogger("launch")

LEARNER_START_S = 600.0
WARM_START_S = 24 * 3600.0
PROGRESS_S = 1.0
UNUSABLE = (
    SettingsError,
    ProblemsError,
    RunFolderError,
    ResourcesError,
    CheckpointError,
    UnusableModelError,
    IsolationError,
)


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

    def on_step(self, metrics: StepMetrics, grading: GradingCounts) -> None:
        """After every update."""
        now = time.monotonic()
        row = metrics.row() | asdict(grading) | {"publish_s": self.publish_s, "elapsed_s": now - self.last_step}
        self.last_step, self.publish_s = now, 0.0
        self.folder.metrics(row)
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

    async def run(self) -> None:
        """Start the actors, train, evaluate; whatever happens, leave a checkpoint of what was learnt."""
        settings, problems = self.settings, self.problems
        self.progress.stage("model")
        cache_dir = settings.learner.warm_start.cache_dir or settings.run.folder / "cache"
        model = await prepare_model(settings, problems.all_training, cache_dir)
        check_engine(model, settings.generator.engine)
        self.progress.stage("actors")
        actors = await start_actors(settings, model, problems.train, problems.held_out)
        step = await self._prepare_learner(actors)
        self.progress.stage("generators")
        await actors.generators.start()
        problems = problems.without(self._leave_out(await actors.generators.too_long()))
        ring = Ring(
            settings=settings,
            train=problems.train,
            held_out=problems.held_out,
            generators=actors.generators,
            pool=actors.pool,
            learner=actors.learner,
            listener=self,
            step=step,
        )
        if self.resume is None and settings.evaluation.initial:
            self.progress.stage("evaluation before")
            await ring.evaluate()
        self.progress.stage("reinforcement learning")
        self.last_step = time.monotonic()
        try:
            async with self.telemetry.watching(actors.generators, actors.pool, actors.buffer):
                await ring.run()
        except asyncio.CancelledError:
            if ring.step > 0:
                path = await ring.save_checkpoint()
                self.progress.note(f"interrupted: {path} holds the model; go on with --resume {self.folder.path}")
            raise
        self.progress.stage("evaluation after")
        await ring.evaluate()
        await actors.close()

    def _leave_out(self, too_long: Sequence[str]) -> Sequence[str]:
        if too_long:
            self.progress.note(
                f"{len(too_long)} problems left out, their prompts fill model.max_length "
                f"{self.settings.model.max_length}: {', '.join(too_long[:5])}{' ...' if len(too_long) > 5 else ''}"
            )
        return too_long

    async def _prepare_learner(self, actors: Actors) -> int:
        """Give the learner its reference programs and its warm start, or its checkpoint; returns the step."""
        learner = actors.learner
        self.progress.stage("learner")
        references = learner.set_references.remote(self.problems.supervised)
        await answer(references, LEARNER_START_S, "the learner to start")
        if self.resume is not None:
            checkpoint = newest_checkpoint(self.resume)
            return int(await answer(learner.resume.remote(checkpoint), LEARNER_START_S, f"{checkpoint} to load"))
        if self.settings.learner.warm_start.num_steps:
            self.progress.stage("warm start")
            task = asyncio.ensure_future(answer(learner.warm_start.remote(), WARM_START_S, "the warm start"))
            while not task.done():
                await asyncio.wait([task], timeout=PROGRESS_S)
                state = await answer(learner.progress.remote(), LEARNER_START_S, "the learner's progress")
                if state is not None:
                    self.progress.warm_start(state.step, state.num_steps, state.train_loss, state.validation_loss)
            report = task.result()
            origin = "from the cache" if report.cached else f"{report.num_steps} updates"
            self.progress.note(f"warm start: {origin}, validation loss {report.validation_loss:.3f}")
        return 0


def newest_checkpoint(run: Path) -> Path:
    """The newest complete checkpoint of a run. Raises CheckpointError where there is none."""
    found = checkpoints(run / "checkpoints")
    if not found:
        raise CheckpointError(f"--resume {run}: it has no checkpoint to go on from")
    return found[-1]


def check_model(name: str, engine: str) -> None:
    """Whether `model.name`, where it can only be a folder, is one with a tokenizer and a model that `engine` runs.

    Raises UnusableModelError if not.
    """
    path = Path(name)
    if path.is_dir() or name.startswith((".", "/", "~")):
        check_engine(path.expanduser(), engine)
        load_tokenizer(path.expanduser())


def main(argv: list[str] | None = None) -> int:
    """Run the job; returns the exit status."""
    console = Console()
    errors = Console(stderr=True)
    try:
        settings, options = load_settings(sys.argv[1:] if argv is None else argv)
        if options.dry_run:
            print_plan(settings, console)
            return 0
        if options.resume is not None:
            newest_checkpoint(options.resume)
        check_resources(settings)
        check_model(settings.model.name, settings.generator.engine)
        problems = load_problem_sets(settings.problems)
        if settings.problems.validate_references:
            cache = settings.run.folder.parent / "references.json"
            problems = without_failing_references(problems, settings.sandbox, cache)
        return _launch(settings, options, problems, console)
    except UNUSABLE as error:
        errors.print(f"launch.py: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        return 2


def _launch(settings: Settings, options: CliOptions, problems: ProblemSets, console: Console) -> int:
    started = time.monotonic()
    if options.resume is None:
        folder = RunFolder.create(settings.run.folder, settings)
    else:
        step = int(newest_checkpoint(options.resume).name.removeprefix("step-"))
        folder = RunFolder.resume(options.resume, settings, step)
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
                asyncio.run(job.run())
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

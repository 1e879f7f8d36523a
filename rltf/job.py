"""One job, from its settings to a finished run folder: wires the actors, and hands what happens to who shows it.

Imported only once the settings are known, because it brings torch and Ray.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from rltf.controller.cluster import NO_DASHBOARD, check_resources
from rltf.controller.events import Began, Event, Said
from rltf.controller.head import Head, while_head_lives
from rltf.controller.job_checks import check_job, check_without_download
from rltf.controller.memory import advice, cards, gpu_bytes, needs
from rltf.controller.problems import CONTAMINATION, ProblemSets, without_failing_references
from rltf.controller.profile import measured_forecast
from rltf.controller.ray_session import ray_running
from rltf.controller.resume import find_resumption
from rltf.controller.start import polling, start_controller
from rltf.entry import run_until_interrupted
from rltf.errors import UserError
from rltf.files import newest_checkpoint, set_aside, write_jsonl
from rltf.learner.advantages import check_estimator
from rltf.learner.memory import UntraceableError
from rltf.learner.model_source import architecture
from rltf.learner.policy_losses import check_policy_loss
from rltf.learner.replay import changed_settings, replay
from rltf.lock import locked
from rltf.plugins import OBJECTIVES, PROBLEMS, offered
from rltf.problems.spec import KINDS
from rltf.reporting.progress import Progress
from rltf.reporting.run_folder import RunFolder, torn_rows
from rltf.reporting.tables import print_dry_run, print_memory, print_plan, print_replay, print_summary
from rltf.reporting.telemetry import Telemetry
from rltf.rewards.custom import check_function
from rltf.settings import AdvantageEstimator, Algorithm, PlanOptions, PolicyLoss, Settings
from rltf.settings_sources import CliOptions
from rltf.supervise import EXIT_FAILED, EXIT_UNUSABLE_INPUT, user_message

logger = logging.getLogger("launch")


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run whose folder is ours. It continues from `checkpoint`, or starts from the beginning if that is None.

    `said` is what people should know about its problems and, unless it `is_new`, about how it continues.
    """

    problems: ProblemSets
    folder: RunFolder
    checkpoint: Path | None
    is_new: bool
    said: tuple[str, ...]


@dataclass(slots=True)
class Job:
    """One run, and the consumers of its events."""

    settings: Settings
    opened: OpenRun
    progress: Progress
    telemetry: Telemetry
    num_signals: int = 0
    is_training: bool = False

    def emit(self, event: Event) -> None:
        """Hand an event to every consumer."""
        self.opened.folder.emit(event)
        self.progress.emit(event)
        self.telemetry.emit(event)

    async def run(self) -> None:
        """Start the actors, train, evaluate; whatever happens, leave a checkpoint of what was learned."""
        checkpoint = self.opened.checkpoint
        actors, controller = await start_controller(self.settings, self.opened.problems, self.emit, checkpoint)
        if checkpoint is None and self.settings.evaluation.initial:
            self.emit(Began("evaluation before"))
            await controller.evaluate()
        self.emit(Began("reinforcement learning"))
        self.is_training = True
        try:
            async with polling(actors, self.emit):
                await controller.run()
        except asyncio.CancelledError:
            if self.num_signals < 2:
                await controller.save_interrupted()
            raise
        self.is_training = False
        self.emit(Began("evaluation after"))
        await controller.evaluate()
        await actors.close()

    def interrupted(self, num_signals: int) -> None:
        """A signal came, which cancels `run`. Only the first leaves it the time for a checkpoint."""
        self.num_signals = num_signals
        if num_signals == 1 and self.is_training:
            self.emit(Said("interrupted: saving a checkpoint (interrupt again to stop at once)"))


def run_job(settings: Settings, options: CliOptions, program: str = "launch.py") -> int:
    """Do what `options` ask for: show the job, replay it, plan it or run it. Returns the exit status.

    Raises UserError for settings, problems or a machine that the job cannot run with.
    """
    console = Console()
    if options.replay is None:
        _check_functions(settings)
    if options.dry_run:
        said = check_without_download(settings)
        print_dry_run(settings, said, console)
        return 0
    if options.replay is not None:
        changed = changed_settings(options.replay, settings)
        return print_replay(options.replay, replay(options.replay, settings), changed, console)
    if options.plan is not None:
        return _plan(settings, options.plan, console, program)
    check_resources(settings)
    with opened(settings, options) as run:
        return _train(settings, run, console, program)


def _check_functions(settings: Settings) -> None:
    """Raise UserError if a function of the user does not work, or if a package offers a name that is built in."""
    for group, built_in in ((OBJECTIVES, list(Algorithm)), (PROBLEMS, KINDS)):
        offered(group, built_in)
    loss, advantage = settings.learner.loss, settings.learner.advantage
    if settings.rewards.function is not None and settings.rewards.uses_function:
        check_function(settings.rewards.function)
    if not isinstance(loss.policy_loss, PolicyLoss):
        check_policy_loss(loss)
    if not isinstance(advantage.estimator, AdvantageEstimator):
        check_estimator(advantage.estimator, advantage)


@contextlib.contextmanager
def opened(settings: Settings, options: CliOptions) -> Iterator[OpenRun]:
    """Everything that a run needs before Ray: its problems, and its folder, which is locked during the context.

    Raises UserError as `check_job`, and for a folder that is in use, damaged, or of another run; the folder then stays
    as it was.
    """
    with locked(settings.run.folder):
        problems = check_job(settings)
        resumption = None
        if options.resume is not None:
            resumption = find_resumption(options.resume, options.checkpoint, settings, problems.fingerprints)
        if settings.problems.validate_references:
            cache = settings.run.folder.parent / "references.json"
            problems = without_failing_references(problems, settings.sandbox, cache)
        if resumption is None:
            folder = RunFolder.create(settings.run.folder, settings, problems.by_id)
            _write_overlaps(problems, folder.path)
            yield OpenRun(problems, folder, None, True, problems.warnings)
            return
        said = (*problems.warnings, *torn_rows(settings.run.folder), *resumption.said)
        folder = RunFolder.resume(settings.run.folder, settings, problems.by_id, resumption.last_step)
        _write_overlaps(problems, folder.path)
        for path in resumption.aside:
            set_aside(path)
        checkpoint = None if resumption.checkpoint is None else resumption.checkpoint.resolve()
        yield OpenRun(problems, folder, checkpoint, False, said)


def _write_overlaps(problems: ProblemSets, folder: Path) -> None:
    if problems.overlaps:
        write_jsonl(folder / CONTAMINATION, (overlap.row() for overlap in problems.overlaps))


def _plan(settings: Settings, plan: PlanOptions, console: Console, program: str) -> int:
    _plan_memory(settings, plan, console)
    try:
        with Progress(plan.num_updates, console) as progress:
            forecast = measured_forecast(settings, plan, progress.emit)
        print_plan(forecast, console)
    except Exception as error:  # the process border: the cause in words, the traceback in the log
        message, status = user_message(error)
        if status == EXIT_UNUSABLE_INPUT:
            raise UserError(message) from error
        logger.exception("the short run failed")
        console.print(f"{program}: {message}", style="red", highlight=False, markup=False)
        return status
    return 0


def _plan_memory(settings: Settings, plan: PlanOptions, console: Console) -> None:
    if (config := architecture(settings.model.name)) is None:
        return
    try:
        need = needs(config, settings)
    except UntraceableError as error:
        console.print(str(error), style="yellow", highlight=False, markup=False)
        return
    found = [] if (size := gpu_bytes(plan)) is None else cards(need, settings, size)
    print_memory(need, found, advice(need, settings, found), console)


def _train(settings: Settings, run: OpenRun, console: Console, program: str) -> int:
    started = time.monotonic()
    folder = run.folder
    log = folder.path / "launch.log"
    logging.basicConfig(filename=log, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.raiseExceptions = False  # a log that cannot be written must not hide why
    for text in run.said:
        logger.warning("%s", text)
    status = 0
    with Progress(settings.run.num_steps, console, log) as progress:
        for text in run.said:
            progress.emit(Said(text))
        try:
            with folder:
                progress.emit(Began("Ray"))
                with ray_running(settings.cluster) as dashboard:
                    _run(Job(settings, run, progress, Telemetry(settings)), dashboard)
        except KeyboardInterrupt as error:
            logger.info("interrupted")
            error.add_note(_how_to_continue(run))
            raise
        except BaseException as error:  # the process border: the message for people, the traceback in the log
            logger.exception("the run failed")
            message, status = user_message(error)
            progress.emit(Said(f"{program}: {message}", "red"))
        if status and run.is_new and not folder.has_learned():
            log = _without_folder(folder.path, keep_log=status == EXIT_FAILED)
        if status == EXIT_FAILED:
            progress.emit(Said(f"(traceback in {log})", "red"))
    if status == 0:
        print_summary(folder.path, progress.stages, time.monotonic() - started, console)
    return status


def _run(job: Job, dashboard: str) -> None:
    """Run the job on the Ray that runs; `dashboard` is the address of its dashboard, if there is one."""
    if dashboard:
        job.emit(Said(f"Ray dashboard: http://{dashboard}"))
    elif job.settings.cluster.dashboard:
        job.emit(Said(NO_DASHBOARD, "yellow"))
    head, frozen_after_s = Head(), job.settings.cluster.heartbeat_timeout_s
    work = while_head_lives(
        job.run(), head.address, head.answers, frozen_after_s, lambda text: job.emit(Said(text, "red"))
    )
    run_until_interrupted(work, job.interrupted)


def _how_to_continue(run: OpenRun) -> str:
    """What is left of an interrupted run. The folder of a run that learned nothing goes, so that its name is free."""
    folder = run.folder
    if run.is_new and not folder.has_learned():
        _without_folder(folder.path, keep_log=False)
        return "nothing was learned yet; run the same command again"
    newest = newest_checkpoint(folder.path / "checkpoints")
    model = "there is no checkpoint yet" if newest is None else f"the model is in {newest}"
    return f"{model}; continue with --resume {folder.path}"


def _without_folder(folder: Path, *, keep_log: bool) -> Path:
    """Delete the folder of a run that learned nothing, so that its name is free again; returns where its log is."""
    log = folder.with_name(f"{folder.name}.log")
    if keep_log and (folder / "launch.log").is_file():
        (folder / "launch.log").replace(log)
    shutil.rmtree(folder, ignore_errors=True)
    return log

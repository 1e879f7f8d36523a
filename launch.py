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
from dataclasses import dataclass
from pathlib import Path

import ray
from rich.console import Console

from controller.cluster import check_resources, start_ray, while_head_lives
from controller.events import Began, Event, Said
from controller.problems import ProblemSets, load_problem_sets, without_failing_references
from controller.profile import measured_forecast
from controller.start import check_model, polling, start_controller, step_of
from controller.submit import remote_address, submit
from errors import UserError
from files import newest_checkpoint
from learner.replay import changed_settings, replay
from reporting.progress import Progress
from reporting.run_folder import RunFolder
from reporting.tables import print_dry_run, print_plan, print_replay, print_summary
from reporting.telemetry import Telemetry
from settings import Settings
from settings_sources import CliOptions, load_settings
from supervise import EXIT_UNUSABLE_INPUT, user_message

logger = logging.getLogger("launch")


@dataclass(slots=True)
class Job:
    """One run, and the consumers of its events."""

    settings: Settings
    problems: ProblemSets
    folder: RunFolder
    progress: Progress
    telemetry: Telemetry
    resume: Path | None

    def emit(self, event: Event) -> None:
        """Hand an event to every consumer."""
        self.folder.emit(event)
        self.progress.emit(event)
        self.telemetry.emit(event)

    async def run(self) -> None:
        """Start the actors, train, evaluate; whatever happens, leave a checkpoint of what was learnt."""
        checkpoint = None if self.resume is None else newest_checkpoint(self.resume.resolve() / "checkpoints")
        if self.resume is not None and checkpoint is None:
            text = f"{self.resume} has no checkpoint: it starts again from the beginning"
            logger.warning("%s", text)
            self.emit(Said(text))
        actors, controller = await start_controller(self.settings, self.problems, self.emit, checkpoint)
        if checkpoint is None and self.settings.evaluation.initial:
            self.emit(Began("evaluation before"))
            await controller.evaluate()
        self.emit(Began("reinforcement learning"))
        try:
            async with polling(actors, self.emit):
                await controller.run()
        except asyncio.CancelledError:
            path = await controller.save_interrupted()
            if path is not None:
                self.emit(Said(f"interrupted: the model is in {path}; continue with --resume {self.folder.path}"))
            raise
        self.emit(Began("evaluation after"))
        await controller.evaluate()
        await actors.close()


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
            print_dry_run(settings, console)
            return 0
        if options.replay is not None:
            changed = changed_settings(options.replay, settings)
            return print_replay(options.replay, replay(options.replay, settings), changed, console)
        if options.plan:
            return _plan(settings, console)
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


def _plan(settings: Settings, console: Console) -> int:
    try:
        with Progress(settings.plan.num_updates, console) as progress:
            forecast = measured_forecast(settings, progress.emit)
        print_plan(forecast, console)
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # the process border: the cause in words, the traceback in the log
        message, status = user_message(error)
        if status == EXIT_UNUSABLE_INPUT:
            raise UserError(message) from error
        logger.exception("the short run failed")
        console.print(f"launch.py --plan: {message}", style="red", highlight=False, markup=False)
        return status
    return 0


def _launch(settings: Settings, options: CliOptions, problems: ProblemSets, console: Console) -> int:
    started = time.monotonic()
    if options.resume is None:
        folder = RunFolder.create(settings.run.folder, settings, problems.by_id)
    else:
        checkpoint = newest_checkpoint(options.resume / "checkpoints")
        step = -1 if checkpoint is None else step_of(checkpoint)
        folder = RunFolder.resume(options.resume, settings, problems.by_id, step)
    log = folder.path / "launch.log"
    logging.basicConfig(filename=log, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.raiseExceptions = False  # a log that cannot be written must not hide why
    for warning in problems.warnings:
        logger.warning("%s", warning)
    status = 0
    with Progress(settings.run.num_steps, console, log) as progress:
        for warning in problems.warnings:
            progress.emit(Said(warning))
        try:
            with folder:
                progress.emit(Began("Ray"))
                dashboard = start_ray(settings)
                job = Job(settings, problems, folder, progress, Telemetry(settings), options.resume)
                if dashboard:
                    progress.emit(Said(f"Ray dashboard: http://{dashboard}"))
                head = ray.get_runtime_context().gcs_address
                asyncio.run(while_head_lives(job.run(), head, lambda text: progress.emit(Said(text, "red"))))
        except KeyboardInterrupt:
            logger.info("interrupted")
            status = 130
        except BaseException as error:  # the process border: said in words, the traceback in the log
            logger.exception("the run failed")
            message, status = user_message(error)
            traceback = "" if status == EXIT_UNUSABLE_INPUT else f"\n(traceback in {log})"
            progress.emit(Said(f"launch.py: {message}{traceback}", "red"))
        finally:
            ray.shutdown()
    if status == EXIT_UNUSABLE_INPUT and options.resume is None:
        shutil.rmtree(folder.path)  # nothing was learnt: the name is free for the job with the mended settings
    if status == 0:
        print_summary(folder.path, progress.stages, time.monotonic() - started, console)
    return status


if __name__ == "__main__":
    sys.exit(main())

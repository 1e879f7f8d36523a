"""From settings and problems to a ring that is ready to run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from actors.model_folder import check_engine, load_tokenizer
from controller.cluster import Actors, prepare_model, start_actors
from controller.controller import Controller, Listener
from controller.problem_sets import ProblemSets
from reporting.progress import Progress
from settings import Settings


async def start_controller(
    settings: Settings, problems: ProblemSets, progress: Progress, listener: Listener, checkpoint: Path | None = None
) -> tuple[Actors, Controller]:
    """Start all actors, and restore what `checkpoint`, if any, keeps of the run that wrote it.

    Raises what the actors raise where they cannot start.
    """
    progress.stage("model")
    cache_dir = settings.learner.sft.cache_dir or settings.run.folder / "cache"
    model = await prepare_model(settings, problems.all_training, cache_dir)
    check_model(model, settings)
    progress.stage("actors")
    resumed_step = None if checkpoint is None else step_of(checkpoint)
    actors = await start_actors(
        settings,
        model,
        problems,
        lambda at: progress.warm_start(at.step, at.num_steps, at.train_loss, at.validation_loss),
        resumed_step=resumed_step,
    )
    progress.stage("learner")
    step = await actors.learner.start(checkpoint)
    if (warm := actors.learner.warm_started) is not None:
        origin = "from the cache" if warm.cached else f"{warm.num_steps} updates"
        progress.note(f"warm start: {origin}, validation loss {warm.validation_loss:.3f}")
    progress.stage("generators")
    await actors.generators.start()
    too_long = await actors.generators.too_long()
    if too_long:
        progress.note(_left_out(too_long, settings.model.max_model_len))
        problems = problems.without(too_long)
    controller = Controller(
        settings=settings,
        train=problems.train,
        held_out=problems.held_out,
        generators=actors.generators,
        pool=actors.pool,
        buffer=actors.buffer,
        learner=actors.learner,
        listener=listener,
        step=step,
    )
    if checkpoint is not None:
        await controller.restore(checkpoint)
    return actors, controller


def step_of(checkpoint: Path) -> int:
    """The number of updates behind a checkpoint."""
    return int(checkpoint.name.removeprefix("step-"))


def check_model(model: Path, settings: Settings) -> None:
    """Whether the folder `model` holds a model that the engine runs, with the tokenizer and the template asked for.

    Raises UserError if not.
    """
    check_engine(model, settings.generator.engine)
    load_tokenizer(model, chat_template=settings.model.chat_template)


def _left_out(too_long: Sequence[str], max_length: int) -> str:
    named = ", ".join(too_long[:5]) + (" ..." if len(too_long) > 5 else "")
    return f"{len(too_long)} problems left out, their prompts fill model.max_model_len {max_length}: {named}"

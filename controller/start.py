"""From settings and problems to a controller that is ready to run."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from ray.exceptions import RayError

from actors.model_folder import check_engine, load_tokenizer
from controller.cluster import Actors, prepare_model, start_actors
from controller.controller import Controller
from controller.events import Began, Emit, Polled, Said
from controller.problem_sets import ProblemSets
from learner.buffer import BufferStats
from settings import Settings
from supervise import StallError, answer

logger = logging.getLogger(__name__)

POLL_EVERY_S = 5.0
ANSWER_S = 30.0


async def start_controller(
    settings: Settings, problems: ProblemSets, emit: Emit, checkpoint: Path | None = None
) -> tuple[Actors, Controller]:
    """Start all actors, and restore what `checkpoint`, if any, keeps of the run that wrote it.

    Raises what the actors raise where they cannot start.
    """
    emit(Began("model"))
    cache_dir = settings.learner.sft.cache_dir or settings.run.folder / "cache"
    model = await prepare_model(settings, problems.all_training, cache_dir)
    check_model(model, settings)
    emit(Began("actors"))
    resumed_step = None if checkpoint is None else step_of(checkpoint)
    actors = await start_actors(settings, model, problems, emit, resumed_step=resumed_step)
    emit(Began("learner"))
    step = await actors.learner.start(checkpoint)
    if (sft := actors.learner.sft_report) is not None:
        origin = "from the cache" if sft.cached else f"{sft.num_steps} updates"
        emit(Said(f"SFT: {origin}, validation loss {sft.validation_loss:.3f}"))
    emit(Began("generators"))
    await actors.generators.start()
    too_long = await actors.generators.too_long()
    if too_long:
        emit(Said(_left_out(too_long, settings.model.max_model_len)))
        problems = problems.without(too_long)
    controller = Controller(
        settings=settings,
        train=problems.train,
        held_out=problems.held_out,
        generators=actors.generators,
        pool=actors.pool,
        buffer=actors.buffer,
        learner=actors.learner,
        emit=emit,
        step=step,
    )
    if checkpoint is not None:
        await controller.restore(checkpoint)
    return actors, controller


@contextlib.asynccontextmanager
async def polling(actors: Actors, emit: Emit) -> AsyncIterator[None]:
    """Ask the actors about themselves every POLL_EVERY_S seconds while the context lasts, and emit what they say."""
    task = asyncio.create_task(_poll(actors, emit), name="polling")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _poll(actors: Actors, emit: Emit) -> None:
    while True:
        buffer: BufferStats | None = None
        try:
            buffer = await answer(actors.buffer.stats.remote(), ANSWER_S, "the buffer's counts")
        except (RayError, StallError) as error:  # it may be restarting; the next round asks again
            logger.warning("the buffer did not report its counts: %s", error)
        generators = actors.generators
        stats = tuple(await generators.stats())
        emit(Polled(stats, generators.num_outstanding, generators.num_replaced, actors.pool.stats(), buffer))
        await asyncio.sleep(POLL_EVERY_S)


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

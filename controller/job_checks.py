"""Everything about a job that can be checked before Ray starts. A start and `--dry-run` check the same."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from rltf.controller.model_checks import check_model, model_warnings, rate_warnings
from rltf.controller.problems import ProblemSets, check_examples, check_structure, load_problem_sets
from rltf.learner.critic_folder import check_critic_folder
from rltf.learner.model_source import TINY, check_local_gguf, is_gguf, model_folder
from rltf.learner.optim import check_optimizer
from rltf.problems.spec import is_on_hub
from rltf.settings import ProblemsSettings, Settings


def check_job(settings: Settings) -> ProblemSets:
    """Load the problems of a job, and raise UserError if it cannot use them, its model, its critic or its optimizer.

    A model on the Hub is checked later, when it is there.
    """
    _check_without_problems(settings)
    problems = load_problem_sets(settings.problems, settings.sandbox)
    problems = check_examples(check_structure(problems, settings.rewards), settings.generator.max_turns)
    if settings.model.name == TINY and settings.learner.advantage.critic is not None:
        # The critic has to know its tokens, which come from the problems.
        check_model(model_folder(TINY, problems.all_training, settings.cache_dir, seed=settings.run.seed), settings)
    return problems


def check_without_download(settings: Settings) -> tuple[str, ...]:
    """`check_job`, but if problems are on the Hub, none are loaded. Returns what people should know about the job."""
    if on_hub := [spec for spec in dict.fromkeys(_specs(settings.problems)) if is_on_hub(spec)]:
        _check_without_problems(settings)
        said = f"problems are not checked, because a start may have to download them: {', '.join(on_hub)}"
        return (said, *_model_warnings(settings))
    return (*check_job(settings).warnings, *_model_warnings(settings))


def _model_warnings(settings: Settings) -> list[str]:
    """As `model_warnings`. GGUF files and models on the Hub were trained elsewhere."""
    name = settings.model.name
    if name == TINY:
        return []
    folder = Path(name).expanduser()
    return model_warnings(folder, settings) if folder.is_dir() else rate_warnings(settings)


def _check_without_problems(settings: Settings) -> None:
    check_optimizer(settings.learner.optim)
    if settings.learner.advantage.critic is not None:
        check_critic_folder(settings.learner.advantage.critic)
    name = settings.model.name
    if is_gguf(name):
        check_local_gguf(name, settings.cache_dir)
    elif Path(name).is_dir() or name.startswith((".", "/", "~")):
        check_model(Path(name).expanduser(), settings)


def _specs(problems: ProblemsSettings) -> tuple[str, ...]:
    held_out = problems.evaluation
    named = chain.from_iterable(held_out.values()) if isinstance(held_out, dict) else held_out
    return (*problems.train, *problems.supervised, *named, *problems.decontamination.against)

"""What is wrong, or probably wrong, with a model and the settings that it is trained with."""

from __future__ import annotations

from pathlib import Path

from rltf.errors import UserError
from rltf.learner.critic_folder import check_critic
from rltf.settings import Settings
from rltf.transport.model_folder import (
    chat_warning,
    check_engine,
    check_model_folder,
    is_made_here,
    load_tokenizer,
    prompt_format,
)

# Above this, full training destroys pretrained weights. Adapters take ten times as much.
MAX_LEARNING_RATE = 1e-4
_ADAPTER_FACTOR = 10


def check_model(model: Path, settings: Settings) -> None:
    """Raise UserError unless the engine can run the model in the folder `model`, with its tokenizer and template.

    The critic, if any, must be one for this model.
    """
    check_engine(model, settings.generator.engine)
    tokenizer = load_tokenizer(model)
    prompt_format(model, tokenizer, settings.model)
    if settings.generator.max_turns > 1 and check_model_folder(model).get("is_encoder_decoder"):
        raise UserError(
            f"generator.max_turns {settings.generator.max_turns}: {model} is an encoder-decoder model, which reads a "
            "prompt once and cannot go on with a dialogue: set generator.max_turns to 1"
        )
    if settings.learner.advantage.critic is not None:
        check_critic(settings.learner.advantage.critic, model, tokenizer)


def model_warnings(model: Path, settings: Settings) -> list[str]:
    """What to tell the user about the model in the folder `model` before it is trained."""
    template = chat_warning(model, load_tokenizer(model), settings.model)
    return ([] if is_made_here(model) else rate_warnings(settings)) + ([template] if template else [])


def rate_warnings(settings: Settings) -> list[str]:
    """Learning rates that are too high for pretrained weights, with a better value."""
    learner = settings.learner
    most = MAX_LEARNING_RATE * (_ADAPTER_FACTOR if settings.model.lora.rank else 1)
    rates = [("learner.optim.learning_rate", learner.optim.learning_rate)]
    if learner.sft.num_steps:
        rates.append(("learner.sft.learning_rate", learner.sft.learning_rate))
    return [
        f"WARNING: {name} {rate:g} is far too high for pretrained weights: it destroys what the model knows. Set it to "
        f"{most / 10:g} or less (--{name} {most / 10:g}); rates above {most:g} are for models trained from scratch"
        for name, rate in rates
        if rate > most
    ]

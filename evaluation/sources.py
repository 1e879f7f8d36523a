"""The model that a name on a command line means: a folder, a hub id, or the address of a server."""

from __future__ import annotations

import argparse

from errors import UserError
from evaluation.endpoint import ServedModel
from evaluation.run import ProgramSource


def add_sampling_options(group: argparse._ArgumentGroup, *, num_samples: int, temperature: float) -> None:
    """The options of `model_source`, with the defaults that a command wants."""
    group.add_argument(
        "--num-samples", type=positive, default=num_samples, help=f"of each problem (default: {num_samples})"
    )
    group.add_argument("--temperature", type=float, default=temperature, help=f"0: greedy (default: {temperature})")
    group.add_argument("--top-p", type=float, default=0.95, help="nucleus (default: 0.95)")
    group.add_argument("--max-tokens", type=positive, default=512, help="of one completion (default: 512)")
    group.add_argument("--max-length", type=positive, help="of prompt and completion (default: the model's own)")
    group.add_argument("--dtype", choices=["float32", "bfloat16"], help="of the weights (default: bfloat16)")
    group.add_argument("--engine", choices=["vllm", "transformers"], help="inference backend (default: vllm)")
    group.add_argument("--chat-template", action="store_true", help="send prompts through the chat template")
    group.add_argument("--seed", type=int, default=0)


def positive(text: str) -> int:
    """A number from 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1, got {text!r}")
    return int(text)


def model_source(options: argparse.Namespace) -> ProgramSource:
    """The model `options.model` with the sampling options of `add_sampling_options`.

    Raises:
        UserError: options that do not go together.
    """
    if options.model.startswith(("http://", "https://")):
        for option in ("dtype", "engine", "max_length"):
            if getattr(options, option) is not None:
                name = option.replace("_", "-")
                raise UserError(f"--{name}: {options.model} decides that itself; leave the option out")
        address, _, model = options.model.partition("#")
        return ServedModel(
            address=address,
            model=model or None,
            num_samples=options.num_samples,
            temperature=options.temperature,
            top_p=options.top_p,
            max_tokens=options.max_tokens,
            seed=options.seed,
            chat=options.chat_template,
        )
    # Only here, since it brings torch and the engines along, which grading a file does not need.
    from evaluation.model import SampledModel

    return SampledModel(
        name=options.model,
        num_samples=options.num_samples,
        temperature=options.temperature,
        top_p=options.top_p,
        max_tokens=options.max_tokens,
        seed=options.seed,
        max_length=options.max_length,
        dtype=options.dtype or "bfloat16",
        engine=options.engine or "vllm",
        chat_template=options.chat_template,
    )

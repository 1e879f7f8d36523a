"""A Hugging Face model folder, which learner and generators load, with errors that say what is missing in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from rltf.errors import UserError
from rltf.problems.prompts import PromptFormat, answer_end_id
from rltf.problems.token_spans import keeps_code
from rltf.settings import ChatTemplate, Engine, ModelSettings

MADE_HERE = "rltf_made_here"
"""The key in `config.json` of models that started with random weights here. Their checkpoints keep it."""


def is_made_here(model: Path) -> bool:
    """Whether the weights in the folder come from this project's own training alone. Raises as `check_model_folder`."""
    return bool(check_model_folder(model).get(MADE_HERE))


def check_model_folder(model: Path) -> dict[str, Any]:
    """The content of the folder's `config.json`. Raises UserError if the folder does not exist, or has no model."""
    if not model.is_dir():
        raise UserError(f"model.name: not a directory: {model}")
    config_file = model / "config.json"
    if not config_file.is_file():
        files = sorted(model.glob("*.gguf"))
        fix = f"name its GGUF file: {files[0]}" if files else "use a folder written by save_pretrained, or a GGUF file"
        raise UserError(f"model.name: {model} is not a model folder: it has no config.json; {fix}")
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"model.name: {config_file} is not valid JSON: {error}") from error
    if not any(model.glob("*.safetensors")) and not any(model.glob("*.bin")):
        raise UserError(f"model.name: {model} has a config.json but no weights (*.safetensors or *.bin)")
    if not isinstance(config, dict):
        raise UserError(f"model.name: {config_file} is not a JSON object")
    return config


def check_engine(model: Path, engine: Engine) -> None:
    """Raise UserError unless `engine`, as named by `generator.engine`, runs models of the folder's kind."""
    if check_model_folder(model).get("is_encoder_decoder") and engine == Engine.VLLM:
        raise UserError(
            f"model.name: {model} is an encoder-decoder model, which vLLM does not support; set generator.engine to "
            "transformers (`--generator.engine transformers`; with evaluate.py `--engine transformers`)"
        )


def load_tokenizer(model: Path) -> PreTrainedTokenizerFast:
    """The folder's tokenizer.

    Raises UserError if there is none, if it is not a fast one (token spans need its bytes), if it has no end token, or
    if it cannot write Python, as T5's own.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"model.name: the tokenizer of {model} does not load ({error}); save one to the folder with save_pretrained"
        ) from error
    if len(tokenizer) <= len(tokenizer.added_tokens_decoder):  # transformers makes an empty one if files are missing
        raise UserError(f"model.name: {model} has a tokenizer without vocabulary; save one with save_pretrained")
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(
            f"model.name: {model} has a {type(tokenizer).__name__} without a tokenizer.json; convert it to a fast one"
        )
    if tokenizer.eos_token_id is None:
        raise UserError(f"model.name: the tokenizer in {model} has no end token (eos_token)")
    if check_model_folder(model).get("is_encoder_decoder") and not keeps_code(tokenizer):
        raise UserError(
            f"model.name: the tokenizer in {model} cannot write Python, because it loses line ends or indentation; use "
            "a code model, such as Salesforce/codet5-large"
        )
    return tokenizer


def load_model(model: Path, dtype: Any) -> Any:
    """The folder's model, without dropout. Raises UserError if it cannot be loaded."""
    check_model_folder(model)
    config = model_config(model)
    try:
        return _auto_class(config).from_pretrained(model, config=config, dtype=dtype)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"model.name: transformers cannot load {model}: {error}") from error


def model_config(model: Path) -> PreTrainedConfig:
    """The configuration in the folder, without dropout. Raises UserError if it cannot be used."""
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(model)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"model.name: transformers cannot load {model}: {error}") from error
    if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
        raise UserError(
            f"model.name: {model}/config.json does not say which token completions start with; "
            "set decoder_start_token_id (for T5 and CodeT5 it is the id of the padding token)"
        )
    for field, value in config.to_dict().items():
        if field.endswith(("dropout", "pdrop", "dropout_rate")) and isinstance(value, float):
            setattr(config, field, 0.0)
    return config


def hollow_model(config: PreTrainedConfig, dtype: torch.dtype) -> Any:
    """The model of `config` on torch's meta device: parameters with shapes, but without data."""
    with torch.device("meta"):
        return _auto_class(config).from_config(config, dtype=dtype)


def _auto_class(config: PreTrainedConfig) -> Any:
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def prompt_format(model: Path, tokenizer: PreTrainedTokenizerFast, settings: ModelSettings) -> PromptFormat:
    """How problems are put to the model in the folder `model`.

    Raises UserError if the settings need a chat template and the tokenizer has none, or if they do not use it.
    """
    asked = settings.chat_template
    chat = is_chat_model(model, tokenizer) if asked is ChatTemplate.AUTO else asked is ChatTemplate.ON
    if chat and not tokenizer.chat_template:
        raise UserError(
            f"model.chat_template is on, but the tokenizer in {model} has no chat template; set it to off or auto"
        )
    for name in ("system_prompt", "chat_template_kwargs"):
        if getattr(settings, name) is not None and not chat:
            raise UserError(
                f"model.{name} needs a chat, but prompts for {model} do not use a chat template; remove it, or set "
                "model.chat_template to on"
            )
    return PromptFormat(chat, settings.system_prompt, settings.prompt_template, settings.chat_template_kwargs or {})


def chat_warning(model: Path, tokenizer: PreTrainedTokenizerFast, settings: ModelSettings) -> str | None:
    """What to say about a model whose prompts probably have the wrong form, or about a choice that was made for it."""
    if not tokenizer.chat_template:
        return None
    is_chat, asked = is_chat_model(model, tokenizer), settings.chat_template
    if is_chat and asked is ChatTemplate.OFF:
        return "WARNING: this is a chat model, but model.chat_template is off: set it to auto or on"
    if not is_chat and asked is ChatTemplate.ON:
        return (
            "WARNING: model.chat_template is on, but this looks like a base model, because none of its end tokens "
            "closes a turn in the template: set model.chat_template to auto or off"
        )
    if asked is ChatTemplate.AUTO:
        found = "a chat model: prompts use its" if is_chat else "a base model: prompts do not use the tokenizer's"
        return f"This is {found} chat template (model.chat_template auto)"
    return None


def is_chat_model(model: Path, tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether a model was trained on its tokenizer's chat template.

    Many base models come with a template too, but only a chat model ends its answers with the token that closes a turn.
    """
    if not tokenizer.chat_template:
        return False
    return answer_end_id(tokenizer, chat=True) in end_token_ids(model, tokenizer, chat=False)


def end_token_ids(model: Path, tokenizer: PreTrainedTokenizerFast, *, chat: bool) -> tuple[int, ...]:
    """Ids that end a completion: the end of a chat turn, the tokenizer's end token, and those of the folder's
    `generation_config.json`."""
    ids = [answer_end_id(tokenizer, chat=chat), int(tokenizer.eos_token_id)]
    generation_config = model / "generation_config.json"
    if generation_config.is_file():
        more = json.loads(generation_config.read_text(encoding="utf-8")).get("eos_token_id")
        ids += more if isinstance(more, list) else [more] if more is not None else []
    return tuple(dict.fromkeys(ids))

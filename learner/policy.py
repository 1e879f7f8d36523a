"""The policy as the learner sees it: a Hugging Face model that gives log-probabilities of completions.

Decoder-only models read prompt and completion as one sequence (`learner.packing`); encoder-decoder models read the
prompt on one side and write the completion on the other (`learner.encoder_decoder`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from errors import UserError
from learner import encoder_decoder
from learner.encoder_decoder import EncoderDecoderBatch
from learner.logprobs import chunked_logprobs
from learner.packing import MicroBatch, TokenSequence, pack
from problems.token_spans import keeps_code
from settings import Dtype, LoraSettings
from transport.lora import adapters, attach, load_adapters, merged, merged_state, save_adapters

logger = logging.getLogger(__name__)

ComputeDtype = Dtype | Literal["float32", "bfloat16"]

# Largest difference that the self-test accepts between packed and plain log-probabilities of the same tokens.
_SELF_TEST_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.25}


class Policy:
    """A language model with float32 master weights, computing in `compute_dtype`.

    Dropout is switched off, so that the policy that is trained is the one that sampled. Raises UserError where `name`
    is no model, or one whose packed log-probabilities differ from plain ones (a recurrent model, say).
    """

    def __init__(
        self,
        name: str,
        *,
        compute_dtype: ComputeDtype,
        device: torch.device,
        activation_checkpointing: bool = False,
        chunk_tokens: int = 1024,
        lora: LoraSettings | None = None,
    ) -> None:
        self.name = name
        self.device = device
        self.tokenizer = load_tokenizer(name)
        self.model = _load_model(name).to(device)
        if self.model.config.is_encoder_decoder and not keeps_code(self.tokenizer):
            raise UserError(
                f"model {name}: its tokenizer cannot write Python: line ends or indentation are lost; take a model of "
                "code, such as Salesforce/codet5-large"
            )
        self._compute_dtype = compute_dtype
        self._lora = lora if lora is not None and lora.rank else None
        if self._lora is not None:
            try:
                attach(self.model, self._lora)
            except ValueError as error:
                raise UserError(f"model.lora: {error}") from error
        self._chunk_tokens = chunk_tokens
        if activation_checkpointing:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            self.model.train()  # checkpointing works in training mode only; there is no dropout to wake up
        else:
            self.model.eval()
        self._self_test()

    @property
    def max_length(self) -> int:
        """Most tokens of a prompt and its completion together that the model can see rightly."""
        limits = [getattr(self.model.config, field, None) for field in ("max_position_embeddings", "sliding_window")]
        return min((limit for limit in limits if limit is not None), default=2**31)

    def pack(
        self, sequences: Sequence[TokenSequence], *, micro_batch_tokens: int, row_tokens: int
    ) -> list[MicroBatch] | list[EncoderDecoderBatch]:
        """Micro-batches of `sequences` in the layout that the model computes; see the `pack` of either module."""
        if not self.model.config.is_encoder_decoder:
            return pack(sequences, micro_batch_tokens=micro_batch_tokens, row_tokens=row_tokens)
        start_id = self.model.config.decoder_start_token_id
        return encoder_decoder.pack(
            sequences, start_id=start_id, micro_batch_tokens=micro_batch_tokens, row_tokens=row_tokens
        )

    def logprobs(
        self, batch: MicroBatch | EncoderDecoderBatch, temperature: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probability and entropy [N] of each completion token of `batch` at `temperature` [N].

        Both in float32 (float64 for a float64 model); gradients flow through the log-probability.
        """
        autocast = self._compute_dtype == "bfloat16"
        dtype = torch.bfloat16 if autocast else self.model.dtype
        with torch.autocast(self.device.type, torch.bfloat16, enabled=autocast):
            if isinstance(batch, EncoderDecoderBatch):
                hidden = encoder_decoder.hidden_states(self.model, batch)
            else:
                output = self.model.base_model(
                    input_ids=batch.input_ids,
                    attention_mask=batch.attention_mask(dtype),
                    position_ids=batch.position_ids,
                    use_cache=False,
                )
                hidden = output.last_hidden_state.flatten(0, 1)[batch.predictor]
        head = self.model.get_output_embeddings()
        bias = getattr(head, "bias", None)
        return chunked_logprobs(
            hidden.to(dtype),
            head.weight.to(dtype),
            None if bias is None else bias.to(dtype),
            batch.target,
            temperature,
            chunk_tokens=self._chunk_tokens,
        )

    @property
    def has_adapters(self) -> bool:
        """Whether adapters are trained, and the weights of the base model are not."""
        return self._lora is not None

    def trained_parameters(self) -> dict[str, torch.nn.Parameter]:
        """What an optimizer may change: all parameters, or those of the adapters."""
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    def published(self) -> Iterator[tuple[str, torch.Tensor]]:
        """What generators are sent: all parameters in the type they compute in, or the adapters alone in float32."""
        if self._lora is not None and self._lora.publish == "adapter":
            return adapters(self.model)
        dtype = torch.bfloat16 if self._compute_dtype == "bfloat16" else torch.float32
        named = self.model.named_parameters() if self._lora is None else merged(self.model)
        return ((name, value.to(dtype)) for name, value in named)

    def save(self, folder: Path) -> None:
        """Write model and tokenizer as a Hugging Face folder: float32 master weights, adapters merged."""
        state = self.model.state_dict() if self._lora is None else merged_state(self.model)
        self.model.save_pretrained(folder, state_dict=state)
        self.tokenizer.save_pretrained(folder)

    def save_state(self, folder: Path) -> None:
        """Write what `load_weights` needs: the model, or of one with adapters these alone."""
        if self._lora is None:
            self.save(folder)
        else:
            save_adapters(self.model, folder)

    def load_weights(self, folder: Path) -> None:
        """Take the weights of a folder that `save_state` wrote. Raises RuntimeError where they do not fit."""
        if self._lora is None:
            self.model.load_state_dict(_load_model(str(folder)).state_dict())
            return
        try:
            load_adapters(self.model, folder)
        except ValueError as error:
            raise RuntimeError(str(error)) from error

    @torch.no_grad()
    def _self_test(self) -> None:
        """Compare the log-probabilities of a small packed batch with those of the model's own forward pass."""
        random = np.random.default_rng(0)
        vocabulary = self.model.get_input_embeddings().weight.shape[0]
        shared, *others = (random.integers(0, vocabulary, count, dtype=np.int32) for count in (5, 4, 2, 3, 6))
        sequences = [
            TokenSequence(shared, others[0]),
            TokenSequence(shared, others[1]),
            TokenSequence(others[2], others[3]),
        ]
        (batch,) = self.pack(sequences, micro_batch_tokens=64, row_tokens=32)
        batch = batch.to(self.device)
        ones = torch.ones(len(batch.target), dtype=self.model.dtype, device=self.device)
        kind = f"model {self.name}: {self.model.config.model_type} models"
        try:
            packed, _ = self.logprobs(batch, ones)
        except (TypeError, ValueError, RuntimeError) as error:  # whatever a model's own code makes of the mask
            raise UserError(
                f"{kind} take no packed sequences, so none is trained here ({_first_line(error)})"
            ) from error
        plain = torch.cat([self._plain_logprobs(sequence) for sequence in sequences])
        difference = (plain[batch.source] - packed).abs().max().item()
        if not difference < _SELF_TEST_TOLERANCE[self._compute_dtype]:
            raise UserError(
                f"{kind} give packed sequences log-probabilities that are off by {difference:.2g}, so none is trained "
                "here: they ignore the attention mask, or change the logits after the output layer"
            )

    def _plain_logprobs(self, sequence: TokenSequence) -> torch.Tensor:
        """Log-probabilities [T] of a completion alone, by the model's own forward pass in float32."""
        if self.model.config.is_encoder_decoder:
            start_id = self.model.config.decoder_start_token_id
            plain = encoder_decoder.plain_logits(self.model, sequence, start_id).log_softmax(-1)
            return plain[range(len(plain)), sequence.token_ids.tolist()]
        ids = torch.from_numpy(np.concatenate([sequence.prompt_ids, sequence.token_ids]).astype(np.int64))
        logits = self.model(input_ids=ids[None].to(self.device), use_cache=False).logits[0]
        start = len(sequence.prompt_ids)
        rows: torch.Tensor = logits.log_softmax(-1)[range(start - 1, len(ids) - 1), ids[start:].to(self.device)]
        return rows


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or hub id. Raises UserError where there is none, or none with an end token."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(f"model {name}: no usable tokenizer there ({_first_line(error)})") from error
    if len(tokenizer) <= len(tokenizer.added_tokens_decoder):  # transformers makes an empty one where files are missing
        raise UserError(f"model {name}: no usable tokenizer there (it has no vocabulary)")
    if tokenizer.eos_token_id is None:
        raise UserError(f"model {name}: its tokenizer names no end token; set eos_token in tokenizer_config.json")
    return tokenizer


def _load_model(name: str) -> Any:
    folder = Path(name)
    if folder.exists() and not (folder / "config.json").is_file():
        raise UserError(
            f"model {name}: not a Hugging Face model folder (it has no config.json); give a folder that "
            "save_pretrained wrote, or a hub id"
        )
    try:
        config = AutoConfig.from_pretrained(name)
        if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
            raise UserError(
                f"model {name}: its config.json names no token that completions start from; set "
                "decoder_start_token_id (for T5 and CodeT5 the id of the padding token)"
            )
        for field, value in config.to_dict().items():
            if field.endswith(("dropout", "pdrop", "dropout_rate")) and isinstance(value, float):
                setattr(config, field, 0.0)
        auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        return auto.from_pretrained(name, config=config, dtype=torch.float32)
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"model {name}: neither a model folder nor a hub id that can be loaded ({_first_line(error)})"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

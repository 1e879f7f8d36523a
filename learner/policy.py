"""The policy as the learner sees it: a Hugging Face model that computes log-probabilities of completions.

Decoder-only models read prompt and completion as one sequence (`learner.packing`). Encoder-decoder models encode the
prompt and decode the completion (`learner.encoder_decoder`). The [tokens, vocabulary] matrix of logits never exists in
full.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from rltf.errors import UserError
from rltf.learner import encoder_decoder
from rltf.learner.data import TokenSequence
from rltf.learner.encoder_decoder import EncoderDecoderBatch
from rltf.learner.packing import MicroBatch, pack
from rltf.settings import Dtype, LoraSettings
from rltf.transport.lora import adapters, attach, load_adapters, merged, save_adapters
from rltf.transport.model_folder import load_model, load_tokenizer

# The largest difference between packed and plain log-probabilities that the self-test accepts.
_SELF_TEST_TOLERANCE = {Dtype.FLOAT32: 1e-3, Dtype.BFLOAT16: 0.25}


@dataclass(frozen=True, slots=True, eq=False)
class TokenOutputs:
    """Log-probability and entropy of each completion token, and the value of the state that predicts it, all [N].

    Gradients flow through log-probabilities and values, not through the entropy. `values` is None without a value head.
    """

    logprobs: torch.Tensor
    entropy: torch.Tensor
    values: torch.Tensor | None


class Policy:
    """A language model with float32 master weights, computing in `compute_dtype`.

    Dropout is off, because the sampler has none. Raises UserError if the folder has no usable model, or if its packed
    log-probabilities differ from plain ones (as those of a recurrent model do).
    """

    def __init__(
        self,
        folder: Path,
        *,
        compute_dtype: Dtype,
        device: torch.device,
        activation_checkpointing: bool = False,
        chunk_tokens: int = 1024,
        lora: LoraSettings | None = None,
        with_values: bool = False,
    ) -> None:
        """Load the model in `folder`. With `with_values` it gets a value head, a linear layer that starts at 0."""
        self.name = str(folder)
        self.device = device
        self.tokenizer, self.model = self._load(folder)
        self._compute_dtype = compute_dtype
        self._lora = lora if lora is not None and lora.rank else None
        if self._lora is not None:
            try:
                attach(self.model, self._lora)
            except ValueError as error:
                raise UserError(f"model.lora: {error}") from error
        self.value_head: torch.nn.Linear | None = None
        if with_values:
            self.value_head = torch.nn.Linear(self.width, 1).to(device)
            torch.nn.init.zeros_(self.value_head.weight)
            torch.nn.init.zeros_(self.value_head.bias)
        self._chunk_tokens = chunk_tokens
        if activation_checkpointing:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            self.model.train()  # checkpointing works only in training mode, and dropout is off
        else:
            self.model.eval()
        self._self_test()

    def _load(self, folder: Path) -> tuple[PreTrainedTokenizerFast, Any]:
        return load_tokenizer(folder), load_model(folder, torch.float32).to(self.device)

    @property
    def width(self) -> int:
        """The size H of the states that predict tokens."""
        return int(self.model.get_output_embeddings().weight.shape[1])

    @property
    def max_length(self) -> int:
        """The most tokens, of a prompt and its completion together, that the model can attend to."""
        limits = [getattr(self.model.config, field, None) for field in ("max_position_embeddings", "sliding_window")]
        return min((limit for limit in limits if limit is not None), default=2**31)

    def pack(
        self, sequences: Sequence[TokenSequence], *, micro_batch_tokens: int, row_tokens: int
    ) -> list[MicroBatch] | list[EncoderDecoderBatch]:
        """Micro-batches of `sequences`, from `packing.pack` or `encoder_decoder.pack`, whichever the model needs."""
        if not self.model.config.is_encoder_decoder:
            return pack(sequences, micro_batch_tokens=micro_batch_tokens, row_tokens=row_tokens)
        start_id = self.model.config.decoder_start_token_id
        return encoder_decoder.pack(
            sequences, start_id=start_id, micro_batch_tokens=micro_batch_tokens, row_tokens=row_tokens
        )

    def logprobs(
        self, batch: MicroBatch | EncoderDecoderBatch, temperature: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probability and entropy [N] of each completion token of `batch` at `temperature` [N]."""
        outputs = self.forward(batch, temperature)
        return outputs.logprobs, outputs.entropy

    def forward(self, batch: MicroBatch | EncoderDecoderBatch, temperature: torch.Tensor) -> TokenOutputs:
        """Everything about each completion token of `batch`, log-probabilities at `temperature` [N].

        All are float32 (float64 for a float64 model).
        """
        hidden, dtype = self.hidden_states(batch), self._matrix_dtype
        head = self.model.get_output_embeddings()
        bias = getattr(head, "bias", None)
        logprobs, entropy = chunked_logprobs(
            hidden.to(dtype),
            head.weight.to(dtype),
            None if bias is None else bias.to(dtype),
            batch.target,
            temperature,
            chunk_tokens=self._chunk_tokens,
        )
        return TokenOutputs(logprobs, entropy, None if self.value_head is None else self.values(hidden))

    def hidden_states(self, batch: MicroBatch | EncoderDecoderBatch) -> torch.Tensor:
        """The states [N, H] that predict the completion tokens of `batch`: the input of the output layer."""
        dtype = self._matrix_dtype
        # Its cache would keep a bfloat16 copy of every weight until the end of the forward pass, but each is used once.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16, cache_enabled=False):
            if isinstance(batch, EncoderDecoderBatch):
                return encoder_decoder.hidden_states(self.model, batch)
            output = self.model.base_model(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask(dtype),
                position_ids=batch.position_ids,
                use_cache=False,
            )
        hidden: torch.Tensor = output.last_hidden_state.flatten(0, 1)[batch.predictor]
        return hidden

    def values(self, hidden: torch.Tensor) -> torch.Tensor:
        """The values [N] that the value head gives to `hidden_states`."""
        assert self.value_head is not None
        values: torch.Tensor = self.value_head(hidden.to(self.value_head.weight.dtype)).squeeze(-1)
        return values

    @property
    def _matrix_dtype(self) -> torch.dtype:
        """The type of matrix products: bfloat16, or that of the weights."""
        return torch.bfloat16 if self._compute_dtype == Dtype.BFLOAT16 else self.model.dtype

    @property
    def has_adapters(self) -> bool:
        """Whether adapters are trained instead of the model's own weights."""
        return self._lora is not None

    def trained_parameters(self) -> dict[str, torch.nn.Parameter]:
        """The parameters that the optimizer changes: all, or those of the adapters; and the value head's."""
        trained = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        if self.value_head is not None:
            trained |= {f"value_head.{name}": value for name, value in self.value_head.named_parameters()}
        return trained

    def published(self) -> Iterator[tuple[str, torch.Tensor]]:
        """What generators receive: all parameters in the type they compute in, or only the adapters, in float32."""
        if self._lora is not None and self._lora.publish == "adapter":
            return adapters(self.model)
        dtype = torch.bfloat16 if self._compute_dtype == Dtype.BFLOAT16 else torch.float32
        named = self.model.named_parameters()
        if self._lora is not None:
            named = merged(self.model, named)
        return ((name, value.to(dtype)) for name, value in named)

    def save(self, folder: Path) -> None:
        """Write model and tokenizer as a Hugging Face folder, with float32 master weights and adapters merged."""
        state = self.model.state_dict()
        if self._lora is not None:
            state = dict(merged(self.model, state.items()))
        self.model.save_pretrained(folder, state_dict=state)
        self.tokenizer.save_pretrained(folder)

    def save_state(self, folder: Path) -> None:
        """Write what `load_weights` reads: the model, or only its adapters if it has some."""
        if self._lora is None:
            self.save(folder)
        else:
            save_adapters(self.model, folder)

    def load_weights(self, folder: Path) -> None:
        """Load the weights from a folder that `save_state` wrote.

        Raises RuntimeError or ValueError if they do not fit the model.
        """
        if self._lora is None:
            self.model.load_state_dict(load_model(folder, torch.float32).state_dict())
        else:
            load_adapters(self.model, folder)

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
        except (TypeError, ValueError, RuntimeError) as error:  # from the model's own code, which may reject the mask
            raise UserError(f"{kind} cannot be trained: they reject packed sequences ({_first_line(error)})") from error
        plain = torch.cat([self._plain_logprobs(sequence) for sequence in sequences])
        difference = (plain[batch.source] - packed).abs().max().item()
        if not difference < _SELF_TEST_TOLERANCE[self._compute_dtype]:
            raise UserError(
                f"{kind} cannot be trained: log-probabilities of packed sequences are off by {difference:.2g}, because "
                "the model ignores the attention mask or changes the logits after the output layer"
            )

    def _plain_logprobs(self, sequence: TokenSequence) -> torch.Tensor:
        """Log-probabilities [T] of one completion by itself, from the model's own forward pass in float32."""
        both = (sequence.prompt_ids, sequence.token_ids)
        prompt, completion = (torch.from_numpy(ids.astype(np.int64))[None].to(self.device) for ids in both)
        if self.model.config.is_encoder_decoder:
            start = torch.full_like(completion[:, :1], self.model.config.decoder_start_token_id)
            inputs = {"input_ids": prompt, "decoder_input_ids": torch.cat([start, completion[:, :-1]], 1)}
        else:
            inputs = {"input_ids": torch.cat([prompt, completion[:, :-1]], 1)}
        logits = self.model(**inputs, use_cache=False).logits[0, -completion.shape[1] :]
        logprobs: torch.Tensor = logits.log_softmax(-1).gather(-1, completion[0, :, None])[:, 0]
        return logprobs


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def chunked_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    temperature: torch.Tensor,
    *,
    chunk_tokens: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and entropy [N] of `softmax((hidden @ weight.T + bias) / temperature)` at `targets`.

    `hidden` [N, H], `weight` [V, H], `bias` [V] or None, `targets` [N], `temperature` [N]. At most `chunk_tokens` rows
    of logits exist at a time. Gradients flow to hidden, weight and bias, only through the log-probability.
    """
    result: tuple[torch.Tensor, torch.Tensor] = _ChunkedLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, targets, 1 / temperature, chunk_tokens
    )
    return result


class _ChunkedLogprobs(torch.autograd.Function):
    """Goes over the tokens in chunks, both ways; the backward pass computes the logits of each chunk again."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        inverse_temperature: torch.Tensor,
        chunk_tokens: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs = torch.empty_like(inverse_temperature)
        entropy = torch.empty_like(inverse_temperature)
        normalizer = torch.empty_like(inverse_temperature)
        for start in range(0, len(targets), chunk_tokens):
            part = slice(start, start + chunk_tokens)
            logits = _logits(hidden[part], weight, bias, inverse_temperature[part])
            normalizer[part] = torch.logsumexp(logits, dim=-1)
            logprobs[part] = logits.gather(-1, targets[part, None]).squeeze(-1) - normalizer[part]
            probabilities = (logits - normalizer[part, None]).exp_()
            entropy[part] = normalizer[part] - torch.einsum("nv,nv->n", probabilities, logits)
        ctx.save_for_backward(hidden, weight, bias, targets, inverse_temperature, normalizer)
        ctx.chunk_tokens = chunk_tokens
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, grad_logprobs: torch.Tensor, _grad_entropy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias, targets, inverse_temperature, normalizer = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        # Sums over many chunks need the precision of the log-probabilities.
        grad_weight = torch.zeros_like(weight, dtype=normalizer.dtype)
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=normalizer.dtype)
        for start in range(0, len(targets), ctx.chunk_tokens):
            part = slice(start, start + ctx.chunk_tokens)
            logits = _logits(hidden[part], weight, bias, inverse_temperature[part])
            scale = grad_logprobs[part] * inverse_temperature[part]
            grad_logits = (logits - normalizer[part, None]).exp_().mul_(-scale[:, None])
            grad_logits.scatter_add_(-1, targets[part, None], scale[:, None])
            narrow = grad_logits.to(weight.dtype)
            grad_hidden[part] = narrow @ weight
            grad_weight += narrow.T @ hidden[part]
            if grad_bias is not None:
                grad_bias += grad_logits.sum(0)
        return (
            grad_hidden,
            grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(weight.dtype),
            None,
            None,
            None,
        )


def _logits(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, inverse_temperature: torch.Tensor
) -> torch.Tensor:
    """Logits [N, V] in the precision of `inverse_temperature`."""
    logits = torch.nn.functional.linear(hidden, weight, bias).to(inverse_temperature.dtype)
    return logits.mul_(inverse_temperature[:, None])

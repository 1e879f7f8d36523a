"""The policy as the learner sees it: a Hugging Face model that computes log-probabilities of completions.

Decoder-only models read prompt and completion as one sequence (`learner.packing`). Encoder-decoder models encode the
prompt and decode the completion (`learner.encoder_decoder`). The [tokens, vocabulary] matrix of logits never exists in
full.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._dynamo.exc import TorchDynamoException
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedTokenizerFast

from rltf.errors import UserError
from rltf.learner import encoder_decoder
from rltf.learner.attention import BLOCK_TOKENS, block_mask, own_attention, set_flex, uses_flex
from rltf.learner.compiling import check_compiler, compile_layers, layers_to_compile, not_compiled
from rltf.learner.data import TokenSequence
from rltf.learner.encoder_decoder import EncoderDecoderBatch
from rltf.learner.logprobs import chunked_logprobs
from rltf.learner.packing import ROW_ALIGNMENT, MicroBatch, pack
from rltf.learner.ranks import ALONE, Ranks
from rltf.learner.sharding import as_forward, gathered, layers, load_from_leader, shard
from rltf.settings import AttnImplementation, Dtype, LoraSettings
from rltf.transport.lora import adapters, attach, load_adapters, merged, save_adapters
from rltf.transport.model_folder import load_model, load_tokenizer
from rltf.transport.sharded import whole

logger = logging.getLogger(__name__)

# What the self-test reads: two prompts with the same completion. Code is likely, so that rounding changes little: in
# bfloat16, the log-probabilities of SmolLM2-135M differ by up to 0.25 here, and by up to 0.7 if the tokens are random.
# A model that sees a completion of another branch copies it, which changes them by more than 4.
_SELF_TEST_PROMPTS = ("# Kelvin.\n", "# A price.\n")
_SELF_TEST_COMPLETION = "print(273.15, 'mauve', 88041)\n"
# The largest difference between packed and plain log-probabilities that it accepts.
_SELF_TEST_TOLERANCE = {Dtype.FLOAT32: 1e-3, Dtype.BFLOAT16: 1.0}


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

    With bfloat16, what flows from layer to layer is bfloat16 too, and so are weights that adapters leave frozen.
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
        attn_implementation: AttnImplementation = AttnImplementation.AUTO,
        torch_compile: bool = False,
        lora: LoraSettings | None = None,
        with_values: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        """Load the model in `folder`. With `with_values` it gets a value head, a linear layer that starts at 0.

        Its parameters are spread over `ranks`, which must all call each method that computes, loads or returns weights.
        """
        self.name = str(folder)
        self.device = device
        self._compute_dtype = compute_dtype
        self._lora = lora if lora is not None and lora.rank else None
        self._chunk_tokens = chunk_tokens
        self.attn_implementation = attn_implementation
        self._torch_compile = torch_compile
        self._ranks = ranks
        mesh = ranks.mesh(device) if ranks.size > 1 else None
        with ranks.in_turn():  # each holds the whole model in host memory until it is sharded
            self.tokenizer, self.model = self._load(folder)
            self._attach_adapters()
            self.uses_flex = self._set_attention(attn_implementation)
            self._layers = layers_to_compile(self.model) if torch_compile else []
            self.value_head = self._new_value_head() if with_values else None
            if mesh is not None:
                self._shard(mesh)
        self._states, self._outputs = self._compute_states, self._compute_outputs
        if mesh is not None:
            self._states = as_forward(self.model, self._compute_states)
            self._outputs = as_forward(self.model, self._compute_outputs)
        if activation_checkpointing:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            self.model.train()  # checkpointing works only in training mode, and dropout is off
        else:
            self.model.eval()
        self.model.get_input_embeddings().register_forward_hook(_narrow)
        self.compile()
        self._self_test()

    def _load(self, folder: Path) -> tuple[PreTrainedTokenizerFast, Any]:
        tokenizer, model = load_tokenizer(folder), load_model(folder, self._loaded_dtype)
        return tokenizer, model.to(self.device) if self._ranks.size == 1 else model

    @property
    def _loaded_dtype(self) -> torch.dtype:
        """The type of the model's weights. Those that adapters leave frozen need no masters."""
        return torch.bfloat16 if self._lora and self._compute_dtype == Dtype.BFLOAT16 else torch.float32

    def _set_attention(self, asked: AttnImplementation) -> bool:
        """Choose how the model attends, and return whether that is by FlexAttention."""
        flex = uses_flex(self.model, asked, self.device.type)
        if flex:
            check_compiler("learner.attn_implementation flex_attention", self.device.type)
            set_flex(self.model)
        logger.info(
            "attention of %s: %s", self.name, "FlexAttention" if flex else self.model.config._attn_implementation
        )
        return flex

    def compile(self) -> None:
        """Compile the layers if the settings ask for it. A copy of a policy needs this too."""
        if self._torch_compile:
            check_compiler("learner.torch_compile", self.device.type)
            compile_layers(self._layers)

    def _attach_adapters(self) -> None:
        if self._lora is not None:
            try:
                attach(self.model, self._lora)
            except ValueError as error:
                raise UserError(f"model.lora: {error}") from error

    def _new_value_head(self) -> torch.nn.Linear:
        value_head = torch.nn.Linear(self.width, 1).to(self.device)
        torch.nn.init.zeros_(value_head.weight)
        torch.nn.init.zeros_(value_head.bias)
        return value_head

    def _shard(self, mesh: DeviceMesh) -> None:
        try:
            shard(self.model, mesh, self.matrix_dtype, layers(self.model))
        except ValueError as error:
            raise UserError(f"model {self.name} can only be trained by one worker: {error}") from error
        if self.value_head is not None:
            shard(self.value_head, mesh, torch.float32)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the master weights, and so of log-probabilities: float32, or float64 if the model was made so."""
        # Frozen weights may be bfloat16, and so are those of a sharded model while it computes.
        return torch.float64 if self.model.dtype == torch.float64 else torch.float32

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
            alignment = BLOCK_TOKENS if self.uses_flex else ROW_ALIGNMENT
            return pack(
                sequences, micro_batch_tokens=micro_batch_tokens, row_tokens=row_tokens, row_alignment=alignment
            )
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
        hidden, logprobs, entropy = self._outputs(batch, temperature)
        return TokenOutputs(logprobs, entropy, None if self.value_head is None else self.values(hidden))

    def hidden_states(self, batch: MicroBatch | EncoderDecoderBatch) -> torch.Tensor:
        """The states [N, H] that predict the completion tokens of `batch`: the input of the output layer."""
        return self._states(batch)

    def _compute_outputs(
        self, batch: MicroBatch | EncoderDecoderBatch, temperature: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        hidden, dtype = self._compute_states(batch), self.matrix_dtype
        head = self.model.get_output_embeddings()
        bias = getattr(head, "bias", None)
        logprobs, entropy = chunked_logprobs(
            hidden.to(dtype),
            head.weight.to(dtype),
            None if bias is None else bias.to(dtype),
            batch.target,
            temperature,
            chunk_tokens=self._chunk_tokens,
            compiled=self._torch_compile,
        )
        return hidden, logprobs, entropy

    def _compute_states(self, batch: MicroBatch | EncoderDecoderBatch) -> torch.Tensor:
        dtype = self.matrix_dtype
        # Its cache would keep a bfloat16 copy of every weight until the end of the forward pass, but each is used once.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16, cache_enabled=False):
            if isinstance(batch, EncoderDecoderBatch):
                return encoder_decoder.hidden_states(self.model, batch)
            output = self.model.base_model(
                input_ids=batch.input_ids,
                attention_mask=self._attention_mask(batch),
                position_ids=batch.position_ids,
                use_cache=False,
            )
        hidden: torch.Tensor = output.last_hidden_state.flatten(0, 1)[batch.predictor]
        return hidden

    def _attention_mask(self, batch: MicroBatch) -> Any:
        return block_mask(batch) if self.uses_flex else batch.attention_mask(self.matrix_dtype)

    def values(self, hidden: torch.Tensor) -> torch.Tensor:
        """The values [N] that the value head gives to `hidden_states`."""
        assert self.value_head is not None
        values: torch.Tensor = self.value_head(hidden.to(self.value_head.weight.dtype)).squeeze(-1)
        return values

    @property
    def matrix_dtype(self) -> torch.dtype:
        """The type of matrix products: bfloat16, or that of the weights."""
        return torch.bfloat16 if self._compute_dtype == Dtype.BFLOAT16 else self.dtype

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

    def parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        """All parameters of the model. Those of a sharded one are gathered one at a time."""
        return ((name, whole(value)) for name, value in self.model.named_parameters())

    def published(self) -> Iterator[tuple[str, torch.Tensor]]:
        """What generators receive: all parameters in the type they compute in, or only the adapters, in float32.

        Those of a sharded model are converted and then gathered, one at a time.
        """
        if self._lora is not None and self._lora.publish == "adapter":
            return ((name, whole(value)) for name, value in adapters(self.model))
        dtype = torch.bfloat16 if self._compute_dtype == Dtype.BFLOAT16 else torch.float32
        named = self.model.named_parameters()
        if self._lora is not None:
            named = merged(self.model, named)
        return ((name, whole(value.to(dtype))) for name, value in named)

    def save(self, folder: Path) -> None:
        """Write model and tokenizer as a Hugging Face folder, with float32 master weights.

        Adapters are merged, in the type of the weights they belong to. Only rank 0 writes, and it holds the whole model
        in host memory.
        """
        state = self.model.state_dict()
        if self._lora is not None:
            state = {name: value.to(self._loaded_dtype) for name, value in merged(self.model, state.items())}
        if self._ranks.size > 1:
            state = gathered(self.model, state, self._ranks)
        if self._ranks.leads:
            self.model.save_pretrained(folder, state_dict=state)
            self.tokenizer.save_pretrained(folder)

    def save_state(self, folder: Path) -> None:
        """Write what `load_weights` reads: the model, or only its adapters if it has some."""
        if self._lora is None:
            self.save(folder)
            return
        named = [(name, whole(value)) for name, value in adapters(self.model)]
        if self._ranks.leads:
            save_adapters(self.model, named, folder)

    def load_weights(self, folder: Path) -> None:
        """Load what `save_state` wrote to a folder. Raises RuntimeError or ValueError if it does not fit the model."""
        if self._lora is not None:
            load_adapters(self.model, folder)
        elif self._ranks.size == 1:
            self.model.load_state_dict(load_model(folder, torch.float32).state_dict())
        else:
            load_from_leader(self.model, load_model(folder, torch.float32).state_dict() if self._ranks.leads else {})

    @torch.no_grad()
    def copy_weights(self, other: Policy) -> None:
        """Take the weights of `other`, of the same model and ranks."""
        for mine, theirs in zip(self.model.parameters(), other.model.parameters(), strict=True):
            mine.copy_(theirs)

    @torch.no_grad()
    def _self_test(self) -> None:
        """Compare the log-probabilities of a small packed batch with those of the model's own forward pass."""
        *prompts, completion = (
            np.array(self.tokenizer.encode(text, add_special_tokens=False), np.int32)
            for text in (*_SELF_TEST_PROMPTS, _SELF_TEST_COMPLETION)
        )
        sequences = [TokenSequence(prompt, completion) for prompt in (prompts[0], *prompts)]
        (batch,) = self.pack(sequences, micro_batch_tokens=2 * BLOCK_TOKENS, row_tokens=BLOCK_TOKENS)
        batch = batch.to(self.device)
        ones = torch.ones(len(batch.target), dtype=self.dtype, device=self.device)
        kind = f"model {self.name}: {self.model.config.model_type} models"
        try:
            packed, _ = self.logprobs(batch, ones)
        except TorchDynamoException as error:
            raise UserError(
                f"{kind} cannot be compiled ({_first_line(error)}): set learner.torch_compile to false and "
                "learner.attn_implementation to sdpa"
            ) from error
        except self._refusals as error:
            raise UserError(f"{kind} cannot be trained: they reject packed sequences ({_first_line(error)})") from error
        with own_attention(self.model, self.uses_flex), not_compiled(self._torch_compile):
            plain = torch.cat([self._plain_logprobs(sequence) for sequence in sequences])
        difference = (plain[batch.source] - packed).abs().max().item()
        if not difference < _SELF_TEST_TOLERANCE[self._compute_dtype]:
            raise UserError(
                f"{kind} cannot be trained: log-probabilities of packed sequences are off by {difference:.2g}, because "
                "the model ignores the attention mask or changes the logits after the output layer"
            )

    @property
    def _refusals(self) -> tuple[type[Exception], ...]:
        """What the code of a model raises that rejects a mask. With several ranks, a RuntimeError may be a dead one."""
        return (TypeError, ValueError, RuntimeError) if self._ranks.size == 1 else (TypeError, ValueError)

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


def _narrow(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], embedded: torch.Tensor) -> torch.Tensor:
    """A hook. Autocast leaves embeddings in float32, and so all that is added to them, from layer to layer."""
    is_mixed = torch.is_autocast_enabled(embedded.device.type)
    return embedded.to(torch.get_autocast_dtype(embedded.device.type)) if is_mixed else embedded


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

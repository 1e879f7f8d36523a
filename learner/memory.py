"""How much memory a learner needs, from the architecture of its model alone: no weights, no GPU.

What it holds all the time is counted on torch's meta device. What a micro-batch needs besides is *traced*: the real
`Policy` goes forward and backward on fake tensors, which have shapes, types and lifetimes, but no data. So the numbers
stay true when the policy changes. Not in them: the context of CUDA, what its allocator cannot use, and the workspace of
kernels. Attention is that of torch's CPU kernels, which keep as much for the backward pass as the memory-efficient ones
on a GPU.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedConfig, PreTrainedTokenizerFast

from rltf.learner.attention import uses_flex
from rltf.learner.critic import head_of
from rltf.learner.data import TokenSequence
from rltf.learner.encoder_decoder import EncoderDecoderBatch
from rltf.learner.optim import state_bytes
from rltf.learner.packing import ROW_ALIGNMENT, MicroBatch, aligned
from rltf.learner.policy import Policy
from rltf.learner.sharding import layers
from rltf.settings import AdvantageEstimator, AttnImplementation, LoraPublish, OldLogprobs, Settings, WeightTransfer
from rltf.transport.model_folder import hollow_model, model_config

# A failure is raised as well.
logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)
_META = torch.device("meta")
_FAKE = torch.device("cpu")


class UntraceableError(RuntimeError):
    """The code of a model needs data, or an operation that fake tensors do not have. It may work with real ones."""


@dataclass(frozen=True, slots=True)
class LearnerMemory:
    """Bytes in the memory of the device of a worker of the learner, with P parameters, of which T are trained.

    The first four are spread over the workers (`learner.num_workers`). With several, `gathered` is what each gathers
    while it computes: a layer and everything outside the layers, in the type of matrix products. `snapshot` is in the
    memory of the first worker.
    `weights`: float32 masters, 4 P, and the buffers; 2 P under adapters in bfloat16. `gradients`: 4 T. `optimizer`:
    AdamW's moments, 8 T, or in 8 bits about 2 T. `copies`: the
    policies for KL terms and likelihood ratios, 4 T each, and the critic. `snapshot`: the weights that are being sent
    from GPU to GPU, P in the type that generators compute in. `working`: the peak of a micro-batch above all that, with
    activations, casts, logits and gradients on their way.
    """

    weights: int
    gradients: int
    optimizer: int
    copies: int
    gathered: int
    snapshot: int
    working: int

    @property
    def states(self) -> int:
        """What is held between two updates."""
        return self.weights + self.gradients + self.optimizer + self.copies + self.snapshot

    @property
    def total(self) -> int:
        """The peak."""
        return self.states + self.gathered + self.working


def learner_memory(config: PreTrainedConfig, settings: Settings) -> LearnerMemory:
    """The memory of a worker of the learner. Raises UserError as `Policy`, and UntraceableError."""
    policy = hollow_policy(config, settings)
    named = policy.trained_parameters()
    trained = named.values()
    loss, advantage = settings.learner.loss, settings.learner.advantage
    num_copies = bool(loss.kl_loss_coef or advantage.kl_reward_coef) + (loss.old_logprobs is OldLogprobs.RECOMPUTE)
    copied = [*trained, *policy.model.buffers()]
    critic = 0 if advantage.critic is None else critic_bytes(advantage.critic)
    size = settings.learner.num_workers
    return LearnerMemory(
        weights=num_bytes(_tensors(policy)) // size,
        gradients=num_bytes(trained) // size,
        optimizer=state_bytes(named, settings.learner.optim, size),
        copies=num_copies * num_bytes(copied) // size + critic,
        gathered=_gathered_bytes(policy) if size > 1 else 0,
        snapshot=_snapshot_bytes(policy, settings),
        working=working_bytes(policy, settings),
    )


def _gathered_bytes(policy: Policy) -> int:
    """See `learner.sharding`."""
    whole, *parts = (
        sum(value.numel() for value in part.parameters()) for part in (policy.model, *layers(policy.model))
    )
    return int(whole - sum(parts) + max(parts)) * policy.matrix_dtype.itemsize


def num_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """The size of `tensors` together. Those that are tied count once."""
    return sum(tensor.nbytes for tensor in {id(tensor): tensor for tensor in tensors}.values())


def critic_bytes(folder: Path) -> int:
    """The size of the critic in `folder`: a model and a head in float32. Raises UserError if there is none."""
    model = hollow_model(model_config(folder), torch.float32)
    with _META:
        head = head_of(model.get_output_embeddings().weight.shape[1])
    return num_bytes([*model.parameters(), *model.buffers(), *head.parameters()])


def _snapshot_bytes(policy: Policy, settings: Settings) -> int:
    if settings.generator.weight_transfer is WeightTransfer.OBJECT_STORE:
        return 0
    assert settings.model.lora.publish is LoraPublish.MERGED  # the settings refuse to send adapters alone
    return sum(tensor.nbytes for _, tensor in policy.published())


class _HollowPolicy(Policy):
    """A policy whose parameters have no data."""

    def __init__(self, config: PreTrainedConfig, target: str, **options: Any) -> None:
        """`target` is the type of the device that the policy will be on."""
        self._config, self._target = config, target
        super().__init__(Path(config.name_or_path or config.model_type), device=_META, **options)

    def _load(self, folder: Path) -> tuple[PreTrainedTokenizerFast, Any]:
        return None, hollow_model(self._config, self._loaded_dtype)  # type: ignore[return-value]

    def _set_attention(self, asked: AttnImplementation) -> bool:
        return uses_flex(self.model, asked, self._target)

    def _attention_mask(self, batch: MicroBatch) -> Any:
        """Traced is SDPA, which keeps what FlexAttention does, except for a mask: this one is a single number."""
        if not self.uses_flex:
            return super()._attention_mask(batch)
        num_rows, length = batch.tree.shape
        return torch.zeros(1, dtype=self.matrix_dtype).expand(num_rows, 1, length, length)

    def _self_test(self) -> None:
        """There are no numbers to compare."""


def hollow_policy(config: PreTrainedConfig, settings: Settings) -> Policy:
    """The learner's policy for a model with `config`, on torch's meta device. Raises UserError as `Policy`."""
    return _HollowPolicy(
        config,
        "cuda" if settings.learner.num_gpus else "cpu",
        compute_dtype=settings.model.dtype,
        activation_checkpointing=settings.learner.activation_checkpointing,
        chunk_tokens=settings.learner.chunk_tokens,
        attn_implementation=settings.learner.attn_implementation,
        lora=settings.model.lora,
        with_values=settings.learner.advantage.estimator is AdvantageEstimator.GAE,
    )


def working_bytes(policy: Policy, settings: Settings) -> int:
    """The peak of a micro-batch above weights and gradients, which `policy`, a hollow one, loses its meta tensors for.

    The micro-batch is full, and nearly all of its tokens are predicted. Raises UntraceableError.
    """
    mode = FakeTensorMode()
    batch = full_batch(policy, settings)
    with mode:
        for module in (policy.model, policy.value_head):
            if module is not None:
                _make_fake(module)
        policy.device = _FAKE
        fake: Any = type(batch)(*(mode.from_tensor(getattr(batch, field.name)) for field in fields(batch)))
        ones = torch.ones(fake.target.shape)
        with _Live() as live:
            try:
                outputs = policy.forward(fake, ones)
                total = outputs.logprobs.sum() + (0 if outputs.values is None else outputs.values.sum())
                total.backward()  # type: ignore[no-untyped-call]
            except (TypeError, ValueError, RuntimeError) as error:  # from the model's own code
                kind = policy.model.config.model_type
                raise UntraceableError(f"the memory of {kind} models cannot be calculated: {error}") from error
        peak: int = live.peak
    return peak


def full_batch(policy: Policy, settings: Settings) -> MicroBatch | EncoderDecoderBatch:
    """A micro-batch of `learner.micro_batch_tokens` tokens, in rows as long as settings allow."""
    learner, is_encoder_decoder = settings.learner, policy.model.config.is_encoder_decoder
    longest = min(max(learner.row_tokens, settings.model.max_model_len), learner.micro_batch_tokens)
    length = longest - longest % ROW_ALIGNMENT
    # An encoder works on the prompt alone; for a decoder, prompt and completion are the same, and prompts are cheaper.
    num_prompt = aligned(length // 2) if is_encoder_decoder else ROW_ALIGNMENT
    num_sequences = learner.micro_batch_tokens // length
    completion = np.zeros(length - num_prompt + (not is_encoder_decoder), np.int32)
    prompts = [np.full(num_prompt, index, np.int32) for index in range(num_sequences)]
    sequences = [TokenSequence(prompt, completion) for prompt in prompts]
    return policy.pack(sequences, micro_batch_tokens=learner.micro_batch_tokens, row_tokens=length)[0]


def _tensors(policy: Policy) -> Iterator[torch.Tensor]:
    for module in (policy.model, policy.value_head):
        if module is not None:
            yield from module.parameters()
            yield from module.buffers()


def _make_fake(module: torch.nn.Module) -> None:
    """Replace meta tensors, which autocast ignores, by fake ones, with gradients for what is trained."""
    made: dict[int, torch.Tensor] = {}  # tied parameters stay tied
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    if id(tensor) not in made:
                        made[id(tensor)] = _faked(tensor)
                    tensors[name] = made[id(tensor)]  # type: ignore[assignment]


def _faked(tensor: torch.Tensor) -> torch.Tensor:
    fake = torch.empty(tensor.shape, dtype=tensor.dtype, device=_FAKE)
    if isinstance(tensor, torch.nn.Parameter):
        fake = torch.nn.Parameter(fake, requires_grad=tensor.requires_grad)
        if tensor.requires_grad:
            fake.grad = torch.empty_like(fake)
    return fake


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that are made while it is active: how many there are now, and at most."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {_key(tensor) for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and _key(tensor) not in before:
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return

        def free(_: object) -> None:
            del self._storages[key]
            self.now -= size

        self._storages[key] = weakref.ref(storage, free)
        self.now += size
        self.peak = max(self.peak, self.now)


def _key(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)

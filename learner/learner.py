"""The policy update: weights, optimizer, schedule and counters, without Ray or any notion of where data comes from."""

from __future__ import annotations

import copy
import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from errors import UserError
from files import newest_checkpoint, write_folder
from learner.encoder_decoder import EncoderDecoderBatch
from learner.experience import Experience
from learner.metrics import UpdateStats
from learner.objectives import TokenTable, contributing, loss, token_table
from learner.packing import MicroBatch, TokenSequence
from learner.policy import ComputeDtype, Policy
from learner.supervised import ExampleSampler, SamplerState, SupervisedExample
from rewards import Granularity
from settings import LearnerSettings, LoraSettings, LossSettings, OptimSettings
from transport.weights import WeightsHandle, publish

logger = logging.getLogger(__name__)

CHECKPOINT_FORMAT = 2


@dataclass(frozen=True, slots=True, eq=False)
class PreparedUpdate:
    """An update's data, packed and ready; `sampler_state` is the data position once it has been trained on.

    `num_idle_samples` of `num_samples` have no gradient and are not in `batches`; `num_tokens` counts theirs too.
    """

    experiences: Sequence[Experience]
    batches: list[MicroBatch] | list[EncoderDecoderBatch]
    table: TokenTable
    references: list[SupervisedExample]
    sampler_state: SamplerState
    num_samples: int
    num_idle_samples: int
    num_tokens: int


class Learner:
    """One policy and its training state.

    Usage:
        learner = Learner(model, settings, dtype="bfloat16", temperature=1.0, seed=0)
        learner.set_examples(examples)
        stats = learner.update(learner.prepare(experiences))
        handle = learner.publish()
        learner.save_checkpoint(folder); learner.resume(path)

    Matrix products are in `dtype`, master weights in float32, which is what is saved; `publish` converts to `dtype`.
    `temperature` is the one at which experiences are sampled. An update draws no random numbers, and the order of
    reference programs follows from `seed` and the data position: together with weights, optimizer and counters these
    are the whole state. Raises `policy.UserError` for an unusable model and ValueError for unusable settings.
    """

    def __init__(
        self,
        model: str,
        settings: LearnerSettings,
        *,
        dtype: ComputeDtype,
        temperature: float,
        seed: int,
        lora: LoraSettings | None = None,
    ) -> None:
        self.settings = settings
        self.objective = settings.loss
        self.device = torch.device("cuda" if settings.num_gpus > 0 else "cpu")
        self.policy = Policy(
            model,
            compute_dtype=dtype,
            device=self.device,
            activation_checkpointing=settings.activation_checkpointing,
            chunk_tokens=settings.chunk_tokens,
            lora=lora,
        )
        self.dtype = dtype
        self.lora = lora if self.policy.has_adapters else None
        self.step = 0
        self.version = 0
        self._published_step: int | None = None
        self._temperature = temperature
        self._seed = seed
        self._sampler = ExampleSampler((), seed=seed)
        self._trained_position = SamplerState()
        self._optimizer = make_optimizer(self.policy, settings.optim.weight_decay)
        self._reference: Policy | None = None
        self.start_reinforcement()

    def start_reinforcement(self) -> None:
        """Make the present weights the ones that RL starts from: what the KL term refers to. Resets the optimizer."""
        self._optimizer = make_optimizer(self.policy, self.settings.optim.weight_decay)
        if self.objective.kl_loss_coef:
            # What no optimizer changes is shared: of a model with adapters only these are copied.
            frozen = (value for value in self.policy.model.parameters() if not value.requires_grad)
            self._reference = copy.deepcopy(self.policy, {id(value): value for value in frozen})
            self._reference.model.requires_grad_(False)

    def set_examples(self, examples: Sequence[SupervisedExample]) -> None:
        """The reference programs of the supervised term, from their first pass on.

        Raises UserError where there are none although the supervised term has a weight.
        """
        if not examples and self.objective.supervised_weight:
            raise UserError(
                "no reference program for the supervised term fits into model.max_model_len: give problems that carry "
                "some, raise model.max_model_len, or set learner.loss.supervised_weight to 0"
            )
        self._sampler = ExampleSampler(examples, seed=self._seed)
        self._trained_position = SamplerState()

    def prepare(self, experiences: Sequence[Experience]) -> PreparedUpdate:
        """Pack an update of `experiences` and the next reference programs. Another thread may call it.

        Raises ValueError for experiences that do not fit together or are longer than the model can see, and where the
        supervised term has a weight but no reference programs.
        """
        if self.objective.supervised_weight and not len(self._sampler):
            raise ValueError("the supervised term has a weight, and no reference programs were set: see set_examples")
        wanted = self.settings.supervised_batch_size if self.objective.supervised_weight else 0
        references = self._sampler.draw(wanted)
        return self.prepare_with(experiences, references, self._sampler.state)

    def prepare_with(
        self, experiences: Sequence[Experience], references: list[SupervisedExample], sampler_state: SamplerState
    ) -> PreparedUpdate:
        """`prepare` with reference programs already drawn; `sampler_state` is the data position after them."""
        useful = contributing(experiences, self.objective)
        sequences = [TokenSequence(e.prompt_ids, e.token_ids) for e in useful] + references
        num_sampled_tokens = sum(len(e.token_ids) for e in experiences)
        table = token_table(
            useful,
            references,
            num_sampled_sequences=len(experiences),
            num_sampled_tokens=num_sampled_tokens,
            temperature=self._temperature,
            loss_agg_mode=self.objective.loss_agg_mode,
            dtype=self.policy.model.dtype,
        )
        return PreparedUpdate(
            experiences=experiences,
            batches=self._pack(sequences),
            table=table,
            references=references,
            sampler_state=sampler_state,
            num_samples=len(experiences),
            num_idle_samples=len(experiences) - len(useful),
            num_tokens=num_sampled_tokens + sum(len(r.token_ids) for r in references),
        )

    def update(self, prepared: PreparedUpdate) -> UpdateStats:
        """One optimizer step, its gradient accumulated over micro-batches.

        Raises FloatingPointError, before any weight has changed, where the gradient is not finite.
        """
        stats = self.optimize(prepared, self._optimizer, learning_rate(self.settings.optim, self.step), self.objective)
        self.step += 1
        self._trained_position = prepared.sampler_state
        return stats

    def optimize(
        self, prepared: PreparedUpdate, optimizer: torch.optim.Optimizer, learning_rate: float, objective: LossSettings
    ) -> UpdateStats:
        """`update` with another optimizer, rate and objective; touches no counter. See there."""
        if prepared.num_tokens == 0:
            raise ValueError(f"step {self.step + 1}: neither experiences nor reference programs to train on")
        sums = _Sums(self.device)
        optimizer.zero_grad(set_to_none=True)
        for batch, table in self._on_device(prepared):
            logprobs, entropy = self.policy.logprobs(batch, table.temperature)
            reference = None
            if objective.kl_loss_coef and self._reference is not None:
                with torch.no_grad():
                    reference, _ = self._reference.logprobs(batch, table.temperature)
            total, terms = loss(logprobs, table, objective, reference)
            total.backward()  # type: ignore[no-untyped-call]
            sums.add(total.detach(), torch.stack([terms.supervised, terms.kl, *terms.rl]), logprobs, entropy, table)
        grad_norm = torch.nn.utils.clip_grad_norm_(
            self.policy.model.parameters(), self.settings.optim.max_grad_norm
        ).item()
        stats = sums.stats(prepared, grad_norm, learning_rate)
        if not math.isfinite(grad_norm):
            raise FloatingPointError(
                f"step {self.step + 1}: the gradient's norm is {grad_norm} (loss {stats.loss:g}, largest likelihood "
                f"ratio {stats.ratio_max:g}); the weights were left as they are"
            )
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()
        return stats

    @torch.no_grad()
    def evaluate_loss(self, examples: Sequence[SupervisedExample]) -> float:
        """Mean cross-entropy per token, in nats, of reference programs. Raises ValueError where there are none."""
        if not examples:
            raise ValueError("no reference programs to evaluate")
        total, count = 0.0, 0
        for batch in self._pack(examples):
            moved = batch.to(self.device)
            ones = torch.ones(len(moved.target), dtype=self.policy.model.dtype, device=self.device)
            logprobs, _ = self.policy.logprobs(moved, ones)
            total -= logprobs.sum(dtype=torch.float64).item()
            count += len(moved.target)
        return total / count

    def publish(self, verify_every: int = 0, by: Callable[..., WeightsHandle] = publish) -> WeightsHandle:
        """Put what generators load (`Policy.published`) into Ray's object store (or wherever `by` does), as the next
        version.

        Where no update was made since, it is the last version once more. Every `verify_every` versions, if any, whoever
        loads them checks that they are the same.
        """
        if self._published_step != self.step:
            self.version += 1
            self._published_step = self.step
        verify = verify_every > 0 and self.version % verify_every == 0
        return by(self.version, self.policy.published(), verify=verify)

    def save_checkpoint(self, folder: Path, write_more: Callable[[Path], None] | None = None) -> Path:
        """Write `folder/step-N` ; complete or absent after a crash.

        `step-N` is a Hugging Face model folder; `trainer_state/` in it is what `resume` needs besides, and what
        `write_more` puts there.
        """
        path = folder / f"step-{self.step}"

        def write(incomplete: Path) -> None:
            self._write(incomplete)
            if write_more is not None:
                write_more(incomplete / "trainer_state")

        if not path.exists():  # one of this step is complete already: an interrupt came just after it
            write_folder(path, write)
        logger.info("checkpoint %s written", path)
        return path

    def resume(self, path: Path, version: int = 0) -> None:
        """Continue from a checkpoint: weights, optimizer, schedule, counters, data position.

        Weights published next are newer than `version` too. The examples must have been set. Raises UserError
        where `path` is no checkpoint of this program, or one of another model.
        """
        state_folder = path / "trainer_state"
        if not (state_folder / "state.json").is_file():
            raise UserError(f"{path}: not a checkpoint (it has no trainer_state/state.json)")
        state = json.loads((state_folder / "state.json").read_text())
        if state["format"] != CHECKPOINT_FORMAT:
            raise UserError(f"{path}: format {state['format']}; this program reads format {CHECKPOINT_FORMAT}")
        if state["seed"] != self._seed:
            raise UserError(f"{path}: written with run.seed {state['seed']}, not {self._seed}")
        if state["examples"] != self._sampler.fingerprint:
            raise UserError(f"{path}: written with other reference programs; give problems.train as it was")
        adapter_folder = state_folder / "adapter"
        if adapter_folder.is_dir() != self.policy.has_adapters:
            written = "without" if self.policy.has_adapters else "with"
            raise UserError(f"{path}: written {written} adapters; give model.lora as it was")
        try:
            self.policy.load_weights(adapter_folder if self.policy.has_adapters else path)
        except RuntimeError as error:
            raise UserError(f"{path}: its weights do not fit model {self.policy.name}: {error}") from error
        optimizer = torch.load(state_folder / "optimizer.pt", map_location=self.device, weights_only=True)
        self._optimizer.load_state_dict(optimizer)
        if self._reference is not None:
            self._reference.load_weights(state_folder / "reference")
        self.step, self.version = state["step"], state["version"]
        self._published_step = state["published_step"]
        if version > self.version:
            self.version, self._published_step = version, None
        self._trained_position = self._sampler.state = SamplerState(**state["data_position"])

    def _write(self, folder: Path) -> None:
        self.policy.save(folder)
        state_folder = folder / "trainer_state"
        state_folder.mkdir()
        torch.save(self._optimizer.state_dict(), state_folder / "optimizer.pt")
        if self.policy.has_adapters:
            self.policy.save_state(state_folder / "adapter")
        if self._reference is not None:
            self._reference.save_state(state_folder / "reference")
        state = {
            "format": CHECKPOINT_FORMAT,
            "step": self.step,
            "version": self.version,
            "published_step": self._published_step,
            "seed": self._seed,
            "examples": self._sampler.fingerprint,
            "data_position": asdict(self._trained_position),
        }
        (state_folder / "state.json").write_text(json.dumps(state, indent=2) + "\n")

    def _pack(self, sequences: Sequence[TokenSequence]) -> list[MicroBatch] | list[EncoderDecoderBatch]:
        longest = max((len(s.prompt_ids) + len(s.token_ids) for s in sequences), default=0)
        if longest > self.policy.max_length:
            raise ValueError(
                f"a sequence of {longest} tokens is longer than model {self.policy.name} can see "
                f"({self.policy.max_length}): lower model.max_model_len"
            )
        return self.policy.pack(
            sequences, micro_batch_tokens=self.settings.micro_batch_tokens, row_tokens=self.settings.row_tokens
        )

    def _on_device(self, prepared: PreparedUpdate) -> Iterator[tuple[MicroBatch | EncoderDecoderBatch, TokenTable]]:
        table = prepared.table.to(self.device)
        for batch in prepared.batches:
            moved = batch.to(self.device)
            yield moved, table.select(moved.source)


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint in `folder`, None where there is none."""
    return newest_checkpoint(folder)


def learning_rate(settings: OptimSettings, step: int) -> float:
    """Of the update after `step` others: linear rise over `warmup_steps`, linear fall to 0 at `decay_steps`, if any."""
    rise = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    fall = max(0.0, 1.0 - step / settings.decay_steps) if settings.decay_steps else 1.0
    return settings.learning_rate * rise * fall


def make_optimizer(policy: Policy, weight_decay: float) -> torch.optim.AdamW:
    """AdamW; biases and normalisation gains (parameters of fewer than two dimensions) do not decay."""
    parameters = list(policy.trained_parameters().values())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=0.0, fused=True)


class _Sums:
    """Running sums of an update's statistics, on the device until the end."""

    def __init__(self, device: torch.device) -> None:
        self._loss = torch.zeros((), device=device, dtype=torch.float64)
        self._terms = torch.zeros(2 + len(Granularity), device=device, dtype=torch.float64)
        self._sampled = torch.zeros(4, device=device, dtype=torch.float64)
        """Number of sampled tokens, and sums of their ratio, mismatch and entropy."""
        self._largest = torch.zeros(2, device=device, dtype=torch.float64)
        """Largest ratio and mismatch."""

    @torch.no_grad()
    def add(
        self,
        total: torch.Tensor,
        terms: torch.Tensor,
        logprobs: torch.Tensor,
        entropy: torch.Tensor,
        table: TokenTable,
    ) -> None:
        """Add one micro-batch."""
        self._loss += total
        self._terms += terms
        log_ratio = (logprobs - table.behaviour)[table.sampled].double()
        if len(log_ratio):
            ratio, mismatch = log_ratio.exp(), log_ratio.abs()
            sums = (torch.ones_like(ratio).sum(), ratio.sum(), mismatch.sum(), entropy[table.sampled].double().sum())
            self._sampled += torch.stack(sums)
            self._largest = torch.maximum(self._largest, torch.stack([ratio.max(), mismatch.max()]))

    def stats(self, prepared: PreparedUpdate, grad_norm: float, learning_rate: float) -> UpdateStats:
        """The statistics of the whole update."""
        supervised, kl, *rl = self._terms.tolist()
        by_name = {f"loss_{row.name.lower()}": value for row, value in zip(Granularity, rl, strict=True)}
        count, ratio, mismatch, entropy = self._sampled.tolist()
        ratio_max, mismatch_max = self._largest.tolist()
        return UpdateStats(
            loss=self._loss.item(),
            loss_sl=supervised,
            loss_kl=kl,
            **by_name,
            grad_norm=grad_norm,
            learning_rate=learning_rate,
            ratio_mean=ratio / count if count else 1.0,
            ratio_max=ratio_max if count else 1.0,
            mismatch_mean=mismatch / count if count else 0.0,
            mismatch_max=mismatch_max,
            entropy=entropy / count if count else 0.0,
            num_samples=prepared.num_samples,
            num_idle_samples=prepared.num_idle_samples,
            num_tokens=prepared.num_tokens,
        )

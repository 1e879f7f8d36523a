"""The policy update: weights, optimizer, schedule and counters, without Ray or any notion of where data comes from."""

from __future__ import annotations

import copy
import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from rltf.errors import UserError
from rltf.files import set_aside, write_json
from rltf.learner.checkpoints import CHECKPOINT_FORMAT, load_optimizer, load_value_head, read_state, save_optimizer
from rltf.learner.critic import ErrorCritic
from rltf.learner.critic_folder import critic_fingerprint
from rltf.learner.data import Experience, ReferenceSampler, TokenSequence
from rltf.learner.estimates import adapted, estimate, look_up
from rltf.learner.metrics import UpdateStats
from rltf.learner.objectives import TokenTable, contributing, loss, token_table
from rltf.learner.optim import learning_rate, make_optimizer, set_learning_rate
from rltf.learner.policy import Policy
from rltf.learner.prepared import Batches, PreparedUpdate, deal, pack_evenly, shares
from rltf.learner.ranks import ALONE, Ranks
from rltf.learner.totals import Totals
from rltf.settings import AdvantageEstimator, LossAggMode, LossSettings, OldLogprobs, Settings
from rltf.transport.sharded import whole
from rltf.transport.weights import WeightsHandle, publish

logger = logging.getLogger(__name__)


class Learner:
    """One policy and its training state.

    Usage:
        learner = Learner(model, settings)
        learner.set_references(references)
        stats = learner.update(learner.prepare(experiences))
        handle = learner.publish()
        learner.save_checkpoint(folder); learner.resume(path)

    Matrix products use `model.dtype`. Master weights are float32 and saved as such; `publish` converts them.
    Experiences are sampled at `generator.temperature`. An update draws no random numbers, and the order of the
    reference programs depends only on `run.seed` and the data position. So weights, optimizer and counters are the
    whole state. Raises UserError for an unusable model.
    """

    def __init__(self, model: Path, settings: Settings, critic: Path | None = None, ranks: Ranks = ALONE) -> None:
        """Load `model`, a Hugging Face folder, and `critic`, if any. They need not be the folders of `settings`.

        With several `ranks`, each has its own learner, and all call the same methods in the same order; only `prepare`
        is for rank 0 alone.
        """
        self.ranks = ranks
        self.model_settings = settings.model
        self.settings = settings.learner
        self.objective = settings.learner.loss
        self.advantage = settings.learner.advantage
        self.device = torch.device("cuda" if settings.learner.num_gpus > 0 else "cpu")
        self.policy = self._load_policy(model)
        self.step = 0
        self.version = 0
        self._published_step: int | None = None
        self._saved: Path | None = None
        self._allow_changes = settings.problems.allow_changes
        self._temperature = settings.generator.temperature
        self._max_tokens = settings.generator.max_tokens * settings.generator.max_turns
        self._seed = settings.run.seed
        self._sampler = ReferenceSampler((), seed=self._seed)
        self._kl_coef = self.advantage.kl_reward_coef
        self._num_trained = 0
        """References drawn for the updates made; the sampler itself may be ahead."""
        self._reference: Policy | None = None
        """The policy that RL starts from, for KL terms."""
        self._old: Policy | None = None
        """The policy with the weights published last, for likelihood ratios that refer to it."""
        critic = critic or self.advantage.critic
        self._critic = None if critic is None else ErrorCritic.of_policy(critic, self.policy, settings.model, ranks)
        self._critic_fingerprint = None if critic is None else critic_fingerprint(critic)
        self.start_reinforcement()

    def _load_policy(self, model: Path) -> Policy:
        return Policy(
            model,
            compute_dtype=self.model_settings.dtype,
            device=self.device,
            activation_checkpointing=self.settings.activation_checkpointing,
            chunk_tokens=self.settings.chunk_tokens,
            attn_implementation=self.settings.attn_implementation,
            torch_compile=self.settings.torch_compile,
            lora=self.model_settings.lora,
            with_values=self.advantage.estimator is AdvantageEstimator.GAE,
            ranks=self.ranks,
        )

    def start_reinforcement(self) -> None:
        """Make the current weights those that RL starts from, which KL terms refer to. Resets the optimizer."""
        self._optimizer = make_optimizer(self.policy.trained_parameters(), self.settings.optim)
        if self.objective.kl_loss_coef or self.advantage.kl_reward_coef:
            self._reference = self._frozen_copy()
        if self.objective.old_logprobs is OldLogprobs.RECOMPUTE:
            self._old = self._frozen_copy()

    def _frozen_copy(self) -> Policy:
        """The policy with the current weights. Frozen parameters are shared: of adapters, only they are copied.

        A sharded model cannot be copied, so ranks load another, adapted or not.
        """
        if self.ranks.size > 1:
            copied = self._load_policy(Path(self.policy.name))
            copied.copy_weights(self.policy)
        else:
            frozen = (value for value in self.policy.model.parameters() if not value.requires_grad)
            copied = copy.deepcopy(self.policy, {id(value): value for value in frozen})
            copied.compile()
        copied.model.requires_grad_(False)
        return copied

    def keep_as_old(self) -> None:
        """Let likelihood ratios refer to the current weights, which are about to be published."""
        if self._old is not None:
            self._old.copy_weights(self.policy)

    def set_references(self, references: Sequence[TokenSequence]) -> None:
        """Set the reference programs of the supervised term, and start their first pass.

        Raises UserError if there are none although the supervised term has a weight.
        """
        if not references and self.objective.supervised_weight:
            raise UserError(
                "the supervised term needs reference programs, and none fits into model.max_model_len: add problems "
                "with reference programs, raise model.max_model_len, or set learner.loss.supervised_weight to 0"
            )
        self._sampler = ReferenceSampler(references, seed=self._seed)
        self._num_trained = 0

    def prepare(self, experiences: Sequence[Experience]) -> PreparedUpdate:
        """Pack an update of `experiences` and the next reference programs. It may run in another thread than `update`.

        Raises ValueError if experiences are malformed or too long for the model, and if the supervised term has a
        weight but no reference programs.
        """
        if self.objective.supervised_weight and not len(self._sampler):
            raise ValueError("the supervised term has a weight but no reference programs: call set_references first")
        wanted = self.settings.supervised_batch_size if self.objective.supervised_weight else 0
        references = self._sampler.draw(wanted)
        return self.prepare_with(experiences, references, self._sampler.num_drawn)

    def prepare_with(
        self,
        experiences: Sequence[Experience],
        references: list[TokenSequence],
        num_drawn: int = 0,
        loss_agg_mode: LossAggMode | None = None,
    ) -> PreparedUpdate:
        """`prepare` with references that were already drawn; `num_drawn` is the data position after them.

        `loss_agg_mode` is by default that of the objective.
        """
        useful = contributing(experiences, self.objective, self.advantage)
        num_sampled_tokens = sum(e.num_sampled for e in experiences)
        table = token_table(
            useful,
            references,
            num_sampled_sequences=len(experiences),
            num_sampled_tokens=num_sampled_tokens,
            temperature=self._temperature,
            loss_agg_mode=loss_agg_mode or self.objective.loss_agg_mode,
            max_tokens=self._max_tokens,
            dtype=self.policy.dtype,
        )
        return PreparedUpdate(
            experiences=experiences,
            references=references,
            batches=self._pack([*(e.sequence for e in useful), *references]),
            table=table,
            num_samples=len(experiences),
            num_idle_samples=len(experiences) - len(useful),
            num_tokens=num_sampled_tokens + sum(len(r.token_ids) for r in references),
            num_drawn=num_drawn,
        )

    def share(self, prepared: PreparedUpdate | None) -> PreparedUpdate:
        """The part of this rank in the update that rank 0 prepared; the others' own `prepared` is ignored."""
        return self.ranks.scatter(shares(prepared, self.ranks.size) if prepared and self.ranks.leads else None)

    def update(self, prepared: PreparedUpdate | None) -> UpdateStats:
        """Make one optimizer step, with the gradient accumulated over micro-batches, and over the ranks.

        Only rank 0 needs a `prepared` update. Raises FloatingPointError, on all ranks and before any weight changes, if
        the gradient is not finite.
        """
        share = self.share(prepared)
        stats = self.optimize(share, self._optimizer, learning_rate(self.settings.optim, self.step), self.objective)
        self.step += 1
        self._num_trained = share.num_drawn
        return stats

    def optimize(
        self, share: PreparedUpdate, optimizer: torch.optim.Optimizer, learning_rate: float, objective: LossSettings
    ) -> UpdateStats:
        """`update` with another optimizer, learning rate and objective. It changes no counters."""
        if share.num_tokens == 0:
            raise ValueError(f"step {self.step + 1}: there are no experiences and no reference programs to train on")
        totals = Totals(self.device)
        optimizer.zero_grad(set_to_none=True)
        whole_table = self._estimated(share, objective)
        for packed in share.batches:
            batch = packed.to(self.device)
            table = whole_table.select(batch.source)
            outputs = self.policy.forward(batch, table.temperature)
            values = outputs.values if objective.rl_weight else None
            total, terms = loss(outputs.logprobs, table, objective, self.advantage, values)
            total.backward()  # type: ignore[no-untyped-call]
            totals.add(outputs, table, total, terms)
        totals.reduce(self.ranks)
        trained = self.policy.trained_parameters().values()
        grad_norm = whole(torch.nn.utils.clip_grad_norm_(trained, self.settings.optim.max_grad_norm)).item()
        stats = totals.stats(share, grad_norm, learning_rate)
        if not math.isfinite(grad_norm):
            raise FloatingPointError(
                f"step {self.step + 1}: the gradient norm is {grad_norm} (loss {stats.loss:g}, largest likelihood "
                f"ratio {stats.ratio_max:g}); the weights have not changed"
            )
        set_learning_rate(optimizer, learning_rate)
        optimizer.step()
        return stats

    def _estimated(self, share: PreparedUpdate, objective: LossSettings) -> TokenTable:
        """The table with all that the objective needs to know about sampled tokens before their gradient."""
        table = share.table.to(self.device)
        if not objective.rl_weight and not objective.kl_loss_coef:
            return table
        table = look_up(table, share.batches, self.policy, self.ranks, self._old, self._reference, self._critic)
        estimated = estimate(table, self.advantage, self._kl_coef)
        if self._kl_coef:
            self._kl_coef = adapted(self._kl_coef, table, self.advantage)
        return estimated

    @property
    def is_published(self) -> bool:
        """Whether the current weights are those published last."""
        return self._published_step == self.step

    @torch.no_grad()
    def evaluate_loss(self, references: Sequence[TokenSequence]) -> float:
        """Mean cross-entropy per token of reference programs, in nats. Raises ValueError if there are none."""
        if not references:
            raise ValueError("there are no reference programs to evaluate")
        total, count = torch.zeros(2, dtype=torch.float64, device=self.device)
        for packed in deal(self._pack(references), self.ranks.size)[self.ranks.rank]:
            batch = packed.to(self.device)
            ones = torch.ones(len(batch.target), dtype=self.policy.dtype, device=self.device)
            logprobs, _ = self.policy.logprobs(batch, ones)
            total -= logprobs.sum(dtype=torch.float64)
            count += len(batch.target)
        return (self.ranks.add(total) / self.ranks.add(count)).item()

    def publish(self, verify_every: int = 0, by: Callable[..., WeightsHandle] = publish) -> WeightsHandle:
        """Publish what generators load (`Policy.published`) as the next version, by default in Ray's object store.

        If there was no update since the last version, that version is published again. Every `verify_every` versions
        (0: never), generators check that they loaded the same numbers. Rank 0 publishes; the others give it
        their parts, and their handles are empty.
        """
        if self._published_step != self.step:
            self.version += 1
            self._published_step = self.step
            self.keep_as_old()
        verify = verify_every > 0 and self.version % verify_every == 0
        named = self.policy.published()
        if self.ranks.leads:
            return by(self.version, named, verify=verify)
        deque(named, maxlen=0)
        return WeightsHandle(self.version, (), 0)

    def save_checkpoint(self, folder: Path, write_more: Callable[[Path], None] | None = None) -> Path:
        """Write `folder/step-N`, which is complete or absent after a crash, unless this learner has done that already.

        `step-N` is a Hugging Face model folder. Its `trainer_state/` holds what `resume` needs, for any number of
        ranks, and what `write_more` writes. All ranks write their parts, so they must share the disk.
        """
        path = folder / f"step-{self.step}"

        def write(incomplete: Path) -> None:
            self._write(incomplete)
            if write_more is not None and self.ranks.leads:
                write_more(incomplete / "trainer_state")

        if self._saved != path:
            if self.ranks.leads and path.exists():  # from an earlier life of the run, which has undone these updates
                set_aside(path)
            self.ranks.write_folder(path, write)
            self._saved = path
        logger.info("wrote checkpoint %s", path)
        return path

    def resume(self, path: Path, version: int = 0) -> None:
        """Continue from a checkpoint: weights, optimizer, schedule, counters, data position.

        The next published weights are newer than `version` too. Call `set_references` first. Raises UserError if `path`
        is not a checkpoint of this program, or belongs to another model or run.
        """
        state = read_state(
            path,
            seed=self._seed,
            references=self._sampler.fingerprint,
            critic=self._critic_fingerprint,
            optimizer=self.settings.optim.name,
            allow_changes=self._allow_changes,
        )
        state_folder = path / "trainer_state"
        adapter_folder = state_folder / "adapter"
        if adapter_folder.is_dir() != self.policy.has_adapters:
            written = "without" if self.policy.has_adapters else "with"
            raise UserError(f"{path}: written {written} adapters; use the model.lora of the run that wrote it")
        try:
            self.policy.load_weights(adapter_folder if self.policy.has_adapters else path)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{path}: its weights do not fit model {self.policy.name}: {error}") from error
        load_value_head(self.policy.value_head, state_folder / "value_head.pt")
        load_optimizer(self._optimizer, self.policy.trained_parameters(), state_folder / "optimizer")
        if self._reference is not None:
            self._reference.load_weights(state_folder / "reference")
        self.step, self.version = state["step"], state["version"]
        self._published_step = state["published_step"]
        self._saved = path
        if version > self.version:
            self.version, self._published_step = version, None
        self._num_trained = self._sampler.num_drawn = state["num_drawn"]
        if self.advantage.kl_target is not None:
            self._kl_coef = state["kl_coef"]
        self.keep_as_old()

    def _write(self, folder: Path) -> None:
        self.policy.save(folder)
        state_folder = folder / "trainer_state"
        state_folder.mkdir(exist_ok=True)  # by another rank
        save_optimizer(self._optimizer, self.policy.trained_parameters(), state_folder / "optimizer")
        if self.policy.has_adapters:
            self.policy.save_state(state_folder / "adapter")
        if self._reference is not None:
            self._reference.save_state(state_folder / "reference")
        head = self.policy.value_head
        head_state = {} if head is None else {name: whole(value).cpu() for name, value in head.state_dict().items()}
        if not self.ranks.leads:
            return
        if head is not None:
            torch.save(head_state, state_folder / "value_head.pt")
        state = {
            "format": CHECKPOINT_FORMAT,
            "step": self.step,
            "version": self.version,
            "published_step": self._published_step,
            "seed": self._seed,
            "references": self._sampler.fingerprint,
            "critic": self._critic_fingerprint,
            "optimizer": self.settings.optim.name,
            "num_drawn": self._num_trained,
            "kl_coef": self._kl_coef,
        }
        write_json(state_folder / "state.json", state)

    def _pack(self, sequences: Sequence[TokenSequence]) -> Batches:
        longest = max((s.length for s in sequences), default=0)
        if longest > self.policy.max_length:
            raise ValueError(
                f"a sequence of {longest} tokens is longer than the {self.policy.max_length} tokens that model "
                f"{self.policy.name} can attend to: lower model.max_model_len"
            )

        def pack(micro_batch_tokens: int) -> Batches:
            return self.policy.pack(
                sequences, micro_batch_tokens=micro_batch_tokens, row_tokens=self.settings.row_tokens
            )

        return pack_evenly(pack, self.settings.micro_batch_tokens, self.ranks.size)

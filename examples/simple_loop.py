"""The whole method as one serial loop: sample, grade, score, update. No Ray, no concurrency, one process.

    python -m examples.simple_loop [--config configs/NAME.yaml] [--SECTION.FIELD VALUE ...]

It takes the settings of `launch.py` and saves the trained model in the run folder. With `run.deterministic true` and
`buffer.max_off_policy_versions 0`, the distributed run gives the same weights bit for bit
(tests/controller/test_resume.py).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from rltf.actors.engine import SamplingRequest, build_engine
from rltf.actors.messages import RolloutRequest
from rltf.actors.prompting import Prompter
from rltf.controller.batches import split
from rltf.controller.grading import chosen_tests
from rltf.controller.problem_sampler import Passes, ProblemSampler
from rltf.controller.problems import ProblemSets, load_problem_sets
from rltf.controller.samples import judge_rollout
from rltf.learner.data import Experience, encode_references
from rltf.learner.learner import Learner
from rltf.learner.model_source import model_folder
from rltf.learner.sft import run_sft
from rltf.problems.types import Problem
from rltf.rewards import ProgramReward
from rltf.sandbox.examples import confirmed, ends_dialogue, judge_examples
from rltf.sandbox.feedback import feedback
from rltf.sandbox.sandbox import Sandbox
from rltf.sandbox.verdict import Isolation
from rltf.seeds import seed_of
from rltf.settings import Settings
from rltf.settings_sources import load_settings
from rltf.transport.model_folder import end_token_ids
from rltf.transport.rollouts import Completion, EarlierTurn, Rollout


@dataclass
class Loop:
    """One run. `greedy` holds what the greedy baselines know about each problem."""

    settings: Settings
    problems: ProblemSets
    model: Path
    greedy: dict[str, ProgramReward] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settings, seed = self.settings, self.settings.run.seed
        self.prompter = Prompter(self.model, self.problems.by_id, settings.model, settings.generator.stop)
        form = self.prompter.form
        end_ids = end_token_ids(self.model, self.prompter.tokenizer, chat=form.chat)
        self.engine = build_engine(
            self.model, settings.model, settings.generator, end_ids, seed, deterministic=settings.run.deterministic
        )
        self.learner = Learner(self.model, settings)
        tokenizer = self.learner.policy.tokenizer
        self.references = encode_references(
            self.problems.supervised, tokenizer, form, max_length=settings.model.max_model_len
        )
        self.learner.set_references(self.references)
        task_ids = [problem.task_id for problem in self.problems.train]
        self.sampler = ProblemSampler(
            task_ids,
            seed,
            skip_solved=settings.problems.skip_solved,
            skip_unsolved=settings.problems.skip_unsolved,
            measured=self.problems.measured,
        )

    def run(self) -> Path:
        """Train to `run.num_steps` and save the model; returns its folder."""
        run, every = self.settings.run, self.settings.buffer.refresh_every
        if self.settings.learner.sft.num_steps:
            run_sft(self.learner, self.references, seed=run.seed)
        with Sandbox(self.settings.sandbox, Isolation(self.settings.sandbox.min_isolation)) as sandbox:
            for version, first in enumerate(range(0, run.num_steps, every), start=1):
                self.engine.load_weights(version, self.learner.policy.published())
                num_updates = min(every, run.num_steps - first)
                groups, results = self.snapshot(sandbox, num_updates * self.settings.learner.batch_size)
                for task_id, passes in results:
                    self.sampler.note(task_id, *passes)
                num_passed = sum(passes.num_passed for _, passes in results)
                for batch in split(groups, [len(group) for group in groups], num_updates):
                    stats = self.learner.update(self.learner.prepare([sample for group in batch for sample in group]))
                    print(f"update {self.learner.step}: loss {stats.loss:.4f}, {num_passed} programs passed")
        return self.learner.save_checkpoint(run.folder / "checkpoints")

    def snapshot(self, sandbox: Sandbox, num_samples: int) -> tuple[list[list[Experience]], list[tuple[str, Passes]]]:
        """Whole rollouts with at least `num_samples` scored samples, and how many programs of each passed."""
        groups: list[list[Experience]] = []
        results: list[tuple[str, Passes]] = []
        while sum(map(len, groups)) < num_samples:
            rollout = self.sample(self.sampler.next(), self.sampler.position, sandbox)
            problem = self.problems.by_id[rollout.task_id]
            judged = judge_rollout(
                sandbox.grade,
                problem,
                rollout,
                self.settings.rewards,
                test_numbers=chosen_tests(problem, self.settings.sandbox.max_tests, rollout.rollout_id),
                previous=self.greedy.get(rollout.task_id),
                max_tokens=self.settings.generator.max_tokens,
            )
            if judged.scores.greedy is not None:
                self.greedy[rollout.task_id] = judged.scores.greedy
            group = judged.experiences(rollout)
            has_signal = any(sample.token_weights.any() for sample in group)
            if group and (has_signal or not self.settings.rewards.filter_groups):
                groups.append(group)
            passes = Passes(sum(verdict.passed for verdict in judged.verdicts), len(judged.verdicts))
            results.append((rollout.task_id, passes))
        return groups, results

    def sample(self, task_id: str, position: int, sandbox: Sandbox) -> Rollout:
        """All samples for one problem, which is number `position` in the order of the run, with all their turns."""
        generator, seed = self.settings.generator, seed_of(self.settings.run.seed, "rollout", position)
        request = RolloutRequest(
            f"r{position}", task_id, generator.num_generations, self.settings.rewards.needs_greedy,
            generator.temperature, generator.top_p, generator.max_tokens, seed,
        )  # fmt: skip
        rollout = self.answer(request)
        if generator.max_turns == 1:
            return rollout
        problem = confirmed(sandbox.grade, self.problems.by_id[task_id])
        last = [self.continued(one, place, request, problem, sandbox) for place, one in enumerate(rollout.completions)]
        greedy = last.pop() if rollout.greedy is not None else None
        return replace(rollout, samples=tuple(last), greedy=greedy)

    def continued(
        self, last: Completion, place: int, request: RolloutRequest, problem: Problem, sandbox: Sandbox
    ) -> Completion:
        """The last turn of the dialogue that begins with a sample."""
        for number in range(2, self.settings.generator.max_turns + 1):
            if not problem.examples:
                break
            verdict = judge_examples(sandbox.grade, problem, last.program, last.completion_id)
            if ends_dialogue(verdict):
                break
            turn = EarlierTurn(last, feedback(problem, last.program, verdict), verdict)
            if len(self.prompter.encode(problem.task_id, turn)) >= self.settings.model.max_model_len:
                break
            (last,) = self.answer(request.next_turn(place, number), turn).completions
        return last

    def answer(self, request: RolloutRequest, previous: EarlierTurn | None = None) -> Rollout:
        """What the engine samples for a request."""
        sampling = SamplingRequest(request, self.prompter.encode(request.task_id, previous), previous)
        self.engine.add_request(sampling)
        while not (finished := self.engine.step()):
            pass
        return self.prompter.rollout(sampling, finished[0])


def main(arguments: list[str]) -> None:
    """Run the loop with the settings in `arguments`."""
    settings, _ = load_settings(arguments)
    torch.use_deterministic_algorithms(settings.run.deterministic)
    if settings.run.deterministic:
        torch.set_num_threads(1)  # the order of sums depends on it
    problems = load_problem_sets(settings.problems, settings.sandbox)
    cache_dir = settings.cache_dir.resolve()
    model = model_folder(settings.model.name, list(problems.all_training), cache_dir, seed=settings.run.seed)
    print(Loop(settings, problems, model).run())


if __name__ == "__main__":
    main(sys.argv[1:])

"""Speed of the rewards: spans and token weights of 1,000 programs of 500 tokens, on one core.

Prints one JSON object per case. `spans` is the work of a generator on sampled ids. `score` is the work of a grading
worker on verdicts: groups of 20, with five outcomes in turn. `static` is the same with static analysis. `siblings`
finds the lines to blame in half of the programs, each by one sibling from the other half. `structure` is the match of
every program with the same five references.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from rltf.problems.token_spans import char_spans
from rltf.rewards import ProgramTokens, score_group
from rltf.rewards.siblings import blamed_lines
from rltf.rewards.structure import MAX_REFERENCES, structure_match
from rltf.sandbox.verdict import Isolation, Outcome, ProgramError, Verdict
from rltf.settings import RewardSettings

NUM_PROGRAMS = 1_000
NUM_TOKENS = 500
GROUP = 20
REPEATS = 5
LIMIT_S = 1.0

OUTCOMES = [Outcome.PASSED, Outcome.FAILED, Outcome.RUNTIME_ERROR, Outcome.TIMEOUT, Outcome.SYNTAX_ERROR]
BLOCK = """def step_{i}(values, limit={i}):
    total, seen = 0, set()
    for position, value in enumerate(values):
        if value % (limit + 1) == 0 and value not in seen:
            total += value * position  # every wanted value once
            seen.add(value)
    return total

"""


def build_tokenizer(text: str) -> Tokenizer:
    """A byte-level BPE of 1,000 tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1_000, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def build_programs(tokenizer: Tokenizer) -> list[tuple[list[int], str]]:
    """Ids and text of `NUM_PROGRAMS` programs of exactly `NUM_TOKENS` tokens."""
    programs = []
    for n in range(NUM_PROGRAMS):
        source = "".join(BLOCK.format(i=100 * n + i) for i in range(12))
        ids = tokenizer.encode(source, add_special_tokens=False).ids[:NUM_TOKENS]
        assert len(ids) == NUM_TOKENS
        programs.append((ids, tokenizer.decode(ids)))
    return programs


def build_verdict(n: int, num_lines: int) -> Verdict:
    """One of five outcomes in turn; errors are on the middle line."""
    outcome = OUTCOMES[n % len(OUTCOMES)]
    kinds = {Outcome.RUNTIME_ERROR: "TypeError", Outcome.SYNTAX_ERROR: "IndentationError"}
    error = ProgramError(kinds[outcome], line=num_lines // 2) if outcome in kinds else None
    tests = (Outcome.PASSED, outcome, Outcome.SKIPPED) if outcome is not Outcome.PASSED else (outcome,) * 3
    return Verdict(f"t{n // GROUP}", f"c{n}", outcome, tests, error, Isolation.NAMESPACES, 0.1, 0.1, 1)


def score_all(programs: list[tuple[list[int], str]], spans: list[NDArray[np.int32]], settings: RewardSettings) -> None:
    """Score all programs in groups of `GROUP`."""
    tokens = [ProgramTokens(text, spans[n], truncated=False) for n, (_, text) in enumerate(programs)]
    verdicts = [build_verdict(n, text.count("\n")) for n, (_, text) in enumerate(programs)]
    for start in range(0, len(tokens), GROUP):
        score_group(tokens[start : start + GROUP], verdicts[start : start + GROUP], settings)


def blame_half(programs: list[tuple[list[int], str]]) -> None:
    """Find the lines to blame in every second program, given the next one. Both lose the function that was cut off."""
    texts = [text[: text.rindex("def step_")] for _, text in programs]
    for wrong, passing in zip(texts[::2], texts[1::2], strict=True):
        (lines,) = blamed_lines([wrong.replace("== 0", "== 1", 1)], [passing], RewardSettings().localize_distance)
        assert lines


def measure(name: str, run: Callable[[], object]) -> float:
    """Median CPU seconds of `run`, printed and returned."""
    run()
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    seconds = statistics.median(times)
    print(
        json.dumps(
            {
                "benchmark": "rewards",
                "case": name,
                "num_programs": NUM_PROGRAMS,
                "num_tokens": NUM_TOKENS,
                "cpu_s": round(seconds, 4),
                "min_s": round(min(times), 4),
                "max_s": round(max(times), 4),
                "ms_per_program": round(1e3 * seconds / NUM_PROGRAMS, 3),
                "programs_per_s": round(NUM_PROGRAMS / seconds),
            }
        )
    )
    return seconds


def main() -> None:
    """Measure all cases, and compare spans and scores together with the limit."""
    tokenizer = build_tokenizer("".join(BLOCK.format(i=i) for i in range(200)))
    programs = build_programs(tokenizer)
    spans = [char_spans(tokenizer, ids, text) for ids, text in programs]
    total = measure("spans", lambda: [char_spans(tokenizer, ids, text) for ids, text in programs])
    total += measure("score", lambda: score_all(programs, spans, RewardSettings()))
    measure("static", lambda: score_all(programs, spans, RewardSettings(static_weight=1.0)))
    seconds = measure("siblings", lambda: blame_half(programs))
    pairs = {"num_pairs": NUM_PROGRAMS // 2, "ms_per_pair": round(1000 * seconds / (NUM_PROGRAMS // 2), 3)}
    print(json.dumps({"benchmark": "rewards", "case": "siblings, by pair", **pairs}))
    references = [text for _, text in programs[:MAX_REFERENCES]]
    measure("structure", lambda: [structure_match(text, references) for _, text in programs])
    result = {"cpu_s": round(total, 4), "limit_s": LIMIT_S, "within_limit": total < LIMIT_S}
    print(json.dumps({"benchmark": "rewards", "case": "spans+score", **result}))


if __name__ == "__main__":
    main()

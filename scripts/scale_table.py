"""Write the table of memory in docs/scale.md: `python -m scripts.scale_table`. Takes some minutes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from transformers import Qwen2Config

from rltf.actors.memory import GeneratorMemory, generator_memory
from rltf.controller.memory import Need, needs
from rltf.settings import GIB, Settings

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
BEGIN, END = "<!-- Written by scripts/scale_table.py -->", "<!-- End of what the script writes -->"
LORA_RANK = 16
WORKERS = (1, 2, 4)
HEADER = (
    "model", "parameters, 10^9", "states", "update", "of adapters: states", "update",
    *(f"generator on {number} GPU{'s' * (number > 1)}" for number in WORKERS),
)  # fmt: skip
# Vocabulary, hidden size, width of the MLP, layers, heads, key-value heads, tied: from `config.json` of
# Qwen/Qwen2.5-Coder-*B on the Hub.
SHAPES = {
    "0.5B": (151936, 896, 4864, 24, 14, 2, True),
    "1.5B": (151936, 1536, 8960, 28, 12, 2, True),
    "7B": (152064, 3584, 18944, 28, 28, 4, False),
    "14B": (152064, 5120, 13824, 48, 40, 8, False),
    "32B": (152064, 5120, 27648, 64, 40, 8, False),
}


def config(name: str) -> Qwen2Config:
    """The architecture of Qwen2.5-Coder of a size in `SHAPES`."""
    vocabulary, hidden, intermediate, layers, heads, kv_heads, tied = SHAPES[name]
    return Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=32768,
        tie_word_embeddings=tied,
    )


def settings(lora_rank: int = 0, num_workers: int = 1) -> Settings:
    """The defaults, with activation checkpointing."""
    return Settings.model_validate(
        {
            "learner": {"activation_checkpointing": True},
            "model": {"lora": {"rank": lora_rank}},
            "generator": {"tensor_parallel_size": num_workers, "num_gpus": num_workers},
        }
    )


def row(name: str, full: Need, adapters: Need, generators: Sequence[GeneratorMemory | None]) -> list[str]:
    """The cells of a model, in GiB but for the parameters. Generators that are None are impossible."""
    sizes = full.learner.states, full.learner.total, adapters.learner.states, adapters.learner.total
    return [
        name,
        f"{full.num_parameters / 1e9:.2f}",
        *(f"{size / GIB:.1f}" for size in sizes),
        *(f"{one.weights / GIB:.1f} + {one.cache_needed / GIB:.1f}" if one else "" for one in generators),
    ]


def table() -> Iterator[str]:
    """The table's lines, as Markdown."""
    yield f"| {' | '.join(HEADER)} |"
    yield f"|{'---|' * len(HEADER)}"
    for name in SHAPES:
        full, adapters = (needs(config(name), settings(rank)) for rank in (0, LORA_RANK))
        num_heads = config(name).num_attention_heads
        generators = [
            None if num_heads % number else generator_memory(config(name), settings(num_workers=number))
            for number in WORKERS
        ]
        yield f"| {' | '.join(row(name, full, adapters, generators))} |"


def main() -> None:
    """Replace the table in the page."""
    text = "\n".join([BEGIN, "", *table(), "", END])
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + text + after, encoding="utf-8")


if __name__ == "__main__":
    main()

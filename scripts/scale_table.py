"""Write the table of memory in docs/scale.md: `python -m scripts.scale_table`. Takes some minutes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from transformers import Qwen2Config

from rltf.controller.memory import Need, needs
from rltf.settings import GIB, Settings

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
BEGIN, END = "<!-- Written by scripts/scale_table.py -->", "<!-- End of what the script writes -->"
LORA_RANK = 16
HEADER = (
    "model", "parameters, 10^9", "states", "update", "of adapters: states", "update", "generator: weights",
    "256 x 1,536 tokens",
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


def settings(lora_rank: int) -> Settings:
    """The defaults, with activation checkpointing."""
    return Settings.model_validate(
        {"learner": {"activation_checkpointing": True}, "model": {"lora": {"rank": lora_rank}}}
    )


def row(name: str, full: Need, adapters: Need) -> list[str]:
    """The cells of a model, in GiB but for the parameters."""
    sizes = (
        full.learner.states, full.learner.total, adapters.learner.states, adapters.learner.total,
        full.generator.weights, full.generator.cache_needed,
    )  # fmt: skip
    return [name, f"{full.num_parameters / 1e9:.2f}", *(f"{size / GIB:.1f}" for size in sizes)]


def table() -> Iterator[str]:
    """The table's lines, as Markdown."""
    yield f"| {' | '.join(HEADER)} |"
    yield f"|{'---|' * len(HEADER)}"
    for name in SHAPES:
        needed = [needs(config(name), settings(rank)) for rank in (0, LORA_RANK)]
        yield f"| {' | '.join(row(name, *needed))} |"


def main() -> None:
    """Replace the table in the page."""
    text = "\n".join([BEGIN, "", *table(), "", END])
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + text + after, encoding="utf-8")


if __name__ == "__main__":
    main()

"""Which engine samples."""

from __future__ import annotations

from pathlib import Path

from actors.engine import EngineOptions, SamplingEngine
from actors.model_folder import check_engine
from settings import GeneratorSettings, ModelSettings


def build_engine(
    model: Path,
    model_settings: ModelSettings,
    settings: GeneratorSettings,
    end_ids: tuple[int, ...],
    seed: int,
    *,
    deterministic: bool = False,
) -> SamplingEngine:
    """The engine that `generator.engine` names, with `model` loaded.

    Raises:
        UserError: that engine cannot sample from `model`.
    """
    check_engine(model, settings.engine)
    options = EngineOptions(
        dtype=model_settings.dtype,
        max_length=model_settings.max_model_len,
        max_num_seqs=settings.max_num_seqs,
        kv_cache_bytes=settings.kv_cache_bytes,
        end_token_ids=end_ids,
        seed=seed,
        deterministic=deterministic,
        weight_transfer=settings.weight_transfer,
    )
    # Each engine is imported only where it runs: vLLM alone takes seconds, and is not installed everywhere.
    if settings.engine == "transformers":
        from actors.transformers_engine import TransformersEngine

        return TransformersEngine(model, options)
    from actors.vllm_engine import VllmEngine

    return VllmEngine(model, options)

"""The options of `rltf plan`."""

from __future__ import annotations

from pydantic import Field, PositiveFloat, PositiveInt

from rltf.settings.base import Section


class PlanOptions(Section):
    """Options of `rltf plan`. Rates and times that you don't give are measured in a short run of the job."""

    tokens_per_s: PositiveFloat | None = Field(
        None, description="Tokens per second that one generator samples; null: measure it."
    )
    tokens_per_program: PositiveFloat | None = Field(
        None, description="Mean number of tokens of a completion; null: measure it."
    )
    programs_per_s: PositiveFloat | None = Field(
        None, description="Programs per second that one sandbox worker grades; null: measure it."
    )
    update_s: PositiveFloat | None = Field(None, description="Seconds of one learner update; null: measure it.")
    publish_s: float | None = Field(
        None, ge=0, description="Seconds that the learner pauses to publish weights; null: measure it."
    )
    load_s: float | None = Field(
        None, ge=0, description="Seconds that a generator pauses to load weights; null: measure it."
    )
    num_updates: PositiveInt = Field(8, description="Updates to measure in the short run, after a first snapshot.")
    num_cpus: float | None = Field(
        None, gt=0, description="CPU cores of the cluster to plan for; null: those of the current cluster."
    )
    num_gpus: float | None = Field(
        None, ge=0, description="GPUs of the cluster to plan for; null: those of the current cluster."
    )
    gpu_memory_gib: PositiveFloat | None = Field(
        None, description="Memory of a GPU to plan for; null: that of this machine's, if it has one."
    )

"""Every setting of the program, in one frozen tree: the only place that holds defaults.

`settings_sources.load_settings` fills the tree from a YAML file, the environment (`RLTF_SECTION__FIELD`) and the
command line (`--section.field value`). The defaults are meant for a real run on GPUs and follow the paper wherever it
gives a value (Liu et al. 2023, section 4). `configs/starter.yaml` holds the job that runs on a laptop. Importing this
package imports neither torch nor Ray.
"""

from settings.choices import (
    AdaptiveScope,
    Algorithm,
    Baseline,
    Dtype,
    Engine,
    FineFallback,
    Isolation,
    LoraPublish,
    LossAggMode,
    OnUpdate,
    WeightTransfer,
)
from settings.sections import (
    GIB,
    MIB,
    BufferSettings,
    CheckpointSettings,
    ClusterSettings,
    EvaluationSettings,
    GeneratorSettings,
    LearnerSettings,
    LoraSettings,
    LossSettings,
    ModelSettings,
    OptimSettings,
    PlanOptions,
    ProblemsSettings,
    RewardSettings,
    RunSettings,
    SandboxSettings,
    Section,
    SftSettings,
)
from settings.tree import Settings, loss_of, rewards_of

__all__ = [
    "GIB",
    "MIB",
    "AdaptiveScope",
    "Algorithm",
    "Baseline",
    "BufferSettings",
    "CheckpointSettings",
    "ClusterSettings",
    "Dtype",
    "Engine",
    "EvaluationSettings",
    "FineFallback",
    "GeneratorSettings",
    "Isolation",
    "LearnerSettings",
    "LoraPublish",
    "LoraSettings",
    "LossAggMode",
    "LossSettings",
    "ModelSettings",
    "OnUpdate",
    "OptimSettings",
    "PlanOptions",
    "ProblemsSettings",
    "RewardSettings",
    "RunSettings",
    "SandboxSettings",
    "Section",
    "Settings",
    "SftSettings",
    "WeightTransfer",
    "loss_of",
    "rewards_of",
]

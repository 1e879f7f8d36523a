"""The grader inside other people's trainers: one module for each, with the function or class that the trainer expects.

| trainer | module |
|---|---|
| TRL | `rltf.adapters.trl` |
| verl | `rltf.adapters.verl` |
| verifiers | `rltf.adapters.verifiers` |
| open-instruct | `rltf.adapters.open_instruct` |
| SkyRL | `rltf.adapters.skyrl` |

Invariants: the options are the same everywhere (`scoring.Scorer`). A failure of the grader is never a reward of 0,
unless `grader_error_score` says so. A process has one grader for each set of limits, started by its first program and
closed when the process ends; a fork starts its own. Importing an adapter imports no trainer, but for `skyrl`, whose
environment is a class of SkyRL's.
"""

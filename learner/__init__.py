"""The policy update: data, packing, objectives, the critic, SFT, checkpoints, replay, and the learner actor.

Invariants: the learner takes references into the object store, never data from the driver; it trains only on samples
that are fresh enough; a checkpoint is complete or absent. Several ranks all make the same calls, and only rank 0 reads
samples and writes model files.
"""

"""What actors and learner exchange: weights, adapters, rollouts, and files between nodes.

Invariants: bulk data moves through the object store or from GPU to GPU, never through the driver; a folder arrives
complete or not at all; this package imports neither actors nor learner.
"""

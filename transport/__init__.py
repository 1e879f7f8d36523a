"""What actors and learner exchange: weights, adapters, rollouts, and files between nodes.

Invariants: bulk data moves through the object store or from GPU to GPU, never through the driver; what arrives is
complete or absent; neither actors nor learner are imported here.
"""

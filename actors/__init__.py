"""Generator actors: they sample programs from the policy, whose weights are updated regularly.

Invariants: a completion says, for every token, which version of the weights sampled it and with what log-probability;
weights change only between two engine steps; after an update, nothing cached under older weights is used.
"""

"""The controller: which actor works on what, and what happens when one fails.

    problems -> generators -> sandbox pool -> scored experiences -> online buffer -> learner -> weights -> generators

Invariants: only references and counts pass through the driver; every issued rollout ends trained or dropped with a
reason; no wait is without a deadline.
"""

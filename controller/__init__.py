"""The ring in motion: which actor works on what, and what happens when one fails.

    problems -> generators -> sandbox pool -> scored experiences -> online buffer -> learner -> weights -> generators

Invariants: the driver handles references and counters only; every issued rollout ends trained or dropped with a reason;
no wait is without a deadline.
"""

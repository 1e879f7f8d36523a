"""Runs untrusted programs, and judges them by their unit tests.

Invariants: expected outputs never enter the process that runs a program. An error of the grader is
`infrastructure_error`, never a verdict on the program. Every verdict names the isolation under which it was reached.
This room knows nothing about models, and only `pool.py` knows Ray.
"""

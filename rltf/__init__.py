"""Reinforcement learning of code models from unit-test feedback.

The rooms of this package are the folders at the top of the repository.
"""

"""More tests for problems that have too few: new inputs, with the answers that reference programs agree on.

    inputs (a model's, or variations of those there are) ──> references in the sandbox ──> tests that all agree on

Invariants: an answer comes from running programs, never from a model; a test is kept only where every reference that
took part ends well, gives the same answer twice, and the grader itself accepts the answer of each for that of the
others; no test repeats an input; the row that is written reads back as the problem with exactly these tests.
This room uses problems, sandbox and evaluation (for models); nothing of the ring knows it.
"""

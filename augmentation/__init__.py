"""More tests for problems that have too few: new inputs, with the answers that reference programs agree on.

    inputs (from a model, or variations of existing ones) ──> references in the sandbox ──> tests they all agree on
        ──> those that catch wrong programs, best first

Invariants: answers come from running programs, never from a model. A test is kept only if every reference runs without
error, answers the same twice, and the grader accepts its answer in place of the others' answers. No test repeats an
input. The row that is written loads as the problem with exactly these tests. This room uses problems, sandbox and
evaluation (for models).
"""

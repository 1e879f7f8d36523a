"""What runs inside the jail. Standard library only: the trusted side sends this source code along.

Invariants: no process in here knows an expected value. A program's process holds its own job and no other. Every fact
that a verdict depends on comes from the kernel (exit status, clocks, sizes), never from the program's process.
"""

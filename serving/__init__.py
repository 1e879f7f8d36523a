"""The grader over HTTP: `rltf serve`, for trainers and tools on other machines or in other languages.

Invariants: nothing that a client sends causes a status of 5xx, unless it is a deadline. An error of the grader is never
a wrong answer. Expected outputs leave the server only towards a client that has sent them itself. A request that cannot
be used is refused before anything runs, in words that name the field. Whatever waits is bounded, and has a deadline.
"""

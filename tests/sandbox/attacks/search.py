"""Programs that look for markers: what a marker is, and a search of all the memory that a program can read.

A marker is a prefix and sixteen hexadecimal digits that identify where it was put. A thief holds the prefix in disguise
and without such digits, so it never finds itself. Every thief defines `f`, which raises an error that names what it
found, or returns `nothing`. As a main program, it prints what `f` returns. So a thief that *passes* has found nothing.
"""

from __future__ import annotations

import hashlib

from rltf.problems.types import CallTest, CheckTest, StdinTest
from tests.sandbox.attacks.shape import problem

PREFIX = b"qV7xKwZ3m"
_MASK = 9

_HEAD = f"""
import re
PATTERN = re.compile(bytes(byte ^ {_MASK} for byte in {[byte ^ _MASK for byte in PREFIX]}) + b'[0-9a-f]' * 16)
found = set()
def look(data):
    found.update(hit[{len(PREFIX)}:].decode() for hit in PATTERN.findall(data))
"""
_TAIL = """
def f(_):
    search()
    if found:
        raise RuntimeError('found ' + ' '.join(sorted(found)))
    return 'nothing'
if __name__ == '__main__':
    print(f(input()))
"""


def marker(place: str) -> str:
    """The marker for a place."""
    return PREFIX.decode() + digits(place)


def digits(place: str) -> str:
    """The part that distinguishes this marker from others."""
    return hashlib.sha256(place.encode()).hexdigest()[:16]


def thief(search: str) -> str:
    """A program around `search`, the source of a function `search()` that passes bytes to `look`."""
    return _HEAD + search + _TAIL


# The problems for thieves: one test (which the zygote itself runs), several (which a loader runs), and calls.
FINDS_NOTHING = {
    "stdin": problem(StdinTest("5\n", "nothing\n")),
    "several stdin tests": problem(*[StdinTest(f"{n}\n", "nothing\n") for n in range(3)]),
    "call": problem(CallTest("f", (5,), "nothing")),
    "several calls": problem(*[CallTest("f", (n,), "nothing") for n in range(3)]),
    "check": problem(CheckTest("def check(candidate):\n    assert candidate(5) == 'nothing'\n", "f")),
}

# Bisection finds the mappings: `mmap` with MAP_FIXED_NOREPLACE fails with EEXIST if a range holds a mapping; otherwise
# it maps the range or fails with ENOMEM. `write` reads what is mapped: it fails with EFAULT instead of crashing.
WHOLE_MEMORY = r"""
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
PAGE, BLOCK = 4096, 1 << 16

def is_free(start, size):
    got = libc.mmap(start, size, 0, 0x104022, -1, 0)
    if got == start:
        libc.munmap(start, size)
        return True
    return ctypes.get_errno() != errno.EEXIST

def blocks(start, size):
    # No mapping may reach the very end of the address space, so the answer for a range up to there means nothing.
    if start + size < 1 << 47 and is_free(start, size):
        return
    if size == BLOCK:
        yield start
        return
    yield from blocks(start, size // 2)
    yield from blocks(start + size // 2, size // 2)

def walk():
    reading, writing = os.pipe()
    tail, last = b'', 0
    for shift in range(46, 15, -1):
        for block in blocks(1 << shift, 1 << shift):
            if block != last + BLOCK:
                tail = b''
            size = sum(max(0, libc.write(writing, block + at, PAGE)) for at in range(0, BLOCK, PAGE))
            data = tail + (os.read(reading, size) if size else b'')
            look(data)
            tail, last = data[-64:], block
    os.close(reading)
    os.close(writing)

def from_proc():
    try:
        with open('/proc/self/maps') as maps, open('/proc/self/mem', 'rb', 0) as memory:
            for line in maps:
                start, end = (int(part, 16) for part in line.split()[0].split('-'))
                try:
                    memory.seek(start)
                    look(memory.read(end - start))
                except (OSError, ValueError, OverflowError):
                    pass
    except OSError:
        pass

def search():
    from_proc()
    walk()
"""

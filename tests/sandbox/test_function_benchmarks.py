"""Problems of function benchmarks in the sandbox: right programs pass, and objects of a program decide nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rltf.problems import Problem, bigcodebench, kodcode, leetcode
from rltf.sandbox.sandbox import Sandbox
from rltf.sandbox.verdict import Isolation
from rltf.settings import SandboxSettings

NODES = """from typing import *
from math import *
class ListNode:
    def __init__(self, val=0, next=None):
        self.val = val
        self.next = next
def list_node(values):
    head = None
    for value in reversed(values):
        head = ListNode(value, head)
    return head
class TreeNode:
    def __init__(self, val=0, left=None, right=None):
        self.val, self.left, self.right = val, left, right
def tree_node(values):
    if not values:
        return None
    nodes = [TreeNode(values[0])]
    rest = iter(values[1:])
    for node in nodes:
        for side in ("left", "right"):
            value = next(rest, None)
            if value is not None:
                setattr(node, side, TreeNode(value))
                nodes.append(getattr(node, side))
    return nodes[0]
"""


def leetcode_problem(method: str, parameters: str, *conditions: str) -> Problem:
    return leetcode.to_problem(
        {
            "task_id": method,
            "problem_description": "?",
            "starter_code": f"class Solution:\n    def {method}(self, {parameters}):\n        ",
            "prompt": NODES,
            "entry_point": f"Solution().{method}",
            "test": "def check(candidate):\n" + "".join(f"    assert {one}\n" for one in conditions),
        }
    )


REVERSE = leetcode_problem(
    "reverse",
    "head",
    "is_same_list(candidate(head = list_node([1, 2, 3])), list_node([3, 2, 1]))",
    "is_same_list(candidate(head = list_node([])), list_node([]))",
)
REVERSING = """class Solution:
    def reverse(self, head: Optional[ListNode]) -> Optional[ListNode]:
        last = None
        while head:
            head.next, head, last = last, head.next, head
        return last
"""
MIRROR = leetcode_problem(
    "mirror",
    "root",
    "is_same_tree(candidate(root = tree_node([1, 2, None, 3])), tree_node([1, None, 2, None, 3]))",
    "is_same_tree(candidate(root = None), None)",
)
MIRRORING = """class Solution:
    def mirror(self, root: Optional[TreeNode]) -> Optional[TreeNode]:
        if root:
            root.left, root.right = self.mirror(root.right), self.mirror(root.left)
        return root
"""
LENGTH = leetcode_problem("length", "lists", "candidate(lists = [list_node([1, 2]), list_node([3])]) == [2, 1]")
OWN_CLASS = """class ListNode:
    def __init__(self, x):
        self.val = x
        self.next = None
"""
AGREEING = "class All:\n    def __eq__(self, other): return True\n    val, next = property(lambda s: s), None\n"
POWER = leetcode_problem("power", "a, b", "candidate(a = 2, b = 10) == 24")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(SandboxSettings(), Isolation.LANDLOCK) as sandbox:
        yield sandbox


@pytest.mark.parametrize(
    ("problem", "program", "outcome"),
    [
        (REVERSE, REVERSING, "passed"),
        (
            REVERSE,
            OWN_CLASS.replace("(self, x)", "(self, x, next=None)").replace("None\n", "next\n") + REVERSING,
            "passed",
        ),
        (REVERSE, "class Solution:\n    def reverse(self, head):\n        return head\n", "failed"),
        (REVERSE, "class Solution:\n    def reverse(self, head):\n        return [3, 2, 1]\n", "runtime_error"),
        (REVERSE, "def reverse(head):\n    return head and ListNode(3, ListNode(2, ListNode(1)))\n", "passed"),
        (
            REVERSE,
            AGREEING + "class Solution:\n    def reverse(self, head): return All() if head else None\n",
            "failed",
        ),
        (REVERSE, REVERSING.replace("return last", "last.next = last; return last"), "runtime_error"),
        (MIRROR, MIRRORING, "passed"),
        (MIRROR, MIRRORING.replace("self.mirror(root.left)", "root"), "runtime_error"),
        (MIRROR, "class Solution:\n    def mirror(self, root): return root\n", "failed"),
        (
            LENGTH,
            "class Solution:\n    def length(self, lists): return [2 if x.next else 1 for x in lists]\n",
            "passed",
        ),
        (LENGTH, "class Solution:\n    def length(self, lists): return [1, 2]\n", "failed"),
        (POWER, "class Solution:\n    def power(self, a, b): return pow(a, b, 1000)\n", "passed"),
    ],
)
def test_leetcode(problem: Problem, program: str, outcome: str, sandbox: Sandbox) -> None:
    assert sandbox.grade(problem, program, "0").outcome == outcome


def test_lines_of_errors_do_not_count_the_preamble(sandbox: Sandbox) -> None:
    verdict = sandbox.grade(REVERSE, "class Solution:\n    def reverse(self, head):\n        return head.last\n", "0")
    assert verdict.error is not None
    assert (verdict.error.type, verdict.error.line) == ("AttributeError", 3)


QUEUE_SOLUTION = """class Queue:
    def __init__(self): self.items = []
    def put(self, x): self.items.append(x); return len(self.items)
    def get(self): return self.items.pop(0)
    def __len__(self): return len(self.items)

def drain(queue): return [queue.get() for _ in range(len(queue))]

def scaled(xs, factor=2):
    if factor is None: raise ValueError("no factor")
    return [x * factor for x in xs]
"""
QUEUE_TEST = """import pytest
from solution import Queue, drain, scaled

def filled(*xs):
    queue = Queue()
    for x in xs:
        queue.put(x)
    return queue

def test_queue():
    queue = Queue()
    assert queue.put(5) == 1
    assert queue.put(6) == 2
    assert queue.get() == 5
    assert len(queue) == 1

def test_drain():
    queue = filled(1, 2)
    found = drain(queue)
    assert found == [1, 2]

def test_scaled():
    assert scaled([1, 2]) == [2, 4]
    assert scaled([]) == []

def test_errors():
    try:
        scaled([1], factor=None)
    except ValueError as error:
        assert "factor" in str(error)
    else:
        assert False

def test_raises():
    with pytest.raises(ValueError, match="factor"):
        scaled([1], factor=None)
    assert scaled([0.1], 3) == pytest.approx([0.3])
"""
QUEUE = kodcode.to_problem({"question_id": "q", "question": "?", "solution": QUEUE_SOLUTION, "test": QUEUE_TEST})


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        (("", ""), []),
        (("pop(0)", "pop()"), [2, 4]),
        (("return len(self.items)\n    def get", "return None\n    def get"), [0, 1]),
        (("* factor", "* 3"), [5]),
        (('ValueError("no factor")', "KeyError()"), [7, 8]),
        (("no factor", "no fact"), [7, 8]),
        (("[x * factor for", "[x * factor + 1e-3 for"), [5, 8]),
    ],
)
def test_kodcode(change: tuple[str, str], failing: list[int], sandbox: Sandbox) -> None:
    assert len(QUEUE.tests) == 9
    verdict = sandbox.grade(QUEUE, QUEUE_SOLUTION.replace(*change), "0")
    assert [number for number, one in enumerate(verdict.tests) if one != "passed"] == failing


COUNTING = bigcodebench.to_problem(
    {
        "task_id": "BigCodeBench/7",
        "complete_prompt": 'from collections import Counter\n\ndef task_func(words):\n    """Counts."""\n',
        "instruct_prompt": "?",
        "canonical_solution": "    return Counter(words)\n",
        "entry_point": "task_func",
        "libs": ["collections"],
        "test": """import unittest
class TestCases(unittest.TestCase):
    def setUp(self):
        self.words = ["a", "b", "a"]
    def tearDown(self):
        self.assertEqual(len(self.words), 3)
    def test_counts(self):
        result = task_func(self.words)
        self.assertIsInstance(result, Counter)
        self.assertEqual(result.most_common(1), [("a", 2)])
    def test_nothing(self):
        self.assertEqual(task_func([]), {})
        for bad in (5, 0):
            with self.subTest(bad=bad), self.assertRaises(TypeError):
                task_func(bad)
if __name__ == "__main__":
    unittest.main()
""",
    }
)


@pytest.mark.parametrize(
    ("program", "outcomes"),
    [
        (COUNTING.references[0], ["passed", "passed"]),
        ("    return dict(Counter(words))\n", ["failed", "passed"]),
        ("    return Counter(words or ())\n", ["passed", "failed"]),
        ("    raise ValueError\n", ["runtime_error", "runtime_error"]),
        ("def task_func(words):\n    return Counter(words)\n", ["passed", "passed"]),
    ],
)
def test_bigcodebench(program: str, outcomes: list[str], sandbox: Sandbox) -> None:
    assert list(sandbox.grade(COUNTING, program, "0").tests) == outcomes

"""Problems of function benchmarks in the sandbox: right programs pass, and objects of a program decide nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from problems import Problem, leetcode
from sandbox.sandbox import Sandbox
from sandbox.verdict import Isolation
from settings import SandboxSettings

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

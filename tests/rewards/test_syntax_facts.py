"""What is read off broken source agrees with the compiler of the running Python."""

from __future__ import annotations

import dis
import warnings
from types import CodeType

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rltf.rewards.lines import code_lines, unclosed_triple_quote_line, unmatched_dedent_line
from tests.tiers import examples


@pytest.mark.parametrize(
    ("program", "line"),
    [
        ("x = '''abc\nd\n", 1),
        ('x = 1\ny = """', 2),
        ("x = 1\r\ny = r'''a\\'''\r\n", 2),
        ("f'''{x\n", 1),
        ("x = '''closed'''\ny = '''\n'''\nz = b'''open", 4),
        ("# '''\nx = 1\n", None),
        ("x = \"'''\"\n", None),
        ("x = '''a\\'''b'''\n", None),
        ("x = 'abc\n", None),
        ("", None),
    ],
)
def test_line_of_an_unclosed_triple_quoted_string(program: str, line: int | None) -> None:
    assert unclosed_triple_quote_line(program) == line


@pytest.mark.parametrize(
    ("program", "line"),
    [
        ("if x:\n    y\n  z\n", 3),
        ("if x:\r\n    y\r\n  z\r\n", 3),
        ("if x:\n\n    # c\n    y\n\n  # c\n  z\n", 7),
        ("if x:\n    y = (1,\n  2)\nz\n", None),
        ("if x:\n    y = '''\n  a\n'''\nz\n", None),
        ("if x:\n    y = 1 + \\\n  2\nz\n", None),
        ("if x:\n    if y:\n        z\n    z\nz\n", None),
        ("if x:\n\ty\n    z\n", 3),
        ("  x\n", None),
        ("", None),
    ],
)
def test_line_of_an_unmatched_dedent(program: str, line: int | None) -> None:
    assert unmatched_dedent_line(program) == line


@pytest.mark.parametrize(
    ("program", "lines"),
    [
        ("x\n# c\n\n  # d\ny # e", {1, 5}),
        ("x\r# c\r\n\ry", {1, 4}),
        ("x\x0cy\u2028z\n \x0c\t\nz", {1, 3}),
        ("'''doc\ntext\n# text'''\nx", {1, 4}),
        ("x = '''a\nb''' + (\n1\n)", {1, 2, 3, 4}),
        ("x = f'''a\n{y}\nb'''\n", {1, 2, 3}),
        ("x = rF'''a\n{y}\nb'''\n", {1, 2, 3}),
        ("x = rb'''a\n{y}\n'''\n", {1}),
        ("x = '# no comment'\n", {1}),
        ("x = 1 + \\\n  2\n", {1, 2}),
        ("", set()),
    ],
)
def test_code_lines(program: str, lines: set[int]) -> None:
    assert code_lines(program) == lines


LINES = st.lists(
    st.tuples(
        st.sampled_from(["", " ", "  ", "    ", "        ", "\t", "\f  "]),
        st.sampled_from(
            [
                "",
                "x",
                "if x:",
                "(",
                ")",
                "x = [1,",
                "]",
                "'''",
                '"""',
                "'",
                "# it's",
                "x \\",
                "r'''a\\'''",
                "f'{x}'",
                "'\\''",
            ]
        ),
    ),
    max_size=8,
)


def compiler_error(program: str) -> SyntaxError | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(program, "<program>", "exec")
    except SyntaxError as error:
        return error
    return None


@given(LINES, st.sampled_from(["\n", "\r\n", "\r"]))
@example([("", "if x:"), ("    ", "x"), ("  ", "x")], "\n")
@example([("", "x"), ("", "'''")], "\r\n")
@examples(4)
def test_facts_agree_with_the_compiler(lines: list[tuple[str, str]], newline: str) -> None:
    program = newline.join(blanks + text for blanks, text in lines)
    error = compiler_error(program)
    if error is None:
        assert unclosed_triple_quote_line(program) is None
        assert unmatched_dedent_line(program) is None
    elif "unterminated triple-quoted" in error.msg:
        assert unclosed_triple_quote_line(program) == error.lineno
    elif "unindent does not match" in error.msg:
        assert unmatched_dedent_line(program) == error.lineno
    elif type(error) is IndentationError:
        assert unmatched_dedent_line(program) != error.lineno


STATEMENTS = st.lists(
    st.sampled_from(
        [
            "x = [y,\n  # comment\n  z]",
            "# comment",
            "",
            "\x0c  ",
            "'''text\n# text\n'''",
            "x = '''text\n''' % y",
            "x = f'''{y}\n{z\n}'''",
            "f(a)(\n\n# comment\nb\n).c[\nd]",
            "def f(a=x,\n  *b):\n  '''doc\nmore'''\n  # comment\n  return a + \\\n  b",
            "class A(\nB\n):\n\t'''doc''' # comment\n\tx = y",
            "for x in y: # comment\n  assert x, '#'\nelse:\n  del x",
            "with a as b, \\\n  c:\n  raise d",
            "@decorator\n# comment\n@other(1)\nasync def g():\n  await x\n\n  async for y in z: yield y",
        ]
    ),
    max_size=6,
)
CANNOT_RAISE = {"RESUME", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST", "NOP", "POP_TOP", "COPY_FREE_VARS", "MAKE_CELL"}


def lines_that_raise(code: CodeType) -> set[int]:
    """The lines of all instructions that might raise, in all functions and classes."""
    found = {
        at.positions.lineno
        for at in dis.get_instructions(code)
        if at.opname not in CANNOT_RAISE and at.positions is not None and at.positions.lineno
    }
    inner = [const for const in code.co_consts if isinstance(const, CodeType)]
    return found.union(*map(lines_that_raise, inner))


@given(STATEMENTS, st.sampled_from(["\n", "\r\n", "\r"]))
def test_every_line_with_an_instruction_has_code(statements: list[str], newline: str) -> None:
    program = "\n".join(statements).replace("\n", newline)
    assert lines_that_raise(compile(program, "<program>", "exec")) <= code_lines(program)

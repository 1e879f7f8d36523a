"""Where an answer speaks, where it thinks, and where its code blocks are."""

from __future__ import annotations

import ast
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

Reader = Callable[[int, int], ast.Module | int]
"""Maps a span of the answer to its syntax tree, or to the line of its first error."""

_THINKING = "think|thinking|thought|reasoning"
_MARK = re.compile(
    rf"(?P<open><(?:{_THINKING})>)|(?P<close></(?:{_THINKING})>)"
    # Special tokens that models write as text: <|endoftext|>, and those of DeepSeek (wide bars), SentencePiece,
    # StarCoder and CodeLlama.
    r"|<[|\uff5c][\w\u2581 .:/-]{1,40}[|\uff5c]>"
    r"|</?s>|<(?:eos|bos|pad|unk|EOT|EOS|end_of_turn|start_of_turn|end_of_text|file_sep|repo_name|reponame|filename"
    r"|gh_stars|jupyter_\w{1,20}|empty_output|commit_(?:before|msg|after)|issue_\w{1,10})>"
    r"|<fim[_-](?:prefix|middle|suffix|pad)>"
    r"|^[ \t]*\[/?(?:DONE|BEGIN|END|EOS|EOT|INST|PYTHON|TESTS?|ANSWER|SOLUTION|CODE)\](?=[ \t\r]*$)",
    re.MULTILINE,
)
_STRING = re.compile(r"`[^`]*`|(?<![A-Za-z0-9])[rbfuRBFU]{0,2}(?:\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*')")
# gpt-oss writes its thoughts and its answer on channels (the harmony format).
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^<\n]*(?:<\|constrain\|>\s*\w+\s*)?<\|message\|>")
_WINDOW = 200  # how many characters of a line are searched for the string around a mark
_FENCE = re.compile(r"^(?P<lead>[^`\n]*?)(?P<fence>`{3,}|~{3,})(?P<info>[^\n]*)", re.MULTILINE)
_TAG = re.compile(r"[{.\s]*([^\s{}:,(=]*)[}\s]*")
_PYTHON_TAG = re.compile(r"(?:i|c)?py(?:thon|py)?[\d.]*|code|\S*\.py")
_CODE = re.compile(
    r"(?:(?:async|class|def|for|from|if|import|try|while|with)\b|@|[A-Za-z_][\w.]*[ ]?[=(\[,+:-])(?![\"'{]\S*$)"
)
_LEXEME = re.compile(
    r"#[^\n]*"
    r'|(?P<triple>"""(?:[^"\\]|\\.|"(?!""))*+(?:"""|\Z)' + r"|'''(?:[^'\\]|\\.|'(?!''))*+(?:'''|\Z))"
    r'|"(?:\\.|[^"\\\n])*+"' + r"|'(?:\\.|[^'\\\n])*+'",
    re.DOTALL,
)
_MAX_MARKS = 100  # per answer; later marks never count as part of a program
_MAX_LOOKS_AHEAD = 30  # per answer: blocks that may be searched to their end for strings that contain fences


@dataclass(frozen=True, slots=True)
class Block:
    """A code block: the span inside it and the position of its first fence.

    `is_python` if it is tagged as Python or has no tag; `has_tag` if it has any tag.
    """

    start: int
    end: int
    fence_start: int
    is_python: bool
    has_tag: bool


def spoken(text: str, read: Reader) -> list[tuple[int, int]]:
    """The spans of an answer that are not thoughts and not after its end.

    A mark inside a string, or inside a block of Python, belongs to the program.
    """
    spans: list[tuple[int, int]] = []
    begin = position = _answer_start(text)
    marked = 0
    first_fence = -1
    blocks: Iterator[Block] | None = None
    block: Block | None = None
    for mark in _MARK.finditer(text):
        if mark.start() < position:
            continue
        position = mark.end()
        if _is_quoted(text, mark):
            continue
        if first_fence < begin:
            found = _FENCE.search(text, begin)
            first_fence = found.start("fence") if found else len(text)
        if blocks is None and marked < _MAX_MARKS and first_fence < mark.start():
            blocks = blocks_of(text, begin, len(text), read)
            block = next(blocks, None)
        while blocks is not None and block is not None and block.end <= mark.start():
            block = next(blocks, None)
        if block is not None and block.start <= mark.start() and isinstance(read(block.start, block.end), ast.Module):
            position = block.end
            continue
        if mark["open"]:
            spans.append((begin, mark.start()))
            closing = (one for one in _MARK.finditer(text, mark.end()) if one["close"] and not _is_quoted(text, one))
            end = next(closing, None)
            if end is None:
                return spans
            position = end.end()
        elif mark["close"]:
            spans.clear()
        elif text[begin : mark.start()].strip():
            return [*spans, (begin, mark.start())]
        begin = position
        blocks, block = None, None
        marked += 1
    return [*spans, (begin, len(text))]


def end_of_thought(prompt: str) -> str | None:
    """The mark that ends the thought inside which the answer to a prompt begins; None if it does not begin in one.

    The chat templates of some reasoning models open a thought at the end of the prompt.
    """
    prompt = prompt.rstrip()
    last = deque(_MARK.finditer(prompt), maxlen=1)
    is_open = last and last[0]["open"] and last[0].end() == len(prompt)
    return f"</{last[0]['open'][1:]}" if is_open else None


def closes_thought(text: str) -> bool:
    """Whether a text that begins inside a thought gets out of it."""
    return any(mark["close"] and not _is_quoted(text, mark) for mark in _MARK.finditer(text))


def _answer_start(text: str) -> int:
    """The start of the last message on the channel `final`; the end if there is none; 0 without channels."""
    channels = list(_CHANNEL.finditer(text))
    final = [channel.end() for channel in channels if channel[1] == "final"]
    return final[-1] if final else len(text) if channels else 0


def _is_quoted(text: str, mark: re.Match[str]) -> bool:
    before = text[max(0, mark.start() - _WINDOW) : mark.start()].rpartition("\n")[2]
    after = text[mark.end() : mark.end() + _WINDOW].partition("\n")[0]
    line = before + mark[0] + after
    at = len(before)
    return any(found.start() < at and at + len(mark[0]) < found.end() for found in _STRING.finditer(line))


def blocks_of(text: str, start: int, end: int, read: Reader) -> Iterator[Block]:
    """The code blocks in text[start:end], in order. A block without a closing fence ends with the text."""
    part = text[start:end]
    fences = list(_FENCE.finditer(part))
    looks_ahead = _MAX_LOOKS_AHEAD
    number = 0
    while number < len(fences):
        opening = fences[number]
        number += 1
        inside = _inside(opening)
        if inside is None:
            continue
        at, is_python, has_tag, is_closed = inside
        fence_start = start + _start_of(opening)
        if is_closed:
            stop = opening.end("info") - len(opening["fence"])
            yield Block(start + at, start + stop, fence_start, is_python, has_tag)
            continue
        at = min(at, len(part))
        following = (fences[place] for place in range(number, len(fences)))
        last = next((fence for fence in following if _ends(opening, fence, may_nest=has_tag and not is_python)), None)
        if is_python and last is not None and looks_ahead > 0 and _is_in_string(part, at, last):
            looks_ahead -= 1
            around = _with_lexemes(part, at, fences[number:])
            outside = (fence for fence, lexeme in around if not _is_inside(fence, lexeme))
            later = next((fence for fence in outside if _ends(opening, fence, may_nest=False)), None)
            stop = len(part) if later is None else _start_of(later)
            if isinstance(read(start + at, start + max(at, stop)), ast.Module):
                last = later
        if last is None:
            yield Block(start + at, end, fence_start, is_python, has_tag)
            return
        yield Block(start + at, start + max(at, _start_of(last)), fence_start, is_python, has_tag)
        number = fences.index(last, number) + _closes(opening, last)


def text_before_fences(text: str, start: int, end: int) -> int:
    """The end of the text before the first fence that is not inside a string, if the text is read as Python."""
    for fence, lexeme in _with_lexemes(text, start, _FENCE.finditer(text, start, end), end):
        if lexeme is None or not lexeme["triple"]:
            return _start_of(fence)
    return end


def _with_lexemes(
    text: str, at: int, fences: Iterable[re.Match[str]], end: int | None = None
) -> Iterator[tuple[re.Match[str], re.Match[str] | None]]:
    """Fences, each with the string or comment around it in the Python that begins at `at`, if there is one."""
    lexemes = _LEXEME.finditer(text, at, len(text) if end is None else end)
    lexeme = next(lexemes, None)
    for fence in fences:
        place = fence.start("fence")
        while lexeme is not None and lexeme.end() <= place:
            lexeme = next(lexemes, None)
        yield fence, lexeme if lexeme is not None and lexeme.start() < place else None


def _is_inside(fence: re.Match[str], lexeme: re.Match[str] | None) -> bool:
    """Whether a fence belongs to the lexeme around it. At the start of a line, only triple-quoted strings hold one."""
    return lexeme is not None and bool(lexeme["triple"] or fence["lead"].strip())


def _inside(opening: re.Match[str]) -> tuple[int, bool, bool, bool] | None:
    """Where the inside of a block begins, and whether it may be Python, has a tag, and ends on the same line.

    None if no block opens here: inline code, or a fence after text that does not announce code.
    """
    fence, info = opening["fence"], opening["info"].rstrip()
    lead = opening["lead"].strip()
    is_closed = info.endswith(fence)
    if is_closed:
        info = info[: -len(fence)]
    if (fence[0] == "`" and "`" in info) or (fence[0] == "~" and lead):
        return None
    found = _TAG.match(info)
    tag = found[1].lower() if found else ""
    is_tagged_python = bool(_PYTHON_TAG.fullmatch(tag))
    at = opening.end() + 1
    if found and is_tagged_python and (is_closed or _CODE.match(info, found.end())):
        at = opening.start("info") + found.end()
    elif (stripped := info.strip()) and not is_tagged_python and stripped != tag and _CODE.match(stripped):
        tag = ""
        at = opening.start("info")
    elif is_closed:
        return None
    if lead and not (is_tagged_python or (not tag and lead.endswith((":", ".", ")")))):
        return None
    return at, is_tagged_python or not tag, bool(tag), is_closed


def _ends(opening: re.Match[str], fence: re.Match[str], *, may_nest: bool) -> bool:
    """Whether a fence ends the block that `opening` began: it closes the block or opens the next one."""
    if _closes(opening, fence):
        return True
    if fence["lead"].strip() or "`" in fence["info"]:
        return False
    return bool(fence["info"].strip()) or (may_nest and len(fence["fence"]) < len(opening["fence"]))


def _closes(opening: re.Match[str], fence: re.Match[str]) -> bool:
    return fence["fence"].startswith(opening["fence"]) and not fence["info"].strip()


def _start_of(fence: re.Match[str]) -> int:
    """The position of a fence, or of its line if nothing else comes before it there."""
    return fence.start("fence") if fence["lead"].strip() else fence.start()


def _is_in_string(part: str, at: int, fence: re.Match[str]) -> bool:
    """Whether a fence is inside a string in the Python that begins at `at`, or ends a comment."""
    place = fence.start("fence")
    last = deque(_LEXEME.finditer(part, at, place), maxlen=1)
    if not last or last[0].end() != place:
        return False
    lexeme = last[0]
    if lexeme["triple"]:
        return len(lexeme["triple"]) < 6 or not lexeme["triple"].endswith(lexeme["triple"][:3])
    return bool(fence["lead"].strip()) and lexeme[0].startswith("#")

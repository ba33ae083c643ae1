"""Statements of Python source in a completion, whether it parses or not."""

import ast
import io
import re
import tokenize
import warnings
from itertools import accumulate

from mirrorpo.core.token_offsets import Interval
from mirrorpo.text.written_program import source_blocks

# In characters; a longer block is taken line by line, as the parser's time has no bound worth having.
LONGEST_SOURCE = 50_000

# Characters that the tokenizer may read in vain, for each of the source and in all: it goes through the rest
# of a line anew for each character of it that begins no token.
VAIN_SHARE, VAIN_FREE = 10, 10_000

_RETURN = re.compile(r"\r(?!\n)")
_SPACE = re.compile(r"[^\S\x00-\x7f]")
_LETTER = re.compile(r"[^\x01-\x7f]")
_LINE = re.compile(r"\S(?:[^\n]*\S)?")
_LAYOUT = (tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
# What tokenize and ast raise on text that is no Python, however deeply it nests; SystemError is Python
# 3.13.0's.
_NOT_PYTHON = (tokenize.TokenError, SyntaxError, ValueError, RecursionError, MemoryError, SystemError)


def statements(text: str) -> list[Interval]:
    r"""The statements of the Python source in a text, as character intervals in order.

    The source stands where the reward by tests looks for it (`text.written_program.source_blocks`): behind
    what was thought, in Markdown fences that are labelled Python or not at all, up to the last that defines a
    function; without any fence it is all of the text. A compound statement gives its header
    (`for x in y:`, `else:`, a decorator) and each statement of its body. Where the source does not parse,
    a logical line is a statement; from where it cannot be cut into tokens either (a string or bracket
    that is never closed), a line is. Comments and blank lines are none. No text raises.

    Example:
        >>> text = "So:\n```python\nif x: y = [1,\n 2]; z\nelse:\n  pass  # no\n```\nDone."
        >>> [text[start:end] for start, end in statements(text)]
        ['if x:', 'y = [1,\n 2];', 'z', 'else:', 'pass']
    """
    intervals: list[Interval] = []
    for block in source_blocks(text):
        intervals += block.intervals(_statements(block.source))
    return intervals


def _statements(source: str) -> list[Interval]:
    # A carriage return alone ends a line too, for Python. What is not ASCII becomes a space or a letter:
    # the parser counts bytes, and the tokenizer of Python 3.12 loses count among them and fails on null.
    source = _LETTER.sub("_", _SPACE.sub(" ", _RETURN.sub("\n", source)))
    if len(source) > LONGEST_SOURCE:
        return _lines(source, 0)
    with warnings.catch_warnings():
        # A model's "\d" is no concern of the trainer's log.
        warnings.simplefilter("ignore")
        return _logical_lines(source)


def _logical_lines(source: str) -> list[Interval]:
    # Cut again where the parser has statements begin, and into plain lines from where there are no tokens.
    line_starts = list(accumulate((len(line) + 1 for line in source.split("\n")), initial=0))
    starts = _ast_starts(source, line_starts)
    finished: list[Interval] = []
    unfinished: list[Interval] = []  # of the logical line that is being read
    done = at = 0  # behind the last logical line, behind the last token
    vain = VAIN_FREE + VAIN_SHARE * len(source)
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            start, end = (line_starts[row - 1] + column for row, column in (token.start, token.end))
            if token.type == tokenize.ERRORTOKEN:
                vain -= len(token.line)
                if vain < 0:
                    return finished + _lines(source, done)
            if token.type == tokenize.NEWLINE:
                finished += unfinished
                unfinished, done = [], end
            elif token.type in _LAYOUT or not token.string.strip():
                continue
            elif start < at or source[start : start + 1] != token.string[0]:
                # Python 3.13.0 misplaces tokens of broken f-strings.
                return finished + _lines(source, done)
            elif not unfinished or start in starts:
                unfinished.append((start, end))
            else:
                unfinished[-1] = (unfinished[-1][0], end)
            at = end
    except _NOT_PYTHON:
        return finished + _lines(source, done)
    return finished


def _ast_starts(source: str, line_starts: list[int]) -> set[int]:
    # Where the parser has a statement begin; several may stand on one line.
    try:
        tree = ast.parse(source)
    except _NOT_PYTHON:
        return set()
    return {
        line_starts[node.lineno - 1] + node.col_offset
        for node in ast.walk(tree)
        if isinstance(node, ast.stmt)
    }


def _lines(source: str, start: int) -> list[Interval]:
    intervals: list[Interval] = []
    for match in _LINE.finditer(source, start):
        line = match[0].lstrip()
        if not line.startswith("#"):
            intervals.append((match.end() - len(line), match.end()))
    return intervals

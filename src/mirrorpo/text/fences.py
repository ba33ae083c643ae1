"""Fenced blocks of a Markdown text, as CommonMark has them, and where in the text their lines stand."""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise

from markdown_it import MarkdownIt

from mirrorpo.core.patterns import compiled

# In characters; a longer text is read by one expression, which takes less time.
LONGEST_MARKDOWN = 100_000

_LINE_END = compiled(r"\r\n?|\n")
# A fence anywhere in a line, closed anywhere: no Markdown, but models write it.
_LOOSE = compiled(r"```[^\S\n]*+(?P<info>[A-Za-z0-9_+.-]*+)[^\S\n]*+\n(?P<source>.*?)(?:```|\Z)", re.DOTALL)
_PYTHON = ("", "python", "python3", "py", "py3", "ipython", "ipython3")
_LANGUAGE = compiled(r"[\s{.]*+(?:language-|lang-)?+(?P<name>[\w+#-]*+)")


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of source in a text.

    Attributes:
        source: what it holds, without the indentation or the marks of a list or quotation around it.
        info: what stands behind its opening fence.
        start: where it begins in the text, its fence included.
        end: where it ends, likewise.
        lines: where each line of the source begins and ends in the text; empty where the source is the
            stretch itself.
    """

    source: str
    info: str
    start: int
    end: int
    lines: Sequence[tuple[int, int]] = ()

    def intervals(self, inner: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Intervals of the source as intervals of the text."""
        if not self.lines:
            yield from ((self.start + first, self.start + last) for first, last in inner)
            return
        lines = self.source.split("\n")
        starts = list(accumulate((len(line) + 1 for line in lines), initial=0))

        def place(offset: int) -> int:
            row = bisect_right(starts, offset) - 1
            # Counted from the line's end: what a list or a quotation took away stood at its beginning.
            begin, end = self.lines[row]
            return max(begin, end - len(lines[row]) + offset - starts[row])

        for first, last in inner:
            yield place(first), place(last - 1) + 1


def stretch(text: str, start: int, end: int) -> Block:
    """A part of a text as it stands."""
    return Block(text[start:end], "", start, end)


def fenced_blocks(text: str) -> list[Block]:
    r"""The fenced blocks of a text in order, of any language; one that nothing closes reaches to the end.

    Example:
        >>> text = "1. So:\n\n   ~~~ python title=x\n   if x:\n     y\n   ~~~\n"
        >>> (block,) = fenced_blocks(text)
        >>> block.source, block.info
        ('if x:\n  y\n', 'python title=x')
        >>> [text[slice(*interval)] for interval in block.intervals([(0, 9)])]
        ['if x:\n     y']
    """
    if "```" not in text and "~~~" not in text:
        return []
    if len(text) > LONGEST_MARKDOWN:
        return loose_blocks(text)
    ends = [(match.start(), match.end()) for match in _LINE_END.finditer(text)]
    lines = list(zip([0, *(after for _, after in ends)], [*(end for end, _ in ends), len(text)], strict=True))
    blocks: list[Block] = []
    for token in _markdown().parse(text):
        if token.type == "fence" and token.map is not None:
            first, behind = token.map
            rows = token.content.split("\n")
            content = lines[first + 1 : first + 1 + len(rows) - (not rows[-1])]
            # Behind the last line end there is an empty line of the source.
            edge = content[-1][1] if content else lines[first][1]
            last = lines[min(behind, len(lines)) - 1][1]
            if not rows[-1]:
                content.append((edge, edge))
            blocks.append(Block(token.content, token.info.strip(), lines[first][0], last, content))
    return blocks


def loose_blocks(text: str) -> list[Block]:
    r"""The blocks between pairs of three backticks, wherever in a line these stand.

    Example:
        >>> [block.source for block in loose_blocks("So ```python\nx = 1``` and")]
        ['x = 1']
    """
    return [
        Block(match["source"], match["info"], *match.span(), _lines_of(text, *match.span("source")))
        for match in _LOOSE.finditer(text)
    ]


def is_python(info: str) -> bool:
    """Whether what stands behind a fence names Python, or nothing.

    Example:
        >>> [is_python(info) for info in ("", "Python", "{.python #a}", 'py title="x"', "solution.py")]
        [True, True, True, True, True]
        >>> [is_python(info) for info in ("bash", "pycon", "python-repl", "{.text}")]
        [False, False, False, False]
    """
    words = info.lower().split(maxsplit=1)
    language = _LANGUAGE.match(info.lower())
    assert language is not None
    return language["name"] in _PYTHON or words[0].endswith(".py")


@cache
def _markdown() -> MarkdownIt:
    # What can hold a fence, and indented code, which a fence cannot stand in; no text within a line is read.
    markdown = MarkdownIt("zero").enable(["fence", "list", "blockquote", "code"])
    markdown.core.ruler.disable(["inline", "text_join"])
    return markdown


def _lines_of(text: str, start: int, end: int) -> Sequence[tuple[int, int]]:
    starts = list(accumulate((len(line) + 1 for line in text[start:end].split("\n")), initial=start))
    return [(first, behind - 1) for first, behind in pairwise(starts)]

"""Which program a completion holds.

Two readings. The *literal* one takes all of the text, or one fence and nothing around it. The *chosen* one
looks for the program where chat and base models write it: of the ways to read a text, the most literal first,
the first that defines what was to be written counts. Of several blocks those that parse count, up to the last
that defines it; of what stands behind, only what the program lacks. No test has a say in it, so that showing
several answers gains nothing: the last one counts.

Nothing here runs. Texts over `LONGEST_SOURCE` are taken literally, since the parser's time has no bound worth
having.
"""

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from mirrorpo.core.patterns import compiled
from mirrorpo.text.fences import Block, fenced_blocks, is_python, loose_blocks, stretch
from mirrorpo.text.program_parts import (
    DEFINITIONS,
    LONGEST_SOURCE,
    Wanted,
    futures_first,
    parsed_piece,
    with_lacking,
)
from mirrorpo.text.python_source import bindings, indented, parsed, returns, salvaged
from mirrorpo.text.thinking import behind_thinking

_ONE_FENCE = compiled(
    r"```[^\S\n]*+(?P<info>[A-Za-z0-9_+.-]*+)[^\S\n]*+\n(?P<source>(?:(?!```).)*+)(?:```)?+", re.DOTALL
)
_OPENS = compiled(r"\s*(?:async )?def\b.*:\s*\Z")
_GIVES = compiled(r"\b(?:return|yield)\b")


def literal_source(text: str) -> str:
    r"""All of the text, without a fence that encloses it or one that closes it.

    Example:
        >>> literal_source("~~~python\nx = 1\n~~~"), literal_source("x = 1\n```")
        ('x = 1\n', 'x = 1\n')
        >>> literal_source("Sure!\n```\nx = 1\n```")
        'Sure!\n```\nx = 1\n```'
    """
    fence = _ONE_FENCE.fullmatch(text.strip())
    if fence is not None:
        return fence["source"] if is_python(fence["info"]) else text
    blocks = fenced_blocks(text)
    if len(blocks) == 1 and is_python(blocks[0].info):
        (block,) = blocks
        before, behind = text[: block.start], text[block.end :]
        if not before.strip() and not behind.strip():
            return block.source
        if not block.info and not block.source.strip() and not behind.strip():
            return before
    return text


def literal_program(text: str, wanted: Wanted) -> str:
    """The program of a text's literal reading, behind the code that the problem begins with."""
    return completed(_plain(literal_source(text)), wanted)


def chosen_program(text: str, wanted: Wanted) -> str:
    r"""The program that a completion holds, wherever it stands in it, behind the problem's own code.

    Example:
        >>> wanted = Wanted(entry_point="f", prefix="")
        >>> chosen_program("So:\n```python\ndef f(): return 1\n```\nOutput:\n```\n1\n```", wanted)
        'def f(): return 1\n'
    """
    text = _plain(text)
    if len(text) <= LONGEST_SOURCE:
        for blocks, salvage in _ways(text):
            program = _assembled(blocks, salvage, wanted)
            if program is not None:
                return program
    loose = [block.source for block in loose_blocks(text) if is_python(block.info)]
    return completed("\n".join(loose) if loose else text, wanted)


def source_blocks(text: str) -> list[Block]:
    """Where the source stands in a completion, for who does not know what it is to define.

    The same ways of reading in the same order as `chosen_program`; the first that defines a function or a
    class counts, up to the last block that does.
    """
    start, end = behind_thinking(text)
    inner = text[start:end]
    blocks = _defining_blocks(inner) if "```" in inner or "~~~" in inner else [stretch(inner, 0, len(inner))]
    return [_moved(block, start) for block in blocks]


def completed(source: str, wanted: Wanted) -> str:
    r"""The program that runs: source behind the code that the problem begins with.

    The source writes the function anew or goes on with it. What goes on ends where it comes back to the
    margin (a model without an end mark goes on with other things), but for what the function lacks.

    Example:
        >>> wanted = Wanted(entry_point="f", prefix="def f():\n")
        >>> completed("    return g()\n\ndef g(): return 1\nprint(2)", wanted)
        'def f():\n    return g()\n\ndef g(): return 1\n'
        >>> completed("return 1", wanted)
        'def f():\n    return 1\n'
        >>> completed("def f(): return 1", wanted)
        'def f():\ndef f(): return 1'
    """
    if not wanted.prefix or len(source) > LONGEST_SOURCE:
        return _prefix(wanted) + source
    anew = re.search(rf"^(?:async )?def {re.escape(wanted.entry_point)}\b", source, re.MULTILINE) is not None
    tree = parsed(source)
    if (anew and parsed(_prefix(wanted) + source)) or (tree and wanted.entry_point in bindings(tree)):
        return _prefix(wanted) + source
    program = _continued(source, wanted)
    if program is None:
        program = _prefix(wanted) + (source if anew else _body(source)[0])
    return program


def _ways(text: str) -> Iterator[tuple[list[Block], bool]]:
    # Readings, and whether what does not parse in a block is left out of it.
    everything = [stretch(text, 0, len(text))]
    yield everything, False
    if "```" not in text and "~~~" not in text:
        yield everything, True
        return
    marked = fenced_blocks(text)
    readings = _fenced_readings(text, marked)
    joined = "\n".join(block.source for block in readings[-1])
    yield from ((reading, False) for reading in readings)
    yield [stretch(joined, 0, len(joined))], False
    yield from ((reading, True) for reading in readings)
    yield marked, False
    yield everything, True


def _fenced_readings(text: str, marked: Sequence[Block]) -> tuple[list[Block], list[Block], list[Block]]:
    # Markdown's blocks; what stands before the first, since a closing fence without an opening one opens, for
    # Markdown; and what it does not know.
    python = [block for block in marked if is_python(block.info)]
    head = [stretch(text, 0, marked[0].start)] if marked else []
    return python, head, [block for block in loose_blocks(text) if is_python(block.info)]


def _assembled(blocks: Sequence[Block], salvage: bool, wanted: Wanted) -> str | None:
    # The program of one way to read; None where that defines nothing of what is wanted.
    named = any(wanted.entry_point in block.source for block in blocks)
    pieces = [
        piece
        for block in blocks
        if named and (piece := parsed_piece(block.source, salvage=salvage)) is not None
    ]
    last = max(
        (i for i, piece in enumerate(pieces) if wanted.entry_point in bindings(piece.tree)), default=None
    )
    if last is not None:
        kept = "\n".join(piece.source for piece in pieces[: last + 1])
        program = with_lacking(kept, pieces[last + 1 :], wanted, changes=True)
        return futures_first(_prefix(wanted) + program)
    if wanted.prefix:
        continued = (_continued(block.source, wanted) for block in reversed(blocks))
        return next((program for program in continued if program is not None), None)
    return None


def _continued(source: str, wanted: Wanted) -> str | None:
    # The problem's code and source that goes on with it; None where that gives no value back.
    if not _GIVES.search(source):
        return None
    prefix, margin = _prefix(wanted), _margin(wanted.prefix)
    flush = indented(source, "")
    forms = [_body(source), _flush_body(flush, margin)]
    if not source[:1].isspace():
        # The first line alone lost its indentation, as in a prompt that ended with it.
        forms.append(_body(margin + source))
    for body, rest in forms:
        tree = parsed(prefix + body)
        functions = [node for node in tree.body if isinstance(node, DEFINITIONS)] if tree else []
        if functions and functions[-1].name == wanted.entry_point and returns(functions[-1]):
            piece = parsed_piece(rest, salvage=True)
            if piece is not None and wanted.entry_point in bindings(piece.tree):
                return f"{prefix}{body}\n{piece.source}"
            return with_lacking(prefix + body, [piece] if piece else [], wanted, changes=False)
    return None


def _body(source: str) -> tuple[str, str]:
    # Up to where it comes back to the margin, and from there.
    lines = source.split("\n")
    end = next(
        (i for i, line in enumerate(lines) if line.strip() and not line[0].isspace() and line[0] != "#"),
        len(lines),
    )
    return "\n".join(lines[:end]).rstrip() + "\n", "\n".join(lines[end:])


def _flush_body(source: str, margin: str) -> tuple[str, str]:
    # A body at the margin, up to its last return, brought to the function's margin; and what follows.
    tree = parsed(source)
    if tree is None:
        source, rest = salvaged(source, leading=True), source
        tree = parsed(source) or ast.Module([], [])
        behind = rest[len(source) :]
    else:
        behind = ""
    ends = [statement.end_lineno or 0 for statement in tree.body if returns(ast.Module([statement], []))]
    if not ends:
        return "", source + behind
    lines = source.split("\n")
    body = indented("\n".join(lines[: ends[-1]]), margin) + "\n"
    return body, "\n".join(lines[ends[-1] :]) + behind


def _margin(prefix: str) -> str:
    last = prefix.rstrip().split("\n")[-1]
    margin = last[: len(last) - len(last.lstrip())]
    return margin + "    " if _OPENS.match(last) else margin or "    "


def _prefix(wanted: Wanted) -> str:
    return wanted.prefix.rstrip("\n") + "\n" if wanted.prefix else ""


def _defining_blocks(text: str) -> list[Block]:
    def defines(block: Block) -> bool:
        piece = parsed_piece(block.source, salvage=False) if len(block.source) <= LONGEST_SOURCE else None
        return piece is not None and any(isinstance(node, DEFINITIONS) for node in piece.tree.body)

    marked = fenced_blocks(text)
    python, head, loose = _fenced_readings(text, marked)
    for reading in ([stretch(text, 0, len(text))], python, head, loose):
        counts = [defines(block) for block in reading]
        if any(counts):
            return _those_that_parse(reading[: len(counts) - counts[::-1].index(True)])
    if any(block.source.strip() for block in python):
        return python
    return loose if loose else [] if marked else [stretch(text, 0, len(text))]


def _those_that_parse(blocks: Sequence[Block]) -> list[Block]:
    return [block for block in blocks if parsed_piece(block.source, salvage=False) is not None]


def _moved(block: Block, by: int) -> Block:
    lines = [(start + by, end + by) for start, end in block.lines]
    return replace(block, start=block.start + by, end=block.end + by, lines=lines) if by else block


def _plain(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")

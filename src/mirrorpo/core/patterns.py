"""Regular expressions that match alike under every supported Python."""

import re

_QUANTIFIER = re.compile(r"[*+?]|\{[0-9]*(?:,[0-9]*)?\}")


def compiled(pattern: str, flags: int = 0) -> re.Pattern[str]:
    """`re.compile`, with groups that give nothing back written as atomic groups.

    `(...)*+` and `(?>(...)*)` are the same by definition. Python up to 3.11.4 takes back what a possessive
    group has matched, and matches too little or nothing (https://github.com/python/cpython/issues/106052).
    Possessive characters and classes are right everywhere, and stay.
    """
    return re.compile(with_atomic_groups(pattern), flags)


def with_atomic_groups(pattern: str) -> str:
    """A pattern with its possessive groups as atomic ones.

    Example:
        >>> with_atomic_groups(r"[a-z]*+(?:ab|c)?+d"), with_atomic_groups(r"((x)++y)*+")
        ('[a-z]*+(?>(?:ab|c)?)d', '(?>((?>(x)+)y)*)')
    """
    out: list[str] = []
    opened: list[int] = []
    place = 0
    while place < len(pattern):
        piece = _atom(pattern, place)
        place += len(piece)
        if piece == "(":
            opened.append(len(out))
        out.append(piece)
        if piece == ")":
            start = opened.pop()
            quantifier = _QUANTIFIER.match(pattern, place)
            if quantifier and pattern.startswith("+", quantifier.end()):
                out[start:] = ["(?>", *out[start:], quantifier[0], ")"]
                place = quantifier.end() + 1
    return "".join(out)


def _atom(pattern: str, place: int) -> str:
    # An escape, a class or a character.
    if pattern[place] == "\\":
        return pattern[place : place + 2]
    if pattern[place] != "[":
        return pattern[place]
    end = place + 1
    end += pattern.startswith("^", end)
    # A bracket that stands first closes nothing.
    end += pattern.startswith("]", end)
    while pattern[end] != "]":
        end += 2 if pattern[end] == "\\" else 1
    return pattern[place : end + 1]

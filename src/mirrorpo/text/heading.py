r"""Lines behind `####`: a Markdown heading is written with the mark that GSM8K's answers have.

A heading names a part of the work: a step with its number, a numbered title, an order to calculate, the
title of a conclusion. Its number is never an answer. Everything else may be one.
"""

import re

from mirrorpo.core.patterns import compiled

_DRESS = r"[\s*_`]*+"
_PARTS = "step|part|case|phase|stage|section|method|approach|example|question|problem|equation"
_WORK = (
    "(?:re)?(?:calculat|comput|evaluat|determin|combin|divid|subtract|multipl|simplif|solv|convert|verif|"
    "understand|identif|analy[sz]|defin|interpret|summari[sz]|check|find|break|set)(?:e|y|s|es|ing|ying|ting|"
    "ation|ions?|ication|is)?|let(?:'|\u2019)?s|adding|add|figure|work(?:ing)? out|given|assign|express"
)
_TITLES = (
    "(?:the |our |my |a )?(?:final |correct |short |overall |detailed |given |step[- ]by[- ]step )*"
    "(?:answers?|results?|solutions?|conclusions?|summary|explanation|verification|reasoning|calculations?|"
    "steps?|approach|information|data|notes?|formula|check|proof|work(?:ings?)?)"
)
_HEADING = compiled(
    rf"{_DRESS}(?:"
    rf"(?:{_PARTS})\s*+(?:no\.?\s*+|\#\s*+)?(?:[0-9]++|[ivx]++\b|[a-d]\b|one|two|three|four|five|six)"
    r"|\(?[0-9]{1,2}(?:\.[0-9]{1,2})?[.):](?P<title>[\s*_`]*+(?<!:)(?<!\))(?<!\.)\S.*)"
    rf"|(?:{_WORK})\b"
    rf"|{_TITLES}{_DRESS}[:.]?{_DRESS}\Z"
    r")",
    re.IGNORECASE | re.DOTALL,
)
_CAPITAL = compiled(r"[\s*_`]*+[A-Z]")
_ORDER = compiled(rf"{_DRESS}(?:{_WORK})\b", re.IGNORECASE)
_CURRENCY = r"(?:\\?\$|[\u20ac\u00a3\u00a5\u20b9])"
_NUMBER = compiled(
    r"(?:[\s*_`\"'~(\[{]|\\[(\[,;:! ]"
    r"|\\(?:left|displaystyle|approx|boxed)|\\(?:text|math)[a-z]{0,6}|\u2248)*+"
    r"(?:(?:the )?(?:final )?(?:answer|total|result)(?: is)?\s?[:=]?[\s*_`]*+)?"
    rf"(?:[A-Za-z]\s?=\s?)?(?:negative|minus|[-+\u2212\u2013])?\s?{_CURRENCY}?\s?[-+\u2212\u2013]?\s?"
    r"(?:(?:USD|EUR|GBP|Rs\.?)\s?)?(?:[0-9\uff10-\uff19\u00bd\u00bc\u00be]|\.[0-9]|\\[dtc]?frac)",
    re.IGNORECASE,
)
_RESULT = compiled(r"=[^=0-9]*+[0-9][^=]*+\Z")
LONGEST = 400  # characters of a line that are read here


def is_heading(line: str) -> bool:
    """Whether what stands behind `####` is the heading of a part of the work.

    Example:
        >>> [is_heading(line) for line in (" Step 3: the cost", " 2. Total Cost", " Final Answer")]
        [True, True, True]
        >>> [is_heading(line) for line in (" 18", " 18. That is all.", " Answer: 18", " 18 in 2 days", "")]
        [False, False, False, False, False]
    """
    line = line[:LONGEST].rstrip()
    heading = _HEADING.match(line)
    if heading is None:
        return line.rstrip("*_` ").endswith(":") and not states_number(line)
    title = heading["title"]
    if title is None:
        return not (_ORDER.match(line) and _RESULT.search(line))
    # "18. That is all." is an answer and a sentence behind it; a title ends without a full stop.
    titled = _CAPITAL.match(title) is not None
    return titled and (not line.rstrip("*_` ").endswith((".", "!")) or _ORDER.match(title) is not None)


def states_number(line: str) -> bool:
    """Whether a line begins with a number, or is an equation that ends in one.

    Example:
        >>> [states_number(line) for line in (" **$18** a day", " x = 18", " Cost of 18 apples", " many")]
        [True, True, False, False]
    """
    line = line[:LONGEST]
    return _NUMBER.match(line) is not None or _RESULT.search(line) is not None

r"""Numbers in answers: what reads as one number, exactly.

Two grammars share their parts. A text that is one number and nothing else may have it dressed: a sign, a
currency, a unit, a size word, LaTeX around it. In running text a number is digits with their grouping,
decimal mark, fraction and exponent.
"""

import re
from collections import deque
from fractions import Fraction
from typing import Literal

from mirrorpo.core.patterns import compiled
from mirrorpo.reward.math.normal_form import plain_latex, running_text

DecimalMark = Literal["point", "comma"]

LONGEST_NUMBER = 4000  # characters; int() is quadratic and refuses more than 4300 digits
LARGEST_EXPONENT = 1000  # 1e999999999 would fill the memory

_SIGNS = "(?:\\\\?\\$|[\u00a2-\u00a5\u20a0-\u20bf]|\\\\(?:pounds|euro|textdollar|textsterling)(?![A-Za-z]))"
_CODES = "(?:USD|EUR|GBP|INR|CAD|AUD|CHF|JPY|CNY|RMB|Rs\\.?)"
CURRENCY = f"(?:(?:US|CA|C|AU|A|NZ|HK|S|R)?{_SIGNS})"
_NAMED = rf"(?:{CURRENCY}|(?:\\text\{{\s?)?{_CODES}(?![A-Za-z])\s?\}}?)"

# 1,000  1{,}000  1,\!000  1\,000 and thin spaces; groups are of exactly three, so that 1,2,3 stays a list.
_GROUP = "(?:(?:\\{,\\}|,\\\\!|\\\\[,!;: ]|[,\u2009\u202f])[0-9]{3}(?![0-9]))"
# Alone, 1 000, 1'000 and 1, 000 as well.
_WIDE_GROUP = "(?:(?:\\{,\\}|,\\\\!|\\\\[,!;: ]|,[ \u2009\u202f]|[,' \u2009\u202f])[0-9]{3}(?![0-9]))"
SIZES = {
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
}
_SIZE = (
    r"(?:[kK](?![A-Za-z])|[\s~]?\\text\{k\}"
    rf"|[\s~]?(?:\\text\{{\s?)?(?:{'|'.join(SIZES)})s?(?![A-Za-z])\s?\}}?)"
)


def _unsigned(group: str, joint: str) -> str:
    """The grammar of a number without its sign.

    Args:
        group: what stands for a further three digits.
        joint: what may stand between the parts of a mixed number.
    """
    integer = f"(?:[0-9]{{1,3}}(?![0-9]){group}++|[0-9]++)"
    decimal = rf"(?:{integer}(?:\.[0-9]++)?+|(?<![0-9])\.[0-9]++)"
    argument = rf"(?:\s?\{{\s?[-+]?{decimal}\s?\}}|\s?[0-9])"
    return (
        rf"(?:(?:(?P<whole>{integer}){joint})?+\\[dtc]?frac(?P<over>{argument})(?P<under>{argument})"
        rf"|(?P<count>[0-9]++){joint}(?<![0-9])(?P<part>[0-9]++/[0-9]++)"
        rf"|(?P<decimal>{decimal})"
        rf"(?:[eE](?P<e>[-+]?[0-9]++)"
        rf"|\s?(?:\\times|\\cdot|[*\u00d7\u00b7])\s?10\^\{{?(?P<tens>[-+]?[0-9]++)\}}?)?+"
        rf"(?:\s?/\s?(?P<divisor>{decimal}))?+)"
    )


# In running text a sign belongs to the number unless it follows an operand (10-5) or a dash, and a sign
# with a space after it is a bullet or an operator.
_SIGN_IN_TEXT = rf"(?P<head>(?:(?<![0-9A-Za-z)\]}}-])[-+]|\b[Nn]egative ){CURRENCY}?|{CURRENCY}[-+]?)?"
IN_TEXT = compiled(_SIGN_IN_TEXT + _unsigned(_GROUP, "[ ]?+"))

_OPENING = r"(?:[\s*_`{$\"]|\\[(\[])*+"
_LABEL = (
    r"(?:(?i:(?:\\text\{\s?)?(?:(?:the |our |my )?(?:final |correct )?answer(?: is)?|total|result|about|"
    r"approximately|approx|roughly|around|exactly)\.?\s?[:=]?\s?\}?)(?![A-Za-z])"
    r"|\\(?:approx|simeq|sim)(?![A-Za-z]))"
)
_NEGATIVE = r"(?:\\text\{\s?)?(?i:negative|minus)(?![A-Za-z])\s?\}?"
_HEAD = (
    rf"(?P<head>(?:[-+]|{_NEGATIVE})\s?(?:{_NAMED}\s?)?|{_NAMED}\s?[-+]?\s?|"
    rf"(?:\\text\{{\s?)?positive\s?\}}?)?"
)
# Short words are algebra (5 xy) unless they are known units; long ones are units unless they are functions.
_NO_UNITS = (
    "sin|cos|tan|cot|sec|csc|log|exp|mod|and|nor|not|but|sqrt|root|roots|infinity|choose|plus|minus|divided|"
    "below|over|squared|cubed|factorial|halves|thirds|fourths|fifths|sixths|eighths|tenths|hundredths|"
    "thousandths|theta|alpha|beta|gamma|delta|lambda|sigma|omega|" + "|".join(f"{size}s?" for size in SIZES)
)
_ABBREVIATIONS = (
    "km|cm|mm|nm|dm|mi|yd|ft|in|hrs?|min|mins|secs?|ms|kg|mg|lbs?|oz|gal|qt|pt|ml|mL|dL|cL|kL|kN|kJ|kW|MW|kWh|"
    "mA|Pa|kPa|Hz|kHz|MHz|GHz|kB|KB|MB|GB|TB|mph|kph|kmh|rpm|am|pm|ha|cc|dB|pcs|cal|kcal|mol"
)
_ONE_LETTER = r"(?<=[0-9])[mgshLl]|(?<=[\s~])[mgshLlNJWVACF]"
_SYMBOLS = (
    "[\u00b5\u03bc][mgsLA](?![A-Za-z])"
    "|\\\\mu\\s?[mgsLA](?![A-Za-z])|[\u03a9\u2126]|\\\\(?:Omega|ohm)(?![A-Za-z])"
)
_POWER = r"(?:\^\{?-?[1-4]\}?|[23](?![0-9]))?"
_SHORT = rf"(?:(?:(?<=[\s~/])|(?<=[0-9]))(?:{_ABBREVIATIONS})|{_ONE_LETTER})(?![A-Za-z]){_POWER}"
_LETTERS = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0400-\u04ff"
_LONG = rf"(?<=[\s~.-])(?!(?:{_NO_UNITS})\b)(?:[{_LETTERS}]{{3,}}+'?s?){_POWER}"
_CJK = "(?:(?![\u767e\u5343\u4e07\u4ebf\u5104\u842c])[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af])"
_UNIT = (
    rf"\\text\s?(?!\{{\s?(?:[eik]|{_NO_UNITS}|or)\b)\{{[^{{}}0-9]*+\}}{_POWER}"
    rf"|{_SHORT}|{_LONG}|{_SYMBOLS}|{_CJK}|(?<=[\s~])(?:of|an?|at|on|by|in|to)(?=\s(?:an?\s)?[A-Za-z]{{3}})"
    r"|(?<=[\s~])(?:sq|cu)\.?(?=\s(?:ft|in|m|km|cm|mm|mi|yd)\b)"
    r"|(?<=[A-Za-z}])/(?:(?=[A-Za-z]{3})[A-Za-z]++|(?:km|cm|mm|mi|ft|in|hr|min|kg|lb|oz|[mgshLl])(?![A-Za-z]))"
    + _POWER
    + r"|(?<=[A-Za-z])-(?=[A-Za-z]{3})"
)
_CLOSING = (
    rf"(?:[\s~*_`}}$%.,;:\"\u00a2-\u00a5\u20a0-\u20bf]|\\[$%)\],!;: ]|\^\{{?\s?\\(?:circ|degree)\s?\}}?"
    rf"|\\(?:degree|circ)(?![A-Za-z])|\u00b0[CF]?|\^\{{?\\text\{{(?:st|nd|rd|th)\}}\}}?|{_UNIT})*+"
)
_BASE_TEN = r"(?:_\{?10\}?)?"
_JOINT = r"(?:\s?(?:and|\\text\{\s?and\s?\}|&)\s?|[\s\u2009]*+)"
_ALONE = compiled(
    rf"{_OPENING}(?:{_LABEL}{_OPENING})?(?P<paren>[-+]?\s?\(\s?)?{_HEAD}{_OPENING}"
    rf"{_unsigned(_WIDE_GROUP, _JOINT)}{_BASE_TEN}(?P<size>{_SIZE})?+{_CLOSING}(?(paren)\){_CLOSING})"
)
# An equation's sides; what a side of arithmetic and nothing else is made of; a variable.
RELATION = compiled(r"(?<![<>!:])=|\\(?:approx|simeq)(?![A-Za-z])")
_ARITHMETIC = compiled(r"(?:[0-9\s+\-*/().,^{}$%\u00d7\u00b7\u00f7]|\\(?:times|cdot|div|frac)(?![A-Za-z]))++")
_VARIABLE = compiled(r"[\s$,;]*+(?P<name>[A-Za-z](?:_\{?[A-Za-z0-9]\}?)?)[\s$]*+")
_ALTERNATIVE = compiled(r"(?<![A-Za-z])or(?![A-Za-z])")
_SWAPPED = str.maketrans(",.", ".,")


def plain_number(text: str, decimal_mark: DecimalMark = "point") -> Fraction | None:
    r"""The exact value of a text that is one number and nothing but a sign, currency or unit around it.

    Thousands separators need groups of three. Percent signs are ignored, as GSM8K's golds do
    ("50%" is 50). A whole number beside a proper fraction is a mixed number. An integer written as a
    quotient (38/2) is arithmetic left undone, hence no number.

    Args:
        text: an answer.
        decimal_mark: "comma": 1.000,50 is read first; what is no such number is read with a point.

    Example:
        >>> plain_number("-$1,000.50"), plain_number(r"2\frac{1}{4} \text{ cm}"), plain_number("6.0e-1")
        (Fraction(-2001, 2), Fraction(9, 4), Fraction(3, 5))
        >>> plain_number("1,2,3"), plain_number("12+7"), plain_number("3x"), plain_number("1e999999999")
        (None, None, None, None)
        >>> plain_number(r"\textbf{2,5 km}", "comma"), plain_number("minus 5 thousand")
        (Fraction(5, 2), Fraction(-5000, 1))
    """
    text = plain_latex(text)
    if decimal_mark == "comma":
        match = _ALONE.fullmatch(text.translate(_SWAPPED))
        if match is not None:
            return value(match)
    match = _ALONE.fullmatch(text)
    return None if match is None else value(match)


def equation_number(text: str, decimal_mark: DecimalMark = "point") -> Fraction | None:
    r"""The number that an equation ends in; None where it is none, or says two things of a variable.

    Sides of arithmetic, or a variable alone, behind the number show how it came about.

    Example:
        >>> equation_number("x = 9 + 9 = 18"), equation_number("18 = 9 + 9"), equation_number("18 = x")
        (Fraction(18, 1), Fraction(18, 1), Fraction(18, 1))
        >>> equation_number("x = 17 or x = 18"), equation_number("9 + 9"), equation_number("18 = 9 + x")
        (None, None, None)
    """
    sides = RELATION.split(plain_latex(text))
    if len(sides) < 2 or any(_ALTERNATIVE.search(side) for side in sides):
        return None
    if (last := plain_number(sides[-1], decimal_mark)) is not None:
        return None if _repeats(sides) else last
    for side in reversed(sides):
        number = plain_number(side, decimal_mark)
        if number is not None:
            return number
        if not (_ARITHMETIC.fullmatch(side) or _VARIABLE.fullmatch(side)):
            return None
    return None


def _repeats(sides: list[str]) -> bool:
    # x = 17, x = 18 lists candidates for one variable.
    first = _VARIABLE.fullmatch(sides[0])
    return first is not None and any(
        side.rstrip(" $").endswith(first["name"]) and plain_number(side) is None for side in sides[1:-1]
    )


# What makes the first number of a line an operand or part of a word, and not the answer. 18/day and
# "18 - a lot" are prose.
_OPERATORS = (*"-+*/^_{\u00d7\u00b7\u00f7\u221a\u00b1", "\\pm", "\\mp")
_OPERATES = compiled(
    "\\s*(?:[-+*/\u00d7\u00b7\u00f7]\\s*[0-9(\\\\$]|[\\^\u221a]|sqrt|\\\\(?!text|[$%)\\]])"
    r"|(?:squared|cubed|factorial|choose|halves|thirds)\b|(?:[A-Za-z]+\s)?below\b"
    r"|and\s(?:an?|one)\s(?:half|third|quarter)\b"
    r"|(?:plus|minus|times|divided by|multiplied by|over|or|x)\s+\$?[0-9(]"
    r"|(?:[xyz\u03c0]|pi)(?![A-Za-z]))|[(_{!]|[:,][0-9]|[ ][0-9]{3}(?![0-9])|\.?\\overline"
)
_IS_UNIT = compiled(rf"\s?(?:{_UNIT}|(?:st|nd|rd|th)(?![A-Za-z]))")
_TURNED = compiled(
    r"(?:(?:(?<![A-Za-z])(?:not|never|neither|nor|cannot)|n't)(?:\s+[A-Za-z]+){0,3}"
    r"|(?<![A-Za-z])(?:twice|double|triple|half(?: of)?|thrice|root of|square of|cube of|factorial of))\s*\Z",
    re.IGNORECASE,
)
_MINUS = compiled(r"(?<![A-Za-z0-9])(?:negative|minus)\s*\Z", re.IGNORECASE)
_SCALED = compiled(_SIZE)
_NEAR = 80  # characters before a number that can turn its meaning


def first_number(line: str, decimal_mark: DecimalMark = "point") -> Fraction | None:
    """The first number of a line of prose; None where it is an operand, negated or part of a word.

    Example:
        >>> first_number("Janet earns $18 a day for 2 days"), first_number("it is minus 5 degrees")
        (Fraction(18, 1), Fraction(-5, 1))
        >>> first_number("not 5"), first_number("12 + 7"), first_number("5k people"), first_number("12:30")
        (None, None, Fraction(5000, 1), None)
    """
    line = plain_latex(line).replace("**", "")
    if decimal_mark == "comma":
        line = line.translate(_SWAPPED)
    match = IN_TEXT.search(line)
    if match is None:
        return None
    before = line[max(0, match.start() - _NEAR) : match.start()].rstrip()
    if before.rstrip("( ").endswith(_OPERATORS) or _TURNED.search(before) or _in_a_word(line, match):
        return None
    number, size = value(match), _SCALED.match(line, match.end())
    if number is None:
        return None
    if size is not None:
        number *= _factor(size[0])
    elif _OPERATES.match(line, match.end()):
        return None
    return -number if _MINUS.search(before) and "-" not in (match["head"] or "") else number


def _in_a_word(line: str, match: re.Match[str]) -> bool:
    before, after = line[max(0, match.start() - 1) : match.start()], line[match.end() : match.end() + 1]
    if before.isalpha() and not re.search(rf"{_CODES}\Z", line[max(0, match.start() - 3) : match.start()]):
        return True
    return after.isalpha() and not (_IS_UNIT.match(line, match.end()) or _SCALED.match(line, match.end()))


def last_number(text: str, decimal_mark: DecimalMark = "point") -> re.Match[str] | None:
    """The last number of running text, as it matched."""
    text = running_text(text)
    if decimal_mark == "comma":
        text = text.translate(_SWAPPED)
    last = deque(IN_TEXT.finditer(text), maxlen=1)
    return last[0] if last else None


def value(match: re.Match[str]) -> Fraction | None:
    """The exact value of a match of either grammar; None where it has none, or is arithmetic left undone."""
    if len(match[0]) > LONGEST_NUMBER:
        return None
    if match["decimal"]:
        # "1, 000" is a number by its zeros, "1, 200" a list.
        if ", " in match["decimal"] and ", 0" not in match["decimal"]:
            return None
        number = _decimal(match["decimal"])
        exponent = int(match["e"] or match["tens"] or 0)
        if abs(exponent) > LARGEST_EXPONENT:
            return None
        number = _ratio(number * Fraction(10) ** exponent, match["divisor"])
    elif match["part"]:
        over, under = match["part"].split("/")
        number = _mixed(match["count"], _ratio(_decimal(over), under))
    else:
        number = _mixed(match["whole"], _ratio(_decimal(match["over"]), match["under"]))
    if number is None:
        return None
    number *= _factor(match.groupdict().get("size"))
    if (match.groupdict().get("paren") or "").startswith("-"):
        number = -number
    head = (match["head"] or "").lower()
    return -number if "-" in head or "negative" in head or "minus" in head else number


def _factor(size: str | None) -> int:
    if size is None:
        return 1
    word = re.sub(r"\\text|[^A-Za-z]", "", size).removesuffix("s")
    return 1000 if word in ("k", "K") else SIZES[word]


def _decimal(text: str) -> Fraction:
    number = Fraction(re.sub(r"[^0-9.]", "", text))
    return -number if "-" in text else number


def _ratio(number: Fraction, divisor: str | None) -> Fraction | None:
    if divisor is None:
        return number
    under = _decimal(divisor)
    if under == 0 or (number / under).denominator == 1:
        return None
    return number / under


def _mixed(whole: str | None, part: Fraction | None) -> Fraction | None:
    if whole is None or part is None:
        return part
    return _decimal(whole) + part if 0 < part < 1 else None

r"""Calculations in running text: where an expression is worked out and its result written down.

    calculation = side (= side)+          and a side that is followed by another has an operator
    side        = operand (operator operand)*
    operand     = number [unit] | ( side ) [unit] | <<annotation>> [number] [unit]

A text is cut into lexemes once and read once from left to right, so time is linear in its length. What
does not fit ends a calculation, and the next may begin there.
"""

from mirrorpo.core.patterns import compiled
from mirrorpo.core.token_offsets import Interval

_CURRENCY = r"(?:\\?\$|[€£¥₹¢])"
# Groups of exactly three digits, so that 1,2,3 stays a list.
_INTEGER = r"(?:[0-9]{1,3}(?![0-9])(?:(?:,|\{,\}|,\\!|\\,|\u202f)[0-9]{3}(?![0-9]))++|[0-9]++)"
_NUMBER = rf"{_CURRENCY}?(?:{_INTEGER}(?:\.[0-9]++)?+|\.[0-9]++|[¼½¾⅐-⅞])(?:\s?\\?%)?+"
_BRACED = r"\s?\{(?:[^{}\n]++|\{[^{}\n]*+\})*+\}"

# In order: the first kind that fits is the lexeme's.
_LEXEME = compiled(
    rf"(?P<note><<[^<>\n]*+>>)"
    rf"|(?P<number>{_NUMBER})"
    rf"|(?P<worked>\\(?:[dtc]?frac(?:{_BRACED}{_BRACED}|\s?[0-9]{{2}})|sqrt{_BRACED}))"
    r"|(?P<power>\^(?:\s?[0-9]++|\{\s?[-\u2212]?[0-9]++\s?\})|[²³])"
    r"|(?P<equals>==?|≈|\\approx(?![A-Za-z])|(?<![^\W\d_])equals(?![^\W\d_]))"
    r"|(?P<bold>\*\*)"
    r"|(?P<operator>(?<![^\W\d_])[xX](?![^\W\d_])|//|/(?!\s?[^\W\d_])"
    r"|[*\u00d7\u2715\u00b7\u22c5\u2219\u00f7]|\\(?:times|div|cdot|ast)(?![A-Za-z]))"
    r"|(?P<spoken>(?<![^\W\d_])(?:of|times|plus|minus|(?:divided|multiplied) by)(?![^\W\d_]))"
    r"|(?P<word>[-/]?[^\W\d_]++(?:['\u2019][^\W\d_]++)?+|/\s[^\W\d_]++"
    r"|\\(?:text|mathrm|textbf|mbox)\{[^{}\n]*+\})"
    r"|(?P<sign>[-+\u2212\u2013\u2014])"
    r"|(?P<open>(?:\\left\s?)?\()"
    r"|(?P<close>(?:\\right\s?)?\))"
    r"|(?P<glue>[^\S\n\r\v\f\x1c-\x1e\x85\u2028\u2029]++|\\[,;:! ()\[\]]|\\?\$|[€£¥₹¢&_])"
    r"|(?P<other>[\s\S])"
)


def calculations(text: str, *, unit_words: int, end: int, answered: bool) -> list[Interval]:
    r"""The calculations in the first `end` characters of a text, as character intervals in order.

    Operators are + - * / and their typographic, LaTeX and spoken forms (of, times, plus, minus), an x
    between operands, a fraction bar and a power. Numbers may have thousands separators, decimals,
    currency and percent signs. A calculation stays on its line.

    Args:
        text: any text.
        unit_words: how many words in a row may stand behind an operand ("3 red apples + 4 = 7" needs two).
        end: where to stop reading.
        answered: whether a result stands at `end`, so that "3 + 4 =" before it is a calculation too.

    Example:
        >>> text = "She has $1,200.50 + $3 = $<<1200.5+3=1203.5>>1,203.50, and (2 pens * 3) = 6 pens."
        >>> intervals = calculations(text, unit_words=1, end=len(text), answered=False)
        >>> [text[start:end] for start, end in intervals]
        ['$1,200.50 + $3 = $<<1200.5+3=1203.5>>1,203.50', '(2 pens * 3) = 6']

    References:
        The form NUM (OP NUM)+ = NUM is that of paper A's public code, https://arxiv.org/abs/2602.09331
    """
    reader = _Reader(text, unit_words)
    for match in _LEXEME.finditer(text, 0, end):
        reader.read(str(match.lastgroup), match.start(), match.end())
    if answered:
        reader.read("number", end, end)
    reader.finish()
    return reader.intervals


class _Reader:
    """The state between two lexemes: an equation's sides so far, and whether an operand is due."""

    def __init__(self, text: str, unit_words: int) -> None:
        self.intervals: list[Interval] = []
        self._text = text
        self._unit_words = unit_words
        self._begin_equation()

    def _begin_equation(self) -> None:
        # Start, end, whether it has an operator, whether it has a worked annotation.
        self._sides: list[tuple[int, int, bool, bool]] = []
        self._begin_side()

    def _begin_side(self) -> None:
        self._start: int | None = None  # of the side
        self._end: int | None = None  # of what is complete of it, outside parentheses
        self._operand_end = -1
        self._operator = -1  # where the last operator begins
        self._noted = False
        self._opened: list[int] = []  # ends of the parentheses that are open
        self._begin_operand()

    def _begin_operand(self) -> None:
        self._due = True
        self._signed: Interval | None = None
        self._words = 0
        self._spoken = False
        self._behind_note = False

    def read(self, kind: str, start: int, end: int) -> None:
        """Take the next lexeme; one that does not fit ends the equation and may begin another."""
        if not self._fits(kind, start, end) and (
            self._sides or self._start is not None or self._signed is not None
        ):
            self.finish()
            self._fits(kind, start, end)

    def finish(self) -> None:
        """End the equation, and keep it if it computes something."""
        sides = list(self._sides)
        if self._start is not None and self._end is not None:
            sides.append((self._start, self._end, self._operator >= 0, self._noted))
        computing = [
            start
            for index, (start, _, operated, noted) in enumerate(sides)
            if noted or (operated and index + 1 < len(sides))
        ]
        if computing:
            begin = computing[0]
            calculation = self._text[begin : sides[-1][1]]
            leading = len(calculation) - len(calculation.lstrip())
            self.intervals.append((begin + leading, begin + len(calculation.rstrip())))
        self._begin_equation()

    def _fits(self, kind: str, start: int, end: int) -> bool:
        match kind:
            case "glue":
                return True
            case "number" | "worked" | "note":
                return self._operand(kind, start, end)
            case "power" if not self._due:
                self._operator = start
                self._complete(end)
            case "operator" | "sign" | "bold" if not self._due:
                self._operator = start
                self._begin_operand()
            case "sign" if self._signed is None:
                self._signed = (start, end)
            case "bold":
                # **72** in place of an operand is emphasis; a fresh equation gains nothing from it.
                return self._start is not None or bool(self._sides)
            case "word" | "spoken" if not self._due:
                # "50% of 200" is a product, "5 in a total of 200" is not.
                self._spoken = kind == "spoken" and self._words == 0
                self._words += not self._spoken
                self._behind_note = False
                return self._words <= self._unit_words
            case "open":
                return self._open(start, end)
            case "close" if not self._due and self._opened:
                self._opened.pop()
                self._complete(end)
            case "equals" if not self._due:
                if self._sides and self._words and self._operator < 0:
                    # "3 + 4 = 7 and y = 8" is over at the 7.
                    return False
                self._next_side()
            case _:
                return False
        return True

    def _operand(self, kind: str, start: int, end: int) -> bool:
        if not self._due:
            if self._behind_note and kind == "number":
                self._complete(end)
                return True
            if not self._spoken:
                return False
            self._operator = start
        if self._start is None:
            # A dash with a space behind it is a bullet.
            self._start = self._signed[0] if self._signed is not None and self._signed[1] == start else start
        if kind == "worked":
            # The bar of a fraction is an operator inside its operand.
            self._operator = start
        self._noted |= kind == "note" and _works(self._text[start:end])
        self._begin_operand()
        self._due = False
        self._complete(end)
        self._behind_note = kind == "note"
        return True

    def _open(self, start: int, end: int) -> bool:
        if not self._due:
            # 2(3 + 4) is a product; a parenthesis behind a space is a remark.
            if start != self._operand_end:
                return False
            self._operator = start
        if self._start is None:
            self._start = start
        self._opened.append(end)
        self._begin_operand()
        return True

    def _complete(self, end: int) -> None:
        self._behind_note = False
        self._operand_end = end
        if not self._opened:
            self._end = end

    def _next_side(self) -> None:
        assert self._start is not None
        start, operated = self._start, self._operator >= 0
        if self._opened:
            # The equation itself stands in a parenthesis, whatever was before that.
            start, operated = self._opened[-1], self._operator >= self._opened[-1]
            self._sides = []
        self._sides.append((start, self._operand_end, operated, self._noted))
        self._begin_side()


def _works(note: str) -> bool:
    # <<48/2=24>> computes, <<24=24>> does not.
    left, equals, _ = note[2:].partition("=")
    return bool(equals) and any(operator in left[1:] for operator in "+-*/x^\u00d7\u00f7")

r"""One way to write an answer: what LaTeX and Unicode add for the eye is taken away.

`plain_text` maps characters to ASCII, `plain_latex` also takes away commands that only format. Neither
changes what is said, and both take time linear in the text.
"""

import re
import unicodedata
from dataclasses import dataclass, field

_INVISIBLE = [0xAD, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2065), 0xFEFF, 0xFE0F]
_MINUS = [0x2010, 0x2011, 0x2012, 0x2013, 0x2212, 0xFE63, 0xFF0D]
_QUOTES = [0x2018, 0x2019, 0x201B, 0x2032]
_SPACES = [0xA0, *range(0x2000, 0x2009), 0x200A, 0x205F, 0x3000]  # thin spaces group digits, and stay
_STYLED = [*range(0xFF01, 0xFF5F), *range(0x1D400, 0x1D800)]  # full width, mathematical bold, ...
_FRACTIONS = [0xBC, 0xBD, 0xBE, *range(0x2150, 0x215F)]
_SUPERSCRIPTS = {0xB2: "2", 0xB3: "3", 0xB9: "1", **{0x2070 + n: str(n) for n in (0, *range(4, 10))}}
_SUPERSCRIPTS |= {0x207A: "+", 0x207B: "-"}
_TABLE: dict[int, str] = {
    **dict.fromkeys(_INVISIBLE, ""),
    **dict.fromkeys(_SPACES, " "),
    **{code: unicodedata.normalize("NFKC", chr(code)) for code in _STYLED},
    **{
        code: f" {unicodedata.normalize('NFKC', chr(code)).replace(chr(0x2044), '/')} " for code in _FRACTIONS
    },
    **dict.fromkeys(_MINUS, "-"),
    **dict.fromkeys(_QUOTES, "'"),
    0x2044: "/",
    0x2215: "/",
    0x2245: "\\approx ",
    0x2248: "\\approx ",
    0x2243: "\\approx ",
    0xF7: "/",
}
# In running text a character stays a character, so that nothing is read that the text does not hold.
_RUNNING = {code: plain for code, plain in _TABLE.items() if code not in _FRACTIONS and len(plain) < 2}
_POWER = re.compile("[" + "".join(map(chr, _SUPERSCRIPTS)) + "]+")

# \left( is a parenthesis, \displaystyle is nothing, \, is a thin space.
_SILENT = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?)(?![A-Za-z])\.?"
    r"|\\(?:display|text|script|scriptscript)style(?![A-Za-z])"
    r"|\\(?:bf|rm|it|sf|tt|bfseries|itshape|large|Large|LARGE|huge|Huge|small|normalsize|limits|nolimits)"
    r"(?![A-Za-z])"
    r"|\\(?:color)\s?\{[a-zA-Z]*\}"
)
_GROUPING = re.compile(r"\s?\{\s?,\s?\}\s?|,\s?\\!\s?|\\!,")
_SPACE = re.compile(r"\\[,;: ]|\\(?:quad|qquad|thinspace|enspace|space)(?![A-Za-z])|~|\\hspace\{[^{}]{0,9}\}")
_WRAPPERS = (
    "text|textbf|textit|textrm|textsf|texttt|textnormal|textup|textmd|textsc|emph|underline|mbox|hbox|fbox|boxed|"
    "mathbf|mathrm|mathit|mathsf|mathtt|mathnormal|boldsymbol|bm|bold|pmb|ensuremath|textcolor|uline"
)
# Words stay marked as words where the command sets text; math alphabets set symbols.
_UPRIGHT = frozenset(
    (
        *(
            "text",
            "textbf",
            "textit",
            "textrm",
            "textsf",
            "texttt",
            "textnormal",
            "textup",
            "textmd",
            "textsc",
        ),
        *("emph", "mbox", "hbox", "mathrm"),
    )
)
_TOKENS = re.compile(
    rf"\\(?P<wrapper>{_WRAPPERS})\s?(?:\{{[a-zA-Z]{{1,20}}\}}(?=\{{))?\{{"  # \textcolor has two arguments
    r"|\\.|(?P<open>\{)|(?P<close>\})|(?P<digit>[0-9])",
    re.DOTALL,
)
DEEPEST = 30  # braces in braces that are unwrapped
CONSTANT = re.compile(r"\\(?:mathrm|text|textrm|rm|operatorname)\s?\{([ei])\}")


def plain_text(text: str) -> str:
    r"""Digits, signs, spaces and fractions of Unicode as ASCII.

    Example:
        >>> plain_text("\uff11\uff18\u200b m\u00b2"), plain_text("\u22122\u00bd")
        ('18 m^{2}', '-2 1/2 ')
    """
    if text.isascii():
        return text
    return _POWER.sub(_power, text).translate(_TABLE)


def running_text(text: str) -> str:
    """The same for a text of any length, for digits, signs and spaces alone."""
    return text if text.isascii() else text.translate(_RUNNING)


def _power(match: re.Match[str]) -> str:
    return "^{" + match[0].translate(_SUPERSCRIPTS) + "}"


def plain_latex(text: str) -> str:
    r"""`plain_text` without LaTeX that only formats.

    What stands in `\text{}` and its like comes out of it where a digit is in it; words stay in `\text{}`.

    Example:
        >>> plain_latex(r"\displaystyle\mathbf{18}"), plain_latex(r"\text{18 dollars}")
        ('18', '18 dollars')
        >>> plain_latex(r"\left(1{,}000\right)\textnormal{ km}")
        '(1,000)\\text{ km}'
    """
    text = plain_text(text)
    if "\\" not in text and "{" not in text and "~" not in text:
        return text
    text = _GROUPING.sub(",", CONSTANT.sub(r"\1", text))
    text = _SPACE.sub("\u2009", _SILENT.sub("", text))
    return unwrapped(text)


@dataclass(slots=True)
class _Frame:
    # An open brace: the command before it, where it stands, and whether a digit is in it.
    wrapper: str | None
    pieces: list[str] = field(default_factory=list)
    digit: bool = False


def unwrapped(text: str) -> str:
    r"""LaTeX without commands that set the type of what they hold.

    Example:
        >>> unwrapped(r"\mathbf{x} + \text{18 m}, \text{or}")
        'x + 18 m, \\text{or}'
    """
    # A piece is copied once for each brace around it, so deep nests are left as they are.
    frames = [_Frame(None)]
    place = 0
    for token in _TOKENS.finditer(text):
        frames[-1].pieces.append(text[place : token.start()])
        place = token.end()
        if token["wrapper"] or token["open"]:
            if len(frames) > DEEPEST:
                return text
            frames.append(_Frame(token["wrapper"] or ""))
        elif token["close"] and len(frames) > 1:
            frame = frames.pop()
            frames[-1].pieces.append(_closed(frame))
            frames[-1].digit |= frame.digit
        else:
            frames[-1].pieces.append(token[0])
            frames[-1].digit |= token["digit"] is not None
    frames[-1].pieces.append(text[place:])
    while len(frames) > 1:
        frame = frames.pop()
        opening = f"\\{frame.wrapper}{{" if frame.wrapper else "{"
        frames[-1].pieces += [opening, *frame.pieces]
    return "".join(frames[0].pieces)


def _closed(frame: _Frame) -> str:
    content = "".join(frame.pieces)
    if not frame.wrapper:
        return f"{{{content}}}"
    if frame.digit or frame.wrapper not in _UPRIGHT:
        return content
    return f"\\text{{{content}}}"

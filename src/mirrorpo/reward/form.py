"""Rewards of an answer's form, whatever it answers: its length, a pattern, its script and its words.

Each lies in [0, 1], and 1 counts as correct. They are parts of a sum; alone they say nothing of right and
wrong.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mirrorpo.core.batch import Prompt, Verdict
from mirrorpo.reward.plain import plain_verdict

_LETTERS = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Length:
    """1 up to a length, 0 from a longer one on, and linear between them.

    Attributes:
        unit: "characters" of the completion's text, or "words": what whitespace separates.
        full: the longest text that earns 1.
        nothing: the shortest text that earns 0.

    Example:
        >>> prompt = Prompt(uid="q", question="", gold="", demonstration="")
        >>> reward = Length(unit="words", full=2, nothing=6)
        >>> [verdict.reward for verdict in reward(["a b", "a b c", "a b c d e f g"], [prompt] * 3)]
        [1.0, 0.75, 0.0]
    """

    unit: Literal["characters", "words"]
    full: int
    nothing: int

    def __post_init__(self) -> None:
        if not 0 <= self.full < self.nothing:
            raise ValueError(
                f"reward.full={self.full}, reward.nothing={self.nothing}: a text of at most `full` "
                f"{self.unit} earns 1 and from `nothing` on 0; give 0 <= full < nothing"
            )

    @property
    def version(self) -> str:
        """Of the rule; its numbers are settings."""
        return "length/1"

    def __call__(self, texts: Sequence[str], prompts: Sequence[Prompt]) -> list[Verdict]:
        lengths = [len(text if self.unit == "characters" else text.split()) for text in texts]
        return [
            plain_verdict(min(1.0, max(0.0, (self.nothing - length) / (self.nothing - self.full))))
            for length in lengths
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    r"""1 for a text that a regular expression matches, 0 for any other.

    Attributes:
        pattern: of Python's `re`; flags stand in it, such as `(?s)`.
        match: "anywhere" in the text, or "all" of it.

    Example:
        >>> prompt = Prompt(uid="q", question="", gold="", demonstration="")
        >>> reward = Format(pattern=r"#### \d+", match="anywhere")
        >>> [verdict.reward for verdict in reward(["so\n#### 4", "4"], [prompt] * 2)]
        [1.0, 0.0]
    """

    pattern: str
    match: Literal["anywhere", "all"]

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(
                f"reward.pattern={self.pattern!r}: {error}; give a regular expression"
            ) from error

    @property
    def version(self) -> str:
        """Of the rule; the pattern is a setting."""
        return "format/1"

    def __call__(self, texts: Sequence[str], prompts: Sequence[Prompt]) -> list[Verdict]:
        compiled = re.compile(self.pattern)
        matches = compiled.search if self.match == "anywhere" else compiled.fullmatch
        return [plain_verdict(float(matches(text) is not None)) for text in texts]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScriptShare:
    """The share of a text's letters that belong to some scripts; 1 for a text without letters.

    A letter is what Unicode calls one. It belongs to a script when its Unicode name begins with the script's
    word: LATIN, CYRILLIC, GREEK, ARABIC, DEVANAGARI, CJK, HIRAGANA, KATAKANA, HANGUL, ...

    Attributes:
        scripts: such words; Japanese is [CJK, HIRAGANA, KATAKANA].

    Example:
        >>> prompt = Prompt(uid="q", question="", gold="", demonstration="")
        >>> reward = ScriptShare(scripts=["LATIN"])
        >>> [verdict.reward for verdict in reward(["so да", "3 + 4 = 7"], [prompt] * 2)]
        [0.5, 1.0]
    """

    scripts: Sequence[str]

    def __post_init__(self) -> None:
        known = {unicodedata.name(chr(code), "").partition(" ")[0] for code in range(0x30000)}
        if isinstance(self.scripts, str) or not self.scripts:
            raise ValueError(f"reward.scripts={self.scripts!r}: give a list such as [LATIN]")
        if unknown := [script for script in self.scripts if script not in known]:
            raise ValueError(
                f"reward.scripts={list(self.scripts)}: no letter's Unicode name begins with "
                f"{unknown[0]!r}; give words such as LATIN, CYRILLIC, CJK, HANGUL"
            )

    @property
    def version(self) -> str:
        """Of the rule and of the Unicode that names letters; the scripts are a setting."""
        return f"script/1 unicode/{unicodedata.unidata_version}"

    def __call__(self, texts: Sequence[str], prompts: Sequence[Prompt]) -> list[Verdict]:
        return [plain_verdict(self._share(text)) for text in texts]

    def _share(self, text: str) -> float:
        letters = [letter for letter in text if letter.isalpha()]
        inside = sum(unicodedata.name(letter, "").partition(" ")[0] in self.scripts for letter in letters)
        return inside / len(letters) if letters else 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class StopWordShare:
    """The share of a text's words that are among a language's commonest, up to what is typical of it.

        reward = min(1, share of the words / typical); 1 for a text without words

    A word is a run of letters, whatever its case.

    Attributes:
        words: the commonest words of the language.
        typical: their share in its ordinary prose.

    Example:
        >>> prompt = Prompt(uid="q", question="", gold="", demonstration="")
        >>> reward = StopWordShare(words=["the", "is"], typical=0.5)
        >>> [verdict.reward for verdict in reward(["The cat is big", "le chat", "7"], [prompt] * 3)]
        [1.0, 0.0, 1.0]
    """

    words: Sequence[str]
    typical: float

    def __post_init__(self) -> None:
        if isinstance(self.words, str) or not self.words or not 0 < self.typical <= 1:
            raise ValueError(
                f"reward.words={self.words!r}, reward.typical={self.typical}: give a list of words and their "
                "share in ordinary prose, in (0, 1]"
            )

    @property
    def version(self) -> str:
        """Of the rule; the words are a setting."""
        return "stop_words/1"

    def __call__(self, texts: Sequence[str], prompts: Sequence[Prompt]) -> list[Verdict]:
        common = {word.casefold() for word in self.words}
        return [plain_verdict(self._share(text, common)) for text in texts]

    def _share(self, text: str, common: set[str]) -> float:
        words = [word.casefold() for word in _LETTERS.findall(text)]
        share = sum(word in common for word in words) / len(words) if words else self.typical
        return min(1.0, share / self.typical)

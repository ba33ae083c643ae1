"""What is said of two arms: ARM > OTHER, and the like."""

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement:
    """One arm beside another.

    Attributes:
        arm: the first, as tables name it.
        sign: what is said of the first minus the second.
        other: the second.
    """

    arm: str
    sign: str
    other: str

    def __str__(self) -> str:
        return f"{self.arm} {self.sign} {self.other}"


def read_statement(text: str, signs: Sequence[str]) -> Statement | None:
    """A statement as it is written; None where the text is none with one of these signs.

    Example:
        >>> str(read_statement(" counterfactual  !> uniform", [">", "!>"])), read_statement("a = b", [">"])
        ('counterfactual !> uniform', None)
    """
    sign = "|".join(map(re.escape, signs))
    parts = re.fullmatch(rf"(?P<arm>.+?)\s+(?P<sign>{sign})\s+(?P<other>.+)", text.strip())
    return None if parts is None else Statement(**parts.groupdict())

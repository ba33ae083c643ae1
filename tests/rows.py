"""The rows of conf/: what the shared suites are parametrised over."""

from collections.abc import Container
from pathlib import Path

CONF = Path(__file__).parents[1] / "conf"


def names(axis: str, known: Container[str] | None = None) -> list[str]:
    """The YAML names of conf/AXIS.

    With `known`, only those that a suite can compare with something; `test_axes.py` names the others,
    with every table that they have to enter, in one message.
    """
    found = sorted(path.stem for path in (CONF / axis).glob("*.yaml"))
    return found if known is None else [name for name in found if name in known]

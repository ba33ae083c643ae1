"""Settings and their values as text that Hydra reads back. Imports no torch."""

from collections.abc import Mapping, Sequence

from hydra.core.override_parser.types import Quote, QuotedString


def quoted(text: str) -> str:
    r"""A text as a value that Hydra reads as just this text.

    Example:
        >>> print(quoted("a=1,b='2'"))
        'a=1,b=\'2\''
    """
    return QuotedString(text, Quote.single).with_quotes()


def override_of(setting: str, value: object) -> str:
    """A setting of a YAML file as an override; a text stands there as on a command line.

    Example:
        >>> override_of("seed", "0,1"), override_of("anchor", None), override_of("sets", ["a b", None])
        ('seed=0,1', 'anchor=null', "sets=['a b',null]")
    """
    return f"{setting}={value if isinstance(value, str) else _text(value)}"


def _text(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence):
        return f"[{','.join(map(_text, value))}]"
    return str(value)

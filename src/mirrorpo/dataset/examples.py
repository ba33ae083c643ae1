"""Examples that stand before every question: written in the config, or rows of a file."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias, cast

from mirrorpo.core.batch import Example

# Of the setting: none, examples with question and answer, or the path of a file of rows.
Shots: TypeAlias = Sequence[Mapping[str, str]] | str | None


def inline_examples(shots: Sequence[Mapping[str, str]]) -> list[Example]:
    """Examples that are written in the config.

    Raises:
        ValueError: if one has other keys than question and answer, or an empty text.
    """
    if not isinstance(shots, Sequence):
        raise ValueError(f"dataset.shots={shots!r}: give a list of examples, or the path of a file of rows")
    examples: list[Example] = []
    for number, shot in enumerate(shots):
        entries = cast("Mapping[str, object]", shot) if isinstance(shot, Mapping) else {}
        question, answer = entries.get("question"), entries.get("answer")
        if set(entries) != {"question", "answer"} or not _is_text(question) or not _is_text(answer):
            raise ValueError(
                f"dataset.shots[{number}]={shot!r}: write {{question: TEXT, answer: TEXT}}, or give the path "
                "of a file of rows in place of the list"
            )
        examples.append(Example(question=str(question).strip(), answer=str(answer).strip()))
    return examples


def _is_text(value: object) -> bool:
    return isinstance(value, str | int | float) and bool(str(value).strip())

"""A set of questions that a run is evaluated on beside its own."""

from dataclasses import dataclass

from mirrorpo.config.settings import AnswerSettings
from mirrorpo.core.protocols import Dataset, Split, Verifier


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalSet:
    """A set of `eval_datasets`; light, no data is read yet.

    Attributes:
        name: of its metrics and rows, below `eval/`.
        dataset: with its own system prompt and form of a question.
        reward: that judges its answers.
        split: that is evaluated.
        settings: how its questions are answered.
    """

    name: str
    dataset: Dataset
    reward: Verifier
    split: Split
    settings: AnswerSettings

    @property
    def content_name(self) -> str:
        """What the content of its questions is called among a run's inputs, behind `dataset `."""
        return f"{self.name}/{self.split}"


def split_of(content_name: str) -> tuple[str | None, str]:
    """The set and the split that a content's name is of; the set is None of the run's own.

    Example:
        >>> split_of("gsm8k/test"), split_of("train")
        (('gsm8k', 'test'), (None, 'train'))
    """
    name, slash, split = content_name.rpartition("/")
    return (name, split) if slash else (None, split)

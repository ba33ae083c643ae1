"""What several samples of a question say together: pass@k, the majority's answer, distinct answers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mirrorpo.train.metrics import pass_at_k


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """The judged samples of a question.

    Attributes:
        right: whether each is right.
        answers: each one's answer in a normal form, empty without one; None where the reward has no such
            form.
        texts: what was written.
        tokens: of all of them.
        truncated: how many were cut.
    """

    right: Sequence[bool]
    answers: Sequence[str | None]
    texts: Sequence[str]
    tokens: int
    truncated: int

    @property
    def majority_right(self) -> float | None:
        """The share of the most frequent answers that are right; None where answers have no normal form.

        Answers that are equally frequent share the vote. A sample without an answer does not vote.

        Example:
            >>> def right(*answers):
            ...     marks = [answer == "5" for answer in answers]
            ...     return Samples(right=marks, answers=answers, texts=answers, tokens=0, truncated=0)
            >>> right("5", "5", "7").majority_right, right("5", "7", "", "").majority_right
            (1.0, 0.5)
            >>> right("", "").majority_right, right("5", None).majority_right
            (0.0, None)
        """
        if None in self.answers:
            return None
        votes = Counter(answer for answer in self.answers if answer)
        most = max(votes.values(), default=0)
        # Nothing but the verifier's precision could judge equal answers differently; then the share counts.
        winners = [
            right
            for right, answer in zip(self.right, self.answers, strict=True)
            if answer and votes[answer] == most
        ]
        return sum(winners) / len(winners) if winners else 0.0

    @property
    def distinct(self) -> int:
        """How many answers differ; texts, where answers have no normal form."""
        known = [answer for answer in self.answers if answer is not None]
        return len(set(filter(None, known))) if len(known) == len(self.answers) else len(set(self.texts))


def sampled_metrics(samples: Sequence[Samples], prefix: str) -> Mapping[str, float]:
    """The means over questions of equally many samples, at least one of each.

    Args:
        samples: of each question.
        prefix: of the names, such as `eval`.
    """
    count, size = len(samples), len(samples[0].right)
    right = [sum(question.right) for question in samples]
    sizes = sorted({1, size} | {2**power for power in range(size.bit_length()) if 2**power < size})
    out = {f"{prefix}/sampled_questions": float(count)}
    for k in sizes:
        out[f"{prefix}/pass@{k}"] = sum(pass_at_k(solved, size, k) for solved in right) / count
    out[f"{prefix}/avg@{size}"] = out[f"{prefix}/pass@1"]
    majorities = [question.majority_right for question in samples]
    if (known := [share for share in majorities if share is not None]) and len(known) == count:
        out[f"{prefix}/maj@{size}"] = sum(known) / count
    return out | {
        f"{prefix}/sampled_length": sum(question.tokens for question in samples) / (count * size),
        f"{prefix}/sampled_truncated": sum(question.truncated for question in samples) / (count * size),
        f"{prefix}/distinct": sum(question.distinct for question in samples) / count,
    }

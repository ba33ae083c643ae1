"""What several samples of a question say together: pass@k, the majority's answer, how answers differ."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mirrorpo.train.metrics import coverage_at_k, pass_at_k


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """The judged samples of a question.

    Attributes:
        right: whether each is right.
        answers: each one's answer in a normal form, empty without one; None where the reward has no such
            form.
        texts: what was written.
        right_answers: the question's right ones in that form, each once; empty where they cannot be listed.
        tokens: of all of them.
        truncated: how many were cut.
    """

    right: Sequence[bool]
    answers: Sequence[str | None]
    texts: Sequence[str]
    tokens: int
    truncated: int
    right_answers: Sequence[str] = ()

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

    @property
    def right_counts(self) -> Sequence[int]:
        """How many samples give each of the right answers that are listed."""
        right = (answer for right, answer in zip(self.right, self.answers, strict=True) if right)
        given = Counter(right)
        return [given[answer] for answer in self.right_answers]

    @property
    def right_entropy(self) -> float:
        """Of the samples with a listed right answer, the entropy of which one it is, in nats; 0 without one.

        It is that of the counts, below the policy's by about (right answers - 1) / (2 right samples).
        """
        counts = [count for count in self.right_counts if count]
        total = sum(counts)
        return sum(-count / total * math.log(count / total) for count in counts)


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
    return (
        out
        | _coverage(samples, sizes, prefix)
        | {
            f"{prefix}/sampled_length": sum(question.tokens for question in samples) / (count * size),
            f"{prefix}/sampled_truncated": sum(question.truncated for question in samples) / (count * size),
            f"{prefix}/distinct": sum(question.distinct for question in samples) / count,
        }
    )


def _coverage(samples: Sequence[Samples], sizes: Sequence[int], prefix: str) -> dict[str, float]:
    """How many right answers samples contain, where all questions list theirs and some have several."""
    counts = [question.right_counts for question in samples]
    if not all(counts) or max(map(len, counts)) < 2:
        return {}
    count, size = len(samples), len(samples[0].right)
    covered = {
        f"{prefix}/coverage@{k}": sum(coverage_at_k(of_question, size, k) for of_question in counts) / count
        for k in sizes
    }
    distinct = sum(sum(given > 0 for given in of_question) for of_question in counts)
    return covered | {
        f"{prefix}/distinct_right": distinct / count,
        f"{prefix}/right_entropy": sum(question.right_entropy for question in samples) / count,
    }

"""The rewards of single-turn tasks of the `verifiers` package; `dataset.verifiers` asks their questions."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from mirrorpo.config.values import Config
from mirrorpo.core.batch import Prompt, Verdict
from mirrorpo.reward.plain import plain_verdict
from mirrorpo.run.source_code import outside_code
from mirrorpo.text.verifiers_tasks import Score, TaskSource, scores

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifiersRewards:
    """What a task's own rewards say, summed by their own weights; each is a part with a metric.

    A reward that fails or takes too long gives no verdict (NaN, "unverifiable").

    Attributes:
        taskset: as in the dataset; so are the next four.
        settings: of the taskset's own config.
        train: further ones for training and validation.
        test: further ones for the test, or None.
        limit: tasks that are read of each, or None.
        correct_at: the reward from which on an answer is correct.
        timeout_s: seconds by the clock for an answer, of which a batch is scored at once. A reward that
            computes without an await is not stopped by it.
    """

    taskset: str | None
    settings: Config
    train: Config
    test: Config | None
    limit: int | None
    correct_at: float
    timeout_s: float

    def __post_init__(self) -> None:
        if not self.timeout_s > 0:
            raise ValueError(f"reward.timeout_s={self.timeout_s}: give seconds above 0")

    @property
    def version(self) -> str:
        """Of the package and of the taskset's code."""
        try:
            package = version("verifiers")
        except PackageNotFoundError:
            package = "none"
        code = outside_code([self._source.module]) if self.taskset else {}
        return "verifiers/1 " + ", ".join([f"verifiers={package}", *(f"{k}={v}" for k, v in code.items())])

    def __call__(self, texts: Sequence[str], prompts: Sequence[Prompt]) -> list[Verdict]:
        tasks = self._source.all_tasks()
        if strangers := [prompt.uid for prompt in prompts if prompt.uid not in tasks]:
            raise ValueError(
                f"reward=verifiers: {strangers[0]} is no task of {self.taskset}; its questions are "
                "dataset=verifiers"
            )
        results = scores([tasks[prompt.uid] for prompt in prompts], texts, self.timeout_s)
        return [self._verdict(score, prompt.uid) for score, prompt in zip(results, prompts, strict=True)]

    def unjudgeable(self, prompts: Sequence[Prompt]) -> dict[str, str]:
        """None: a taskset that cannot be judged is refused when it is loaded."""
        return {}

    def provenance(self) -> dict[str, object]:
        """The taskset's code runs in this process."""
        return {"sandbox": None}

    def sources(self) -> dict[str, str]:
        """The package and the taskset's code."""
        return {"taskset": self.version}

    @property
    def _source(self) -> TaskSource:
        return TaskSource(
            taskset=self.taskset,
            settings=self.settings,
            train=self.train,
            test=self.test,
            limit=self.limit,
        )

    def _verdict(self, score: Score, uid: str) -> Verdict:
        if score.reward is None or math.isnan(score.reward):
            log.warning("reward=verifiers: no verdict on an answer to %s: %s", uid, score.fault or "NaN")
            return plain_verdict(math.nan)
        correct = score.reward >= self.correct_at
        return Verdict(
            reward=score.reward,
            strict=correct,
            flexible=correct,
            correct=correct,
            outcome="right" if correct else "wrong",
            parts=score.parts,
        )

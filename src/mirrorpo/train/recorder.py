"""What a run writes and shows: metrics, evaluation rows, completions, the tracker's mirror, the terminal."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from mirrorpo.config.settings import EvaluationSettings, RunSettings
from mirrorpo.core.protocols import Tracker
from mirrorpo.distributed.device import peak_memory_mb, stopwatch
from mirrorpo.run.disk import write_atomic, writing_to
from mirrorpo.run.folder import RunFolder
from mirrorpo.train.contamination import screen
from mirrorpo.train.display import Display, write_completions
from mirrorpo.train.evaluate import Evaluation
from mirrorpo.train.loaded import LoadedRun
from mirrorpo.train.metrics import finite
from mirrorpo.train.step import Progress, StepResult


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorder:
    """Writes one row a step, and evaluates where it is due.

    Attributes:
        folder: of the run.
        tracker: mirror of the metrics.
        display: for a person.
        loaded: evaluator and policy.
        evaluation: when to evaluate.
        run: last step, completions to show, questions to screen.
    """

    folder: RunFolder
    tracker: Tracker
    display: Display
    loaded: LoadedRun
    evaluation: EvaluationSettings
    run: RunSettings

    def start(self, progress: Progress) -> None:
        """Record the start model, before any step."""
        if self.evaluation.due(0, self.run.steps):
            spent = {} if progress.budget is None else progress.budget.metrics()
            self._record(0, self.loaded.drift() | spent, {"seconds": 0.0} | progress.timings())

    def step(self, step: int, result: StepResult, progress: Progress, seconds: float) -> None:
        """Record a step that took so many seconds, and where the run stands behind it."""
        shown = self.run.shown_completions
        with writing_to(self.folder.path):
            write_completions(
                self.folder, step, result.rollout.answers, result.all_offsets, result.credit, shown
            )
        memory = {"peak_memory_mb": peak_memory_mb(self.loaded.policy.device), "seconds": seconds}
        self._record(step, result.metrics, result.timings | memory | progress.timings())

    def _record(self, step: int, metrics: dict[str, float], timings: dict[str, float]) -> None:
        if self.evaluation.due(step, self.run.steps):
            with stopwatch() as clock:
                metrics = metrics | dict(self._evaluated(step))
                if step == 0:
                    metrics = metrics | dict(self._screened())
            timings = timings | {"eval_s": clock()}
        metrics = finite(metrics)
        self.folder.metrics.append({"step": step} | metrics)
        self.folder.timings.append({"step": step} | timings)
        self.tracker.log(step, metrics)
        self.display.step(step, metrics | timings, _spent(timings))

    def _screened(self) -> Mapping[str, float]:
        prompts = self.loaded.questions.evaluation[: self.run.contamination_questions]
        if not prompts:
            return {}
        with self.loaded.policy.shards.gathered():
            screening = screen(self.loaded.policy, self.loaded.evaluator.engine, prompts)
        screening.write(self.folder)
        return screening.metrics

    def _evaluated(self, step: int) -> Mapping[str, float]:
        evaluators = self.loaded.evaluators()
        self.display.evaluating(step, {name: len(each.prompts) for name, each in evaluators.items()})
        with self.loaded.policy.shards.gathered():
            evaluations = {
                name: evaluator(self.loaded.policy, step) for name, evaluator in evaluators.items()
            }
            metrics = self.loaded.right_answers()
        for name, evaluation in evaluations.items():
            write_rows(self.folder, step, name, evaluation)
            metrics |= evaluation.metrics
        return metrics


def write_rows(folder: RunFolder, step: int, eval_set: str, evaluation: Evaluation) -> None:
    """The file of an evaluation of a set; of the run's own questions, where its name is empty."""
    path = folder.evaluation(step, eval_set)
    with writing_to(folder.path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in evaluation.rows))


def _spent(timings: Mapping[str, float]) -> float:
    return sum(timings.get(name, 0.0) for name in ("seconds", "eval_s"))

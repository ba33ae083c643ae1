"""What a person sees of a run: progress, a closing table, completions to read."""

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from mirrorpo.config.values import JsonObject
from mirrorpo.core.token_offsets import TokenOffsets
from mirrorpo.model.adapter import base_of
from mirrorpo.rollout.collector import Answer
from mirrorpo.run.errors import RunError
from mirrorpo.run.folder import JsonLines, RunFolder
from mirrorpo.train.credit import TokenCredit
from mirrorpo.train.credit_metrics import credit_row
from mirrorpo.train.gain import gain_line

# What stands behind the bar, the most wanted first: what does not fit is left out.
SHOWN = (
    ("reward/mean", "reward", "{:.2f}"),
    ("eval/greedy_accuracy", "accuracy", "{:.3f}"),
    ("completion/length", "length", "{:.0f}"),
    ("divergence/value", "divergence", "{:.2g}"),
    ("tokens_per_s", "tokens/s", "{:.0f}"),
)
TABLE = (
    ("eval/greedy_accuracy", "greedy accuracy", "{:.1%}"),
    ("eval/greedy_flexible", "greedy, last number", "{:.1%}"),
    ("eval/pass@1", "sampled pass@1", "{:.1%}"),
    ("eval/pass@", "sampled pass@k", "{:.1%}"),
    ("eval/length", "tokens an answer", "{:.0f}"),
    ("eval/truncated", "truncated", "{:.1%}"),
)


# Seconds of an evaluation from which on a log says when the next one begins.
LONG_S = 30.0
# Share of a run's time in evaluations from which on its end says so, and the share that is suggested.
MUCH, ENOUGH = 0.25, 0.1

# Below this width the times are left out too.
NARROW = 60


class Display:
    """A progress bar where there is a terminal, some fifty lines where there is none.

    Args:
        steps: of the run.
        done: that were taken before.
        enabled: whether anything is shown.
        clock: seconds from any start.
    """

    def __init__(
        self, steps: int, done: int, *, enabled: bool, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._console = Console(file=sys.stdout, highlight=False)
        self._bar = enabled and self._console.is_terminal
        self._enabled = enabled
        self._steps, self._done = steps, done
        self._last: dict[str, float] = {}
        self._evaluated: int | None = None
        self._clock, self._start = clock, clock()
        narrow = self._console.width < NARROW
        times = () if narrow else (TimeElapsedColumn(), TextColumn("left"))
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=8 if narrow else 20),
            *times,
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=self._console,
            disable=not self._bar,
            # An evaluation is no slow step: the speed is that of the run so far.
            speed_estimate_period=10**6,
        )
        self._task: TaskID = self._progress.add_task("", total=max(steps, 1), completed=done, numbers="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self._enabled:
            self._console.print(text, markup=False, emoji=False, soft_wrap=True)

    def evaluating(self, step: int, questions: Mapping[str, int]) -> None:
        """An evaluation begins, on so many questions of each set; a log says so where the last one was long.

        Args:
            step: that it follows.
            questions: by the name of their set; of the run's own it is empty.
        """
        listed = ", ".join(f"{count} {name or 'held-out'} questions" for name, count in questions.items())
        if step == 0:
            self.say(f"evaluating the start model on {listed}")
        elif not self._bar and self._last.get("eval_s", 0.0) > LONG_S:
            self.say(f"evaluating after step {step} on {listed}")
        text = f"evaluating {sum(questions.values())} questions"
        if len(text) <= self._room():
            self._progress.update(self._task, numbers=text)

    def step(self, step: int, numbers: Mapping[str, float], seconds: float) -> None:
        """One step is done, which took so many seconds."""
        self._last |= numbers
        evaluated = any(name.startswith("eval/") for name in numbers)
        self._evaluated = step if evaluated else self._evaluated
        self._progress.update(self._task, completed=step, numbers="  ".join(self._numbers(self._room())))
        # A log gets some fifty lines, whatever the number of steps.
        due = step % max(1, self._steps // 50) == 0 or step == self._steps or evaluated
        if self._enabled and not self._bar and due:
            parts = [f"step {step}/{self._steps}", *self._numbers(None), f"{seconds:.1f} s/step"]
            self.say("  ".join([*parts, *self._left(step)]))

    def _left(self, step: int) -> list[str]:
        # Evaluations are part of what is left, so the mean is over all that has passed.
        taken = step - self._done
        each = (self._clock() - self._start) / taken if taken > 0 else 0.0
        return [f"left {(self._steps - step) * each:.0f} s"] if taken > 0 else []

    def _room(self) -> int:
        # What the terminal has beside the bar, whose columns have a space between them.
        bar = 8 + 8 if self._console.width < NARROW else 20 + 8 + 5 + 8
        return self._console.width - len(f"step {self._steps}/{self._steps}") - bar - 4

    def _numbers(self, room: int | None) -> list[str]:
        # As many as there is room for, by priority.
        out: list[str] = []
        for key, label, form in SHOWN:
            if key in self._last:
                text = f"{label} {form.format(self._last[key])}"
                if key.startswith("eval/"):
                    text += f" at {self._evaluated}"
                if room is not None and len("  ".join([*out, text])) > room:
                    break
                out.append(text)
        return out

    def close(
        self,
        before: Mapping[str, float],
        after: Mapping[str, float],
        files: Mapping[str, str],
        completions: str,
        gain: str = "",
    ) -> None:
        """Before and after where it was evaluated, three completions, and where the files are."""
        if not self._enabled:
            return
        if after:
            self._console.print(_before_and_after(before, after))
            if gain:
                self.say(gain)
            if completions:
                self.say(completions)
        for label, path in files.items():
            self.say(f"{label:<12} {path}")

    def conclude(self, folder: RunFolder) -> None:
        """Close with what a finished run's folder says."""
        trained, first, final = False, JsonObject(), JsonObject()
        for row in folder.metrics.stream():
            trained = True
            if any(name.startswith("eval/") for name in row):
                first, final = first or row, row
        path, answers, completions, gain = folder.path, {}, "", ""
        if "eval/questions" in final:
            start, last = (folder.evaluation(row["step"]) for row in (first, final))
            answered = JsonLines(last).rows()
            answers, completions = {"answers": str(last)}, sample_rows(answered, 3)
            gain = _gain(start, answered) if start != last else ""
        files = {
            "metrics": str(path / "metrics.jsonl"),
            **answers,
            "completions": str(folder.completions.path),
            "policy": policy_line(folder.policy),
        }
        if trained:
            self.close(first, final, files, completions, gain)
            # A damaged line of what is beside the results ends no run.
            timings = (row for _, row in folder.timings.numbered() if row is not None)
            if note := evaluation_note(timings):
                self.say(note)


def evaluation_note(timings: Iterable[JsonObject]) -> str:
    """How much of a run's time went into evaluations, where it is much, and how often would be less.

    Which steps are evaluated is a setting and depends on no clock: curves of runs that are compared have to
    have the same steps, and a resumed run the steps of an undisturbed one.

    Args:
        timings: the rows of `timings.jsonl`, from the first on.
    """
    trained, spent, last = 0.0, list[float](), 0
    for row in timings:
        trained += float(row.get("seconds", 0.0))
        last = row["step"]
        if "eval_s" in row:
            spent.append(float(row["eval_s"]))
    total = trained + sum(spent)
    # The start model's and the last step's are not to be spared.
    if len(spent) < 3 or sum(spent) <= MUCH * total:
        return ""
    wanted = ENOUGH / (1 - ENOUGH) * trained / (sum(spent) / len(spent))
    every = last if wanted < 3 else -int(-last // (wanted - 1))
    return (
        f"note: {sum(spent) / total:.0%} of {total:.0f} s went into {len(spent)} evaluations; with "
        f"eval_every={every} it would be {ENOUGH:.0%} or the least that is possible"
    )


def _before_and_after(before: Mapping[str, float], after: Mapping[str, float]) -> Table:
    count = after.get("eval/questions")
    title = None if count is None else f"{count:.0f} held-out questions"
    table = Table(title=title, title_justify="left")
    for column in ("", "before", "after"):
        table.add_column(column, justify="left" if not column else "right")
    for key, label, form in TABLE:
        # The k of pass@k is a setting; the largest one present is shown.
        names = sorted(
            (
                name
                for name in after
                if name == key or (key.endswith("@") and name.startswith(key) and name != "eval/pass@1")
            ),
            key=len,
        )
        for name in names[-1:]:
            table.add_row(
                label.replace("@k", name[name.find("@") :] if "@" in name else ""),
                form.format(before.get(name, float("nan"))),
                form.format(after[name]),
            )
    for name, label in _of_sets(after).items():
        table.add_row(label, f"{before.get(name, float('nan')):.1%}", f"{after[name]:.1%}")
    return table


def _of_sets(metrics: Mapping[str, float]) -> dict[str, str]:
    # The accuracies of other sets than the run's own, and what they are called.
    parts = {name: name.split("/") for name in metrics}
    sets = {name: (part[1], part[2]) for name, part in parts.items() if part[0] == "eval" and len(part) == 3}
    return {
        name: f"{eval_set}, {'greedy' if quantity == 'greedy_accuracy' else quantity}"
        for name, (eval_set, quantity) in sets.items()
        if quantity == "greedy_accuracy" or quantity.startswith("avg@")
    }


def _gain(before: Path, after: Sequence[Mapping[str, object]]) -> str:
    """The line on a run's gain; "" where its first evaluation cannot be read, which ends no run."""
    try:
        return gain_line(JsonLines(before).rows(), after)
    except RunError:
        return ""


def policy_line(policy: Path) -> str:
    """Where the trained policy is, and what of it is there."""
    base = base_of(str(policy), None)
    if base is None:
        return str(policy)
    return (
        f"{policy}: the adapter alone; its base is {base[0]}, and model.path= of this folder merges the two"
    )


def write_completions(
    folder: RunFolder,
    step: int,
    answers: Sequence[Answer],
    all_offsets: Sequence[TokenOffsets],
    credit: TokenCredit,
    count: int,
) -> None:
    """Add at most `count` of a step's answers to `completions.md` and `credit.jsonl`."""
    # Spread over the step's groups, so that not all shown answers are to one question.
    count = min(count, len(answers))
    shown = [index * len(answers) // count for index in range(count)]
    if not shown:
        return
    folder.completions.append(step, readable(step, [answers[index] for index in shown]))
    folder.credit.extend(
        [
            {"step": step}
            | credit_row(answers[index], all_offsets[index], credit.weights[index], credit.spans, index)
            for index in shown
        ]
    )


def readable(step: int, answers: Sequence[Answer]) -> str:
    """Completions as Markdown a person can read: question, gold, verdict, text."""
    parts = [f"# Step {step}\n"]
    for answer in answers:
        prompt, completion, verdict = answer.prompt, answer.completion, answer.verdict
        cut = ", truncated" if completion.truncated else ""
        parts.append(
            f"## {prompt.uid}: reward {answer.reward:g} ({verdict.outcome}, {len(completion.ids)} "
            f"tokens{cut}), gold "
            f"{one_line(prompt.gold)}\n\n~~~~\n{answer.rendered}\n~~~~\n\n~~~~\n{completion.text}\n~~~~\n"
        )
    return "\n".join(parts)


def sample_rows(rows: Sequence[Mapping[str, object]], count: int) -> str:
    """The first answers of an evaluation, one right and one wrong among them where there are."""
    right = [row for row in rows if row["right"]]
    wrong = [row for row in rows if not row["right"]]
    first = [*right[: count - min(1, len(wrong))], *wrong[:1]]
    picked = [*first, *[row for row in rows if row not in first]][:count]
    return "\n".join(
        (
            f"--- {row['uid']}: {'right' if row['right'] else 'wrong'}, gold "
            f"{one_line(str(row['gold']))}\n{row['completion']}"
        )
        for row in picked
    )


def one_line(gold: str) -> str:
    """A gold answer for a heading: itself, or the first line of a program.

    Example:
        >>> one_line("18"), one_line("def f(x):\\n    return x")
        ('18', 'def f(x): ...')
    """
    first, broken, _ = gold.strip().partition("\n")
    return f"{first} ..." if broken else gold

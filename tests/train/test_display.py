"""What a person sees of a run, with and without a terminal."""

import io
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from completions import completion_of

from mirrorpo.core.batch import Prompt, Verdict
from mirrorpo.rollout.collector import Answer
from mirrorpo.run.folder import RunFolder
from mirrorpo.train.display import Display, evaluation_note, readable, sample_rows


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's wishes for colour and width do not reach the tests."""
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")


class Terminal(io.StringIO):
    """A screen that remembers everything."""

    def isatty(self) -> bool:
        return True


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def steps(
    count: int, total: int, *, done: int = 0, enabled: bool = True, numbers: Mapping[str, float] | None = None
) -> None:
    clock = Clock()
    with Display(total, done, enabled=enabled, clock=clock) as display:
        for step in range(done + 1, count + 1):
            clock.now += 2.0
            display.step(step, numbers or {"reward/mean": 0.25}, 2.0)


# Lines


def test_without_a_terminal_a_step_is_a_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    steps(1, 4, numbers={"reward/mean": 0.25, "completion/length": 41.6, "tokens_per_s": 1234.5})
    assert (
        capsys.readouterr().out == "step 1/4  reward 0.25  length 42  tokens/s 1234  2.0 s/step  left 6 s\n"
    )


def test_without_a_terminal_there_are_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    steps(4, 4)
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\r" not in out and out.count("\n") == 4


@pytest.mark.parametrize(("total", "lines"), [(3, 3), (50, 50), (100, 50), (1000, 50), (1001, 51)])
def test_a_log_has_some_fifty_lines_whatever_the_number_of_steps(
    capsys: pytest.CaptureFixture[str], total: int, lines: int
) -> None:
    steps(total, total)
    assert len(capsys.readouterr().out.splitlines()) == lines


def test_the_last_step_is_always_logged(capsys: pytest.CaptureFixture[str]) -> None:
    steps(149, 149)
    assert capsys.readouterr().out.splitlines()[-1].startswith("step 149/149 ")


def test_an_evaluation_is_always_logged(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(1000, 0, enabled=True) as display:
        display.step(1, {"reward/mean": 0.25}, 1.0)
        display.step(7, {"eval/greedy_accuracy": 0.5}, 1.0)
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()] == ["step 7/1000"]


def test_an_accuracy_stays_in_sight_until_the_next(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(2, 0, enabled=True) as display:
        display.step(1, {"eval/greedy_accuracy": 0.5}, 1.0)
        display.step(2, {"reward/mean": 0.25}, 1.0)
    assert "accuracy 0.500 at 1 " in capsys.readouterr().out.splitlines()[1]


def test_what_is_left_is_a_mean_over_steps_and_evaluations(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Display(8, 2, enabled=True, clock=clock) as display:
        for step, seconds in ((3, 1.0), (4, 9.0), (5, 2.0)):
            clock.now += seconds
            display.step(step, {"eval/x": 1.0} if seconds == 9.0 else {"reward/mean": 0.25}, seconds)
    left = [line.split("left ")[1] for line in capsys.readouterr().out.splitlines()]
    # 1 s a step; then 10 s for two; then 12 s for three.
    assert left == ["5 s", "20 s", "12 s"]


def test_nothing_is_printed_when_progress_is_off(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(2, 0, enabled=False) as display:
        display.say("note")
        display.step(2, {"eval/greedy_accuracy": 0.5}, 1.0)
        display.close({}, {"eval/greedy_accuracy": 0.5}, {"metrics": "m"}, "completions")
    assert capsys.readouterr().out == ""


def test_nothing_is_drawn_on_a_terminal_when_progress_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    steps(2, 2, enabled=False)
    assert sys.stdout.getvalue() == ""  # type: ignore[attr-defined]


def test_on_a_terminal_there_is_a_bar_and_no_line_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    steps(3, 4)
    out = sys.stdout.getvalue()  # type: ignore[attr-defined]
    assert "━" in out and "3/4" in out and "reward 0.25" in out
    assert "s/step" not in out


@pytest.mark.parametrize(
    ("columns", "numbers"), [(40, []), (80, ["reward 0.25"]), (160, ["reward 0.25", "accuracy 0.500 at 20"])]
)
def test_on_a_narrow_terminal_numbers_drop_out_and_the_bar_and_what_is_left_stay(
    monkeypatch: pytest.MonkeyPatch, columns: int, numbers: Sequence[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "stdout", Terminal())
    shown = {
        "reward/mean": 0.25,
        "eval/greedy_accuracy": 0.5,
        "completion/length": 123.0,
        "divergence/value": 0.0123,
        "tokens_per_s": 12345.0,
    }
    clock = Clock()
    with Display(1000, 0, enabled=True, clock=clock) as display:
        for step in range(1, 21):
            clock.now += 2.0
            display.step(step, shown, 2.0)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sys.stdout.getvalue()).replace("\r", "\n").split("\n")  # type: ignore[attr-defined]
    last = [line for line in lines if "step" in line][-1]
    assert last.startswith("step   20/1000 ") and "━" in last and re.search(r"\d:\d\d:\d\d|-:--:--", last)
    assert len(last.rstrip()) <= columns
    assert all(number in last for number in numbers)
    assert len(numbers) > 0 or "reward" not in last


def test_a_bar_of_a_resumed_run_begins_where_it_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    with Display(40, 30, enabled=True):
        pass
    assert "30/40" in sys.stdout.getvalue()  # type: ignore[attr-defined]


def test_a_run_without_steps_can_be_displayed(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(0, 0, enabled=True) as display:
        display.step(0, {"eval/greedy_accuracy": 0.5}, 1.0)
    assert capsys.readouterr().out == "step 0/0  accuracy 0.500 at 0  1.0 s/step\n"


@pytest.mark.parametrize("text", ["[bold]x[/bold]", "a [1, 2] b", "x" * 300, "\\[not markup]"])
def test_what_is_said_is_printed_as_it_is(capsys: pytest.CaptureFixture[str], text: str) -> None:
    Display(1, 0, enabled=True).say(text)
    assert capsys.readouterr().out == text + "\n"


def test_a_number_between_colons_is_no_emoji(capsys: pytest.CaptureFixture[str]) -> None:
    Display(1, 0, enabled=True).say("in the ratio 1:100:1")
    assert capsys.readouterr().out == "in the ratio 1:100:1\n"


# Closing table


def closed(
    capsys: pytest.CaptureFixture[str], before: Mapping[str, float], after: Mapping[str, float]
) -> dict[str, list[str]]:
    """The table's rows, by label."""
    Display(1, 0, enabled=True).close(
        before, after, {"metrics": "path/of/metrics.jsonl"}, "three completions"
    )
    cells = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("│")
    ]
    return {label: numbers for label, *numbers in cells}


def test_the_table_has_what_was_before_and_what_is_after(capsys: pytest.CaptureFixture[str]) -> None:
    before = {"eval/greedy_accuracy": 0.125, "eval/pass@1": 0.1, "eval/length": 40.4, "eval/truncated": 0.5}
    after = {"eval/greedy_accuracy": 0.75, "eval/pass@1": 0.6, "eval/length": 51.0, "eval/truncated": 0.0}
    assert closed(capsys, before, after) == {
        "greedy accuracy": ["12.5%", "75.0%"],
        "sampled pass@1": ["10.0%", "60.0%"],
        "tokens an answer": ["40", "51"],
        "truncated": ["50.0%", "0.0%"],
    }


def test_the_table_shows_the_largest_k_of_pass_at_k(capsys: pytest.CaptureFixture[str]) -> None:
    numbers = {"eval/pass@1": 0.1, "eval/pass@4": 0.4, "eval/pass@16": 0.8}
    assert closed(capsys, numbers, numbers) == {
        "sampled pass@1": ["10.0%", "10.0%"],
        "sampled pass@16": ["80.0%", "80.0%"],
    }


def test_the_table_has_the_accuracies_of_other_sets_behind_the_runs_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = {"eval/greedy_accuracy": 0.5, "eval/far/greedy_accuracy": 0.25, "eval/far/avg@4": 0.125}
    assert closed(capsys, before, before | {"eval/far/avg@4": 0.5, "eval/far/length": 9.0}) == {
        "greedy accuracy": ["50.0%", "50.0%"],
        "far, greedy": ["25.0%", "25.0%"],
        "far, avg@4": ["12.5%", "50.0%"],
    }
    # And these alone, where the run's own is not evaluated.
    assert closed(capsys, {}, {"eval/far/greedy_accuracy": 0.5}) == {"far, greedy": ["nan%", "50.0%"]}


def test_the_table_names_the_number_of_questions_and_its_columns(capsys: pytest.CaptureFixture[str]) -> None:
    Display(1, 0, enabled=True).close({}, {"eval/questions": 500.0, "eval/greedy_accuracy": 0.5}, {}, "")
    title, _, head = capsys.readouterr().out.splitlines()[:3]
    assert title.strip() == "500 held-out questions"
    assert [cell.strip() for cell in head.strip("┃").split("┃")] == ["", "before", "after"]


def test_after_the_table_come_completions_and_where_the_files_are(capsys: pytest.CaptureFixture[str]) -> None:
    Display(1, 0, enabled=True).close(
        {}, {"eval/greedy_accuracy": 0.5}, {"metrics": "m.jsonl", "policy": "p"}, "three completions"
    )
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "three completions",
        "metrics      m.jsonl",
        "policy       p",
    ]


@pytest.mark.parametrize("damaged", [False, True])
def test_a_finished_run_says_what_it_gained_on_the_same_questions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damaged: bool
) -> None:
    (tmp_path / "eval").mkdir()
    metrics = [{"step": step, "eval/questions": 4.0, "eval/greedy_accuracy": 0.5} for step in (0, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    for step, verdicts in ((0, "rwww"), (2, "wrrw")):
        text = "".join(json.dumps(row) + "\n" for row in rows(verdicts))
        text = text[:-3] + "\n" if damaged and step == 0 else text
        (tmp_path / "eval" / f"step_{step:06d}.jsonl").write_text(text)
    Display(2, 0, enabled=True).conclude(RunFolder(tmp_path))
    out = capsys.readouterr().out
    # Student's t of the differences -1, 1, 1, 0. What cannot be read ends no run.
    gain = "greedy gain +25.0 points [-127.3, 177.3] over 4 questions, 2 turned right, 1 turned wrong"
    assert (gain in out.splitlines()) == (not damaged) and "greedy accuracy" in out


# Completions to read


def answer(*, reward: float = 1.0, truncated: bool = False) -> Answer:
    return Answer(
        prompt=Prompt(uid="arithmetic/1", question="How many?", gold="18", demonstration=""),
        rendered="<user>How many?</user>",
        completion=completion_of(
            [1, 2, 3], uid="arithmetic/1", text="9 + 9 = 18\n#### 18", truncated=truncated
        ),
        verdict=Verdict(reward=1.0, strict=True, flexible=True, correct=True, outcome="right"),
        reward=reward,
    )


@pytest.mark.parametrize(
    "part",
    [
        "# Step 7",
        "arithmetic/1",
        "<user>How many?</user>",
        "9 + 9 = 18\n#### 18",
        "gold 18",
        "reward 1 ",
        "right",
        "3 tokens",
    ],
)
def test_a_completion_to_read_has_its(part: str) -> None:
    assert part in readable(7, [answer()])


def test_the_reward_to_read_is_the_one_trained_on() -> None:
    assert "reward 0.5 " in readable(7, [answer(reward=0.5)])


@pytest.mark.parametrize("truncated", [True, False])
def test_a_completion_to_read_says_whether_it_was_truncated(truncated: bool) -> None:
    assert ("truncated" in readable(7, [answer(truncated=truncated)])) == truncated


def test_every_completion_is_there_to_read() -> None:
    text = readable(7, [answer(reward=float(reward)) for reward in range(5)])
    assert [text.count(f"reward {reward} ") for reward in range(5)] == [1] * 5


def rows(verdicts: str) -> Sequence[Mapping[str, Any]]:
    """One row for each letter, r right and w wrong."""
    return [
        {"uid": f"q{index}", "right": verdict == "r", "gold": "18", "completion": f"text {index}"}
        for index, verdict in enumerate(verdicts)
    ]


def shown(verdicts: str, count: int = 3) -> list[str]:
    return [
        line.removeprefix("--- ").split(":")[0]
        for line in sample_rows(rows(verdicts), count).splitlines()
        if line.startswith("--- ")
    ]


@pytest.mark.parametrize("verdicts", ["rrrrw", "wrrrr", "rrw", "rw", "w"])
def test_a_wrong_answer_is_shown_if_there_is_one(verdicts: str) -> None:
    assert f"q{verdicts.index('w')}" in shown(verdicts)


def test_a_right_answer_is_shown_if_there_is_one() -> None:
    assert "q4" in shown("wwwwr")


def test_as_many_answers_are_shown_as_asked() -> None:
    assert (shown("rrrrw"), shown("rrrr"), shown("rrrrw", 1)) == (
        ["q0", "q1", "q4"],
        ["q0", "q1", "q2"],
        ["q4"],
    )


@pytest.mark.parametrize("verdicts", ["wwwww", "wwwwr"])
def test_as_many_answers_are_shown_when_few_are_right(verdicts: str) -> None:
    assert len(shown(verdicts)) == 3


def test_a_shown_answer_has_verdict_gold_and_text() -> None:
    assert sample_rows(rows("rw"), 2) == "--- q0: right, gold 18\ntext 0\n--- q1: wrong, gold 18\ntext 1"


def test_no_answers_are_an_empty_text() -> None:
    assert sample_rows([], 3) == ""


def test_a_log_says_that_a_long_evaluation_begins_and_a_bar_says_so_of_any(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Display(100, 0, enabled=True) as display:
        display.evaluating(0, {"": 200, "far": 40})
        display.evaluating(10, {"": 200})
        display.step(10, {"eval/greedy_accuracy": 0.5, "eval_s": 31.0}, 1.0)
        display.evaluating(20, {"": 200})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "evaluating the start model on 200 held-out questions, 40 far questions"
    assert [line for line in lines if "after step" in line] == [
        "evaluating after step 20 on 200 held-out questions"
    ]


def test_a_run_that_was_mostly_evaluated_names_an_eval_every_under_which_it_was_less() -> None:
    def timings(every: int) -> list[dict[str, Any]]:
        return [
            {"step": step, "seconds": float(step > 0)} | ({"eval_s": 10.0} if step % every == 0 else {})
            for step in range(401)
        ]

    assert evaluation_note(timings(200)) == "" and evaluation_note([]) == ""
    note = evaluation_note(timings(10))
    assert note.startswith("note: 51% of 810 s went into 41 evaluations; with eval_every=")
    every = int(note.split("eval_every=")[1].split()[0])
    evaluated = sum("eval_s" in row for row in timings(every))
    assert 0.09 < 10 * evaluated / (10 * evaluated + 400) < 0.12

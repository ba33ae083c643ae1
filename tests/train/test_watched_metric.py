"""What an anchor watches is a metric of the run, or the run ends after its first step."""

import re
import shutil
from pathlib import Path

import pytest
from cli import SMALL, folder, rows, succeeded, train

from mirrorpo.divergence.anchor import Ema, Fixed, Mixture, Reset
from mirrorpo.train.watched_metric import occurring, refuse_absent

STEP = {"reward/mean": 0.5, "reward/flexible": 0.5, "group/zero_advantage": 0.5, "completion/trained": 1.0}


def watching(measure: str | None) -> Reset:
    return Reset(every=0 if measure else 5, measure=measure, patience=2, least=0.0)


def refused(measure: str, *, anchor=None, memory=None, metrics=STEP, **circumstances: bool) -> str:
    """What is said of a step; empty where nothing is."""
    stated = {"drift_due": True, "outcomes_declared": True, "scores_spans": False, **circumstances}
    try:
        refuse_absent(anchor or watching(measure), 1, memory or {}, metrics, occurring(metrics, **stated))
    except ValueError as error:
        return str(error)
    return ""


def test_a_misspelt_measure_is_refused_with_the_nearest_metric():
    assert refused("reward/mean") == ""
    assert refused("reward/men") == (
        "anchor.measure=reward/men: step 1 has no such metric, so it would reset nothing; did you mean "
        "reward/mean or reward/flexible?"
    )
    assert refused("nothing").endswith("docs/metrics.md lists those there are")
    for anchor in (watching(None), Ema(decay=0.5, every=1), Fixed(source="reference")):
        assert refused("", anchor=anchor) == ""


def test_a_part_of_a_mixture_is_named_by_its_place():
    for first, second, place in (
        (Fixed(source="old"), watching("reward/men"), "anchor.second"),
        (watching("reward/men"), Fixed(source="reference"), "anchor.first"),
    ):
        said = refused("", anchor=Mixture(first=first, second=second, share=0.5))
        assert said.startswith(f"{place}.measure=reward/men: ")


@pytest.mark.parametrize(
    ("measure", "circumstance", "metrics"),
    [
        ("drift/kl", {"drift_due": False}, {}),
        ("outcome/passed", {"outcomes_declared": False}, {}),
        ("credit/drop_calculation", {"scores_spans": True}, {}),
        ("credit/position_3", {"scores_spans": True}, {}),
        ("credit/all_gradient_answer", {}, {"group/zero_advantage": 1.0}),
        ("trust_region/position", {}, {"trust_region/factor": 1.0}),
        ("ratio/mean", {}, {"completion/trained": 0.0}),
    ],
)
def test_what_only_some_steps_measure_may_still_come(measure, circumstance, metrics):
    assert refused(measure, metrics={**STEP, **metrics}, **circumstance) == ""
    assert refused(measure) != ""
    # Misspelt it is none of them.
    if not measure.startswith(("outcome", "credit/drop", "ratio")):
        assert refused(measure + "x", metrics={**STEP, **metrics}, **circumstance) != ""


def test_what_was_measured_once_or_reset_once_is_not_asked_for_again():
    for memory in ({"best": 0.5, "since": 1.0, "resets": 0.0}, {"resets": 1.0}):
        assert refused("reward/men", memory=memory) == ""
    assert refused("reward/men", memory={"resets": 0.0}) != ""


def test_a_run_ends_after_its_first_step_in_a_line_or_counts_its_resets(tmp_path: Path):
    reset = (*SMALL, "anchor=reset", "anchor.every=0", "anchor.patience=1", "eval_questions=0")
    result = train(*reset, "anchor.measure=reward/men", f"out={tmp_path / 'misspelt'}", cwd=tmp_path)
    assert result.returncode == 1
    (line,) = [line for line in result.stderr.splitlines() if "anchor.measure" in line]
    assert re.search(r"anchor\.measure=reward/men: step 1 has no such metric.*did you mean reward/mean", line)
    # Measured after the second step alone; and reset there.
    by = ("anchor.measure=drift/kl", "drift_every=2", "anchor.every=2")
    counted = (*reset, *by, f"out={tmp_path / 'counted'}")
    succeeded(train(*counted, cwd=tmp_path))
    run = folder(tmp_path / "counted")
    whole = (run / "metrics.jsonl").read_bytes()
    assert [row.get("anchor/resets") for row in rows(run / "metrics.jsonl")][-3:] == [0, 1, 1]
    shutil.rmtree(run / "checkpoints" / "step_000003")
    succeeded(train(*counted, cwd=tmp_path), said=["resuming after step 2 of 3"])
    assert (run / "metrics.jsonl").read_bytes() == whole

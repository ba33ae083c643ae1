"""Tables from run folders made by hand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cli import ROOT

from analysis.tables import before_after, compare


def write_run(folder: Path, state: str, accuracies: list[float]) -> None:
    folder.mkdir(parents=True)
    manifest = {"state": state, "config": {"seed": 3}, "choices": {"algo": "grpo"}, "commit": "a" * 40, "dirty": False}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    rows = [{"step": step, "eval/greedy_accuracy": value, "eval/questions": 400.0} for step, value in enumerate(accuracies)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"step": len(rows), "reward/mean": 1.0}]))


def test_first_and_last_evaluation_with_their_binomial_errors(tmp_path: Path) -> None:
    write_run(tmp_path / "cell" / "seed=3", "done", [0.5, 0.7, 0.9])
    (row,) = before_after(tmp_path).to_dict("records")
    assert (row["before"], row["after"], row["gain"], row["questions"], row["seed"]) == (50.0, 90.0, 40.0, 400, 3)
    assert row["± before"] == pytest.approx(2.5) and row["± after"] == pytest.approx(1.5) and row["steps"] == 2


def test_an_unfinished_run_is_named_not_left_out(tmp_path: Path) -> None:
    write_run(tmp_path / "one" / "seed=0", "done", [0.5, 0.7])
    write_run(tmp_path / "two" / "seed=0", "failed", [0.5])
    with pytest.raises(ValueError, match=r"two/seed=0 is failed"):
        before_after(tmp_path)


def test_an_empty_folder_is_said_to_be_empty(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run below it"):
        before_after(tmp_path)


def test_the_package_never_imports_torch() -> None:
    code = "import sys, analysis.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def write_arm(root: Path, weighting: str, seed: int, last: float) -> None:
    folder = root / weighting / f"seed={seed}"
    write_run(folder, "done", [0.5, last])
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"config": {"seed": seed}, "choices": {"weighting": weighting}}))


def test_arms_are_compared_seed_by_seed(tmp_path: Path) -> None:
    for seed, base in enumerate([0.60, 0.70, 0.80]):
        write_arm(tmp_path, "uniform", seed, base)
        write_arm(tmp_path, "other", seed, base + 0.05)
    first, second = compare(tmp_path, "weighting", "uniform").to_dict("records")
    assert (first["weighting"], first["difference from uniform"]) == ("uniform", "")
    # The spread between seeds is in both arms and leaves the difference.
    assert second["difference from uniform"] == "5.00 [5.00, 5.00]" and second["eval/greedy_accuracy"] == "75.00 [50.16, 99.84]"


def test_an_arm_with_other_seeds_is_named(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_arm(tmp_path, "uniform", seed, 0.5)
    write_arm(tmp_path, "other", 1, 0.5)
    with pytest.raises(ValueError, match=r"other \[1\]"):
        compare(tmp_path, "weighting", "uniform")
    with pytest.raises(ValueError, match="no run with weighting=none"):
        compare(tmp_path, "weighting", "none")

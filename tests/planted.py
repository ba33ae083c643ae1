"""Sweeps with a known truth: run folders, exports and studies that were never trained."""

import copy
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from analysis.data.export import Export, assembled
from analysis.data.runs import RunTables
from analysis.data.schema import questions_table, rows_table, run_row
from analysis.study.design import design
from analysis.study.metric_choice import metric_choice
from analysis.study.record_guards import choice_classes
from analysis.study.study import Study
from mirrorpo.config.identity import config_hash, digest

COMMIT = "c0ffee" * 6 + "abcd"
CHOICES = {
    "algo": "dr_grpo",
    "divergence": "kl",
    "weighting": "uniform",
    "model": "tiny",
    "dataset": "arithmetic",
}
CONFIG: Mapping[str, Any] = {
    "algo": {"aggregate": {"length": 40}},
    "divergence": {"_target_": "mirrorpo.divergence.kl.K3", "beta": 0.04, "anchor": "reference"},
    "weighting": {"scope": "credit"},
    "model": {"path": "mirrorpo:tiny"},
    "dataset": {"data_seed": 0},
    "lr": 0.0005,
    "steps": 4,
    "eval_every": 2,
    "eval_questions": 40,
    "eval_split": "validation",
    "updates_per_rollout": 1,
    "name": "planted",
    "out": "outputs",
}
MANIFEST: Mapping[str, Any] = {
    "state": "done",
    "error": None,
    "started": "2026-11-25T10:00:00Z",
    "ended": "2026-11-25T10:10:00Z",
    "commit": COMMIT,
    "dirty": False,
    "launches": [{"commit": COMMIT}],
    "versions": {"torch": "2.13.0"},
    "machine": {"host": "test", "cores": 2},
    "data": {"validation": "d" * 8},
    "computed_in": "float32 on cpu",
    "reward_version": "math_answer/1",
    "prompt": {"hash": "p" * 8, "example": "1 + 1"},
}


def manifest(seed: int, choices: Mapping[str, str] | None = None, **changes: Any) -> dict[str, Any]:
    """A finished run's manifest; `changes` with a dot change the config, others the manifest."""
    config = copy.deepcopy(dict(CONFIG)) | {"seed": seed}
    chosen = CHOICES | dict(choices or {})
    for axis, choice in chosen.items():
        config[axis] = {**config[axis], "named": choice}
        if "_target_" in config[axis]:
            named = choice_classes(axis, choice).get(f"{axis}._target_")
            config[axis]["_target_"] = named or config[axis]["_target_"]
    for key, value in changes.items():
        if "." in key:
            path, _, name = key.rpartition(".")
            target = config if path == "config" else config[path]
            target[name] = value
    named = {"config": config_hash(config), "name": config["name"]}
    out = {
        **copy.deepcopy(dict(MANIFEST)),
        "config_hash": config_hash(config),
        "choices": chosen,
        "settings": {"steps": config["steps"]},
        "wandb_id": digest(named)[:16],
        "config": config,
        "command": ["train.py", f"seed={seed}"],
    }
    return out | {key: value for key, value in changes.items() if "." not in key}


def metrics(
    steps: int, accuracy: Sequence[float], drift: float = 0.05, questions: int = 40
) -> list[dict[str, float]]:
    """Rows of a run that was evaluated at equal distances, the first at step 0."""
    every = steps // (len(accuracy) - 1)
    rows: list[dict[str, float]] = []
    for step in range(steps + 1):
        row: dict[str, float] = {"step": step, "drift/kl": drift * step / steps}
        if step > 0:
            row |= {
                "reward/mean": 0.5 + 0.1 * step / steps,
                "completion/length": 50.0 - step,
                "entropy/mean": 0.2,
            }
        if step % every == 0:
            value = accuracy[step // every]
            row |= {
                "eval/greedy_accuracy": value,
                "eval/questions": float(questions),
                "eval/length": 50.0,
                "eval/truncated": 0.01,
            }
            row |= {
                "eval/pass@1": value - 0.1,
                "eval/pass@4": min(value + 0.1, 1.0),
                "eval/sampled_questions": 10.0,
                "eval/unverifiable": 0.0,
            }
        rows.append(row)
    return rows


def answers(right: Sequence[bool], text: str = "so") -> list[dict[str, Any]]:
    """Rows of one evaluation; every fourth question was sampled too."""
    rows: list[dict[str, Any]] = []
    for index, correct in enumerate(map(bool, right)):
        row = {
            "uid": f"q/{index:04d}",
            "question": f"What is {index} + 1?",
            "gold": str(index + 1),
            "right": correct,
            "strict": correct,
            "flexible": correct,
            "outcome": "right" if correct else "wrong",
            "tokens": 20 + index % 7,
            "truncated": False,
            "completion": f"{text} #### {index + int(correct)}",
        }
        sampled = {"samples": 4, "samples_right": 4 if correct else 1} if index % 4 == 0 else {}
        rows.append(row | sampled)
    return rows


def sampled_answers(right: Sequence[int], k: int) -> list[dict[str, Any]]:
    """Rows of one evaluation of which every question was sampled k times; greedy is right where most are."""
    rows = answers([2 * count > k for count in right])
    for row, count in zip(rows, map(int, right), strict=True):
        row |= {
            "samples": k,
            "samples_right": count,
            "distinct": 1 + (0 < count < k),
            "sampled_tokens": 30 * k,
        }
        row |= {"majority_right": float(np.sign(2 * count - k) + 1) / 2, "sampled_truncated": k - count}
    return rows


def evaluated(rows: Sequence[Mapping[str, Any]], prefix: str = "eval") -> dict[str, float]:
    """The metrics of an evaluation's rows, as a trainer writes them; samples are equally many."""
    sampled = [row for row in rows if "samples" in row]

    def mean(name: str, of: Sequence[Mapping[str, Any]] = rows) -> float:
        return sum(row[name] for row in of) / len(of)

    out = {"questions": float(len(rows)), "sampled_questions": float(len(sampled))}
    out |= {"greedy_accuracy": mean("right"), "greedy_strict": mean("strict")}
    out |= {"greedy_flexible": mean("flexible"), "unverifiable": 0.0}
    out |= {"length": mean("tokens"), "truncated": mean("truncated")}
    if sampled:
        k = sampled[0]["samples"]
        out[f"avg@{k}"] = mean("samples_right", sampled) / k
        for j in (1, 2, 4, 8):
            if j <= k:
                wrong = [math.comb(k - row["samples_right"], j) / math.comb(k, j) for row in sampled]
                out[f"pass@{j}"] = 1 - sum(wrong) / len(sampled)
        if all("distinct" in row for row in sampled):
            out |= {"distinct": mean("distinct", sampled), f"maj@{k}": mean("majority_right", sampled)}
            out["sampled_length"] = mean("sampled_tokens", sampled) / k
            out["sampled_truncated"] = mean("sampled_truncated", sampled) / k
    return {f"{prefix}/{name}": value for name, value in out.items()}


def follow(
    rows: Sequence[Mapping[str, float]], given: Mapping[int, Sequence[Mapping[str, Any]]]
) -> list[dict[str, float]]:
    """Rows of a run whose evaluations' numbers are those of its answers; without answers there is none."""
    kept = [{key: value for key, value in row.items() if not key.startswith("eval/")} for row in rows]
    return [row | (evaluated(given[int(row["step"])]) if row["step"] in given else {}) for row in kept]


def write_evaluated(
    folder: Path,
    made: Mapping[str, Any],
    evaluations: Mapping[int, Mapping[str, Sequence[Mapping[str, Any]]]],
    spent: Mapping[str, float] | None = None,
) -> Path:
    """A run folder of as many steps as its config says.

    Args:
        folder: of the run.
        made: its manifest.
        evaluations: by step and set, "" the run's own, the rows of its evaluation.
        spent: by metric what a step adds to it; those of `budget/` are written as sums, `budget/device_s`
            among the timings.
    """
    rows: list[dict[str, float]] = []
    timings: list[dict[str, float]] = []
    for step in range(made["config"]["steps"] + 1):
        row, timing = {"step": float(step)}, {"step": float(step), "seconds": 1.0}
        for name, value in (spent or {}).items():
            target = timing if name == "budget/device_s" else row
            if name.startswith("budget/") or step:
                target[name] = value * (step if name.startswith("budget/") else 1)
        for of_set, answered in evaluations.get(step, {}).items():
            row |= evaluated(answered, f"eval/{of_set}".rstrip("/"))
        rows.append(row)
        timings.append(timing)
    own = {step: by_set[""] for step, by_set in evaluations.items() if "" in by_set}
    write_run(folder, made, [{**row, "step": int(row["step"])} for row in rows], own)
    (folder / "timings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in timings))
    for step, by_set in evaluations.items():
        for of_set, answered in by_set.items():
            (folder / "eval" / of_set).mkdir(exist_ok=True)
            lines = "".join(json.dumps(row) + "\n" for row in answered)
            (folder / "eval" / of_set / f"step_{step:06d}.jsonl").write_text(lines)
    return folder


def write_run(
    folder: Path,
    made: Mapping[str, Any],
    rows: Sequence[Mapping[str, float]],
    evaluations: Mapping[int, Sequence[Mapping[str, Any]]],
) -> Path:
    """A run folder."""
    (folder / "eval").mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(made))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step, answered in evaluations.items():
        lines = "".join(json.dumps(row) + "\n" for row in answered)
        (folder / "eval" / f"step_{step:06d}.jsonl").write_text(lines)
    return folder


def write_sweep(
    root: Path,
    arms: Sequence[str] = ("kl", "none"),
    seeds: Sequence[int] = (0, 1),
    axis: str = "divergence",
    **changes: Any,
) -> Path:
    """A sweep of finished runs as folders.

    Accuracy is 0.6 plus a tenth for every later arm and a fortieth a seed.
    """
    for order, arm in enumerate(arms):
        for seed in seeds:
            counts = {0: 20, 2: 22, 4: 24 + 4 * order + seed}
            given = {step: answers([index < right for index in range(40)]) for step, right in counts.items()}
            rows = follow(metrics(4, [right / 40 for right in counts.values()]), given)
            made = manifest(seed, {axis: arm}, **changes)
            write_run(root / f"{axis}={arm}" / f"seed={seed}", made, rows, given)
    return root


def export_of(
    scores: Mapping[str, np.ndarray[Any, Any]],
    axis: str = "divergence",
    model: Sequence[str] = ("tiny",),
    samples: Mapping[str, np.ndarray[Any, Any]] | None = None,
    k: int = 8,
    **changes: Any,
) -> Export:
    """An export whose runs answer scores[arm][seed, question] at their last step, whatever the model.

    Args:
        scores: of greedy answers.
        axis: that the arms are on.
        model: models, each with all runs.
        samples: how many of k sampled answers are right, by arm, seed and question.
        k: samples of a question.
        changes: of the manifests.
    """
    runs: list[RunTables] = []
    for name in model:
        for arm, right in scores.items():
            for seed, verdicts in enumerate(right):
                count = len(verdicts)
                made = manifest(
                    seed, {axis: arm, "model": name}, **{"config.eval_questions": count, **changes}
                )
                # Numbers of its last answers, and no earlier evaluation.
                rows = [
                    {key: value for key, value in row.items() if not key.startswith("eval/")}
                    for row in metrics(4, [0.0, 0.0])
                ]
                rows[-1] |= {"eval/greedy_accuracy": float(np.mean(verdicts)), "eval/length": 20.0}
                rows[-1] |= {"eval/questions": float(count)}
                columns = {
                    "uid": [f"q/{index:05d}" for index in range(count)],
                    "right": pa.array(np.asarray(verdicts, dtype=bool)),
                    "tokens": pa.array([20] * count, pa.int64()),
                }
                if samples is not None:
                    sampled = {"samples": [k] * count, "samples_right": list(map(int, samples[arm][seed]))}
                    columns |= {key: pa.array(values, pa.int64()) for key, values in sampled.items()}
                    rows[-1] |= {f"eval/avg@{k}": float(np.mean(samples[arm][seed])) / k}
                table, answered = rows_table(rows), pa.table(columns)
                source = f"{name}/{arm}/{seed}"
                row = run_row(
                    made, table, run=made["wandb_id"], sweep="planted", came_from="folder", source=source
                )
                runs.append(RunTables(row, table, questions_table(answered, 4)))
    return assembled(runs, "planted")


def unguarded(export: Export) -> Study:
    """The study of planted runs, of which no guard has a word to say, in a third of the time."""
    planned = design(export)
    choice = metric_choice(export, [run.name for run in planned.runs])
    return Study(export, planned, choice.metric, export.notes, reason=choice.reason)


def population(
    rng: np.random.Generator,
    seeds: int,
    questions: int,
    effects: Mapping[str, float],
    *,
    seed_spread: float,
    arm_spread: float = 0.0,
) -> dict[str, Any]:
    """scores[arm][seed, question] of arms whose expected accuracies are 0.7 plus the effects, in points.

    logit of a question is its difficulty, N(0, 1.5^2), plus a seed's luck with this arm, of a standard
    deviation such that accuracies of seeds spread by `seed_spread` points. Levels are set so that the
    mean over difficulties is the wanted accuracy.
    """
    difficulty = rng.normal(0, 1.5, size=questions)
    out: dict[str, Any] = {}
    for arm, effect in effects.items():
        chances = _chances(rng, seeds, difficulty, effect, seed_spread, arm_spread)
        out[arm] = rng.random((seeds, questions)) < chances
    return out


def sampled_population(
    rng: np.random.Generator,
    seeds: int,
    questions: int,
    effects: Mapping[str, float],
    *,
    seed_spread: float,
    k: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same arms' greedy answers, a draw each, and how many of k more draws are right."""
    difficulty = rng.normal(0, 1.5, size=questions)
    greedy: dict[str, Any] = {}
    samples: dict[str, Any] = {}
    for arm, effect in effects.items():
        chances = _chances(rng, seeds, difficulty, effect, seed_spread, 0.0)
        greedy[arm], samples[arm] = rng.random((seeds, questions)) < chances, rng.binomial(k, chances)
    return greedy, samples


def _chances(
    rng: np.random.Generator,
    seeds: int,
    difficulty: Any,
    effect: float,
    seed_spread: float,
    arm_spread: float,
) -> Any:
    grid = np.random.default_rng(1).normal(0, 1.5, size=4000)
    level, slope = _level(0.7 + effect / 100, grid)
    luck = rng.normal(0, seed_spread / 100 / slope, size=(seeds, 1))
    bias = rng.normal(0, arm_spread, size=len(difficulty))
    return 1 / (1 + np.exp(-(level + difficulty + bias + luck)))


def _level(accuracy: float, grid: Any) -> tuple[float, float]:
    low, high = -10.0, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        below = np.mean(1 / (1 + np.exp(-(middle + grid)))) < accuracy
        low, high = (middle, high) if below else (low, middle)
    p = 1 / (1 + np.exp(-(low + grid)))
    return low, float(np.mean(p * (1 - p)))

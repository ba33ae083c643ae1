"""A clean 2 x 2 sweep, and the ways in which its files can come to say what was not so.

Each falsification is an edit of the folder of a finished sweep of two arms (`kl`, `none`) and two seeds (0,
1), planted (`clean_sweep`) or really trained; both have the same names of folders.
"""

import json
import random
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import planted

from mirrorpo.config.identity import digest
from mirrorpo.launch.launches import LAUNCHES, Launch
from mirrorpo.launch.registration import Registration
from mirrorpo.run.folder import RunFolder
from mirrorpo.run.manifest import SEAL

ARM, BASE = "none", "kl"
PLAN = {"hypothesis": "Without a penalty less is right.", "primary": [f"{BASE} > {ARM}"], "margin": 0.02}
JsonRow = dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """The folder of a sweep, and its runs by arm and seed."""

    root: Path

    def run(self, arm: str = ARM, seed: int = 1) -> Path:
        """A run's folder."""
        (path,) = self.root.glob(f"*divergence={arm}*/seed={seed}")
        return path

    @property
    def runs(self) -> list[Path]:
        """All folders."""
        return sorted(path.parent for path in self.root.glob("*/seed=*/manifest.json"))


def read(path: Path) -> list[JsonRow]:
    """The rows of a JSON lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The same, back."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def edit(run: Path, changes: Mapping[str, Any]) -> None:
    """Change a manifest's entries; a dot goes into an object, a number into a list."""
    path = run / "manifest.json"
    manifest = json.loads(path.read_text())
    for key, value in changes.items():
        target = manifest
        *groups, name = key.split("/")
        for group in groups:
            target = target[int(group) if isinstance(target, list) else group]
        target[name] = value
    path.write_text(json.dumps(manifest))


def entry(run: Path, key: str) -> Any:
    """An entry of a manifest."""
    return json.loads((run / "manifest.json").read_text())[key]


def metric(run: Path, step: int, name: str, value: float | None) -> None:
    """Change a metric of a step, or take it away."""
    rows = read(run / "metrics.jsonl")
    for row in rows:
        if row["step"] == step:
            assert name in row, name
            row.pop(name)
            if value is not None:
                row[name] = value
    write(run / "metrics.jsonl", rows)


def moved(run: Path, step: int, name: str) -> None:
    """Change a metric of a step by a quarter of a thousandth."""
    (row,) = (row for row in read(run / "metrics.jsonl") if row["step"] == step)
    metric(run, step, name, row[name] * 1.00025 + 0.00025)


def answers(run: Path, change: Callable[[list[JsonRow]], object], step: int = 4) -> None:
    """Change the rows of an evaluation in place."""
    path = run / "eval" / f"step_{step:06d}.jsonl"
    rows = read(path)
    change(rows)
    write(path, rows)


def answer(run: Path, changes: Mapping[str, Callable[[Any], Any]], step: int = 4, index: int = 0) -> None:
    """Change the columns of one question."""

    def change(rows: list[JsonRow]) -> None:
        rows[index] |= {name: new(rows[index][name]) for name, new in changes.items()}

    answers(run, change, step)


def lose(run: Path, *steps: int) -> None:
    """Take evaluations' rows away."""
    for step in steps:
        (run / "eval" / f"step_{step:06d}.jsonl").unlink()


def swap(first: Path, second: Path, *names: str) -> None:
    """Exchange two runs' files of these names."""
    for name in names:
        ours, theirs = (first / name).read_bytes(), (second / name).read_bytes()
        (first / name).write_bytes(theirs)
        (second / name).write_bytes(ours)


def copy(source: Path, target: Path, *names: str) -> None:
    """Put one run's files over another's; a folder with all that is in it."""
    for name in names:
        if (source / name).is_dir():
            shutil.rmtree(target / name)
            shutil.copytree(source / name, target / name)
        else:
            shutil.copyfile(source / name, target / name)


def reorder(run: Path, order: Callable[[list[JsonRow]], list[JsonRow]]) -> None:
    """Rows of the metrics in another order, or others of them."""
    path = run / "metrics.jsonl"
    write(path, order(read(path)))


def right_everywhere(sweep: Sweep) -> None:
    """An answer that was wrong is called right, and the accuracies are made to fit."""
    run = sweep.run()
    rows = read(run / "eval" / "step_000004.jsonl")
    index = next(index for index, row in enumerate(rows) if not (row["right"] or row["strict"]))
    answer(run, {"right": lambda _: True, "strict": lambda _: True}, index=index)
    for name in ("greedy_accuracy", "greedy_strict"):
        share = sum(row["right"] for row in rows) + 1
        metric(run, 4, f"eval/{name}", share / len(rows))


def retimed(run: Path) -> None:
    """A run that ended before it began."""
    edit(run, {"started": "2026-11-25T10:10:00Z", "ended": "2026-11-25T10:00:00Z"})


def relaunched(run: Path) -> None:
    """A second launch that is older than the first."""
    launch = entry(run, "launches")[0]
    edit(run, {"launches": [launch, {**launch, "time": "2020-01-01T00:00:00Z", "from_step": 2}]})


def command(run: Path, old: str, new: str) -> None:
    """Another command was typed."""
    edit(run, {"command": [new if word == old else word for word in entry(run, "command")]})


def setting(run: Path, key: str, value: object) -> None:
    """Another setting in the config, and nowhere else."""
    edit(run, {f"config/{key}": value})


def every(sweep: Sweep, change: Callable[[Path], object], arm: str = "") -> None:
    """The same change in all runs, or in those of an arm."""
    for run in sweep.runs:
        if not arm or entry(run, "choices")["divergence"] == arm:
            change(run)


def swap_arms(sweep: Sweep) -> None:
    """Each arm is called the other one."""
    for run in sweep.runs:
        choice = entry(run, "choices")["divergence"]
        edit(run, {"choices/divergence": BASE if choice == ARM else ARM})


def swap_seeds(sweep: Sweep) -> None:
    """Each seed of an arm is called the other one."""
    for seed in (0, 1):
        setting(sweep.run(seed=seed), "seed", 1 - seed)


def swap_folders(sweep: Sweep) -> None:
    """The folders of two seeds are exchanged."""
    first, second = sweep.run(seed=0), sweep.run(seed=1)
    aside = first.with_name("aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


def seconds(run: Path) -> None:
    """A run that spent less."""
    rows = read(run / "timings.jsonl")
    for row in rows:
        row["budget/device_s"] = row.get("budget/device_s", 0.0) / 2
    write(run / "timings.jsonl", rows)


def version(run: Path, package: str) -> None:
    """A package of another version."""
    edit(run, {"versions": {**entry(run, "versions"), package: "0.0.1"}})


def uid(rows: list[JsonRow]) -> None:
    """A question twice, in place of another."""
    rows[1] = dict(rows[0])


def halve(rows: list[JsonRow]) -> None:
    """Half of the questions."""
    del rows[len(rows) // 2 :]


def lose_all(run: Path) -> None:
    """No answers."""
    lose(run, 0, 2, 4)


Edit = Callable[[Sweep], object]


def on(change: Callable[..., object], *args: Any, seed: int = 1, **kwargs: Any) -> Edit:
    """An edit of one run."""
    return lambda sweep: change(sweep.run(seed=seed), *args, **kwargs)


# What a manifest says of the run's files, and of itself.
KINDS_OF_DIGESTS = ("files", "sha256", "sha256_beside", SEAL)


def undigest(names: Sequence[str], run: Path) -> None:
    """Take digests away, and change what they were of."""
    path = run / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in names:
        group, _, file = name.partition("/")
        (manifest.get(group, {}) if file else manifest).pop(file or group, None)
    path.write_text(json.dumps(manifest))
    moved(run, 3, "reward/mean")


def replan(sweep: Sweep, plan: Mapping[str, Any] | None = None, **entries: Any) -> None:
    """Change what the launch recorded as planned; None takes an entry away."""
    path = sweep.root / LAUNCHES
    (launch,) = json.loads(path.read_text()) if path.exists() else [{"argv": [], "cwd": "", "plan": PLAN}]
    launch = launch | entries | {"plan": launch["plan"] | (plan or {})}
    path.write_text(json.dumps([{key: value for key, value in launch.items() if value is not None}]))


MISSING: Mapping[str, Edit] = {
    "the last answers of one run": on(lose, 4),
    "answers in the middle": on(lose, 2),
    "all answers of one run": on(lose, 0, 2, 4),
    "all answers of all runs": lambda sweep: every(sweep, lose_all),
    "the second half of the last answers": on(answers, halve),
    "one question": on(answers, lambda rows: rows.pop()),
    "a question that is there twice in place of another": on(answers, uid),
    "another question under a uid": on(answer, {"question": lambda text: text + " Or not?"}),
    "another gold under a uid": on(answer, {"gold": lambda gold: f"1{gold}"}),
    "a question under another's uid at an earlier step": on(answers, uid, step=2),
}


NUMBERS: Mapping[str, Edit] = {
    "accuracy at the end": on(moved, 4, "eval/greedy_accuracy"),
    "accuracy in the middle": on(moved, 2, "eval/greedy_accuracy"),
    "strict accuracy": on(moved, 4, "eval/greedy_strict"),
    "avg@k": on(moved, 4, "eval/avg@4"),
    "pass@k": on(moved, 4, "eval/pass@2"),
    "maj@k": on(moved, 4, "eval/maj@4"),
    "length": on(moved, 4, "eval/length"),
    "truncation": on(moved, 4, "eval/truncated"),
    "length of samples": on(moved, 2, "eval/sampled_length"),
    "different answers": on(moved, 4, "eval/distinct"),
    "the number of questions": on(moved, 4, "eval/questions"),
    "right, of an answer": on(answer, {"right": lambda right: not right}),
    "right, of an answer and the accuracies": right_everywhere,
    "the outcome of an answer": on(answer, {"outcome": lambda word: "wrong" if word == "right" else "right"}),
    "tokens of an answer": on(answer, {"tokens": lambda tokens: tokens + 1}),
    "right samples of an answer": on(answer, {"samples_right": lambda count: abs(count - 1)}),
    "more right samples of an answer than samples": on(answer, {"samples_right": lambda _: K + 1}),
    "tokens sampled so far": on(moved, 3, "budget/tokens_sampled"),
    "reward of a step": on(moved, 3, "reward/mean"),
    "drift of a step": on(moved, 3, "drift/kl"),
    "seconds": on(seconds),
}
NOT_WHAT_THEY_SAY: Mapping[str, Edit] = {
    "seeds swapped in the configs": swap_seeds,
    "seeds swapped by renaming folders": swap_folders,
    "a seed in the config": on(setting, "seed", 7),
    "rows of the other arm": lambda sweep: copy(sweep.run(BASE), sweep.run(), "metrics.jsonl"),
    "rows and answers of the other seed": lambda sweep: copy(
        sweep.run(seed=0), sweep.run(), "metrics.jsonl", "eval"
    ),
    "answers of the other seed": lambda sweep: copy(sweep.run(seed=0), sweep.run(), "eval"),
    "rows and answers of two arms exchanged": lambda sweep: swap(
        sweep.run(BASE), sweep.run(), "metrics.jsonl", *(f"eval/step_{step:06d}.jsonl" for step in (0, 2, 4))
    ),
    "an arm's name in one run": on(edit, {"choices/divergence": BASE}, seed=0),
    "an arm's name in all its runs": lambda sweep: every(
        sweep, partial(edit, changes={"choices/divergence": "probl2"}), ARM
    ),
    "two arms' names exchanged": swap_arms,
    "a config's class": on(setting, "divergence/_target_", "mirrorpo.divergence.kl.K1"),
    "a command's setting": on(command, "steps=4", "steps=8"),
    "a command's seed": on(command, "seed=1", "seed=3"),
    "a setting in one config": on(setting, "lr", 0.25),
    "a setting in all configs": lambda sweep: every(sweep, partial(setting, key="lr", value=0.25)),
    "a config's hash": on(edit, {"config_hash": "0" * 16}),
    "clocks": on(retimed),
    "launches": on(relaunched),
    "reversed rows": on(reorder, lambda rows: rows[::-1]),
    "a missing row": on(reorder, lambda rows: rows[:3] + rows[4:]),
    "a row twice": on(reorder, lambda rows: [*rows[:3], rows[2], *rows[3:]]),
    "a row more": on(reorder, lambda rows: [*rows, {**rows[-1], "step": 5}]),
    "a metric that one run lacks": on(
        reorder, lambda rows: [{key: row[key] for key in row if key != "drift/kl"} for row in rows]
    ),
    "a metric that one step lacks": on(metric, 2, "eval/avg@4", None),
    "a completion": on(answer, {"completion": lambda text: text + " I think."}),
}
NOT_COMPARED: Mapping[str, Edit] = {
    "mirror map": on(edit, {"mirror_map": {"hash": "1" * 8}}),
    "model commit": on(edit, {"model_commit": "1" * 40}),
    "parameters": on(edit, {"parameters": {"all": 7, "trained": 7}}),
    "device": on(edit, {"device": "NVIDIA H100"}),
    "precision": on(edit, {"computed_in": "bfloat16 on cpu"}),
    "sandbox": on(edit, {"sandbox": "none"}),
    "bad data": on(edit, {"bad_data": {"q/0001": "no gold"}}),
    "math-verify": on(version, "math-verify"),
    "vllm": on(version, "vllm"),
    "peft": on(version, "peft"),
    "a class from outside": on(edit, {"inputs/code mine": "1" * 16}),
}
DIGESTS: Mapping[str, Edit] = {
    "of one kind, and a number": lambda sweep: every(sweep, partial(undigest, ["sha256", SEAL]), ARM),
    "of one file, and its number": on(
        lambda run: undigest(["files/metrics.jsonl", "sha256/metrics.jsonl", SEAL], run)
    ),
    "of all kinds in one run, and a number": on(lambda run: undigest(KINDS_OF_DIGESTS, run)),
    "of the manifest alone": on(lambda run: undigest([SEAL], run)),
}
PLANS: Mapping[str, Edit] = {
    "a margin": partial(replan, plan={"margin": 0.0005}),
    "a hypothesis": partial(replan, plan={"hypothesis": "Made up afterwards."}),
    "comparisons": partial(replan, plan={"primary": []}),
    "without its digest": partial(replan, plan_sha256=None),
    "with another digest": partial(replan, plan_sha256="0" * 64),
}
FALSIFICATIONS: Mapping[str, Edit] = {
    f"{group}: {name}": falsify
    for group, edits in (
        ("missing", MISSING),
        ("number", NUMBERS),
        ("not what it says", NOT_WHAT_THEY_SAY),
        ("not compared", NOT_COMPARED),
        ("digests", DIGESTS),
        ("plan", PLANS),
    )
    for name, falsify in edits.items()
}


# ---------------------------------------------------------------- a clean sweep

STEPS, QUESTIONS, SAMPLED, K = 4, 40, 20, 4
LAUNCHED = "2026-11-25T10:00:00Z"
VERSIONS = {"torch": "2.13.0", "math-verify": "0.9.0", "peft": "0.21.2", "vllm": None}
RECORDED: Mapping[str, Any] = {
    "mirror_map": None,
    "model_commit": None,
    "sandbox": None,
    "bad_data": {},
    "parameters": {"all": 797952, "trained": 797952},
    "inputs": {"dataset train": "2" * 16, "prompts": "5" * 16},
    "reward_version": "math_answer/2",
    "codes": ["5" * 16],
}


def clean_sweep(root: Path, **changes: Any) -> Sweep:
    """Four finished runs that say what a trainer's would, with the digests of their files.

    Args:
        root: of the sweep.
        changes: of configs (with a dot) and manifests, as `planted.manifest` takes them.
    """
    for arm in (BASE, ARM):
        for seed in (0, 1):
            _clean_run(root, arm, seed, changes)
    typed = {"hydra": {"overrides": {"task": [f"divergence={BASE},{ARM}", "seed=0,1", f"steps={STEPS}"]}}}
    # JSON is YAML.
    (root / "multirun.yaml").write_text(json.dumps(typed))
    return Sweep(root)


def with_plan(sweep: Sweep) -> Sweep:
    """The same, with a plan that its launch recorded."""
    registered = Registration(plan=PLAN, plan_sha256=digest({"plan": PLAN}))
    launch = Launch(["train.py"], "/", LAUNCHED, None, first=LAUNCHED, registered=registered)
    (sweep.root / LAUNCHES).write_text(json.dumps([launch.entry()]))
    return sweep


def _clean_run(root: Path, arm: str, seed: int, changes: Mapping[str, Any]) -> None:
    command = ["train.py", f"divergence={arm}", f"seed={seed}", f"steps={STEPS}"]
    launch = {"time": LAUNCHED, "device": changes.get("device", "cpu"), "ranks": 1}
    launch |= {"commit": planted.COMMIT, "dirty": False, "code": "5" * 16, "versions": VERSIONS}
    launch["command"] = command
    reward = {"_target_": "mirrorpo.reward.math.math_answer.MathAnswer", "extraction": "strict"}
    made = planted.manifest(seed, {"divergence": arm}, **{"config.reward": reward, **changes})
    made |= {
        **launch,
        **RECORDED,
        "launches": [launch],
        **{key: changes[key] for key in changes if key in made},
    }
    cell = ",".join(f"{axis}={choice}" for axis, choice in made["choices"].items())
    folder = RunFolder(root / cell / f"seed={seed}")
    rng = random.Random(f"{arm} {seed}")
    given = {step: _answers(rng, step) for step in (0, 2, 4)}
    rows = planted.follow(_rows(rng, arm), given)
    planted.write_run(folder.path, {}, rows, given)
    timings = [{"step": step, "seconds": 1.0, "budget/device_s": float(step)} for step in range(STEPS + 1)]
    write(folder.path / "timings.jsonl", timings)
    folder.update_manifest(
        **made, files=folder.sizes(), sha256=folder.digests(), sha256_beside=folder.digests_beside()
    )


def _rows(rng: random.Random, arm: str) -> list[JsonRow]:
    rows: list[JsonRow] = []
    tokens = 0
    for step in range(STEPS + 1):
        row: JsonRow = {"step": step, "drift/kl": 0.01 * step * rng.uniform(0.9, 1.1)}
        row |= {"budget/completions": 12.0 * step}
        if step:
            tokens += (drawn := rng.randrange(300, 500))
            row |= {"rollout/completions": 12.0, "rollout/tokens": float(drawn)}
            for name in ("reward/mean", "entropy/mean", "loss/value", "grad/norm", "completion/length"):
                row[name] = rng.random()
            row |= {"kl/reference": rng.random()} if arm == BASE else {}
        rows.append(row | {"budget/tokens_sampled": float(tokens)})
    return rows


def _answers(rng: random.Random, step: int) -> list[JsonRow]:
    # Before training all runs answer alike.
    drawn = random.Random(0) if step == 0 else rng
    rows = planted.answers([drawn.random() < 0.5 + step / 20 for _ in range(QUESTIONS)])
    for index, row in enumerate(rows):
        row = rows[index] = {key: value for key, value in row.items() if not key.startswith("samples")}
        row["tokens"], row["truncated"] = drawn.randrange(10, 60), drawn.random() < 0.1
        row["completion"] += f" {drawn.randrange(100)}"
        if index < SAMPLED:
            row |= {
                "samples": K,
                "samples_right": drawn.randrange(K + 1),
                "distinct": drawn.randrange(1, K + 1),
            }
            row |= {"majority_right": drawn.randrange(3) / 2, "sampled_tokens": drawn.randrange(100, 200)}
            row["sampled_truncated"] = drawn.randrange(K + 1)
    return rows


def undigested(sweep: Sweep) -> Sweep:
    """The same sweep as an older version left it: without sizes and digests of files."""
    for run in sweep.runs:
        path = run / "manifest.json"
        kept = json.loads(path.read_text())
        for name in KINDS_OF_DIGESTS:
            kept.pop(name, None)
        path.write_text(json.dumps(kept))
    return sweep


# ---------------------------------------------------------------- one number of one file

# A text, or a number outside of texts.
NUMBER = re.compile(rb'"(?:[^"\\]|\\.)*"|(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)')


def edit_a_number(sweep: Sweep, rng: random.Random) -> str:
    """Change one random number of a random file of a sweep, and say which; none where there is none."""
    path = rng.choice(
        sorted(path for path in sweep.root.rglob("*") if path.is_file() and path.stat().st_size)
    )
    text = path.read_bytes()
    numbers = [match for match in NUMBER.finditer(text) if match[1]]
    if not numbers:
        return ""
    number = rng.choice(numbers)
    old = number[0].decode()
    new = (
        str(int(old) + rng.choice((-1, 1, 10)))
        if old.lstrip("-").isdigit()
        else f"{float(old) * 1.01 + 0.003:.6g}"
    )
    path.write_bytes(text[: number.start()] + new.encode() + text[number.end() :])
    return f"{path.relative_to(sweep.root)}: {old} became {new}"

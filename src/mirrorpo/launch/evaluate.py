"""Evaluate the start model and the kept checkpoints of done runs on sets that they were not evaluated on.

    mirrorpo evaluate RUN ... eval_datasets=[gsm8k,math500] [SETTING=VALUE ...]

Nothing is trained, and nothing of the run is changed: rows go to RUN/evaluated/SET/step_*.jsonl. Beside them
are metrics.jsonl and evaluation.json, which says what they depend on. Settings are those of `train.py` that
concern an evaluation (eval_samples=8), and device, threads and sandbox. A step that is there already is not
done again.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra import compose

from mirrorpo.config import paths
from mirrorpo.config.compose import baseline
from mirrorpo.config.eval_sets import eval_sets
from mirrorpo.config.identity import EVAL_SETS, identity
from mirrorpo.config.renamed import upgraded
from mirrorpo.config.schema import resolved
from mirrorpo.config.typed import with_new_keys
from mirrorpo.config.values import JsonObject
from mirrorpo.core.seeds import seed_globals
from mirrorpo.distributed.collectives import ALONE
from mirrorpo.distributed.device import device_name, named_device, prepare, stopwatch
from mirrorpo.launch.composing import composing, exit_status
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.run import checkpoint
from mirrorpo.run.disk import write_atomic, writing_to
from mirrorpo.run.folder import EVALUATED, JsonLines, RunFolder, timestamp
from mirrorpo.run.manifest import RunState, checkpoint_folders
from mirrorpo.run.provenance import provenance
from mirrorpo.train.build import build_components
from mirrorpo.train.eval_records import set_records
from mirrorpo.train.evaluate import Evaluation
from mirrorpo.train.loaded import LoadedSet, Loader
from mirrorpo.train.questions import load_set

# Of the command line, beside what concerns an evaluation.
OF_THIS_MACHINE = ("device", "threads", "sandbox")
EVALUATION = "evaluation.json"
# What two evaluations of a set have to share for their steps to stand in one table.
DEPENDS_ON = ("inputs", "prompt", "reward_version", "computed_in")


@dataclass(frozen=True, kw_only=True, slots=True)
class Later:
    """What was evaluated of a set after the run.

    Attributes:
        path: its folder.
        record: what its numbers depend on.
    """

    path: Path
    record: JsonObject

    @property
    def metrics(self) -> JsonLines:
        """A row for each step."""
        return JsonLines(self.path / "metrics.jsonl")

    def open(self) -> set[int]:
        """Begin, or go on; the steps that are there.

        Raises:
            ValueError: naming what an earlier evaluation of the set did otherwise.
        """
        file = self.path / EVALUATION
        earlier: JsonObject = json.loads(file.read_bytes()) if file.exists() else self.record
        before, now = _compared(earlier), _compared(self.record)
        changed = [name for name in now if before[name] != now[name]]
        if changed:
            raise ValueError(
                f"{self.path} was evaluated with other {', '.join(changed)}; move it away, or give the set "
                "another name, as in eval_datasets=[{NAME:{dataset:...}}]"
            )
        with writing_to(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps(self.record, indent=2, default=str) + "\n")
        return {row["step"] for _, row in self.metrics.numbered() if row is not None}

    def add(self, step: int, evaluation: Evaluation) -> None:
        """Write a step's rows, then its metrics, which make them count."""
        rows = "".join(json.dumps(row) + "\n" for row in evaluation.rows)
        write_atomic(self.path / f"step_{step:06d}.jsonl", rows)
        self.metrics.append({"step": step} | evaluation.metrics)


def _compared(record: JsonObject) -> JsonObject:
    settings = identity({EVAL_SETS: {"set": record["settings"]}})
    return {name: record.get(name) for name in DEPENDS_ON} | {"settings": settings}


def evaluate_run(folder: RunFolder, overrides: Sequence[str], steps: Sequence[int] | None) -> None:
    """Evaluate a done run's start model and checkpoints.

    Args:
        folder: of the run.
        overrides: of the command line.
        steps: which; None: 0, the start model, and those of every kept checkpoint.

    Raises:
        ValueError: if it is no done run, or a step or a setting cannot be.
    """
    config = _config(folder, overrides)
    wanted = _steps(folder, steps)
    components = build_components(config)
    device = named_device(config["device"], ALONE)
    prepare(threads=config["threads"], deterministic=config["deterministic"])
    seed_globals(config["seed"])
    with folder.locked():
        questions = {name: load_set(eval_set) for name, eval_set in components.eval_sets.items()}
        loader = Loader(components=components, device=device, ranks=ALONE)
        policy, sets = loader.load_answering(questions)
        records = set_records(components, sets, questions)
        common = {
            "time": timestamp(),
            "device": device_name(device),
            "computed_in": f"{policy.dtype} on {device.type}".removeprefix("torch."),
            **provenance(paths.code()),
        }
        laters = {
            name: Later(
                path=folder.path / EVALUATED / name,
                record={
                    "settings": config[EVAL_SETS][name],
                    "inputs": questions[name].content,
                    **records[name],
                    **common,
                },
            )
            for name in sets
        }
        _evaluate(folder, policy, sets, laters, wanted)


def _evaluate(
    folder: RunFolder,
    policy: LanguageModel,
    sets: Mapping[str, LoadedSet],
    laters: Mapping[str, Later],
    steps: Sequence[int],
) -> None:
    done = {name: later.open() for name, later in laters.items()}
    # The start model comes first: it is what the model holds before weights are put in.
    for step in steps:
        missing = [name for name in sets if step not in done[name]]
        if not missing:
            print(f"step {step}: done already")
            continue
        if step > 0:
            _restore(folder, policy, step)
        for name in missing:
            with stopwatch() as clock:
                evaluation = sets[name].evaluator(policy, step)
            laters[name].add(step, evaluation)
            accuracy = evaluation.metrics[f"eval/{name}/greedy_accuracy"]
            print(f"step {step}  {name} accuracy {accuracy:.3f}  {clock():.1f} s  {laters[name].path}")


def _restore(folder: RunFolder, policy: LanguageModel, step: int) -> None:
    state = checkpoint.newest(folder.checkpoints, accepts=lambda path: path.name == f"step_{step:06d}")
    if state is None:
        raise ValueError(f"{folder.checkpoints} has no whole checkpoint of step {step}")
    policy.network.load_state_dict(state["weights"], strict=False)


def _steps(folder: RunFolder, steps: Sequence[int] | None) -> list[int]:
    kept = [int(path.name.removeprefix("step_")) for path in checkpoint_folders(folder.checkpoints)]
    if steps is None:
        return [0, *kept]
    if unknown := sorted(set(steps) - {0, *kept}):
        raise ValueError(
            f"--steps {unknown[0]}: {folder.path} has the checkpoints {', '.join(map(str, kept)) or 'none'}, "
            "and 0 is the start model; a longer keep_checkpoints keeps more"
        )
    return sorted(set(steps))


def _config(folder: RunFolder, overrides: Sequence[str]) -> JsonObject:
    """The run's settings with the sets of the command line."""
    manifest = folder.manifest()
    if manifest.get("state") not in (RunState.DONE, RunState.STALE):
        raise ValueError(
            f"{folder.path}: a run that is done is evaluated, and this one is "
            f"{manifest.get('state', 'no run')}; eval_datasets= of train.py evaluates one on its way"
        )
    made = upgraded(manifest["config"])
    axes = dict(manifest["choices"])
    arguments = [*(f"{axis}={choice}" for axis, choice in axes.items()), *overrides, f"seed={made['seed']}"]
    with composing():
        cfg = compose("train", overrides=with_new_keys(arguments))
        sets = eval_sets(cfg, axes, baseline(tuple(sorted(axes.items()))), overrides)
        today = resolved(cfg)
    if not sets:
        raise ValueError("eval_datasets: give the sets to evaluate, as in eval_datasets=[gsm8k]")
    if known := sorted(sets.keys() & made.get(EVAL_SETS, {}).keys()):
        raise ValueError(
            f"eval_datasets: {folder.path} was evaluated on a set called {known[0]} on its way; give another "
            f"name, as in eval_datasets=[{{{known[0]}_later:{{dataset:...}}}}]"
        )
    typed = {name for name in OF_THIS_MACHINE if any(text.startswith(f"{name}=") for text in overrides)}
    # A run that is older than a setting has today's value of it, which does what was done.
    return {**today, **made, **{name: today[name] for name in typed}, EVAL_SETS: sets}


def _refuse_others(overrides: Sequence[str]) -> None:
    for text in overrides:
        name = text.partition("=")[0]
        if not name.startswith("eval_") and name not in OF_THIS_MACHINE:
            raise ValueError(
                f"{text}: the run's own settings are what they were; give eval_* settings, "
                f"{', '.join(OF_THIS_MACHINE)}"
            )


def main() -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(
        prog=paths.command("mirrorpo.launch.evaluate"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN | SETTING=VALUE", help="folders of done runs; settings"
    )
    parser.add_argument(
        "--steps", type=int, nargs="+", help="which steps; else 0, the start model, and every kept checkpoint"
    )
    args = parser.parse_intermixed_args()
    # A run's folder is named by settings too.
    runs = [word for word in args.runs if "=" not in word or Path(word).is_dir()]
    overrides = [word for word in args.runs if word not in runs]

    def evaluate_all() -> None:
        _refuse_others(overrides)
        if not runs:
            raise ValueError("give the folder of a run")
        for run in runs:
            evaluate_run(RunFolder(Path(run)), overrides, args.steps)

    return exit_status(evaluate_all)


if __name__ == "__main__":
    sys.exit(main())

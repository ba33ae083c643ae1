"""Real cells of the shipped tiny model in a temporary folder: whether a run repeats itself, byte for byte."""

import contextlib
import io
import json
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, open_dict

from gpu.machine import Machine
from gpu.table import Table
from mirrorpo.config import paths
from mirrorpo.config.cell import Cell
from mirrorpo.config.compose import cell_of
from mirrorpo.config.schema import register
from mirrorpo.run.folder import RunFolder
from mirrorpo.run.preemption import Preempted, StopRequest
from mirrorpo.train.build import build_components
from mirrorpo.train.trainer import Trainer

SECTION = "correct"
STEPS = 4
# Seconds long: few and short answers; a penalty that is read, so that the reference is too.
SIZES = (
    f"steps={STEPS}",
    "prompts_per_step=4",
    "group_size=4",
    "max_new_tokens=40",
    "eval_questions=8",
    "eval_sampled_questions=4",
    "eval_every=2",
    "checkpoint_every=2",
    "drift_questions=4",
    "tracking=none",
    "progress=false",
)
# Each cell by name, its settings, and whether it needs peft.
CELLS: Mapping[str, tuple[Sequence[str], bool]] = {
    "float32": ((), False),
    "bfloat16": (("model.dtype=bfloat16",), False),
    "kl_exact, counterfactual": (("divergence=kl_exact", "weighting=counterfactual"), False),
    "dapo, muon, two updates": (("algo=dapo", "optim=muon", "updates_per_rollout=2"), False),
    "LoRA": (("lora@model.lora=r16",), True),
}
# Mean k3 from sampler to trainer, in nats; the tiny model is far surer of its tokens than a random one.
KL = {"bfloat16": 1e-4, "LoRA": 1e-4}
KL_FLOAT32 = 1e-9


class StopsAfter(StopRequest):
    """Asks a run to stop when it has looked so often; it looks once a step, before it."""

    def __init__(self, looks: int) -> None:
        self._looks = looks

    @property
    def signum(self) -> signal.Signals | None:
        """The request: none for the first looks."""
        self._looks -= 1
        return signal.SIGTERM if self._looks < 0 else None


@contextmanager
def composed(*overrides: str) -> Iterator[tuple[DictConfig, Mapping[str, str]]]:
    """The config of a command line and the names it chose."""
    register()
    with initialize_config_dir(str(paths.conf()), version_base="1.3"):
        cfg = compose("train", overrides=list(overrides), return_hydra_config=True)
        choices = dict(cfg.hydra.runtime.choices)
        with open_dict(cfg):
            del cfg["hydra"]
        yield cfg, choices


def cell(machine: Machine, out: Path, *overrides: str, settings: Sequence[str] = SIZES) -> Cell:
    """A cell on the device, a small arithmetic one unless settings say otherwise."""
    settings = (*settings, f"device={machine.device}", f"out={out}", *overrides)
    with composed(*settings) as (cfg, choices):
        return cell_of(cfg, choices, overrides=settings)


def ran(subject: Cell, stop_request: StopRequest) -> RunFolder:
    """The folder of a cell that has run; what the run prints is dropped."""
    folder = RunFolder(subject.folder)
    with folder.locked(), contextlib.redirect_stdout(io.StringIO()):
        Trainer(
            cell=subject,
            components=build_components(subject.config),
            folder=folder,
            root=paths.code(),
            stop_request=stop_request,
        ).run()
    return folder


def rows(folder: RunFolder) -> list[str]:
    """The lines of its metrics."""
    return folder.metrics.path.read_text().splitlines()


def _one(table: Table, machine: Machine, name: str) -> None:
    overrides, needs_peft = CELLS[name]
    if needs_peft and find_spec("peft") is None:
        table.skip(SECTION, f"cell {name}", "peft is not here")
        return
    with tempfile.TemporaryDirectory() as root:
        first, again, resumed = (cell(machine, Path(root) / part, *overrides) for part in "abc")
        expected = rows(ran(first, StopRequest()))
        repeated = rows(ran(again, StopRequest()))
        with contextlib.suppress(Preempted):
            ran(resumed, StopsAfter(STEPS - 1))
        before = len(rows(RunFolder(resumed.folder)))
        went_on = rows(ran(resumed, StopRequest()))
    for what, lines in ((f"cell {name}: again", repeated), (f"cell {name}: resumed", went_on)):
        differing = sum(ours != theirs for ours, theirs in zip(lines, expected, strict=False))
        differing += abs(len(lines) - len(expected))
        note = _difference(expected, lines) if differing else ""
        if what.endswith("resumed"):
            note = f"stopped after {before} rows of {len(expected)}" + (f"; {note}" if note else "")
        table.right(SECTION, what, differing, "rows", 0.0, note=note)
    kl = max(json.loads(line).get("kl/sampler", 0.0) for line in expected)
    table.right(SECTION, f"cell {name}: largest kl/sampler", kl, "nats", KL.get(name, KL_FLOAT32))


def _difference(expected: Sequence[str], lines: Sequence[str]) -> str:
    # The first metric that is another, with both numbers.
    for theirs, ours in zip(expected, lines, strict=False):
        if theirs != ours:
            before, after = json.loads(theirs), json.loads(ours)
            key = next((key for key in before if before[key] != after.get(key)), "a name")
            return f"first in step {before['step']}, {key}: {before.get(key)} and {after.get(key)}"
    return ""


def _part(name: str) -> Callable[[Table, Machine], None]:
    return lambda table, machine: _one(table, machine, name)


PARTS = tuple(_part(name) for name in CELLS)

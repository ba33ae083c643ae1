"""What a checkpoint holds of a run, and how a run takes it up again."""

import logging
import time
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from torch import Tensor
from torch.optim.optimizer import StateDict

from mirrorpo.config.settings import EvaluationSettings, RunSettings
from mirrorpo.core.seeds import GlobalState, global_state, restore_global_state
from mirrorpo.distributed.collectives import Ranks
from mirrorpo.divergence.anchor import name_of, of_part
from mirrorpo.run import checkpoint, records
from mirrorpo.run.background import Background
from mirrorpo.run.disk import aside
from mirrorpo.run.errors import RunError
from mirrorpo.run.folder import RunFolder
from mirrorpo.run.manifest import checkpoint_folders, read_records
from mirrorpo.train.budget import Budget
from mirrorpo.train.learner import Learner
from mirrorpo.train.sampling_policy import SamplingPolicy
from mirrorpo.train.step import Progress

log = logging.getLogger(__name__)

# What a run makes step by step, and its policy.
MADE = (
    "metrics.jsonl",
    "timings.jsonl",
    "eval",
    "completions.md",
    "credit.jsonl",
    "completions",
    "credit",
    "checkpoints",
    "policy",
)


class RunState(TypedDict):
    """What a checkpoint holds: the step that is done, what the next one needs, and who made the steps."""

    step: int
    position: int
    beta: float
    config_hash: str
    codes: NotRequired[list[str]]
    budget: NotRequired[dict[str, float] | None]
    weights: dict[str, Tensor]
    anchor: NotRequired[dict[str, float]]
    entropy: NotRequired[dict[str, float]]
    reference: NotRequired[dict[str, Tensor]]
    past: NotRequired[list[dict[str, Tensor]]]
    prompts: NotRequired[dict[str, list[float]]]
    drift: NotRequired[float]
    optimiser: StateDict
    random: GlobalState


@dataclass(frozen=True, kw_only=True, slots=True)
class Resumed:
    """Where a run stands.

    Attributes:
        step: the last one that is done; 0 before the first.
        progress: for the next one.
        codes: hashes of the code that made the steps so far, and of the one that goes on.
    """

    step: int
    progress: Progress
    codes: list[str]


class _Clock:
    """Minutes since the last checkpoint was due, or since the run was loaded."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._since = time.monotonic()

    @property
    def minutes(self) -> float:
        return (time.monotonic() - self._since) / 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoints:
    """Saves and restores a run.

    Attributes:
        path: the folder of checkpoints.
        config_hash: of the cell.
        learner: policy and optimiser.
        ranks: that train together.
        run: seed, steps, how many are kept.
        evaluation: when there is an evaluation to expect.
        sampling: whose earlier weights are saved, where it has some.
        moving: numbers of the references whose weights move with the run, and are saved.
        keeps_prompts: whether the advantage remembers prompts, and they are saved.
        background: where checkpoints are written.
    """

    path: Path
    config_hash: str
    learner: Learner
    ranks: Ranks
    run: RunSettings
    evaluation: EvaluationSettings
    sampling: SamplingPolicy | None = None
    moving: Collection[int] = ()
    keeps_prompts: bool = False
    background: Background = field(default_factory=Background)
    _clock: _Clock = field(default_factory=_Clock)

    def due(self, step: int) -> bool:
        """Whether a step is followed by a checkpoint; every rank has to ask."""
        run = self.run
        if step == run.steps or (run.checkpoint_every and step % run.checkpoint_every == 0):
            return True
        if not run.checkpoint_minutes:
            return False
        # No two clocks agree, and all ranks have to save.
        return self.ranks.broadcast_from_rank0(lambda: self._clock.minutes >= run.checkpoint_minutes)

    @contextmanager
    def saving(self) -> Generator[None]:
        """What is saved inside is written behind the block; the block's error stands over one of the disk."""
        with self.background.finished():
            yield

    def save(self, step: int, progress: Progress, codes: Sequence[str]) -> int:
        """Have the checkpoint of a step written, or write it; the step.

        Raises:
            DiskError: if the disk refused this one, or the one before.
        """
        self._clock.restart()
        network = self.learner.policy.network
        trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
        state: RunState = {
            "step": step,
            "position": progress.position,
            "beta": progress.beta,
            "config_hash": self.config_hash,
            "codes": list(codes),
            "budget": None if progress.budget is None else asdict(progress.budget),
            "weights": {name: tensor for name, tensor in network.state_dict().items() if name in trained},
            "optimiser": self.learner.optimiser.state_dict(),
            "random": global_state(),
        }
        if progress.entropy:
            state["entropy"] = dict(progress.entropy)
        if self.moving:
            state["anchor"] = dict(progress.anchor)
            state["reference"] = {
                name_of(name, number): weight
                for number in self.moving
                for name, weight in self.learner.moving_weights(number).items()
            }
        if self.sampling is not None and self.sampling.past:
            state["past"] = [dict(kept) for kept in self.sampling.past]
        if self.keeps_prompts:
            state["prompts"] = {uid: list(numbers) for uid, numbers in progress.prompts.items()}
            state["drift"] = progress.drift
        checkpoint.save(
            self.path,
            step,
            state,
            self.run.keep_checkpoints,
            self.ranks,
            lambda: records.records(RunFolder(self.path.parent), step),
            self.background if self.run.checkpoint_async else None,
        )
        return step

    def resume(self, folder: RunFolder, code: str) -> Resumed:
        """Take up the newest checkpoint up to which all numbers are whole, or start over where there is none.

        Metric files are cut to it. What is damaged, and what is whole and lies behind it, is kept under other
        names, and one line says so.

        Raises:
            RunError: if the checkpoint is of another config's run.
        """
        faults: list[str] = []

        sets = self.evaluation.sets

        def accepts(path: Path) -> bool:
            fault = records.fault(folder, _step(path), read_records(path), self._evaluates, sets)
            faults.extend([fault] if fault else [])
            return fault is None

        newest = checkpoint.newest(self.path, self.ranks, self.learner.policy.device.type, accepts)
        state = cast("RunState | None", newest)
        if state is not None:
            if state["config_hash"] != self.config_hash:
                raise RunError(
                    f"{self.path} holds checkpoints of another config's run: move {folder.path} away"
                )
            resumed = self._restored(state, code)
        else:
            start = Progress(position=0, beta=float(self.learner.penalty.beta), budget=Budget(energy_j=0.0))
            resumed = Resumed(step=0, progress=start, codes=[code])
        self.ranks.broadcast_from_rank0(
            lambda: _cut(folder, None if state is None else state["step"], faults)
        )
        return resumed

    def _evaluates(self, step: int) -> bool:
        return self.evaluation.due(step, self.run.steps)

    def _restored(self, state: RunState, code: str) -> Resumed:
        self.learner.policy.network.load_state_dict(state["weights"], strict=False)
        self.learner.optimiser.load_state_dict(state["optimiser"])
        for number in self.moving:
            self.learner.load_moving_weights(of_part(state.get("reference", {}), number), number)
        if self.sampling is not None:
            self.sampling.restore(state.get("past", []))
        restore_global_state(state["random"])
        made_by = state.get("codes", [])
        return Resumed(
            step=state["step"],
            progress=Progress(
                position=state["position"],
                beta=state["beta"],
                budget=Budget.of(state.get("budget")),
                anchor=state.get("anchor", {}),
                entropy=state.get("entropy", {}),
                prompts=state.get("prompts", {}),
                drift=state.get("drift", 0.0),
            ),
            codes=[*made_by, *([] if code in made_by else [code])],
        )


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step_"))


def _cut(folder: RunFolder, step: int | None, faults: Sequence[str]) -> None:
    # To the step that the run goes on after; None: it starts over.
    checkpoints = checkpoint_folders(folder.checkpoints)
    later = [path for path in checkpoints if step is not None and _step(path) > step]
    if step is None and (checkpoints or "files" in folder.manifest()):
        _set_aside(folder, faults)
    elif faults:
        for path in later:
            path.rename(aside(path.with_name("kept"), path.name))
        log.warning(
            "%s: going on after step %s; the file and later checkpoints are kept under other names",
            faults[-1],
            step,
        )
    last, keep = -1 if step is None else step, bool(faults or later)
    cut = [(file, file.cut_after(last, keep=keep)) for file in (folder.metrics, folder.timings)]
    for file, damaged in [*cut, (folder.credit, folder.cut_shown(last, keep=keep))]:
        if damaged and not faults:
            log.warning(
                "%s is damaged in line %d: %s; what it was is kept under another name",
                file.path,
                damaged[0],
                "made again from the start" if step is None else f"cut after step {step}",
            )


def _set_aside(folder: RunFolder, faults: Sequence[str]) -> None:
    # It once got further than this; what it made is kept, since on CUDA it may not come back the same.
    for name in MADE:
        path = folder.path / name
        if path.exists():
            path.rename(aside(path, "before_restart"))
    log.warning(
        "%s: starting over; what there was is kept as *.before_restart*",
        faults[-1] if faults else f"{folder.path} has no checkpoint that is whole",
    )

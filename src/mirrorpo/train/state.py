"""What a checkpoint holds of a run, and how a run takes it up again."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from torch import Tensor
from torch.optim.optimizer import StateDict

from mirrorpo.config.settings import EvaluationSettings, RunSettings
from mirrorpo.core.seeds import GlobalState, global_state, restore_global_state
from mirrorpo.distributed.collectives import Ranks
from mirrorpo.run import checkpoint
from mirrorpo.run.folder import RunFolder
from mirrorpo.train.learner import Learner
from mirrorpo.train.step import Progress

log = logging.getLogger(__name__)


class RunState(TypedDict):
    """What a checkpoint holds: the step that is done, what the next one needs, and who made the steps."""

    step: int
    position: int
    beta: float
    config_hash: str
    codes: NotRequired[list[str]]
    weights: dict[str, Tensor]
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
    """

    path: Path
    config_hash: str
    learner: Learner
    ranks: Ranks
    run: RunSettings
    evaluation: EvaluationSettings

    def due(self, step: int) -> bool:
        """Whether a step is followed by a checkpoint."""
        return step % self.run.checkpoint_every == 0 or step == self.run.steps

    def save(self, step: int, progress: Progress, codes: Sequence[str]) -> int:
        """Write the checkpoint of a step; the step."""
        network = self.learner.policy.network
        trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
        state: RunState = {
            "step": step,
            "position": progress.position,
            "beta": progress.beta,
            "config_hash": self.config_hash,
            "codes": list(codes),
            "weights": {name: tensor for name, tensor in network.state_dict().items() if name in trained},
            "optimiser": self.learner.optimiser.state_dict(),
            "random": global_state(),
        }
        checkpoint.save(self.path, step, state, self.run.keep_checkpoints, self.ranks)
        return step

    def resume(self, folder: RunFolder, code: str) -> Resumed:
        """Take up the newest checkpoint, or start over where there is none; metric files are cut to it."""
        newest = checkpoint.newest(self.path, self.ranks, self.learner.policy.device.type)
        state = cast("RunState | None", newest)
        if state is not None and self.ranks.broadcast_from_rank0(
            lambda: self._recorded(folder, state["step"])
        ):
            resumed = self._restored(state, code)
            last = resumed.step
        else:
            if state is not None or "files" in folder.manifest():
                _set_aside(folder)
            start = Progress(position=0, beta=float(self.learner.penalty.beta))
            resumed, last = Resumed(step=0, progress=start, codes=[code]), -1
        for file in (folder.metrics, folder.timings):
            file.cut_after(last)
        return resumed

    def _recorded(self, folder: RunFolder, step: int) -> bool:
        return folder.recorded(step, lambda recorded: self.evaluation.due(recorded, self.run.steps))

    def _restored(self, state: RunState, code: str) -> Resumed:
        self.learner.policy.network.load_state_dict(state["weights"], strict=False)
        self.learner.optimiser.load_state_dict(state["optimiser"])
        restore_global_state(state["random"])
        made_by = state.get("codes", [])
        return Resumed(
            step=state["step"],
            progress=Progress(position=state["position"], beta=state["beta"]),
            codes=[*made_by, *([] if code in made_by else [code])],
        )


def _set_aside(folder: RunFolder) -> None:
    # It once got further than this; what it measured is kept, since on CUDA it may not come back the same.
    for file in (folder.metrics, folder.timings):
        aside = file.path.with_suffix(".before_restart.jsonl")
        if file.path.exists() and not aside.exists():
            file.path.replace(aside)
    log.warning(
        "%s: rows, evaluations or checkpoints are gone; starting over, old rows are in "
        "*.before_restart.jsonl",
        folder.path,
    )

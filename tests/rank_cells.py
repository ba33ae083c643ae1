"""Cells one after the other in one process, or under torchrun in one group of processes: what the tests of
ranks start.

    python tests/rank_cells.py '[[["algo=grpo", ...], null], ...]'

A job is a cell's overrides and how it is disturbed: not (null), asked to stop after so many steps (a number),
or by an error on the last rank after its first step ("error").
"""

import json
import signal
import sys
from dataclasses import dataclass

from cli import ROOT, cell_here

from mirrorpo.distributed.collectives import Ranks, init_process_group
from mirrorpo.run.folder import RunFolder
from mirrorpo.run.preemption import Preempted, StopRequest
from mirrorpo.train.build import build_components
from mirrorpo.train.sharded import writable_folder
from mirrorpo.train.trainer import Trainer


@dataclass
class Disturbed:
    """A `StopRequest` that is looked at before each step."""

    how: int | str | None
    ranks: Ranks
    steps: int = -1

    @property
    def signum(self) -> signal.Signals | None:
        self.steps += 1
        if self.how == "error" and self.steps == 1 and self.ranks.rank == self.ranks.world_size - 1:
            raise OSError("no space left on its device")
        # One rank alone is asked.
        return (
            signal.SIGUSR2
            if self.steps == self.how and self.ranks.rank == self.ranks.world_size - 1
            else None
        )


def run(overrides: list[str], how: int | str | None, ranks: Ranks) -> None:
    cell = cell_here(*overrides)
    with writable_folder(RunFolder(cell.folder), ranks) as mine:
        try:
            Trainer(
                cell=cell,
                components=build_components(cell.config),
                folder=mine,
                root=ROOT,
                stop_request=Disturbed(how, ranks),  # type: ignore[arg-type]
                ranks=ranks,
            ).run()
        except Preempted as handed:
            print(handed)


if __name__ == "__main__":
    # torchrun ends the other ranks by SIGTERM once one has failed; as in train.py, rank 0 outlives the first
    # one
    # and writes down why.
    StopRequest().listen()
    with init_process_group() as ranks:
        for overrides, how in json.loads(sys.argv[1]):
            run(overrides, how, ranks)

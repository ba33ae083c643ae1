"""The processes that train one cell together, one on each device.

Every rank holds the whole rollout and runs the same code on it, so that advantages, denominators and metrics
are of all of it wherever it lies. What costs time is divided: each rank samples its share of the prompts,
judges its share of the completions and passes its share of the rows through the network. Rank 0 alone has the
run's folder.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from jaxtyping import Bool, Int
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

T = TypeVar("T")

# How long a rank waits for the slowest one, which may be judging programs or writing a checkpoint.
PATIENCE = timedelta(hours=2)
# What a launcher sets for each process, beside WORLD_SIZE.
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class RankFailed(RuntimeError):
    """Another rank ended; the message has its reason, if it could still give one."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that train the cell; alone, it communicates with nobody.

    Attributes:
        rank: of this process, from 0.
        world_size: how many processes there are.
        local_rank: index among those on this machine.
    """

    rank: int
    world_size: int
    local_rank: int

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which owns the run's folder."""
        return self.rank == 0

    def all_gather(self, value: T) -> list[T]:
        """Every rank's value, in order; all ranks have to call."""
        if self.world_size == 1:
            return [value]
        values: list[T | None] = [None] * self.world_size
        torch.distributed.all_gather_object(values, value)
        return cast(list[T], values)

    def broadcast_from_rank0(self, compute: Callable[[], T]) -> T:
        """What `compute` returns on rank 0, on every rank; it is called on rank 0 alone."""
        return cast(T, self.all_gather(compute() if self.first else None)[0])

    def all_reduce(self, *tensors: Tensor) -> None:
        """Add every rank's tensors up in place, on the CPU.

        Value: where the other ranks have zeros, a number stays what it is to the bit.
        """
        for tensor in tensors if self.world_size > 1 else ():
            torch.distributed.all_reduce(tensor)

    def share(self, costs: Int[Tensor, " N"]) -> Bool[Tensor, " N"]:
        """Which of N items in order, of known costs, are this rank's."""
        return owners(costs, self.world_size) == self.rank

    def span(self, count: int) -> slice:
        """This rank's stretch of `count` items of equal cost."""
        items = self.share(torch.ones(count, dtype=torch.long)).nonzero().flatten().tolist()
        return slice(items[0], items[-1] + 1) if items else slice(0)

    def mesh(self, kind: str) -> "DeviceMesh":
        """All ranks' devices of a kind, cuda or cpu, which sharded tensors lie on."""
        from torch.distributed.device_mesh import init_device_mesh

        return init_device_mesh(kind, (self.world_size,))

    @contextmanager
    def propagate_failure(self, *spared: type[Exception]) -> Iterator[None]:
        """An error on one rank ends all: the others notice where they next wait for it.

        Args:
            spared: errors that every rank raises by itself.

        Raises:
            RankFailed: on rank 0, with the reason of the rank that failed.
        """
        try:
            yield
        except Exception as error:
            if self.world_size == 1 or isinstance(error, spared):
                raise
            if not _lost(error):
                _store().set("failed", f"rank {self.rank}: {type(error).__name__}: {error}")
                raise
            # Rank 0 reports for all.
            raise RankFailed(_reason()) if self.first else SystemExit(1) from error


ALONE = Ranks(rank=0, world_size=1, local_rank=0)


@contextmanager
def init_process_group() -> Iterator[Ranks]:
    """The ranks among which torchrun or SLURM started this process; `ALONE` if neither did.

    Raises:
        ValueError: if the environment says that there are several, and not which this is.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield ALONE
        return
    if absent := [name for name in RANK_VARIABLES if name not in os.environ]:
        raise ValueError(
            f"WORLD_SIZE={world_size} is set and {', '.join(absent)} not: start several processes with "
            "torchrun, or unset WORLD_SIZE for one"
        )
    # Objects and sums go over gloo, parameters and gradients over what their device has.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    torch.distributed.init_process_group(backend, timeout=PATIENCE)
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    ranks = Ranks(rank=rank, world_size=world_size, local_rank=local_rank)
    yield ranks
    # A launcher may end all ranks once one has ended, and rank 0 may still be writing.
    ranks.all_gather(None)
    # vLLM takes its own groups apart when the process ends, and then this one.
    if "vllm" not in sys.modules:
        torch.distributed.destroy_process_group()


def owners(costs: Int[Tensor, " N"], count: int) -> Int[Tensor, " N"]:
    """The rank that each of N items in order belongs to: stretches of about equal cost.

    An item belongs to the stretch that its middle falls into.

    Args:
        costs: of the items, not negative.
        count: of ranks.

    Example:
        >>> owners(torch.tensor([5, 1, 1, 1, 2]), 2).tolist()
        [0, 1, 1, 1, 1]
        >>> owners(torch.tensor([9]), 2).tolist()
        [1]
    """
    ends = costs.cumsum(0)
    # An item at the very end that costs nothing has its middle there.
    return ((2 * ends - costs) * count // (2 * ends[-1:]).clamp(min=1)).clamp(max=count - 1)


def _lost(error: Exception) -> bool:
    # gloo's errors have no type of their own.
    return isinstance(error, torch.distributed.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error)
    )


def _reason() -> str:
    # Kept by torchrun, or by rank 0 itself.
    with suppress(torch.distributed.DistError):
        if _store().check(["failed"]):
            return _store().get("failed").decode()
    return "another process of this run ended without a word"


def _store() -> torch.distributed.Store:
    return torch.distributed.distributed_c10d._get_default_store()

"""Checkpoints that are complete or absent.

One process writes all of its state to `state.pt`. Of several ranks each writes its shares of the divided
tensors beside it (torch.distributed.checkpoint), and any number of ranks can go on from either.
"""

import hashlib
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_map_only

from mirrorpo.config.values import Config, JsonObject
from mirrorpo.distributed.collectives import ALONE, Ranks
from mirrorpo.distributed.fsdp import empty_shard, is_sharded, shape_only, sharded
from mirrorpo.run.folder import sync_folder, write_atomic

log = logging.getLogger(__name__)

STATE, DIGEST = "state.pt", "sha256"

# What may be as large as the network.
DIVIDED = ("weights", "optimiser")


def save(folder: Path, step: int, state: Config, keep: int, ranks: Ranks = ALONE) -> None:
    """Write the checkpoint of a step beside, sync it, rename it; then drop all but the newest `keep`.

    A kill at any instant leaves the older checkpoints as they were.
    """
    beside = folder / f".step_{step:06d}"
    if ranks.first:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
    if shares := {name: tensor for name, tensor in _tensors(state).items() if is_sharded(tensor)}:
        from torch.distributed import checkpoint

        # They wait for each other inside, and for rank 0 above.
        ranks.all_gather(None)
        with _spoken():
            checkpoint.save(shares, checkpoint_id=beside)
    if ranks.first:
        _complete(beside, folder / f"step_{step:06d}", state, keep, sharded=bool(shares))
    ranks.all_gather(None)


def _complete(beside: Path, final: Path, state: Config, keep: int, *, sharded: bool) -> None:
    folder = final.parent
    with (beside / STATE).open("wb") as file:
        # What lies divided is named here by its shape alone.
        torch.save(tree_map_only(Tensor, shape_only, dict(state)) if sharded else dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    write_atomic(beside / DIGEST, sums(beside, sharded=sharded))
    # A damaged checkpoint of the same step was passed over at resume; a rename cannot replace it.
    shutil.rmtree(final, ignore_errors=True)
    beside.rename(final)
    sync_folder(folder)
    names = complete_names(folder)
    # A run saves upwards: what lies ahead of it was damaged and passed over.
    ahead = [name for name in names if name > final.name]
    for name in [*ahead, *[name for name in names if name not in ahead][:-keep]]:
        _remove(folder / name)


def complete_names(folder: Path) -> list[str]:
    """Names of the renamed checkpoints, oldest first; their content is verified by `newest`."""
    return sorted(path.name for path in folder.glob("step_*")) if folder.exists() else []


def newest(folder: Path, ranks: Ranks = ALONE, kind: str = "cpu") -> JsonObject | None:
    """The newest checkpoint whose content is what was written, on the CPU; None when there is none.

    For several ranks, the tensors of `weights` and `optimiser` are divided among their devices of a kind,
    whoever wrote them. A damaged checkpoint is passed over with a warning.
    """
    path = ranks.broadcast_from_rank0(lambda: _newest_intact(folder))
    if path is None:
        return None
    state = torch.load(path / STATE, map_location="cpu", weights_only=True, mmap=ranks.world_size > 1)
    shares = {name for name, tensor in _tensors(state).items() if tensor.is_meta}
    mesh = ranks.mesh(kind) if ranks.world_size > 1 else None

    def settled(tensor: Tensor) -> Tensor:
        if tensor.is_meta:
            return empty_shard(tensor, mesh)
        # What is kept as it is must not keep the file, which is mapped into memory, either.
        return tensor.clone() if mesh and not tensor.ndim else tensor

    state = tree_map_only(Tensor, settled, state)
    if shares:
        from torch.distributed import checkpoint

        with warnings.catch_warnings(), _spoken():
            # One process may read what several wrote.
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            checkpoint.load(
                {name: tensor for name, tensor in _tensors(state).items() if name in shares},
                checkpoint_id=path,
                no_dist=ranks.world_size == 1,
            )
    elif mesh:
        state |= {
            name: tree_map_only(
                Tensor,
                lambda tensor, mesh=mesh: sharded(tensor, mesh) if tensor.ndim else tensor,
                state[name],
            )
            for name in DIVIDED
        }
    return state


def _newest_intact(folder: Path) -> Path | None:
    for name in reversed(complete_names(folder)):
        if _intact(folder / name):
            return folder / name
        log.warning("checkpoint %s is damaged; going on from the one before", folder / name)
    return None


def _tensors(state: Config) -> dict[str, Tensor]:
    return {
        keystr(path): value
        for path, value in tree_flatten_with_path(dict(state))[0]
        if isinstance(value, Tensor)
    }


def _intact(path: Path) -> bool:
    if not (path / DIGEST).exists():
        return False
    lines = [line.split("  ", 1) for line in (path / DIGEST).read_text(errors="replace").splitlines()]
    # One process's, alone, has no name.
    named = [(digest, *name) if name else (digest, STATE) for digest, *name in lines]
    return bool(named) and all(
        (path / name).is_file() and _digest(path / name) == digest for digest, name in named
    )


def sums(path: Path, *, sharded: bool) -> str:
    """What a checkpoint's `sha256` says of its files: of one process's the sum alone, of several as
    `sha256sum -c` reads it.

    Raises:
        RuntimeError: if a rank's shares are not there.
    """
    if not sharded:
        return _digest(path / STATE) + "\n"
    from torch.distributed.checkpoint import FileSystemReader

    shares = {place.relative_path for place in FileSystemReader(path).read_metadata().storage_data.values()}
    if absent := sorted(name for name in shares if not (path / name).is_file()):
        raise RuntimeError(
            f"{path}: the shares {', '.join(absent)} are not there; set out= to a folder that every node of "
            f"the run shares"
        )
    return "".join(f"{_digest(path / name)}  {name}\n" for name in (STATE, ".metadata", *sorted(shares)))


@contextmanager
def _spoken() -> Iterator[None]:
    # torch's own error is no `Exception`, and its first line names no reason.
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except CheckpointException as error:
        reasons = (
            f"rank {rank}: {type(reason).__name__}: {reason}" for rank, (reason, _) in error.failures.items()
        )
        raise RuntimeError("; ".join(reasons)) from error


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        # What is kept is complete already; a file that somebody has open on a network disk must not end the
        # run.
        log.warning("the old checkpoint %s cannot be removed", path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

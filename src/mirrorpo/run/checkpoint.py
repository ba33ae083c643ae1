"""Checkpoints that are complete or absent.

One process writes all of its state to `state.pt`. Of several ranks each writes its shares of the divided
tensors beside it (torch.distributed.checkpoint), and any number of ranks can go on from either.
"""

import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_map_only

from mirrorpo.config.values import Config, JsonObject
from mirrorpo.distributed.collectives import ALONE, Ranks
from mirrorpo.distributed.fsdp import empty_shard, is_sharded, shape_only, sharded
from mirrorpo.run.disk import file_digest, sync_folder, write_atomic, writing_to
from mirrorpo.run.manifest import DIGEST, RECORDS, checkpoint_folders, named_digests

log = logging.getLogger(__name__)

STATE = "state.pt"

# What may be as large as the network.
DIVIDED = ("weights", "optimiser")


def save(
    folder: Path,
    step: int,
    state: Config,
    keep: int,
    ranks: Ranks = ALONE,
    records: Callable[[], JsonObject] | None = None,
) -> None:
    """Write the checkpoint of a step beside, sync it, rename it; then drop all but the newest `keep`.

    A kill at any instant leaves the older checkpoints as they were.

    Args:
        folder: of the checkpoints.
        step: that is done.
        state: what the run is at that step.
        keep: how many stay.
        ranks: that train together.
        records: what is to be kept of the run's other files; called by rank 0.

    Raises:
        DiskError: if there is no room, or the like.
    """
    with writing_to(folder.parent):
        _save(folder, step, state, keep, ranks, records)


def _save(
    folder: Path,
    step: int,
    state: Config,
    keep: int,
    ranks: Ranks,
    records: Callable[[], JsonObject] | None,
) -> None:
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
        kept = None if records is None else records()
        _complete(beside, folder / f"step_{step:06d}", state, keep, kept, sharded=bool(shares))
    ranks.all_gather(None)


def _complete(
    beside: Path, final: Path, state: Config, keep: int, records: JsonObject | None, *, sharded: bool
) -> None:
    folder = final.parent
    with (beside / STATE).open("wb") as file:
        # What lies divided is named here by its shape alone.
        torch.save(tree_map_only(Tensor, shape_only, dict(state)) if sharded else dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    if records is not None:
        write_atomic(beside / RECORDS, json.dumps(records, default=str) + "\n")
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
    return [path.name for path in checkpoint_folders(folder)]


def newest(
    folder: Path,
    ranks: Ranks = ALONE,
    kind: str = "cpu",
    accepts: Callable[[Path], bool] = lambda path: True,
) -> JsonObject | None:
    """The newest checkpoint whose content is what was written, on the CPU; None when there is none.

    For several ranks, the tensors of `weights` and `optimiser` are divided among their devices of a kind,
    whoever wrote them. A damaged checkpoint is passed over with a warning.

    Args:
        folder: of the checkpoints.
        ranks: that go on together.
        kind: of their devices.
        accepts: whether the run can go on from an intact checkpoint; called by rank 0, from the newest on.
    """
    path = ranks.broadcast_from_rank0(lambda: _newest_intact(folder, accepts))
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


def _newest_intact(folder: Path, accepts: Callable[[Path], bool]) -> Path | None:
    for path in reversed(checkpoint_folders(folder)):
        if not _intact(path):
            log.warning("checkpoint %s is damaged; going on from the one before", path)
        elif accepts(path):
            return path
    return None


def _tensors(state: Config) -> dict[str, Tensor]:
    return {
        keystr(path): value
        for path, value in tree_flatten_with_path(dict(state))[0]
        if isinstance(value, Tensor)
    }


def _intact(path: Path) -> bool:
    if not (path / DIGEST).is_file():
        return False
    named = list(named_digests(path))
    return bool(named) and all(
        (path / name).is_file() and file_digest(path / name) == digest for name, digest in named
    )


def sums(path: Path, *, sharded: bool) -> str:
    """What a checkpoint's `sha256` says of its files: of one process's the sum alone, of several as
    `sha256sum -c` reads it.

    Raises:
        RuntimeError: if a rank's shares are not there.
    """
    kept = [RECORDS] if (path / RECORDS).exists() else []
    if not sharded:
        return file_digest(path / STATE) + "\n" + _named_sums(path, kept)
    from torch.distributed.checkpoint import FileSystemReader

    shares = {place.relative_path for place in FileSystemReader(path).read_metadata().storage_data.values()}
    if absent := sorted(name for name in shares if not (path / name).is_file()):
        raise RuntimeError(
            f"{path}: the shares {', '.join(absent)} are not there; set out= to a folder that every node of "
            f"the run shares"
        )
    return _named_sums(path, [STATE, ".metadata", *sorted(shares), *kept])


def _named_sums(path: Path, names: Sequence[str]) -> str:
    return "".join(f"{file_digest(path / name)}  {name}\n" for name in names)


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

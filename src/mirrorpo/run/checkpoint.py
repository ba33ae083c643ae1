"""Checkpoints that are complete or absent.

One process writes all of its state to `state.pt`. Of several ranks each writes its shares of the divided
tensors beside it (torch.distributed.checkpoint), and any number of ranks can go on from either.
"""

import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_map_only

from mirrorpo.config.values import Config, JsonObject
from mirrorpo.distributed.collectives import ALONE, Ranks
from mirrorpo.distributed.fsdp import empty_shard, is_sharded, shape_only, sharded
from mirrorpo.run.background import Background
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
    background: Background | None = None,
) -> None:
    """Write the checkpoint of a step beside, sync it, rename it; then drop all but the newest `keep`.

    A kill at any instant leaves the older checkpoints as they were.

    Args:
        folder: of the checkpoints.
        step: that is done.
        state: what the run is at that step.
        keep: how many stay.
        ranks: that train together; of several, each waits until all is written.
        records: what is to be kept of the run's other files; called by rank 0, before this returns.
        background: where a copy of the state is written while the run goes on; None writes it here and now.

    Raises:
        DiskError: if there is no room, or the like; in the background, where that is looked at.
    """
    with writing_to(folder.parent):
        if ranks.world_size > 1:
            _save_shared(folder, step, state, keep, ranks, records)
            return
        if background is not None:
            # Before the copy: two of them, and the state itself, would be too much.
            background.wait()
        kept = None if records is None else records()
        beside = _beside(folder, step)
        if background is None:
            _complete(beside, folder / f"step_{step:06d}", state, keep, kept, sharded=False)
            return
        copied = tree_map_only(Tensor, _on_host, dict(state))

    def write() -> None:
        with writing_to(folder.parent):
            _complete(beside, folder / f"step_{step:06d}", copied, keep, kept, sharded=False)

    background.start(write)


def _beside(folder: Path, step: int) -> Path:
    beside = folder / f".step_{step:06d}"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    return beside


def _on_host(tensor: Tensor) -> Tensor:
    if tensor.device.type == "cpu":
        return tensor.detach().clone()
    # Memory that does not move takes a copy at the speed of the bus.
    return torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda).copy_(tensor.detach())


def _save_shared(
    folder: Path,
    step: int,
    state: Config,
    keep: int,
    ranks: Ranks,
    records: Callable[[], JsonObject] | None,
) -> None:
    beside = _beside(folder, step) if ranks.first else folder / f".step_{step:06d}"
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


class _Hashed:
    """A file that is written from its beginning to its end, and the hash of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._sum = file, hashlib.sha256()

    def write(self, data: bytes | memoryview) -> int:
        self._sum.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    @property
    def digest(self) -> str:
        return self._sum.hexdigest()


def _complete(
    beside: Path, final: Path, state: Config, keep: int, records: JsonObject | None, *, sharded: bool
) -> None:
    folder = final.parent
    with (beside / STATE).open("wb") as file:
        hashed = _Hashed(file)
        # What lies divided is named here by its shape alone.
        written = tree_map_only(Tensor, shape_only, dict(state)) if sharded else dict(state)
        torch.save(written, hashed)  # pyright: ignore[reportArgumentType]
        file.flush()
        os.fsync(file.fileno())
    if records is not None:
        write_atomic(beside / RECORDS, json.dumps(records, default=str) + "\n")
    sums = shared_sums(beside, hashed.digest) if sharded else _lone_sums(beside, hashed.digest)
    write_atomic(beside / DIGEST, sums)
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


def shared_sums(path: Path, state: str) -> str:
    """What the `sha256` of several processes' checkpoint says of its files, as `sha256sum -c` reads it.

    Args:
        path: of the checkpoint.
        state: digest of its `state.pt`.

    Raises:
        RuntimeError: if a rank's shares are not there.
    """
    from torch.distributed.checkpoint import FileSystemReader

    shares = {place.relative_path for place in FileSystemReader(path).read_metadata().storage_data.values()}
    if absent := sorted(name for name in shares if not (path / name).is_file()):
        raise RuntimeError(
            f"{path}: the shares {', '.join(absent)} are not there; set out= to a folder that every node of "
            f"the run shares"
        )
    return f"{state}  {STATE}\n" + _named_sums(path, [".metadata", *sorted(shares), *_records(path)])


def _lone_sums(path: Path, state: str) -> str:
    # Of one process, `state.pt` has no name.
    return f"{state}\n" + _named_sums(path, _records(path))


def _records(path: Path) -> list[str]:
    return [RECORDS] if (path / RECORDS).exists() else []


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

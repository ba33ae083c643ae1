"""The machine a run is on: its device, its threads, its clock and its memory."""

import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from transformers.utils.logging import disable_progress_bar

from mirrorpo.distributed.collectives import ALONE, Ranks
from mirrorpo.distributed.determinism import set_deterministic


def named_device(name: str, ranks: Ranks = ALONE) -> torch.device:
    """The device a setting stands for; each of several ranks takes another one.

    Args:
        name: cpu, cuda, cuda:<number>, or auto, which is CUDA where there is one.
        ranks: all of which have to call.

    Raises:
        ValueError: if the name is no device's, its device is not here, or there are fewer than ranks.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise ValueError(f"device={name}: choose auto, cpu, cuda or cuda:<number>")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={name}: torch finds no CUDA device here; use device=auto or device=cpu")
    if ranks.world_size == 1 or kind == "cpu":
        return torch.device(name)
    if index:
        raise ValueError(
            f"device={name} with {ranks.world_size} processes: each takes a device of its own; "
            "set device=auto"
        )
    # Where a launcher shows each rank only its own device, that is number 0.
    device = torch.device("cuda", ranks.local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    devices = set(
        ranks.all_gather((socket.gethostname(), str(torch.cuda.get_device_properties(device).uuid)))
    )
    if len(devices) < ranks.world_size:
        raise ValueError(
            f"{ranks.world_size} processes for {len(devices)} CUDA devices: start as many on a node as it "
            "has devices, or set device=cpu"
        )
    return device


def device_name(device: torch.device) -> str:
    """The device's name in the manifest."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def prepare(*, threads: int, deterministic: bool) -> None:
    """Set up torch for a run.

    Args:
        threads: that one operation may use on the CPU.
        deterministic: use torch's deterministic algorithms where there are any; a run with a model asks for
            more by `strict_where_possible`.
    """
    torch.set_num_threads(threads)
    set_deterministic(deterministic)
    torch.set_float32_matmul_precision("highest")
    # The run has a progress bar already.
    disable_progress_bar()


@contextmanager
def stopwatch() -> Iterator[Callable[[], float]]:
    """A function that gives the seconds since the block began; after the block, those it took."""
    start = time.perf_counter()
    ended: list[float] = []
    yield lambda: (ended[0] if ended else time.perf_counter()) - start
    ended.append(time.perf_counter())


def peak_memory_mb(device: torch.device) -> float:
    """The device's peak since the start; on a CPU, the process's largest resident size."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

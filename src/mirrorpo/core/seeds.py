"""One seed, many independent named streams.

Every draw is made from a stream named after its purpose and keyed on where it happens (step,
prompt), so that a draw added in one arm shifts no other stream and a relaunch draws the same.
"""

import hashlib
import random
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

STREAMS = (
    "data_order",
    "data",
    "sampling",
    "evaluation",
    "probe",
    "weighting",
    "entropy",
    "mirror_map",
    "es",
    "init",
    "ranks",
    "python",
    "numpy",
    "torch",
)


def derive(seed: int, stream: str, *keys: int | str) -> int:
    """A 63-bit seed for one draw: sha256 of the run's seed, the stream's name and the keys.

    Raises:
        ValueError: if the stream has no name in `STREAMS`.

    Example:
        >>> derive(0, "sampling", 1) == derive(0, "sampling", 1)
        True
        >>> derive(0, "sampling", 1) == derive(0, "data_order", 1)
        False
    """
    if stream not in STREAMS:
        raise ValueError(
            f"unknown random stream {stream!r}; name it in mirrorpo.core.seeds.STREAMS {STREAMS}"
        )
    text = "/".join([str(seed), stream, *map(str, keys)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(
    seed: int, stream: str, *keys: int | str, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A torch generator on its own stream."""
    return torch.Generator(device=device).manual_seed(derive(seed, stream, *keys))


def seed_globals(seed: int) -> None:
    """Seed the global python, numpy and torch generators, each from its own stream.

    Covers libraries that draw from the global state (dropout). Building a network, which does too, has
    the state on its own stream and puts it back (`init_draws`).
    """
    random.seed(derive(seed, "python"))
    np.random.seed(derive(seed, "numpy") % 2**32)
    torch.manual_seed(derive(seed, "torch"))  # pyright: ignore[reportUnknownMemberType]


@contextmanager
def undisturbed() -> Generator[None]:
    """torch's global generators as they were before, after whatever is drawn inside."""
    with torch.random.fork_rng():  # pyright: ignore[reportUnknownMemberType]
        yield


@contextmanager
def init_draws(seed: int) -> Generator[None]:
    """The global generators on the run's `init` stream, put back afterwards."""
    with undisturbed():
        torch.manual_seed(derive(seed, "init"))  # pyright: ignore[reportUnknownMemberType]
        yield


class GlobalState(TypedDict):
    """The state of every global generator; a generator's parts as `setstate` takes them, in any sequence."""

    python: tuple[int, Sequence[int], float | None]
    numpy: tuple[str, Sequence[int], int, int, float]
    torch: Tensor
    cuda: list[Tensor]


def global_state() -> GlobalState:
    """The state of every global generator, for a checkpoint."""
    numpy_state = np.random.get_state(legacy=True)
    assert isinstance(numpy_state, tuple)
    name, keys, position, has_gauss, cached = numpy_state
    return {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_global_state(state: GlobalState) -> None:
    """Put back what `global_state` took."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    # It may have been taken where there were more devices, or fewer.
    for device, rng_state in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
        torch.cuda.set_rng_state(rng_state, device)


def seed_anew() -> None:
    """Seed the global generators of a forked process from the system, as its own start would have.

    Runs draw from named streams; what draws from these would be the same in every fork of one process.
    """
    torch.default_generator.seed()
    np.random.seed()

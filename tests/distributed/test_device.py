"""Devices by name, and the stopwatch."""

import socket
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mirrorpo.distributed.collectives import Ranks
from mirrorpo.distributed.device import named_device, peak_memory_mb, stopwatch


@pytest.mark.parametrize("name", ["gpu", "cuda:first", "cuda:-1", ""])
def test_a_name_that_is_no_device_is_refused_with_the_choices(name: str) -> None:
    with pytest.raises(ValueError, match=f"device={name}: choose auto, cpu, cuda or cuda:<number>"):
        named_device(name)


@pytest.mark.skipif(
    torch.cuda.is_available(), reason="NOT TESTED: asking for CUDA where there is none; this machine has one"
)
def test_cuda_where_there_is_none_is_refused_and_auto_takes_the_cpu() -> None:
    with pytest.raises(ValueError, match="device=cuda:1: torch finds no CUDA device"):
        named_device("cuda:1")
    assert named_device("auto") == named_device("cpu") == torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Beside(Ranks):
    """A rank beside three others, whose answers are known."""

    others: tuple[tuple[str, str], ...] = (("one", "GPU-0"), ("one", "GPU-1"), ("two", "GPU-0"))

    def all_gather(self, value: Any) -> list[Any]:
        return [*self.others, value]


def test_each_of_several_ranks_takes_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=f"GPU-{device.index}")
    )
    monkeypatch.setattr(socket, "gethostname", lambda: "two")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    second = Beside(rank=3, world_size=4, local_rank=1)
    assert (
        named_device("auto", second) == named_device("cuda", second) == torch.device("cuda:1")
        and chosen == [torch.device("cuda:1")] * 2
    )
    assert named_device("cpu", second) == torch.device("cpu")
    with pytest.raises(ValueError, match=r"device=cuda:1 with 4 processes: .* set device=auto"):
        named_device("cuda:1", second)
    # A third process of a node with two devices.
    with pytest.raises(ValueError, match="4 processes for 3 CUDA devices"):
        named_device("auto", Beside(rank=3, world_size=4, local_rank=2))


def test_a_stopwatch_stands_still_after_its_block() -> None:
    with stopwatch() as clock:
        during = clock()
    after = clock()
    assert 0 <= during <= after == clock()


def test_the_peak_covers_what_is_held_now() -> None:
    held = torch.ones(64 * 2**20 // 4)
    assert peak_memory_mb(torch.device("cpu")) > held.numel() * 4 / 2**20

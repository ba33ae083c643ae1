"""The ranks of a run: who owns what, what one process does alone, what starts several."""

import pytest
import torch

from mirrorpo.distributed.collectives import ALONE, Ranks, init_process_group, owners


def test_stretches_have_about_equal_cost() -> None:
    costs = torch.randint(1, 100, (400,), generator=torch.Generator().manual_seed(0))
    ranks = owners(costs, 7)
    assert ranks.tolist() == sorted(ranks.tolist()) and set(ranks.tolist()) == set(range(7))
    totals = [int(costs[ranks == rank].sum()) for rank in range(7)]
    assert max(totals) - min(totals) <= 200


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_item_has_one_owner_however_few_there_are(count: int) -> None:
    for size in range(4):
        ranks = [Ranks(rank=index, world_size=count, local_rank=index) for index in range(count)]
        assert [item for rank in ranks for item in range(size)[rank.span(size)]] == list(range(size))
        for costs in (torch.arange(size), torch.arange(size).flip(0), torch.zeros(size, dtype=torch.long)):
            assert sum(rank.share(costs).long() for rank in ranks).tolist() == [1] * size


def test_one_process_hears_itself_alone() -> None:
    assert ALONE.all_gather("value") == ["value"] and ALONE.broadcast_from_rank0(lambda: 3) == 3
    assert ALONE.first and not Ranks(rank=1, world_size=2, local_rank=1).first


@pytest.mark.parametrize("count", [None, "1"])
def test_one_process_is_alone(count: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if count:
        monkeypatch.setenv("WORLD_SIZE", count)
    with init_process_group() as ranks:
        assert ranks is ALONE and not torch.distributed.is_initialized()


def test_several_processes_without_a_launcher_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ValueError, match=r"LOCAL_RANK.*torchrun"), init_process_group():
        raise AssertionError("began")

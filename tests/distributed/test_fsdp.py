"""Parameters of one process; those sharded among several are in tests/train/test_sharded.py."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from small_models import model
from torch import nn

from mirrorpo.distributed.fsdp import (
    Sharded,
    Unsharded,
    empty_shard,
    full_state_dict,
    full_tensor,
    is_sharded,
    local_shard,
    shape_only,
    shard_like,
    sharded,
    weights,
)


class Net(nn.Module):
    """Tied weights, a frozen one of another type, one buffer that is kept and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 3), nn.Linear(3, 7, bias=False)
        self.head.weight = self.embed.weight
        self.inner = nn.BatchNorm1d(3)
        self.frozen = nn.Parameter(torch.ones(3, dtype=torch.bfloat16), requires_grad=False)
        self.register_buffer("angles", torch.ones(2), persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.embed(ids)) * self.frozen.float())


@pytest.fixture
def mesh() -> Iterator[Any]:
    """A group of one process, whose share of everything is all of it."""
    from torch.distributed import HashStore, destroy_process_group, init_process_group
    from torch.distributed.device_mesh import init_device_mesh

    init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    destroy_process_group()


def test_in_one_process_a_tensor_is_full_and_its_own_shard() -> None:
    tensor = torch.arange(6.0).reshape(3, 2)
    assert (
        full_tensor(tensor) is tensor
        and local_shard(tensor) is tensor
        and shard_like(tensor, tensor) is tensor
        and shape_only(tensor) is tensor
    )
    with Unsharded().gathered():
        Unsharded().reduce()


@pytest.mark.parametrize(
    "network",
    [Net(), model("gpt2").network, model("llama", tie_word_embeddings=True).network],
    ids=["tied", "gpt2", "llama"],
)
def test_weights_are_those_of_a_state_dict(network: nn.Module) -> None:
    full, expected = full_state_dict(network), network.state_dict()
    assert full.keys() == expected.keys() == weights(network).keys()
    assert all(full[name].data_ptr() == tensor.data_ptr() for name, tensor in expected.items())


def test_a_share_goes_into_an_outline_and_out_of_it(mesh: Any) -> None:
    tensor = torch.arange(6.0).reshape(3, 2)
    share = sharded(tensor, mesh)
    assert (
        is_sharded(share)
        and not is_sharded(tensor)
        and torch.equal(full_tensor(share), tensor)
        and torch.equal(local_shard(share), tensor)
    )
    outline = shape_only(share)
    assert outline.is_meta and outline.shape == (3, 2)
    assert is_sharded(empty_shard(outline, mesh)) and empty_shard(outline, None).shape == (3, 2)
    assert torch.equal(full_tensor(shard_like(tensor + 1, share)), tensor + 1)


def test_a_phase_has_plain_parameters_and_leaves_shares_with_the_sum_of_all_gradients(mesh: Any) -> None:
    torch.manual_seed(0)
    network, ids = Net(), torch.tensor([1, 4, 4])
    plain = copy.deepcopy(network)
    shards = Sharded(network, mesh)
    assert all(is_sharded(parameter) for parameter in network.parameters())
    with shards.gathered():
        assert not any(is_sharded(parameter) for parameter in network.parameters())
        # A pass or two, through no module that FSDP knows of.
        network(ids[:1]).square().sum().backward()
        network(ids[1:]).square().sum().backward()
        shards.reduce()
    plain(ids).square().sum().backward()
    torch.testing.assert_close(full_tensor(network.embed.weight.grad), plain.embed.weight.grad)
    assert network.frozen.grad is None
    assert all(
        torch.equal(tensor, plain.state_dict()[name]) for name, tensor in full_state_dict(network).items()
    )
    # A rank without a row.
    network.zero_grad()
    with shards.gathered():
        shards.reduce()
    assert not full_tensor(network.embed.weight.grad).any()

"""A network's parameters, whole in one process or divided among several: FSDP2, gathered once for a whole
phase.

Between two phases each rank holds its share of every parameter, gradient and optimiser state. During a phase
(a rollout, an update's passes, an evaluation) it holds the parameters whole, and no pass speaks to another
rank, so ranks may run as many passes as they have rows for, or none.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class Unsharded:
    """Of one process: there is nothing to gather."""

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """A phase: the parameters are whole inside of it."""
        yield

    def reduce(self) -> None:
        """At the end of an update's phase: every rank's gradients added up, each rank left with its share
        once the phase is over.
        """


class Sharded(Unsharded):
    """Of several processes: the network is divided when this is made."""

    def __init__(self, network: torch.nn.Module, mesh: Any) -> None:
        from torch.distributed.fsdp import fully_shard

        self._pass: Any = fully_shard(_Pass(network), mesh=mesh, reshard_after_forward=False)
        self._pass.set_reshard_after_backward(False)
        # The loss is over the global denominator: gradients are to be added up, not averaged; gloo knows no
        # other factor than that of a plain sum.
        self._pass.set_gradient_divide_factor(1.0)
        self._pass.set_force_sum_reduction_for_comms(True)
        self._network = network

    @contextmanager
    def gathered(self) -> Iterator[None]:
        self._pass.unshard()
        try:
            yield
        finally:
            self._pass.reshard()

    def reduce(self) -> None:
        # The only backward pass that FSDP sees: it adds zero to what the rank's own ones left, nothing where
        # the rank had none, and reduces the sums.
        self._pass(
            lambda: torch.stack(
                [parameter.sum() * 0 for parameter in self._network.parameters() if parameter.requires_grad]
            ).sum()
        ).backward()


class _Pass(torch.nn.Module):
    # FSDP works around the forward of a module; a policy is run in many ways.
    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, run: Any) -> Tensor:
        return run()


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is this rank's share of one that lies divided."""
    # Told by its method, so that one process does without torch.distributed.tensor.
    return hasattr(tensor, "full_tensor")


def full_tensor(tensor: Any) -> Tensor:
    """A tensor as it would be in one process; every rank has to ask for a divided one."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def local_shard(tensor: Any) -> Tensor:
    """What this rank holds of a tensor."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def sharded(tensor: Tensor, mesh: Any) -> Tensor:
    """This rank's share of a tensor that every rank has, divided as FSDP divides parameters; nothing is sent."""
    from torch.distributed.tensor import Shard, distribute_tensor

    return distribute_tensor(tensor, mesh, [Shard(0)], src_data_rank=None)


def shape_only(tensor: Tensor) -> Tensor:
    """A tensor that lies divided as its shape and type alone; another one as it is."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") if is_sharded(tensor) else tensor


def empty_shard(shape: Tensor, mesh: Any) -> Tensor:
    """A place for an outlined tensor: for this rank's share, or without a mesh for all of it."""
    if mesh is None:
        return torch.empty_like(shape, device="cpu")
    from torch.distributed.tensor import Shard, empty

    return empty(*shape.shape, dtype=shape.dtype, device_mesh=mesh, placements=[Shard(0)])


def shard_like(tensor: Tensor, other: Any) -> Tensor:
    """A tensor that every rank has, divided as another one is, if it is."""
    return sharded(tensor, other.device_mesh) if is_sharded(other) else tensor


def weights(network: torch.nn.Module) -> dict[str, Tensor]:
    """The tensors of a `state_dict`, tied ones under all their names, without its side effect of ending a
    phase.
    """
    kept = {
        f"{prefix}.{name}".removeprefix("."): buffer
        for prefix, module in network.named_modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name not in module._non_persistent_buffers_set
    }
    return dict(network.named_parameters(remove_duplicate=False)) | kept


def full_state_dict(network: torch.nn.Module) -> dict[str, Tensor]:
    """These, outside of a phase, with every tensor whole and tied ones still one; every rank has to ask."""
    named = weights(network)
    found = {
        key: full_tensor(tensor.detach())
        for key, tensor in {id(tensor): tensor for tensor in named.values()}.items()
    }
    return {name: found[id(tensor)] for name, tensor in named.items()}

"""A network's parameters, complete in one process or sharded among several: FSDP2, gathered once a phase.

Between two phases each rank holds its share of every parameter, gradient and optimiser state. During a phase
(a rollout, an update's passes, an evaluation) it holds the full parameters, and no pass speaks to another
rank, so ranks may run as many passes as they have rows for, or none.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor

# One process does without them at run time.
if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor


class Unsharded:
    """Parameters of one process: there is nothing to gather."""

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """A phase: inside of it this rank holds the full parameters."""
        yield

    def reduce(self) -> None:
        """Add up every rank's gradients, at the end of an update's phase.

        Once the phase is over, each rank is left with its share of the sums.
        """


class Sharded(Unsharded):
    """Parameters of several processes: the network is sharded when this is made.

    Args:
        network: with the same full parameters on every rank.
        mesh: the ranks' devices.
    """

    def __init__(self, network: torch.nn.Module, mesh: "DeviceMesh") -> None:
        from torch.distributed.fsdp import fully_shard

        self._network = network
        self._pass = _Pass(network)
        # The same object, which has its methods now.
        self._fsdp = fully_shard(self._pass, mesh=mesh, reshard_after_forward=False)
        self._fsdp.set_reshard_after_backward(False)
        # The loss is over the global denominator: gradients are to be added up, not averaged; gloo knows no
        # other factor than that of a plain sum.
        self._fsdp.set_gradient_divide_factor(1.0)
        self._fsdp.set_force_sum_reduction_for_comms(True)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        self._fsdp.unshard()
        try:
            yield
        finally:
            self._fsdp.reshard()

    def reduce(self) -> None:
        # The only backward pass that FSDP sees: it adds zero to the gradients that the rank's passes left,
        # or makes zeros where it had none, and reduces the sums.
        self._pass(self._zero).backward()

    def _zero(self) -> Tensor:
        trained = [parameter for parameter in self._network.parameters() if parameter.requires_grad]
        return torch.stack([parameter.sum() * 0 for parameter in trained]).sum()


class _Pass(torch.nn.Module):
    # FSDP works around the forward of a module; a policy is run in many ways.
    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, run: Callable[[], Tensor]) -> Tensor:
        return run()


def is_sharded(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Whether a tensor is this rank's share of a sharded one."""
    # By its method, so that one process does without torch.distributed.tensor.
    return hasattr(tensor, "full_tensor")


def full_tensor(tensor: Tensor) -> Tensor:
    """A tensor as it would be in one process; every rank has to call with a sharded one."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def local_shard(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def sharded(tensor: Tensor, mesh: "DeviceMesh") -> Tensor:
    """This rank's share of a tensor that every rank has, sharded as FSDP does parameters; nothing is sent."""
    from torch.distributed.tensor import Shard, distribute_tensor

    return distribute_tensor(tensor, mesh, [Shard(0)], src_data_rank=None)


def shape_only(tensor: Tensor) -> Tensor:
    """A sharded tensor as its shape and type alone, on the meta device; another one as it is."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") if is_sharded(tensor) else tensor


def empty_shard(shape: Tensor, mesh: "DeviceMesh | None") -> Tensor:
    """An uninitialised tensor to read a checkpoint into.

    Args:
        shape: what `shape_only` gave.
        mesh: of the ranks that each read their share; None reads the full tensor on the CPU.
    """
    if mesh is None:
        return torch.empty_like(shape, device="cpu")
    from torch.distributed.tensor import Shard, empty

    return empty(*shape.shape, dtype=shape.dtype, device_mesh=mesh, placements=[Shard(0)])


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor that every rank has, sharded as another one is, if that is sharded."""
    return sharded(tensor, like.device_mesh) if is_sharded(like) else tensor


def copy_weight(into: Tensor, source: Tensor) -> None:
    """Write a tensor into another that is sharded or not; one that every rank has is sharded as it is."""
    if is_sharded(into) and not is_sharded(source):
        source = shard_like(source.to(into.device), into)
    local_shard(into).copy_(local_shard(source))


def weights(network: torch.nn.Module) -> dict[str, Tensor]:
    """The tensors of a `state_dict`, tied ones under all their names.

    A `state_dict` itself would end a phase.
    """
    persistent = {
        f"{prefix}.{name}".removeprefix("."): buffer
        for prefix, module in network.named_modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name not in module._non_persistent_buffers_set
    }
    return dict(network.named_parameters(remove_duplicate=False)) | persistent


def full_state_dict(network: torch.nn.Module) -> dict[str, Tensor]:
    """The full `weights`, outside of a phase; every rank has to call.

    Returns:
        Detached tensors; tied weights are one tensor under several names.
    """
    named = weights(network)
    distinct = {id(tensor): tensor for tensor in named.values()}
    full = {key: full_tensor(tensor.detach()) for key, tensor in distinct.items()}
    return {name: full[id(tensor)] for name, tensor in named.items()}

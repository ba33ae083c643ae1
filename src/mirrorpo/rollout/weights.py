"""A policy's weights as another engine wants them: plain names, adapters merged, and a number that says
whether they changed.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from mirrorpo.core.network import Adapted, CausalLM, plain_name
from mirrorpo.core.protocols import GenerativeModel
from mirrorpo.distributed.fsdp import weights


@runtime_checkable
class AdapterLayer(Protocol):
    """A layer that an adapter of `peft` adds something to.

    Nothing stands here that a module holds as a part: from Python 3.12 on `isinstance` does not see parts.
    """

    @property
    def disable_adapters(self) -> bool: ...

    @property
    def active_adapters(self) -> Sequence[str]: ...

    def get_delta_weight(self, adapter: str) -> Tensor: ...


def plain(model: GenerativeModel) -> torch.nn.Module:
    """The `transformers` model, unwrapped from an adapter."""
    network = model.network
    return network.get_base_model() if isinstance(network, Adapted) else network


def network_config(model: GenerativeModel) -> PreTrainedConfig:
    """The config of the `transformers` model."""
    return cast("CausalLM", plain(model)).config


def merged(model: GenerativeModel) -> Iterator[tuple[str, Tensor]]:
    """Every weight under its Hugging Face name, one at a time, adapters added in float32; the policy stays as
    it is.

    Adapters that `model.computing()` switches off are left out. A tensor that goes by two names (a
    head tied to the embeddings) comes once, under the first.
    """
    network = plain(model)
    adapted = _adapters(network)
    with model.computing():
        active = {name: _active(module) for name, module in adapted.items()}
    pointers: set[int] = set()
    for key, tensor in weights(network).items():
        if ".lora_" in key or tensor.data_ptr() in pointers:
            continue
        pointers.add(tensor.data_ptr())
        name = plain_name(key)
        if active.get(name):
            with torch.no_grad():
                tensor = tensor.float()
                for adapter in active[name]:
                    tensor = tensor + adapted[name].get_delta_weight(adapter).float()
        yield name, tensor


def _adapters(network: torch.nn.Module) -> dict[str, AdapterLayer]:
    # peft's module around each adapted weight, by the weight's name; experts in one tensor have one too,
    # around their module, and a second parameter of that module one around that.
    return {
        f"{plain_name(name)}.{getattr(module, 'parameter_name', 'weight')}": module
        for name, module in network.named_modules()
        if isinstance(module, AdapterLayer)
    }


def _active(module: AdapterLayer) -> Sequence[str]:
    return () if module.disable_adapters else tuple(module.active_adapters)


def _adapter_names(module: AdapterLayer) -> list[str]:
    first_factors = cast("torch.nn.Module", module).get_submodule("lora_A")
    return list(cast("torch.nn.ModuleDict", first_factors))


def fingerprint(model: GenerativeModel) -> tuple[int, ...]:
    """A sum over the bits of every weight, and which adapters are on; equal for equal weights, whoever
    changed them.
    """
    network = plain(model)
    with model.computing():
        # By their place among a module's adapters.
        on = [
            sum(1 + _adapter_names(module).index(adapter) for adapter in _active(module))
            for module in _adapters(network).values()
        ]
    bits = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    sums = [
        tensor.detach().contiguous().view(bits[tensor.element_size()]).sum(dtype=torch.int64)
        for tensor in weights(network).values()
    ]
    return (*torch.stack(sums).tolist(), *on)

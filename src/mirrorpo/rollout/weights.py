"""A policy's weights as another engine wants them: plain names, adapters merged, and a number that says
whether they changed.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from mirrorpo.core.network import Adapted, CausalLM
from mirrorpo.core.protocols import GenerativeModel
from mirrorpo.distributed.fsdp import weights


@runtime_checkable
class AdapterLayer(Protocol):
    """A layer that an adapter of `peft` adds something to."""

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
    adapted = {
        f"{name}.weight": module
        for name, module in network.named_modules()
        if isinstance(module, AdapterLayer)
    }
    with model.computing():
        on = {name for name, module in adapted.items() if not module.disable_adapters}
    pointers: set[int] = set()
    for key, tensor in weights(network).items():
        if ".lora_" in key or tensor.data_ptr() in pointers:
            continue
        pointers.add(tensor.data_ptr())
        name = key.replace(".base_layer.", ".")
        if name in on:
            module = adapted[name]
            with torch.no_grad():
                tensor = tensor.float()
                for adapter in module.active_adapters:
                    tensor = tensor + module.get_delta_weight(adapter).float()
        yield name, tensor


def fingerprint(model: GenerativeModel) -> tuple[int, ...]:
    """A sum over the bits of every weight, and which adapters are on; equal for equal weights, whoever
    changed them.
    """
    network = plain(model)
    with model.computing():
        on = [
            int(not module.disable_adapters)
            for module in network.modules()
            if isinstance(module, AdapterLayer)
        ]
    bits = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    sums = [
        tensor.detach().contiguous().view(bits[tensor.element_size()]).sum(dtype=torch.int64)
        for tensor in weights(network).values()
    ]
    return (*torch.stack(sums).tolist(), *on)

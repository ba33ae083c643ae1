"""The policy as the sampler has it: some steps ago, with rounded weights, or as it is."""

from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mirrorpo.core.network import Adapted, plain_name
from mirrorpo.distributed.fsdp import copy_weight, weights
from mirrorpo.model.adapter import projections
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.rollout.rounding import Precision, rounded
from mirrorpo.rollout.sampler import Sampler
from mirrorpo.rollout.weights import merged, plain

Weights = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingPolicy:
    """Puts the sampler's weights in the place of the policy's while it samples.

    Attributes:
        sampler: how far it is from the policy.
        policy: that is trained.
        past: trained weights after earlier steps, oldest first, on the CPU; between two steps the last `lag`,
            while sampling one more, the policy's own. Of several ranks each has its shares.
    """

    sampler: Sampler
    policy: LanguageModel
    past: deque[Weights] = field(default_factory=deque[Weights])

    @contextmanager
    def __call__(self) -> Generator[LanguageModel]:
        """The policy to sample from, with its parameters gathered.

        Behind the block the policy has its own weights again, to the bit. To be entered once a step.
        """
        precision = self.sampler.precision
        with self._earlier(), self.policy.shards.gathered():
            if precision is None:
                yield self.policy
                return
            with _rounded(self.policy, precision) as coarse:
                yield coarse

    @contextmanager
    def _earlier(self) -> Generator[None]:
        if not self.sampler.lag:
            yield
            return
        trained = self._trained()
        self.past.append({name: _on_cpu(parameter) for name, parameter in trained.items()})
        _load(trained, self.past[0])
        try:
            yield
        finally:
            _load(trained, self.past[-1])
            if len(self.past) > self.sampler.lag:
                self.past.popleft()

    def restore(self, past: Sequence[Weights]) -> None:
        """Take up the earlier weights of a checkpoint."""
        self.past.clear()
        for kept in past:
            # Into the shape that this process has of them, whoever wrote them.
            weights_of_step = {name: _on_cpu(parameter) for name, parameter in self._trained().items()}
            _load(weights_of_step, kept)
            self.past.append(weights_of_step)

    def metrics(self, step: int) -> dict[str, float]:
        """How many steps a step's sampler is behind; empty where it never is."""
        return {"rollout/lag": float(min(self.sampler.lag, step - 1))} if self.sampler.lag else {}

    def notes(self) -> Iterable[str]:
        """What the earlier weights take."""
        if self.sampler.lag:
            size = sum(tensor.numel() * tensor.element_size() for tensor in self._trained().values())
            copies = self.sampler.lag + 1
            yield (
                f"rollout.lag={self.sampler.lag}: {copies} copies of the trained weights on the CPU, "
                f"{copies * size / 2**20:.1f} MiB in all, and {self.sampler.lag} in each checkpoint"
            )

    def _trained(self) -> dict[str, Tensor]:
        named = self.policy.network.named_parameters()
        return {name: parameter for name, parameter in named if parameter.requires_grad}


def _on_cpu(parameter: Tensor) -> Tensor:
    return parameter.detach().to("cpu", copy=True)


def _load(into: Weights, kept: Weights) -> None:
    with torch.no_grad():
        for name, tensor in into.items():
            copy_weight(tensor, kept[name])


def _quantised(policy: LanguageModel) -> set[str]:
    # The weights of the projections, by the names of modules or, of fused experts, of parameters.
    names = projections(policy.causal_lm)
    return {*names, *(f"{name}.weight" for name in names)}


@contextmanager
def _rounded(policy: LanguageModel, precision: Precision) -> Generator[LanguageModel]:
    # bf16 rounds every weight, as a sampler of that type has them; fp8 and int8 the projections alone, as
    # engines quantise.
    held = {
        plain_name(name): tensor for name, tensor in weights(plain(policy)).items() if ".lora_" not in name
    }
    chosen = held.keys() if precision == "bf16" else _quantised(policy)
    kept: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, weight in merged(policy):
            adapted = weight is not held[name]
            if not weight.is_floating_point() or not (adapted or name in chosen):
                continue
            kept[name] = _on_cpu(held[name])
            held[name].copy_(rounded(weight, precision) if name in chosen else weight)
    try:
        # Its adapter is in the weights already.
        adapted = isinstance(policy.network, Adapted)
        yield replace(policy, adapter_off=True, start_adapter=None) if adapted else policy
    finally:
        _load({name: held[name] for name in kept}, kept)

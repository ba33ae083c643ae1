"""How far the policy that samples is from the one that is trained, on purpose."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, is_dataclass, replace
from typing import Literal, TypeAlias

from mirrorpo.core.protocols import Assembly, RolloutEngine
from mirrorpo.rollout.nucleus import CutsDistribution
from mirrorpo.rollout.rounding import Precision

Coarse: TypeAlias = Literal["none", "bf16", "fp8", "int8", "top_p", "temperature"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampler:
    """The dose of off-policy: of `rollout.lag`, `rollout.coarse` and `rollout.coarse_value`.

    Step t of a run begins with the policy of t - 1 steps. Its rollout is sampled from the policy of
    max(t - 1 - lag, 0) steps, made coarse, and has the log-probabilities of that sampler. The old policy
    stays the trainer's own, of t - 1 steps: the ratio pi / pi_old is that of the updates of one step, and
    what lag and coarseness do is in pi_old / sampler, which `importance_correction` acts on.

    Attributes:
        lag: steps that the sampler is behind.
        coarse: bf16, fp8, int8: its weights are rounded (`rollout.rounding`), adapters merged before; top_p,
            temperature: it samples from a nucleus, or at another temperature than the trainer scores with.
        coarse_value: the nucleus's share, in (0, 1), or that temperature, above 0; None elsewhere.
    """

    lag: int
    coarse: Coarse
    coarse_value: float | None

    def __post_init__(self) -> None:
        if self.lag < 0:
            raise ValueError(f"rollout.lag={self.lag}: give steps that the sampler is behind, 0 or more")
        value, wanted = self.coarse_value, self.coarse in ("top_p", "temperature")
        if wanted != (value is not None):
            raise ValueError(
                f"rollout.coarse_value={value} with rollout.coarse={self.coarse}: top_p and temperature need "
                "a number, the others null"
            )
        if value is not None and not 0 < value < (1 if self.coarse == "top_p" else math.inf):
            raise ValueError(
                f"rollout.coarse_value={value} with rollout.coarse={self.coarse}: give a share in (0, 1) of "
                "top_p, a number above 0 of temperature"
            )

    @property
    def precision(self) -> Precision | None:
        """In which the sampler's weights are rounded; None where they are not."""
        return None if self.coarse in ("none", "top_p", "temperature") else self.coarse

    def engine(self, engine: RolloutEngine) -> RolloutEngine:
        """The engine, of a nucleus where that is what is coarse.

        Raises:
            ValueError: if it knows no nucleus, or has one already.
        """
        if self.coarse != "top_p":
            return engine
        if not isinstance(engine, CutsDistribution) or not is_dataclass(engine):
            raise ValueError(
                f"rollout.coarse=top_p: {type(engine).__name__} has no top_p; choose another rollout.coarse"
            )
        if engine.top_p != 1:
            raise ValueError(f"rollout.coarse=top_p with rollout.top_p={engine.top_p}: leave one of them out")
        return replace(engine, top_p=self.coarse_value)

    def temperature(self, temperature: float) -> float:
        """Of the sampler, where the trainer's is given."""
        return self.coarse_value if self.coarse == "temperature" and self.coarse_value else temperature

    def requirements(self, group: str, assembly: Assembly) -> Iterable[str]:
        """There has to be a policy that samples."""
        if (self.lag or self.coarse != "none") and not assembly.rollout.samples:
            yield (
                f"rollout.lag={self.lag}, rollout.coarse={self.coarse} with rollout=demonstrations: nothing "
                "is sampled; set rollout.lag=0 rollout.coarse=none"
            )

    def notes(self, group: str, assembly: Assembly) -> Iterable[str]:
        """What is not corrected."""
        if (self.lag or self.coarse != "none") and assembly.importance_correction is None:
            yield (
                f"rollout.lag={self.lag}, rollout.coarse={self.coarse} without an importance_correction: the "
                "gap between sampler and old policy is measured (mismatch/*) and not corrected"
            )


# The policy that is trained, as it is.
AS_TRAINED = Sampler(lag=0, coarse="none", coarse_value=None)

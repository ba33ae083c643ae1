"""The divergence's coefficient over a run: fixed, or steered so that arms are compared at equal drift."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from mirrorpo.core.protocols import Assembly

Measure = Literal["drift/kl", "drift/probl2", "drift/tv"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fixed:
    """The divergence's own beta, all the way.

    Example:
        >>> Fixed().after(0.04, {"drift/kl": 3.0})
        0.04
    """

    def after(self, beta: float, drift: Mapping[str, float]) -> float:
        return beta


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchedDrift:
    """Steers beta so that the measured drift from the start model comes to a target and stays there.

        beta' = beta (drift / target)^gain,   the factor cut to [1/most, most]

    An integral controller in log beta: at the target beta stands still, whatever its size, so the
    same setting serves divergences whose coefficients differ by powers of ten. Below the target beta
    falls, so a run that never drifts that far ends nearly unregularised.

    Attributes:
        measure: which drift is held.
        target: its value, in that measure's unit.
        gain: how fast log beta follows log drift.
        most: largest factor of one step.
        least_beta: beta does not fall below this, so that it can come back.
        most_beta: nor rise above this.

    Example:
        >>> bounds = {"most": 2.0, "least_beta": 1e-6, "most_beta": 1e6}
        >>> steer = MatchedDrift(measure="drift/kl", target=0.1, gain=0.5, **bounds)
        >>> [steer.after(1.0, {"drift/kl": drift}) for drift in (0.4, 0.1, 0.0)]
        [2.0, 1.0, 0.5]

    References:
        Ziegler et al. 2019, section 2.2 (a proportional controller in log beta), https://arxiv.org/abs/1909.08593
    """

    measure: Measure
    target: float
    gain: float
    most: float
    least_beta: float
    most_beta: float

    def __post_init__(self) -> None:
        if not (
            0 < self.target < math.inf
            and self.gain > 0
            and self.most > 1
            and 0 < self.least_beta < self.most_beta < math.inf
        ):
            raise ValueError(
                f"beta_schedule: target={self.target}, gain={self.gain}, most={self.most}, "
                f"least_beta={self.least_beta}, most_beta={self.most_beta}: target, gain and least_beta are "
                "above 0, most above 1, most_beta above least_beta"
            )

    def requirements(self, group: str, assembly: Assembly) -> Iterable[str]:
        """There has to be a coefficient to steer, a pull to the start model, and a drift that is measured."""
        divergence = assembly.config["divergence"]
        if not divergence.get("beta"):
            yield (
                f"divergence.beta=0 with {group}=matched_drift: there is no coefficient to steer; take a "
                "divergence with a beta above 0"
            )
        elif any(part.source != "reference" or part.moves for part in assembly.anchor.parts):
            yield (
                f"divergence.anchor=old, or an anchor that moves, with {group}=matched_drift: only a pull to "
                "the start model holds the drift from it; use anchor=reference"
            )
        if assembly.config["drift_questions"] == 0:
            yield (
                f"drift_questions=0 with {group}=matched_drift: the drift that it holds is not measured; set "
                "drift_questions=16"
            )
        if assembly.config.get("drift_every", 1) != 1:
            yield (
                f"drift_every={assembly.config['drift_every']} with {group}=matched_drift: beta is steered "
                "after every step; set drift_every=1"
            )

    def after(self, beta: float, drift: Mapping[str, float]) -> float:
        wanted = self.gain * math.log(max(drift[self.measure], 1e-12) / self.target)
        bound = math.log(self.most)
        return min(max(beta * math.exp(min(max(wanted, -bound), bound)), self.least_beta), self.most_beta)

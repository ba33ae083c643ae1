"""A proxy that is trained on, beside the gold reward that it stands for."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mirrorpo.core.batch import Prompt, Verdict
from mirrorpo.core.protocols import Assembly, Verifier
from mirrorpo.reward import composed


@dataclass(frozen=True, kw_only=True, slots=True)
class Proxy:
    """Trains on one reward and watches another.

    The reward is the proxy's. Right and wrong, by either reading, are the gold's, so that every accuracy is
    one of the gold; what the gold says of training completions is logged and reaches no gradient. An outcome
    is the gold's word, or "unverifiable" where either of the two has no value.

    Attributes:
        proxy: what is trained on.
        gold: what it stands for.

    References:
        Gao et al. 2023, Scaling Laws for Reward Model Overoptimization, https://arxiv.org/abs/2210.10760
    """

    proxy: object
    gold: object

    def __post_init__(self) -> None:
        self._both()

    @property
    def version(self) -> str:
        """Those of both."""
        return f"proxy/1 {composed.version(self._both())}"

    @property
    def outcomes(self) -> Sequence[str]:
        """The gold's."""
        return composed.outcomes(self._both()["gold"])

    def __call__(self, texts: Sequence[str], prompts: Sequence[Prompt]) -> list[Verdict]:
        both = self._both()
        pairs = zip(both["proxy"](texts, prompts), both["gold"](texts, prompts), strict=True)
        return [_verdict(proxy, gold) for proxy, gold in pairs]

    def right_answers(self, prompt: Prompt) -> Sequence[str]:
        """The gold's."""
        return composed.right_answers(self._both()["gold"], prompt)

    def unjudgeable(self, prompts: Sequence[Prompt]) -> dict[str, str]:
        """The prompts that either cannot judge."""
        return composed.unjudgeable(self._both(), prompts)

    def provenance(self) -> dict[str, object]:
        """What both say of themselves."""
        return composed.provenance(self._both())

    def notes(self, group: str, assembly: Assembly) -> Iterator[str]:
        """What both have to say."""
        return composed.notes(self._both(), group, assembly)

    def requirements(self, group: str, assembly: Assembly) -> Iterator[str]:
        """What either refuses."""
        return composed.requirements(self._both(), group, assembly)

    def sources(self) -> dict[str, str]:
        """Those of both."""
        return composed.sources(self._both())

    def _both(self) -> dict[str, Verifier]:
        return {
            "proxy": composed.part(self.proxy, "reward.proxy"),
            "gold": composed.part(self.gold, "reward.gold"),
        }


def _verdict(proxy: Verdict, gold: Verdict) -> Verdict:
    unknown = math.isnan(proxy.reward) or math.isnan(gold.reward)
    return replace(
        gold,
        reward=proxy.reward,
        outcome="unverifiable" if unknown else gold.outcome,
        parts=proxy.parts,
        gold=gold.reward,
    )

"""A divergence in the loss: what is the same for all of them."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from mirrorpo.core.protocols import (
    Anchor,
    Assembly,
    Divergence,
    Inert,
    KnowsGradient,
    Placement,
    ReadsTop,
    StatesNotes,
)
from mirrorpo.divergence.placement import IN_LOSS
from mirrorpo.divergence.potentials import HasPotential


@dataclass(frozen=True, kw_only=True, slots=True)
class SecondPart:
    """What an anchor has beside its first part, (1 - share) q_1 + share q_2.

    Attributes:
        source: "reference" or "old", as `Penalty.anchor`.
        share: of q_2.
    """

    source: Literal["reference", "old"]
    share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Penalty:
    """A divergence times its coefficient, and the policy that it is measured to.

        beta D(pi_theta, anchor)

    Attributes:
        divergence: D, a function of both policies alone.
        beta: coefficient in the loss, >= 0.
        anchor: "reference", the frozen start model, or "old", the policy of the rollout.
        second: the other part of an anchor that is a mixture; None where it is none. Both may be references.
        scope: what token weights multiply, the setting `weighting.scope`: "credit", the surrogate only;
            "loss", the divergence too, as the papers' public code does.
        placement: where it acts (`divergence.placement`).

    Raises:
        ValueError: for a coefficient below zero, infinite, or not a number.
    """

    divergence: Divergence
    beta: float
    anchor: Literal["reference", "old"]
    scope: Literal["credit", "loss"]
    placement: Placement
    second: SecondPart | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.beta < math.inf:
            raise ValueError(
                f"divergence.beta={self.beta}: a coefficient is not negative; a negative one would push away "
                "from the anchor"
            )

    @property
    def reads(self) -> Literal["nothing", "sampled", "vocabulary", "top"]:
        """What the divergence reads."""
        return self.divergence.reads

    @property
    def reads_hidden(self) -> bool:
        """Whether the anchor's hidden states are read beside the policy's."""
        if isinstance(self.divergence, ReadsTop):
            return self.divergence.of == "policy" and self.divergence.k > 0
        return self.divergence.reads == "vocabulary"

    @property
    def anchor_top(self) -> int:
        """How many of the anchor's likeliest tokens are kept at each token."""
        if isinstance(self.divergence, ReadsTop) and self.divergence.of == "anchor":
            return self.divergence.k
        return 0

    @property
    def part_top(self) -> int:
        """How many of the likeliest tokens are kept of each part: a mixture's are not those of its parts."""
        return 0 if self.mixes else self.anchor_top

    @property
    def scores_hidden(self) -> bool:
        """Whether the pass over the anchor keeps hidden states."""
        # The likeliest tokens of a mixture are known once both parts are.
        return self.reads_hidden or (self.mixes and self.anchor_top > 0)

    @property
    def sources(self) -> Sequence[Literal["reference", "old"]]:
        """What the anchor is made of, one part or two."""
        return (self.anchor,) if self.second is None else (self.anchor, self.second.source)

    @property
    def share(self) -> float:
        """The second part's; zero where there is none."""
        return 0.0 if self.second is None else self.second.share

    @property
    def mixes(self) -> bool:
        """Whether the anchor is a mixture."""
        return self.second is not None

    @property
    def measured(self) -> bool:
        """Whether there is a divergence at all."""
        return self.divergence.reads != "nothing"

    @property
    def reads_old(self) -> bool:
        """Whether a divergence is measured to the policy of the rollout."""
        return self.measured and "old" in self.sources

    @property
    def reads_reference(self) -> bool:
        """Whether a divergence is measured to a reference: the start model, or what has moved from it."""
        return self.measured and "reference" in self.sources

    @property
    def acts(self) -> bool:
        """Whether it changes an update."""
        return self.measured and self.beta != 0

    @property
    def in_loss(self) -> bool:
        """Whether its gradient is part of the loss."""
        return self.placement in IN_LOSS

    @property
    def in_credit(self) -> bool:
        """Whether advantages take it in, for which it is measured before the update."""
        return self.measured and self.placement != "loss"

    @property
    def mirror_map(self) -> str | None:
        """Fingerprint of a neural mirror map's numbers; None where a divergence has no such map."""
        return self.divergence.potential.fingerprint if isinstance(self.divergence, HasPotential) else None

    def __call__(self, policy: Tensor, anchor: Tensor, old: Tensor) -> Tensor:
        """The divergence, before its coefficient."""
        return self.divergence(policy, anchor, old)

    @property
    def gradient(self) -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
        """That of factors times divergences over the vocabulary, where the divergence knows it."""
        return self.divergence.gradient if isinstance(self.divergence, KnowsGradient) else None

    def inert(self, group: str, assembly: Assembly) -> Iterable[Inert]:
        """Everything and its anchor, where nothing of it acts; and an anchor that is said twice."""
        if not self.acts:
            yield Inert(
                ("divergence", "anchor"),
                "with divergence=none or divergence.beta=0 no divergence acts on the policy",
                "a divergence.beta above 0",
            )
        elif assembly.config.get("anchor") is not None:
            yield _said_twice(assembly.anchor)

    def notes(self, group: str, assembly: Assembly) -> Iterable[str]:
        """Settings that are without effect, and a potential that makes no divergence."""
        only_old = self.reads_old and not self.mixes
        yield from self._notes_on_the_anchor(assembly)
        anchor = "divergence.anchor" if assembly.config.get("anchor") is None else "anchor"
        if assembly.config["updates_per_rollout"] == 1 and only_old:
            yield (
                f"updates_per_rollout=1 with {anchor}=old: the policy is its own anchor, the divergence is "
                "zero with zero gradient"
            )
        if self.measured and self.beta == 0:
            yield (
                "divergence.beta=0: the divergence is measured at the cost of the anchor's forward and "
                "changes nothing; divergence=none is free"
            )
        if self.acts and self.placement == "reward":
            yield from self._notes_on_sums()
        if self.in_credit and only_old:
            yield (
                f"divergence.placement={self.placement} with {anchor}=old: the penalty is measured before "
                "the update, where the policy is its own anchor; it takes nothing from the advantages"
            )
        if isinstance(self.divergence, HasPotential) and not self.divergence.potential.convex:
            yield (
                "divergence.potential.parameters.signed=true: the mirror map need not rise, so the penalty "
                "is no divergence; it may be negative and push away from the anchor"
            )
        if isinstance(self.divergence, StatesNotes):
            yield from self.divergence.notes(group, assembly)

    def _notes_on_sums(self) -> Iterable[str]:
        # In a token's reward a sum over tokens is the same whichever of them was drawn.
        if self.reads == "vocabulary":
            yield (
                "divergence.placement=reward with a divergence over the vocabulary: it is the same for every "
                "token that could stand there, so its expected gradient is zero and it adds noise alone; "
                "loss_to_go has the full gradient"
            )
        if isinstance(self.divergence, ReadsTop) and self.divergence.k > 0:
            yield (
                f"divergence.placement=reward with divergence.k={self.divergence.k}: the sum over so many "
                "tokens is the same for every token that could stand there, so its expected gradient is zero "
                "and it adds noise; only the tokens outside it are held. loss_to_go has the full gradient"
            )

    def _notes_on_the_anchor(self, assembly: Assembly) -> Iterable[str]:
        # An anchor that nothing reads, and two settings that say where the divergence is measured to.
        if assembly.config.get("anchor") is None:
            return
        name = _named(assembly.anchor)
        if not self.measured:
            yield f"anchor={name} with divergence=none: nothing is measured to it, and it has no effect"
        said = assembly.config["divergence"].get("anchor", "reference")
        # Every file of the group says reference, so that alone contradicts nothing.
        if self.measured and said != "reference" and name != said:
            yield (
                f"divergence.anchor={said} with anchor={name}: anchor says what the divergence is measured "
                f"to, and divergence.anchor is not read; leave anchor out, or divergence.anchor={said}"
            )


def _said_twice(anchor: Anchor) -> Inert:
    # What `divergence.anchor` is where `anchor` is set.
    source = _still(anchor)
    if source is None:
        return Inert(
            ("divergence.anchor",),
            "anchor says what the divergence is measured to, and divergence.anchor is not read",
            "divergence.anchor without anchor",
        )
    return Inert(
        ("divergence.anchor",),
        f"anchor={source} measures as divergence.anchor={source} without anchor does, whatever "
        "divergence.anchor says beside it",
        "another anchor, or another divergence.anchor without anchor,",
        (("anchor", None), ("divergence.anchor", source)),
    )


def _still(anchor: Anchor) -> str | None:
    # What `divergence.anchor` calls it; None where it moves or is a mixture.
    first, *others = anchor.parts
    return None if others or first.moves else first.source


def _named(anchor: Anchor) -> str:
    return _still(anchor) or type(anchor).__name__.lower()

"""The penalty of a config, without what a model needs to be loaded."""

from typing import Literal

import torch

from mirrorpo.core.protocols import Config, Divergence
from mirrorpo.divergence.penalty import Penalty
from mirrorpo.train.build_object import build_object, refuse_wrong_values, without


def build_penalty(node: Config, scope: Literal["credit", "loss"] = "credit") -> Penalty:
    """The penalty of a `divergence` group: its `beta`, `anchor` and `placement`, and the divergence of
    everything else.

    A placement that is null or absent is the loss; an algorithm's row may say another.

    Raises:
        ValueError: naming the setting.
    """
    class_settings, penalty_settings = without(node, "divergence", "beta", "anchor", "placement")
    divergence = build_object(class_settings, "divergence", Divergence)
    _check_divergence(divergence)
    # Where nothing is read there is nothing to weigh or to measure to.
    defaults: Config = {"beta": 0.0, "anchor": "reference"} if divergence.reads == "nothing" else {}
    settings = {**defaults, **penalty_settings}
    settings["placement"] = settings.get("placement") or "loss"
    absent = [name for name in ("beta", "anchor") if name not in settings]
    if absent:
        raise ValueError(
            f"divergence: missing {', '.join(map(repr, absent))}; give its coefficient and its anchor"
        )
    of_penalty = {"_target_": "mirrorpo.divergence.penalty.Penalty"}
    refuse_wrong_values(of_penalty | settings, "divergence")
    refuse_wrong_values(of_penalty | {"scope": scope}, "weighting")
    return Penalty(divergence=divergence, scope=scope, **settings)


def _check_divergence(divergence: Divergence) -> None:
    table = torch.full((2, 3, 5), 0.2, dtype=torch.float64).log()
    shapes = {"nothing": [2, 3, 5], "sampled": [2, 3, 5], "top": [2, 3, 5], "vocabulary": [2, 3]}
    shape = shapes.get(divergence.reads)
    name = type(divergence).__name__
    if shape is None:
        raise ValueError(
            f"divergence: {name}.reads is {divergence.reads!r}; choose nothing, sampled, top or vocabulary"
        )
    returned = _shape_or_class(divergence(table, table, table))
    if returned != shape:
        raise ValueError(
            f"divergence: {name} reads {divergence.reads!r} and returned {returned} for {[*table.shape]} "
            f"log-probabilities; wanted is {shape}"
        )


def _shape_or_class(value: object) -> list[int] | str:
    return list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__

"""What a weighting did with a step's completions: importance by kind and place of span, and where the gradient went."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mirrorpo.collect import Answer
from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.shapes import PerCompletion, PerToken
from mirrorpo.core.spelling import Spelling
from mirrorpo.weighting.counterfactual import ScoredSpan

PLACES = 5


def credit_metrics(spans: Sequence[ScoredSpan], batch: RolloutBatch, advantages: PerCompletion, weights: PerToken) -> dict[str, float]:
    """Means over the scored spans of a step; empty when nothing was scored.

    `credit/spans`, scored spans per scored completion; `credit/drop_<kind>`, mean drop of a kind of span;
    `credit/position_<k>`, of the k-th span of its kind in a completion that has at least k, and
    `credit/last`, of the last one; both over calculations, or over all spans where there is none.
    `credit/distractors`, share of spans whose drop is negative. `credit/gradient_<kind>`, share of the
    scored completions' policy gradient that goes through a kind of span, and `credit/gradient_rest`
    through all other tokens: the L1 norm with respect to the logits, w_t |A| (1 - pi(y_t)) up to a
    factor; the share of tokens is `credit/tokens_<kind>`.
    """
    if not spans:
        return {}
    kinds = sorted({one.span.kind for one in spans})
    rows = sorted({one.row for one in spans})
    out = {
        "credit/spans": len(spans) / len(rows),
        "credit/distractors": _mean([float(one.drop < 0) for one in spans]),
        **{f"credit/drop_{kind}": _mean([one.drop for one in spans if one.span.kind == kind]) for kind in kinds},
    }
    placed = [one for one in spans if one.span.kind == "calculation"] or list(spans)
    mine = {row: [one.drop for one in placed if one.row == row] for row in rows}
    for place in range(PLACES):
        if any(len(drops) > place for drops in mine.values()):
            out[f"credit/position_{place + 1}"] = _mean([drops[place] for drops in mine.values() if len(drops) > place])
    out["credit/last"] = _mean([drops[-1] for drops in mine.values() if drops])
    surprise = 1 - batch.sampler_logprobs.double().exp()
    force = torch.where(batch.mask, weights.double() * advantages.double().abs()[:, None] * surprise, 0.0)
    total, tokens = float(force[rows].sum()), float(batch.mask[rows].sum())
    inside = {kind: torch.zeros_like(batch.mask) for kind in kinds}
    for one in spans:
        inside[one.span.kind][one.row, one.span.start : one.span.end] = True
    for kind, where in inside.items():
        out[f"credit/tokens_{kind}"] = float((where & batch.mask).sum()) / tokens
        out[f"credit/gradient_{kind}"] = float(force[where].sum()) / total if total > 0 else float("nan")
    out["credit/gradient_rest"] = 1 - sum(out[f"credit/gradient_{kind}"] for kind in kinds)
    return out


def credit_row(answer: Answer, spelling: Spelling, weights: Float[Tensor, " T"], spans: Sequence[ScoredSpan], row: int) -> dict[str, Any]:
    """One completion as the credit page shows it: its text, each token's characters and weight, its scored spans."""
    return {
        "uid": answer.prompt.uid,
        "question": answer.prompt.question,
        "gold": answer.prompt.gold,
        "outcome": answer.verdict.outcome,
        "reward": answer.reward if math.isfinite(answer.reward) else None,
        "text": spelling.text,
        "offsets": [list(interval) for interval in spelling.offsets],
        "weights": [round(float(weight), 4) for weight in weights[: len(spelling.offsets)]],
        "spans": [{"start": one.span.start, "end": one.span.end, "kind": one.span.kind, "drop": one.drop} for one in spans if one.row == row],
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

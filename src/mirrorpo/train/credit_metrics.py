"""What a weighting did with a step's completions: importance of spans, and where the gradient went."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.shapes import PerCompletion, PerToken
from mirrorpo.core.span import ScoredSpan
from mirrorpo.core.tensors import integers
from mirrorpo.core.token_offsets import TokenOffsets
from mirrorpo.rollout.collector import Answer
from mirrorpo.weighting.spans import Arithmetic, Format, answer_span

POSITIONS = 5
# A drop closer to zero than this says nothing: in nats, or as a change of the probability.
NEGLIGIBLE = 0.01
# Kinds that every run is described by, whatever it hides; located as in conf/spans, without limits.
CALCULATIONS = Arithmetic(max_spans=1000, min_tokens=1, max_tokens=1000, max_backslashes=1.0, unit_words=3)
FORMAT = Format(max_spans=1000, characters="#=-*_", min_characters=2)


def credit_metrics(
    spans: Sequence[ScoredSpan], batch: RolloutBatch, advantages: PerCompletion, weights: PerToken
) -> dict[str, float]:
    """Means over the scored spans of a step; empty when nothing was scored.

    `credit/spans`, scored spans per scored completion; `credit/drop_<kind>`, mean drop of a kind of span;
    `credit/position_<k>`, of the k-th span of its kind in a completion that has at least k, and
    `credit/last`, of the last one; both over calculations, or statements of programs.
    `credit/distractors`, share of spans whose drop is below -0.01. `credit/gradient_<kind>`, share of the
    scored completions' policy gradient that goes through a kind of span, and `credit/gradient_rest`
    through all other tokens: the L1 norm with respect to the logits, w_t |A| (1 - pi(y_t)) up to a
    factor; the share of tokens is `credit/tokens_<kind>`.
    """
    if not spans:
        return {}
    kinds = sorted({scored.span.kind for scored in spans})
    rows = sorted({scored.row for scored in spans})
    out = {
        "credit/spans": len(spans) / len(rows),
        "credit/distractors": _mean([float(scored.drop < -NEGLIGIBLE) for scored in spans]),
        **{
            f"credit/drop_{kind}": _mean([scored.drop for scored in spans if scored.span.kind == kind])
            for kind in kinds
        },
    }
    steps = [scored for scored in spans if scored.span.kind in ("calculation", "statement")]
    drops_of = {row: [scored.drop for scored in steps if scored.row == row] for row in rows}
    for index in range(POSITIONS):
        drops = [row_drops[index] for row_drops in drops_of.values() if len(row_drops) > index]
        if drops:
            out[f"credit/position_{index + 1}"] = _mean(drops)
    if steps:
        out["credit/last"] = _mean([row_drops[-1] for row_drops in drops_of.values() if row_drops])
    force = _force(batch, advantages, weights)
    total, tokens = float(force[rows].sum()), float(batch.mask[rows].sum())
    inside = {kind: torch.zeros_like(batch.mask) for kind in kinds}
    for scored in spans:
        inside[scored.span.kind][scored.row, scored.span.start : scored.span.end] = True
    for kind, kind_mask in inside.items():
        out[f"credit/tokens_{kind}"] = float((kind_mask & batch.mask).sum()) / tokens
        out[f"credit/gradient_{kind}"] = float(force[kind_mask].sum()) / total if total > 0 else float("nan")
    out["credit/gradient_rest"] = 1 - sum(out[f"credit/gradient_{kind}"] for kind in kinds)
    return out


def gradient_shares(
    all_offsets: Sequence[TokenOffsets], batch: RolloutBatch, advantages: PerCompletion, weights: PerToken
) -> dict[str, float]:
    """Where the policy gradient goes, of any weighting: `credit/all_gradient_<kind>`, beside
    `credit/all_tokens_<kind>`.

    Shares of the gradient (as in `credit_metrics`) and of the trained tokens of all completions with an
    advantage. Kinds are the marked answer, calculations, format (bare rules and headings) and other; empty
    when no completion has an advantage.
    """
    force = _force(batch, advantages, weights)
    counted = batch.mask & (advantages != 0)[:, None]
    total, tokens = float(force.sum()), float(counted.sum())
    if not tokens:
        return {}
    kinds = {kind: torch.zeros_like(batch.mask) for kind in ("calculation", "format", "answer")}
    for row in integers(counted.any(dim=1).nonzero().flatten()):
        answer = answer_span(all_offsets[row])
        for span in (
            *CALCULATIONS(all_offsets[row]),
            *FORMAT(all_offsets[row]),
            *([answer] if answer else []),
        ):
            for kind, kind_mask in kinds.items():
                # The last to claim a token has it.
                kind_mask[row, span.start : span.end] = kind == span.kind
    kinds["other"] = ~torch.stack([*kinds.values()]).any(dim=0)
    out = {
        f"credit/all_tokens_{kind}": float((kind_mask & counted).sum()) / tokens
        for kind, kind_mask in kinds.items()
    }
    return out | {
        f"credit/all_gradient_{kind}": float(force[kind_mask & counted].sum()) / total
        for kind, kind_mask in kinds.items()
        if total > 0
    }


def _force(batch: RolloutBatch, advantages: PerCompletion, weights: PerToken) -> PerToken:
    surprise = 1 - batch.sampler_logprobs.double().exp()
    return torch.where(batch.mask, weights.double() * advantages.double().abs()[:, None] * surprise, 0.0)


def credit_row(
    answer: Answer,
    token_offsets: TokenOffsets,
    weights: Float[Tensor, " T"],
    spans: Sequence[ScoredSpan],
    row: int,
) -> dict[str, object]:
    """One completion as the credit page shows it: its text, each token's characters and weight, its scored
    spans.
    """
    return {
        "uid": answer.prompt.uid,
        "question": answer.prompt.question,
        "gold": answer.prompt.gold,
        "outcome": answer.verdict.outcome,
        "reward": answer.reward if math.isfinite(answer.reward) else None,
        "text": token_offsets.text,
        "offsets": [list(interval) for interval in token_offsets.offsets],
        "weights": [round(float(weight), 4) for weight in weights[: len(token_offsets.offsets)]],
        "spans": [
            {
                "start": scored.span.start,
                "end": scored.span.end,
                "kind": scored.span.kind,
                "drop": scored.drop,
            }
            for scored in spans
            if scored.row == row
        ],
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

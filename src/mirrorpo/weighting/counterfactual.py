"""Credit by counterfactual: hide a span of reasoning, and see how much less probable becomes what follows."""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.cut import TAKE_A_MASK, Cut, Masking
from mirrorpo.core.masked import group_mean
from mirrorpo.core.protocols import Assembly, ModelNeed, Scorer
from mirrorpo.core.seeds import generator
from mirrorpo.core.shapes import PerToken
from mirrorpo.core.span import ScoredSpan, Span
from mirrorpo.core.tensors import integers
from mirrorpo.core.token_offsets import TokenOffsets
from mirrorpo.weighting.random import stream_of
from mirrorpo.weighting.reasoning import Range, Regions, entire_completion, regions
from mirrorpo.weighting.spans import SpanFinder


@dataclass(frozen=True, kw_only=True, slots=True)
class Counterfactual:
    """Weights by the drop in the score of what follows when a span is hidden.

        d_k = S(y) - S(y without span k)
        s_t = d_k / |span k| for t in span k (spread: share), 0 for reasoning tokens of no span
        w_t = range(s)_t

    S is read under the old policy, in eval mode, from behind the first token of the answer's mark up to
    and with the end of the completion (target: answer), or at all tokens behind the span (target:
    downstream): the sum of their log-probabilities, its mean, or the probability (score).

    Measured on the tiny model, hiding any calculation but the last changes the answer by 0.00 nats, for
    the later lines restate the number; with "answer" credit then goes to the last calculation. With
    "downstream" every calculation has its own drop, at no further cost. `credit/position_*` shows it.

    Value: in the range's; all ones for a completion that marks no answer, has no span, whose two or more
    drops are all equal, or which `completions` leaves out. The map knows no size: the least of differences
    between drops is spread over the whole range. Gradient: none.

    Attributes:
        spans: what is hidden, one at a time.
        target: what is scored.
        region: "marked", reasoning ends where the answer is marked; "whole", all of it is reasoning, for
            programs, which mark none.
        masking: how a span is hidden: "pad" (the papers'), "block" (from attention), "delete", "direct" (from
            the attention of the tokens that are read alone: what the lines between made of the span stays,
            and only the answer is computed again; with target "downstream" it is "block").
        score: "sum" or "mean" of log-probabilities, or "probability", the exponential of the sum.
        spread: "share" divides a drop by the span's tokens; "whole" gives it to each.
        negative: "keep" lets a distractor have less than a token of no span; "clip" counts it as zero.
        completions: "all", or "correct": those whose reward is above their group's mean.
        order: "importance"; or a control with the very same weights in each completion, dealt out anew
            span by span: "inverted", the most to the least important, tokens of no span among them, so that
            a span's tokens may differ; "permuted", in random order among the spans: of k spans it leaves one
            completion in k! as it was, all with one span, half with two.
            "inverted_public" is the papers' control, which mirrors the map and so has other weights.
        range: from importance to weight.

    References:
        Paper A (2602.09331), the method section and its public code, https://arxiv.org/abs/2602.09331
    """

    spans: SpanFinder
    target: Literal["answer", "downstream"]
    region: Literal["marked", "whole"]
    masking: Masking
    score: Literal["sum", "mean", "probability"]
    spread: Literal["share", "whole"]
    negative: Literal["keep", "clip"]
    completions: Literal["all", "correct"]
    order: Literal["importance", "inverted", "permuted", "inverted_public"]
    range: Range

    def __post_init__(self) -> None:
        if self.score == "probability" and self.target == "downstream":
            raise ValueError(
                "weighting.score=probability with weighting.target=downstream: all that follows has "
                "probability zero in a float; use sum or mean"
            )
        if self.region == "whole" and self.target == "answer":
            raise ValueError(
                "weighting.region=whole with weighting.target=answer: there is no answer then; use "
                "weighting.target=downstream"
            )

    def requirements(self, group: str, assembly: Assembly) -> Iterable[str]:
        """Hiding needs an attention that can be shown a mask with a hole in it."""
        attention = assembly.config["model"].get("attention", "sdpa")
        if attention not in TAKE_A_MASK:
            yield (
                f"model.attention={attention} with a weighting that hides spans: hiding needs an attention "
                "mask; use model.attention=sdpa"
            )

    def model_needs(self) -> Collection[ModelNeed]:
        """Spans that can be hidden."""
        return (self.masking,)

    def passes(self) -> Sequence[str]:
        """One with nothing hidden, and one for each span."""
        return (
            "a forward pass of each completion with nothing hidden, and one for each of its spans, hidden by "
            f"{self.masking}",
        )

    def notes(self, group: str, assembly: Assembly) -> Iterable[str]:
        """Demonstrations of one question are all as good as each other."""
        if self.completions == "correct" and not assembly.rollout.samples:
            yield (
                f"{group}.completions=correct with demonstrations: none is better than its group, so none is "
                "scored and every weight is 1"
            )

    def __call__(self, batch: RolloutBatch, scorer: Scorer, seed: int) -> PerToken:
        rows = self.covers(batch).nonzero().flatten()
        weights = torch.ones(batch.present.shape)
        if len(rows):
            covered, _ = self.explain(batch.rows(rows), scorer, seed)
            weights[rows, : covered.shape[1]] = covered
        return weights

    def covers(self, batch: RolloutBatch) -> Bool[Tensor, " B"]:
        """Which completions of an entire rollout the setting `completions` names."""
        if self.completions == "correct":
            return batch.rewards > group_mean(batch.rewards, batch.group)
        return torch.ones(len(batch), dtype=torch.bool)

    def explain(
        self, batch: RolloutBatch, scorer: Scorer, seed: int
    ) -> tuple[PerToken, Sequence[ScoredSpan]]:
        """The weights of covered completions, and the scored spans behind them.

        A completion that stands twice is scored once.

        Raises:
            ValueError: if a drop is not finite.
        """
        all_offsets = scorer.with_offsets(batch)
        all_regions = {
            row: bounds
            for row, token_offsets in enumerate(all_offsets)
            if (bounds := self._regions(token_offsets)) is not None
        }
        # A finder may know nothing of answers (source code does not): what is no reasoning is not hidden, nor
        # what nothing follows.
        hidden = {
            row: [
                span
                for span in self.spans(all_offsets[row])
                if span.end <= bounds.reasoned and span.end < bounds.length
            ]
            for row, bounds in all_regions.items()
        }
        twins = _twins(batch, [row for row, spans in hidden.items() if spans])
        cuts = [self._cut(row, span, all_regions[row]) for row in twins for span in hidden[row]]
        drops = self._drops(batch, scorer, cuts)
        weights = torch.ones(batch.present.shape)
        scored: list[ScoredSpan] = []
        offset = 0
        for row, same in twins.items():
            spans = hidden[row]
            row_drops = drops[offset : offset + len(spans)]
            offset += len(spans)
            stream = generator(seed, "weighting", *stream_of(batch, row))
            row_weights = self._weights(spans, row_drops, all_regions[row], stream)
            for twin in same:
                weights[twin, : len(row_weights)] = row_weights
                scored += [
                    ScoredSpan(row=twin, span=span, drop=drop)
                    for span, drop in zip(spans, row_drops, strict=True)
                ]
        return weights, sorted(scored, key=lambda score: (score.row, score.span.start))

    def _regions(self, token_offsets: TokenOffsets) -> Regions | None:
        return regions(token_offsets) if self.region == "marked" else entire_completion(token_offsets)

    def _cut(self, row: int, span: Span, bounds: Regions) -> Cut:
        first = bounds.reasoned + 1 if self.target == "answer" else span.end
        return Cut(row=row, start=span.start, end=span.end, first=first, last=bounds.length)

    def _drops(self, batch: RolloutBatch, scorer: Scorer, cuts: Sequence[Cut]) -> list[float]:
        if not cuts:
            return []
        before, after = scorer.cut(batch, cuts, self.masking)
        drops = [
            self._score(before[cut.row, cut.first : cut.last])
            - self._score(after[index, cut.first : cut.last])
            for index, cut in enumerate(cuts)
        ]
        for cut, drop in zip(cuts, drops, strict=True):
            # It would pass for a span of no importance.
            if not math.isfinite(drop):
                hidden = f"hiding tokens {cut.start} to {cut.end} of a completion"
                raise ValueError(
                    f"{hidden} changes its score by {drop}: the policy's log-probabilities are not finite"
                )
        return drops

    def _score(self, logprobs: Tensor) -> float:
        total = float(logprobs.double().sum())
        if self.score == "probability":
            return math.exp(total)
        return total / len(logprobs) if self.score == "mean" else total

    def _weights(
        self, spans: Sequence[Span], drops: Sequence[float], bounds: Regions, stream: torch.Generator
    ) -> Tensor:
        if len(spans) > 1 and all(drop == drops[0] for drop in drops):
            return torch.ones(bounds.length)
        importance = torch.zeros(bounds.reasoned)
        blocks: list[tuple[float, list[int]]] = []
        for span, drop in zip(spans, drops, strict=True):
            drop = max(drop, 0.0) if self.negative == "clip" else drop
            value = drop / (span.end - span.start) if self.spread == "share" else drop
            importance[span.start : span.end] = value
            blocks.append((value, list(range(span.start, span.end))))
        if self.order == "inverted_public":
            mirrored = replace(
                self.range,
                high=self.range.low + (self.range.high - self.range.low) * (1 - self.range.least),
                least=0.0,
            )
            return mirrored(-importance, bounds)
        weights = self.range(importance, bounds)
        if self.order == "inverted":
            inside = {token for _, tokens in blocks for token in tokens}
            blocks.append((0.0, [token for token in range(bounds.reasoned) if token not in inside]))
            return _dealt(weights, [tokens for _, tokens in sorted(blocks, key=lambda block: block[0])])
        if self.order == "permuted":
            order = integers(torch.randperm(len(blocks), generator=stream))
            return _dealt(weights, [blocks[index][1] for index in order])
        return weights


def _dealt(weights: Tensor, blocks: Sequence[Sequence[int]]) -> Tensor:
    # The blocks' weights, the largest first, dealt to the blocks in the order given.
    positions = torch.tensor([token for block in blocks for token in block], dtype=torch.long)
    out = weights.clone()
    out[positions] = weights[positions].sort(descending=True).values
    return out


def _twins(batch: RolloutBatch, rows: Sequence[int]) -> dict[int, list[int]]:
    # The first of each set of equal completions, with all of the set.
    first: dict[tuple[int | str, ...], int] = {}
    out: dict[int, list[int]] = {}
    for row in rows:
        out.setdefault(first.setdefault(stream_of(batch, row), row), []).append(row)
    return out

"""Splitting a rollout for memory: every row once, within the budget, a function of the lengths alone."""

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from completions import completion_of
from hypothesis import given
from hypothesis import strategies as st
from small_models import model

from mirrorpo.config.settings import UpdateSettings
from mirrorpo.core.batch import RolloutBatch
from mirrorpo.rollout.collate import collate
from mirrorpo.train.micro_batch import (
    TOKENS_PER_CALL,
    MicroBatch,
    micro_batches,
    plan_micro_batches,
    runs_of_similar_length,
    shared_prompts,
)
from mirrorpo.train.old_policy import policy_scorer

Lengths = Sequence[tuple[int, int]]
lengths = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), min_size=1, max_size=12).filter(
    lambda rows: any(length for _, length in rows)
)
budgets = st.integers(1, 120)


def batch_of(rows: Lengths, fill: int = 5) -> RolloutBatch:
    """Prompts and completions of the given lengths."""
    completions = [
        completion_of([fill] * length, group=i, prompt_ids=[fill] * prompt, uid=str(i))
        for i, (prompt, length) in enumerate(rows)
    ]
    return collate(completions, [0.0] * len(rows), pad_id=0, mask_truncated=False)


def split(rows: Lengths, tokens: int) -> list[list[int]]:
    return [picked.tolist() for picked in micro_batches(batch_of(rows), tokens)]


def padded_tokens(rows: Lengths, picked: Sequence[int]) -> int:
    depth, width = (max(rows[i][side] for i in picked) for side in (0, 1))
    return (depth + width) * len(picked)


@given(rows=lengths, tokens=budgets)
def test_every_row_is_taken_exactly_once(rows: Lengths, tokens: int) -> None:
    assert sorted(row for picked in split(rows, tokens) for row in picked) == list(range(len(rows)))


@given(rows=lengths, tokens=budgets)
def test_no_micro_batch_exceeds_the_budget_unless_it_is_one_row(rows: Lengths, tokens: int) -> None:
    assert all(len(picked) == 1 or padded_tokens(rows, picked) <= tokens for picked in split(rows, tokens))


@given(rows=lengths, tokens=budgets)
def test_a_micro_batch_takes_rows_until_the_next_one_would_not_fit(rows: Lengths, tokens: int) -> None:
    parts = split(rows, tokens)
    assert all(padded_tokens(rows, [*picked, following[0]]) > tokens for picked, following in pairwise(parts))


@given(rows=lengths, tokens=budgets)
def test_rows_come_in_order_of_length(rows: Lengths, tokens: int) -> None:
    taken = [sum(rows[row]) for picked in split(rows, tokens) for row in picked]
    assert taken == sorted(taken)


@given(rows=lengths, tokens=budgets)
def test_the_budget_is_that_of_the_rows_as_they_are_cut(rows: Lengths, tokens: int) -> None:
    batch = batch_of(rows)
    for picked in micro_batches(batch, tokens):
        micro = batch.rows(picked)
        width = max(padded_tokens(rows, picked.tolist()), len(picked) * (micro.prompt_ids.shape[1] + 1))
        assert micro.prompt_ids.numel() + micro.completion_ids.numel() == width


@given(rows=lengths, tokens=budgets)
def test_the_same_batch_is_split_the_same_way(rows: Lengths, tokens: int) -> None:
    assert split(rows, tokens) == split(rows, tokens)


@given(rows=lengths, tokens=budgets)
def test_only_the_lengths_are_read(rows: Lengths, tokens: int) -> None:
    plain = batch_of(rows)
    other = batch_of(rows, fill=9).with_(
        mask=torch.zeros_like(plain.mask),
        group=plain.group.flip(0) * 7,
        rewards=torch.full_like(plain.rewards, float("nan")),
        truncated=~plain.truncated,
        old_logprobs=torch.zeros_like(plain.old_logprobs),
    )
    assert [picked.tolist() for picked in micro_batches(other, tokens)] == [
        picked.tolist() for picked in micro_batches(plain, tokens)
    ]


@given(rows=lengths, tokens=budgets)
def test_padding_of_the_whole_batch_is_not_counted(rows: Lengths, tokens: int) -> None:
    # The last row is too long for any other to join it.
    assert split([*rows, (40, 40)], tokens) == [*split(rows, tokens), [len(rows)]]


def test_a_large_budget_takes_everything_at_once() -> None:
    assert split([(3, 2), (1, 1), (2, 2)], 1000) == [[1, 2, 0]]


def test_a_budget_of_one_token_takes_rows_one_by_one() -> None:
    assert split([(3, 2), (1, 1), (2, 2)], 1) == [[1], [2], [0]]


def test_a_budget_is_reached_and_not_passed() -> None:
    # Two rows of 3 + 2 are 10 padded tokens, three are 15.
    assert split([(3, 2)] * 4, 10) == [[0, 1], [2, 3]]
    assert split([(3, 2)] * 4, 9) == [[0], [1], [2], [3]]


def test_a_long_prompt_and_a_long_completion_pad_each_other() -> None:
    # Alone they are 9 tokens each; together 2 x (8 + 8).
    assert split([(8, 1), (1, 8)], 31) == [[0], [1]]
    assert split([(8, 1), (1, 8)], 32) == [[0, 1]]


def test_rows_of_equal_length_keep_their_order() -> None:
    assert split([(2, 1), (1, 2), (2, 1)], 6) == [[0], [1], [2]]


# ---------------------------------------------------------------- shared prompts

Groups = Sequence[tuple[int, Sequence[int]]]
groups = st.lists(
    st.tuples(st.integers(1, 40), st.lists(st.integers(1, 200), min_size=1, max_size=6)),
    min_size=1,
    max_size=5,
)
shared_budgets = st.integers(1, 1500)


def asked(asks: Groups, order: Sequence[int] | None = None, fill: int = 5) -> RolloutBatch:
    """A group a prompt, no two prompts alike, in any order of rows."""
    rows = [(index, prompt, length) for index, (prompt, answers) in enumerate(asks) for length in answers]
    completions = [
        completion_of([fill] * length, prompt_ids=[20 + index] * prompt)
        for index, prompt, length in ([rows[place] for place in order] if order else rows)
    ]
    return collate(completions, [0.0] * len(rows), pad_id=0, mask_truncated=False)


def computed(batch: RolloutBatch, part: MicroBatch) -> int:
    """Tokens of each distinct prompt, padded to the deepest, and of each run, padded to its longest."""
    prompts, lengths = batch.prompt_present.sum(dim=1)[part.rows], batch.present.sum(dim=1)[part.rows]
    total = len(batch.prompt_numbers()[part.rows].unique()) * int(prompts.max())
    return total + sum(len(piece) * int(piece.max()) for piece in lengths.split(list(part.rows_per_forward)))


@given(asks=groups, tokens=shared_budgets)
def test_shared_every_row_is_taken_exactly_once(asks: Groups, tokens: int) -> None:
    batch = asked(asks)
    assert sorted(row for part in shared_prompts(batch, tokens) for row in part.rows.tolist()) == list(
        range(len(batch))
    )


@given(asks=groups, tokens=shared_budgets)
def test_shared_no_micro_batch_exceeds_the_budget_unless_it_is_one_row(asks: Groups, tokens: int) -> None:
    batch = asked(asks)
    for part in shared_prompts(batch, tokens):
        assert part.tokens == computed(batch, part)
        assert part.tokens <= tokens or len(part.rows) == 1


@given(asks=groups, tokens=shared_budgets)
def test_a_group_that_fits_a_micro_batch_is_never_split(asks: Groups, tokens: int) -> None:
    batch = asked(asks)
    owner, parts = batch.prompt_numbers(), list(shared_prompts(batch, tokens))
    for prompt in range(len(asks)):
        alone = asked([asks[int(batch.prompt_ids[owner == prompt][0, -1]) - 20]])
        if len(list(shared_prompts(alone, tokens))) == 1:
            assert sum(prompt in owner[part.rows] for part in parts) == 1


@given(asks=groups, tokens=shared_budgets)
def test_pieces_are_runs_of_falling_length(asks: Groups, tokens: int) -> None:
    batch = asked(asks)
    for part in shared_prompts(batch, tokens):
        lengths = batch.present.sum(dim=1)[part.rows].tolist()
        assert lengths == sorted(lengths, reverse=True)
        assert list(part.rows_per_forward) == runs_of_similar_length(lengths)


@given(
    lengths=st.lists(st.integers(0, 500), min_size=1, max_size=30).map(
        lambda rows: sorted(rows, reverse=True)
    )
)
def test_a_run_is_padded_by_less_than_a_call_and_ends_only_where_it_would_not_be(lengths: list[int]) -> None:
    start = 0
    for count in runs_of_similar_length(lengths):
        piece, following = lengths[start : start + count], lengths[start + count : start + count + 1]
        padding = sum(piece[0] - length for length in piece)
        assert padding <= TOKENS_PER_CALL
        assert all(padding + piece[0] - length > TOKENS_PER_CALL for length in following)
        start += count
    assert start == len(lengths)


@given(asks=groups, tokens=shared_budgets, fill=st.integers(6, 9))
def test_shared_only_lengths_and_who_shares_are_read(asks: Groups, tokens: int, fill: int) -> None:
    plain = asked(asks)
    other = asked(asks, fill=fill).with_(
        mask=torch.zeros_like(plain.mask),
        group=plain.group.flip(0) + 3,
        rewards=torch.full_like(plain.rewards, 2.0),
    )
    ours, theirs = (
        [
            (part.rows.tolist(), part.rows_per_forward)
            for part in shared_prompts(batch.with_(prompt_ids=ids), tokens)
        ]
        for batch, ids in ((plain, plain.prompt_ids), (other, 100 - plain.prompt_ids))
    )
    assert ours == theirs


def test_prompts_of_a_like_length_stand_together() -> None:
    batch = asked([(30, [5, 5]), (3, [5, 5]), (28, [5, 5]), (4, [5, 5])])
    assert [part.rows.tolist() for part in shared_prompts(batch, 80)] == [[2, 3, 6, 7], [4, 5, 0, 1]]


def test_auto_shares_where_that_computes_less_by_more_than_the_further_call() -> None:
    long, short = asked([(100, [100] * 8)]), asked([(8, [100] * 8)])
    assert [list(part.rows_per_forward) for part in plan_micro_batches(long, 4096, "auto")] == [[8]]
    assert [list(part.rows_per_forward) for part in plan_micro_batches(short, 4096, "auto")] == [[]]
    assert [list(part.rows_per_forward) for part in plan_micro_batches(long, 4096, "never")] == [[]]
    assert [list(part.rows_per_forward) for part in plan_micro_batches(short, 4096, "always")] == [[8]]


def test_auto_shares_nothing_where_no_two_rows_have_one_prompt() -> None:
    assert all(
        not part.rows_per_forward
        for part in plan_micro_batches(asked([(100, [10]), (100, [10]), (90, [10])]), 4096, "auto")
    )


def test_a_dear_call_makes_fewer_and_larger_ones() -> None:
    # 64 prompts of 8 completions of up to 512 tokens, as a card sees them.
    draw = random.Random(0)
    rows: list[tuple[int, int, int]] = []
    for prompt in range(64):
        depth = max(20, int(draw.gauss(130, 30)))
        rows += [(prompt, depth, max(8, min(512, int(draw.lognormvariate(0, 0.5) * 330)))) for _ in range(8)]
    completions = [
        completion_of([5] * length, group=prompt, prompt_ids=[5 + prompt] * depth, uid=str(prompt))
        for prompt, depth, length in rows
    ]
    batch = collate(completions, [0.0] * len(rows), pad_id=0, mask_truncated=False)

    def counts(tokens: int, tokens_per_call: int) -> tuple[int, int]:
        parts = plan_micro_batches(batch, tokens, "auto", tokens_per_call)
        return sum(1 + len(part.rows_per_forward) for part in parts), sum(part.tokens for part in parts)

    on_a_cpu, on_a_card = counts(4096, 128), counts(8192, 1000)
    assert on_a_card[0] < 0.4 * on_a_cpu[0] and on_a_card[1] < 1.2 * on_a_cpu[1]
    # Where calls cost nothing, no padding is computed.
    assert counts(8192, 1)[1] < on_a_cpu[1]


def test_the_setting_is_what_passes_are_planned_with() -> None:
    settings = UpdateSettings(
        temperature=1.0,
        logit_chunk=8,
        tokens_per_micro_batch=4096,
        tokens_per_call=None,
        shared_prefix="always",
        updates_per_rollout=1,
        update_window="whole",
        max_grad_norm=1.0,
    )
    batch = asked([(100, [90, 60, 30])])

    def runs(tokens_per_call: int | None) -> list[int]:
        forward = policy_scorer(model("llama"), replace(settings, tokens_per_call=tokens_per_call)).forward
        return list(forward.parts(batch)[0].rows_per_forward)

    assert runs(None) == runs(TOKENS_PER_CALL) == [3]
    assert runs(20) == [1, 1, 1]

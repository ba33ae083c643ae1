"""Re-rolled rewards of a policy whose success is known, and that they hang on seed and beginning alone."""

import pytest
import torch
from completions import completion_of
from engines import TokenizerOnly, native, tiny

from mirrorpo.algo.rollout_rule import RolloutRule
from mirrorpo.core.batch import Prompt, Verdict
from mirrorpo.rollout.reroll import Beginning, Rerolls

PROMPT = Prompt(uid="q", question="?", gold="3", demonstration="")


class Known:
    """Continues every beginning with 0, 1, 2, ... in turn; right when the sum of all tokens is even."""

    samples, serves_remotely = True, False

    def __init__(self) -> None:
        self.prompt_ids: list[list[int]] = []
        self.budget = 0

    def generate(self, model, request):
        self.prompt_ids, self.budget = [list(ids) for ids in request.prompt_ids], request.max_new_tokens
        return [
            completion_of([roll], group=group)
            for group in range(len(request.prompts))
            for roll in range(request.group_size)
        ]

    def __call__(self, texts, prompts):
        return [
            Verdict(
                reward=float(sum(map(int, text)) % 2 == 0),
                strict=True,
                flexible=True,
                correct=True,
                outcome="",
            )
            for text in texts
        ]


class Digits(TokenizerOnly):
    """A policy of which only the text of its answers is read."""

    def decode(self, ids):
        return "".join(map(str, ids))


POLICY = Digits(tokenizer=None)


def rerolls(world, budget: int, rule: RolloutRule | None = None) -> Rerolls:
    return Rerolls(engine=world, judge=world, max_new_tokens=budget, temperature=1.0, rolls=3, rule=rule)


def begun(*all_ids: list[int], prompt_ids: list[int]) -> list[Beginning]:
    return [Beginning(prompt=PROMPT, prompt_ids=prompt_ids, ids=ids) for ids in all_ids]


def test_each_beginning_has_the_rewards_of_its_own_continuations_and_equal_ones_are_rolled_once() -> None:
    world = Known()
    rolled = rerolls(world, 9)(POLICY, begun([2], [2, 1], [2], [], prompt_ids=[7, 7]), 0)
    # Continuations 0, 1, 2: two of three are even after an even beginning, one after an odd one.
    even, odd = [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]
    assert rolled.rewards == [even, odd, even, even] and len(rolled.completions) == 9
    assert world.prompt_ids == [[7, 7, 2], [7, 7, 2, 1], [7, 7]] and world.budget == 9


def test_an_answer_is_judged_up_to_its_budget_wherever_it_was_begun_and_shaped_by_its_length() -> None:
    world, beginnings = Known(), begun([1, 1], [1], prompt_ids=[7])
    # A beginning of two tokens has no room for another.
    assert rerolls(world, 2)(POLICY, beginnings, 0).rewards == [[1.0] * 3, [0.0, 1.0, 0.0]]
    assert world.budget == 1
    rule = RolloutRule(
        dynamic_sampling=False, max_draws=1, overlong_buffer=0.5, overlong_penalty=1.0, mask_truncated=False
    )
    assert rerolls(world, 2, rule)(POLICY, beginnings, 0).rewards == [[0.0] * 3, [-1.0, 0.0, -1.0]]
    assert rerolls(world, 2)(POLICY, [], 0).rewards == []


@pytest.mark.parametrize("rows_at_once", [3, 64])
def test_a_beginnings_rolls_hang_on_seed_and_its_tokens_alone(rows_at_once: int) -> None:
    model, engine = tiny(), native(rows_at_once=rows_at_once)

    def rolls(*all_ids: list[int], seed: int = 3) -> dict[tuple[int, ...], list[list[int]]]:
        judge = Known()
        judging = Rerolls(
            engine=engine,
            judge=lambda texts, prompts: judge(["0" for _ in texts], prompts),
            max_new_tokens=10,
            temperature=1.0,
            rolls=3,
        )
        drawn = judging(model, begun(*all_ids, prompt_ids=[5, 6]), seed).completions
        return {
            tuple(ids): [list(roll.ids) for roll in drawn if roll.group == group]
            for group, ids in enumerate(all_ids)
        }

    together = rolls([7, 8, 4], [9], [])
    for ids in ([7, 8, 4], [9]):
        alone = rolls(ids)[tuple(ids)]
        # Sampled with shorter beginnings, rolls may go on for longer.
        room = 10 - len(ids)
        assert [roll[:room] for roll in together[tuple(ids)]] == alone
    assert rolls([9], [7, 8, 4]) != rolls([9], [7, 8, 4], seed=4)
    assert len({tuple(roll) for of_one in together.values() for roll in of_one}) > 6
    assert torch.equal(
        torch.rand(9, 3, generator=torch.Generator().manual_seed(1))[:4],
        torch.rand(4, 3, generator=torch.Generator().manual_seed(1)),
    )

"""A step's re-rolls: from its own answers, by its sampler and reward, counted as what it sampled."""

from types import SimpleNamespace
from typing import cast

from completions import completion_of
from engines import native, tiny

from mirrorpo.algo.rollout_rule import RolloutRule
from mirrorpo.core.batch import Prompt, Verdict
from mirrorpo.model.cost import network_cost, sampling
from mirrorpo.rollout.collector import Answer, Collector
from mirrorpo.train.budget import Budget, PassMeter
from mirrorpo.train.roller import StepRoller

RULE = RolloutRule(
    dynamic_sampling=False, max_draws=1, overlong_buffer=0.0, overlong_penalty=0.0, mask_truncated=False
)


def test_it_rolls_from_the_first_tokens_of_the_answers_and_counts_every_roll() -> None:
    judged: list[str] = []

    def reward(texts, prompts):
        judged.extend(prompt.uid for prompt in prompts)
        right = [float(prompt.uid == "b") for prompt in prompts]
        return [Verdict(reward=one, strict=True, flexible=True, correct=True, outcome="") for one in right]

    answers = [
        Answer(
            prompt=Prompt(uid=uid, question="", gold="", demonstration=""),
            rendered="",
            completion=completion_of([5, 6, 7, 8], group=group, prompt_ids=[9, group + 3]),
            verdict=reward([""], [SimpleNamespace(uid=uid)])[0],
            reward=0.0,
        )
        for group, uid in enumerate("ab")
    ]
    judged.clear()
    collector = SimpleNamespace(engine=native(), reward=reward, rule=RULE, max_new_tokens=6, temperature=1.0)
    model, meter = tiny(), PassMeter()
    roller = StepRoller(policy=model, collector=cast("Collector", collector), answers=answers, meter=meter)
    assert roller([(1, 2), (0, 2), (1, 2)], rolls=3, seed=0) == [[1.0] * 3, [0.0] * 3, [1.0] * 3]
    assert judged == ["b"] * 3 + ["a"] * 3 and meter.rolls == 6
    assert 6 <= meter.tokens_rolled <= 6 * 4 and meter.flops > 0


def test_rolls_count_as_sampled_tokens_completions_and_passes() -> None:
    model, meter = tiny(), PassMeter()
    rolls = [completion_of([2, 3, 4], prompt_ids=[5, 6, 7]), completion_of([2], prompt_ids=[5, 6, 7])]
    meter.add_rolls(model, rolls)
    assert meter.flops == network_cost(model).forward(sampling(rolls)) > 0
    # What a beginning has in common with a longer one is computed once.
    longer = [*rolls, completion_of([2], group=1, prompt_ids=[5, 6, 7, 8])]
    assert sampling(longer, nested=True).tokens == 4 + 2 + 0 + 0
    assert sampling(longer).tokens == 3 + 4 + 2 + 0 + 0
    after = Budget(completions=1).after(meter, completions=8, tokens_sampled=100)
    assert (after.completions, after.tokens_sampled) == (11, 104)

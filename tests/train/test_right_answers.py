"""The log-probability of right answers is that of the dataset's right demonstrations, and of no others."""

import math

import pytest
import torch
from small_models import SMALL, model_of, network_of

from mirrorpo.config.settings import UpdateSettings
from mirrorpo.core.batch import Prompt
from mirrorpo.model.words import word_tokenizer
from mirrorpo.reward.exact_text import ExactText
from mirrorpo.train.old_policy import PolicyScorer, policy_scorer
from mirrorpo.train.right_answers import right_answers

# Right, wrong, right and too long, right.
ANSWERS = [
    ("two", "two"),
    ("two", "four"),
    ("one two four one", "one two four one"),
    ("one four", "one four"),
]
REWARD = ExactText(extraction="strict", thinking="skip")
PROMPTS = [
    Prompt(uid=f"q{number}", question="", gold=gold, demonstration=demonstration)
    for number, (gold, demonstration) in enumerate(ANSWERS)
]
IDS = [[3], [4], [3, 4], [5, 3, 4]]


@pytest.fixture(scope="module")
def scorer() -> PolicyScorer:
    tokenizer = word_tokenizer([words for pair in ANSWERS for words in pair])
    network = network_of("llama", vocab_size=len(tokenizer), **SMALL)
    policy = model_of(network, tokenizer, frozenset({tokenizer.eos_token_id}), tokenizer.pad_token_id)
    settings = UpdateSettings(
        updates_per_rollout=1,
        update_window="whole",
        temperature=0.5,
        max_grad_norm=0.0,
        tokens_per_micro_batch=8,
        tokens_per_call=None,
        shared_prefix="never",
        logit_chunk=2,
    )
    return policy_scorer(policy, settings)


def test_it_is_the_sum_over_the_tokens_of_right_demonstrations_with_their_end(scorer: PolicyScorer) -> None:
    model = scorer.policy
    totals = []
    for ids, words in ((IDS[0], "two"), (IDS[3], "one four")):
        target = [*model.tokenizer(words, add_special_tokens=False).input_ids, model.tokenizer.eos_token_id]
        with torch.no_grad():
            logits = model.network(torch.tensor([[*ids, *target]])).logits[0, len(ids) - 1 : -1] / 0.5
        totals.append((float(logits.log_softmax(-1)[range(len(target)), target].sum()), len(target)))
    total, tokens = map(sum, zip(*totals, strict=True))
    measured = right_answers(scorer, REWARD, PROMPTS, IDS, max_new_tokens=3)()
    assert measured["eval/right_answers"] == 2
    assert math.isclose(measured["eval/right_answer_log_prob"], total / 2, rel_tol=1e-5)
    assert math.isclose(measured["eval/right_answer_token_log_prob"], total / tokens, rel_tol=1e-5)


def test_without_questions_nothing_is_read_and_without_right_answers_it_is_refused(
    scorer: PolicyScorer,
) -> None:
    assert right_answers(scorer, REWARD, [], [], max_new_tokens=3)() == {}
    with pytest.raises(ValueError, match=r"right_answer_questions=2: .* eval_max_new_tokens=3 tokens"):
        right_answers(scorer, REWARD, PROMPTS[1:3], IDS[1:3], max_new_tokens=3)

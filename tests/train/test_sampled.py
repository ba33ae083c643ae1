"""What several samples of a question say together, on planted answers and against counting all choices."""

import math
from itertools import combinations, product

import pytest

from mirrorpo.train.sampled import Samples, sampled_metrics


def samples(*answers: str | None, gold: str = "5", truncated: int = 0) -> Samples:
    texts = [f"text {index % 3}" for index in range(len(answers))]
    right = [answer == gold for answer in answers]
    return Samples(right=right, answers=answers, texts=texts, tokens=10 * len(answers), truncated=truncated)


def test_the_majority_is_what_most_samples_answer_and_ties_share_the_vote() -> None:
    cases: dict[tuple[str | None, ...], float | None] = {
        ("5", "5", "7"): 1.0,
        ("7", "7", "5"): 0.0,
        ("5", "7"): 1 / 2,
        ("5", "5", "7", "7", "9"): 1 / 2,
        ("5", "7", "9"): 1 / 3,
        # Without an answer there is no vote, however many there are of them.
        ("", "", "", "5"): 1.0,
        ("", "", "7"): 0.0,
        ("", ""): 0.0,
        (None, None): None,
        ("5", None): None,
    }
    for answers, share in cases.items():
        assert samples(*answers).majority_right == pytest.approx(share), answers


def test_equal_answers_of_which_some_are_judged_right_count_by_their_share() -> None:
    question = Samples(right=[True, False, True], answers=["1/3"] * 3, texts=["a"] * 3, tokens=3, truncated=0)
    assert question.majority_right == pytest.approx(2 / 3)


def test_distinct_counts_answers_and_texts_where_answers_have_no_form() -> None:
    assert samples("5", "5", "7", "").distinct == 2
    assert samples("", "").distinct == 0
    assert samples(None, None, None, None).distinct == 3


def test_pass_at_k_is_the_share_of_all_choices_of_k_with_a_right_one() -> None:
    for size in (1, 2, 3, 6, 8):
        questions = [samples(*(["5"] * right + ["7"] * (size - right))) for right in range(size + 1)]
        metrics = sampled_metrics(questions, "eval")
        sizes = {int(name.partition("@")[2]) for name in metrics if "pass@" in name}
        assert sizes == {k for k in (1, 2, 4, size) if k <= size} | {size}, size
        for k in sizes:
            share = [
                sum(any(chosen) for chosen in combinations(question.right, k)) / math.comb(size, k)
                for question in questions
            ]
            assert metrics[f"eval/pass@{k}"] == pytest.approx(sum(share) / len(share)), (size, k)
        assert metrics[f"eval/avg@{size}"] == metrics["eval/pass@1"]


def test_a_majority_is_expected_to_be_what_voting_would_give() -> None:
    # Over every outcome of three samples with two answers, equally likely.
    shares = [samples(*outcome).majority_right for outcome in product("57", repeat=3)]
    assert sum(share or 0.0 for share in shares) / len(shares) == pytest.approx(1 / 2)


def test_means_are_over_questions_and_a_question_without_a_vote_takes_the_majority_away() -> None:
    voted = sampled_metrics([samples("5", "5"), samples("7", "", truncated=1)], "eval/other")
    assert voted == pytest.approx(
        {
            "eval/other/sampled_questions": 2,
            "eval/other/pass@1": 1 / 2,
            "eval/other/pass@2": 1 / 2,
            "eval/other/avg@2": 1 / 2,
            "eval/other/maj@2": 1 / 2,
            "eval/other/sampled_length": 10,
            "eval/other/sampled_truncated": 1 / 4,
            "eval/other/distinct": 1,
        }
    )
    assert "eval/maj@2" not in sampled_metrics([samples("5", "5"), samples(None, "5")], "eval")


def listed(*answers: str, right: str) -> Samples:
    marks = [answer in right for answer in answers]
    return Samples(
        right=marks, answers=answers, texts=answers, tokens=0, truncated=0, right_answers=tuple(right)
    )


def test_coverage_is_the_mean_share_of_right_answers_over_all_choices_of_k() -> None:
    questions = [
        listed(*"5575937", right="579"),
        listed(*"1111111", right="12"),
        listed(*"0000000", right="8"),
    ]
    metrics = sampled_metrics(questions, "eval")
    for k in (1, 2, 4, 7):
        shares = [
            sum(
                len(set(chosen) & set(question.right_answers)) for chosen in combinations(question.answers, k)
            )
            / (math.comb(7, k) * len(question.right_answers))
            for question in questions
        ]
        assert metrics[f"eval/coverage@{k}"] == pytest.approx(sum(shares) / 3), k
    assert metrics["eval/distinct_right"] == pytest.approx((3 + 1 + 0) / 3)
    entropy = -sum(share * math.log(share) for share in (3 / 6, 2 / 6, 1 / 6))
    assert metrics["eval/right_entropy"] == pytest.approx(entropy / 3)
    # One right answer a question says no more than pass@k, and one question without a list takes all away.
    assert not any("right" in name or "coverage" in name for name in sampled_metrics(questions[2:], "eval"))
    without = [*questions, samples(*"1234567")]
    assert not any("right" in name or "coverage" in name for name in sampled_metrics(without, "eval"))


def test_coverage_is_unbiased_for_what_k_independent_samples_contain() -> None:
    # Over all outcomes of four samples from a policy over two right answers and a wrong one.
    policy, mean = {"5": 0.5, "7": 0.2, "0": 0.3}, 0.0
    for outcome in product(policy, repeat=4):
        chance = math.prod(policy[answer] for answer in outcome)
        mean += chance * sampled_metrics([listed(*outcome, right="57")], "eval")["eval/coverage@2"]
    assert mean == pytest.approx(((1 - 0.5**2) + (1 - 0.8**2)) / 2)

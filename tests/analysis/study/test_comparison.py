"""Paired tests, corrections and power against scipy, enumeration, published tables, and statsmodels 0.15, run
once elsewhere; verdicts.
"""

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from analysis.stats.corrections import benjamini_hochberg, holm
from analysis.stats.intervals import Interval, mean_interval, share_interval, spread_ratio
from analysis.stats.paired import mcnemar, paired_bootstrap, probability_of_improvement
from analysis.stats.power import detectable, equality_power, power, seeds_needed
from analysis.stats.sign_flips import sign_flip_interval, sign_flip_p
from analysis.study.comparison import NONE_SEEN, Difference, corrected, difference

P = [0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205, 0.212, 0.216, 0.222, 0.251, 0.269, 0.275, 0.34]


def answers(both: int, only_one: int, only_other: int, neither: int) -> tuple[list[bool], list[bool]]:
    counts = ((True, True, both), (True, False, only_one), (False, True, only_other), (False, False, neither))
    pairs = [(one, other) for one, other, times in counts for _ in range(times)]
    return [one for one, _ in pairs], [other for _, other in pairs]


def test_mcnemar_is_statsmodels_exact_test() -> None:
    assert mcnemar(*answers(101, 121, 59, 33)) == (121, 59, pytest.approx(4.4344492637551645e-06))


def test_mcnemar_is_the_share_of_splits_as_uneven() -> None:
    # 6 discordant questions, 5 to 1: all 2^6 ways that coins could have split them.
    uneven = sum(abs(sum(split) - 3) >= 2 for split in itertools.product((0, 1), repeat=6)) / 2**6
    assert mcnemar(*answers(9, 5, 1, 7)).p == pytest.approx(uneven)
    assert mcnemar([True, False], [True, False]).p == 1.0


def test_the_paired_bootstrap_is_that_of_all_draws() -> None:
    gaps = [1.0, 0.0, -1.0, 1.0, 1.0]
    every = np.array([np.mean(draw) for draw in itertools.product(gaps, repeat=5)])
    result = paired_bootstrap(gaps, [0.0] * 5)
    assert result.interval == pytest.approx((0.4, *np.quantile(every, [0.025, 0.975])), abs=1e-9)
    assert result.p == pytest.approx(2 * np.mean(every <= 0), abs=0.02)


def test_the_paired_bootstrap_agrees_with_mcnemar_on_many_questions() -> None:
    pair = answers(700, 130, 95, 394)
    assert paired_bootstrap(*pair).p == pytest.approx(mcnemar(*pair).p, abs=0.01)


def test_the_probability_of_improvement_is_of_seeds_and_paired() -> None:
    # Every seed is 1 better than the same seed of the other arm; of all pairs of runs only 5 in 8 would be.
    ours, theirs = np.array([[1.0, 1.0], [3.0, 3.0], [6.0, 6.0], [2.0, 2.0]]), np.array([0.0, 2.0, 5.0, 2.0])
    share = probability_of_improvement(ours.mean(axis=1), theirs)
    assert share.estimate == 0.875
    assert share[1:] == pytest.approx(stats.binomtest(4, 4).proportion_ci(method="wilson"), abs=0.2)
    assert probability_of_improvement(ours, np.repeat(theirs[:, None], 2, axis=1)) == share


def test_holms_correction_is_statsmodels() -> None:
    assert holm(P) == pytest.approx([0.015, 0.112, 0.507, 0.507, 0.507, 0.6, 0.666, *[1.0] * 8])
    assert holm([0.04, 0.01]) == pytest.approx([0.04, 0.02]) and holm([]) == []


def test_benjamini_and_hochbergs_published_example_has_four_discoveries() -> None:
    # Their section 3.2, thrombolysis: 15 p-values, of which four are significant at q = 0.05 and three by
    # Bonferroni.
    published = [
        0.0001,
        0.0004,
        0.0019,
        0.0095,
        0.0201,
        0.0278,
        0.0298,
        0.0344,
        0.0459,
        0.3240,
        0.4262,
        0.5719,
        0.6528,
        0.7590,
        1.0,
    ]
    assert sum(q <= 0.05 for q in benjamini_hochberg(published)) == 4
    assert sum(p * 15 <= 0.05 for p in published) == 3
    assert benjamini_hochberg(P)[:3] == pytest.approx([0.015, 0.06, 0.126]) and benjamini_hochberg([]) == []


def test_power_is_statsmodels() -> None:
    for effect, n, expected in ((0.5, 10, 0.2931756065140767), (1.0, 5, 0.4013899173717948)):
        assert power(effect, n) == pytest.approx(expected, abs=1e-6), (effect, n)


def test_the_seeds_needed_are_statsmodels_rounded_up() -> None:
    # 199, 34, 15 and 10 are also Cohen's and G*Power's for a paired test of 0.2, 0.5, 0.8 and 1.0 at 80%.
    for effect, expected in ((0.2, 198.15), (0.5, 33.37), (0.8, 14.30), (1.0, 9.94), (2.0, 4.22)):
        assert seeds_needed(effect) == seeds_needed(-effect) == math.ceil(expected), effect


def test_power_at_no_effect_is_the_level_and_grows_with_both() -> None:
    assert power(0.0, 7) == pytest.approx(0.05, abs=1e-6) and power(1.0, 1) == 0.0
    assert power(0.5, 5) < power(0.5, 6) < power(0.7, 6)
    assert (
        seeds_needed(float("inf")) == 2 and seeds_needed(0.001) is None and seeds_needed(float("nan")) is None
    )


def test_the_detectable_effect_is_detected() -> None:
    assert [power(detectable(n), n) for n in (2, 5, 30)] == pytest.approx([0.8, 0.8, 0.8], abs=1e-6)
    assert detectable(1) == float("inf")


def test_differences_of_seeds_are_the_paired_t_test() -> None:
    ours, base = np.array([0.71, 0.69, 0.75, 0.70]), np.array([0.70, 0.66, 0.70, 0.71])
    result, test = difference(ours, base), stats.ttest_rel(ours, base)
    assert (
        result.p == pytest.approx(test.pvalue)
        and result.interval == pytest.approx(mean_interval(list(ours - base)))
        and result.over == "seeds"
    )


def test_differences_of_questions_and_seeds_know_that_questions_are_a_sample() -> None:
    rng = np.random.default_rng(0)
    gap = np.repeat(rng.choice([-1.0, 0.0, 1.0], size=40)[None, :], 5, axis=0)
    # Every seed answers alike: over seeds alone there is no doubt at all, over questions there is.
    result = difference(np.maximum(gap, 0), np.maximum(-gap, 0))
    assert result.over == "seeds and questions" and result.interval == pytest.approx(
        mean_interval(list(gap[0]))
    )


def test_arms_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="the same seeds on the same questions"):
        difference(np.zeros(3), np.zeros(4))


def made(estimate: float, p: float, n: int = 5, spread: float = 1.0, **more: Any) -> Difference:
    interval = Interval(estimate, estimate - 1, estimate + 1)
    return Difference(interval, p, n, spread, "seeds", **{"adjusted": p, **more})


def test_verdicts() -> None:
    assert made(2.0, 0.01).verdict() == "better" and made(-2.0, 0.01).verdict() == "worse"
    assert made(-2.0, 0.01, higher_is_better=False).verdict() == "better"
    assert made(2.0, 0.01, higher_is_better=None).verdict() == "higher"
    assert made(0.0, 0.9, margin=0.05, unequal_p=0.01, share=False).verdict() == "equal within 0.05"
    assert made(0.5, 0.3, wanted=15).verdict() == "undecided (5 of 15 planned seeds)"
    assert made(0.5, 0.3).verdict() == "undecided (34 seeds)"
    assert made(1.0, 1.0, n=1).verdict() == "undecided (one seed)"
    assert made(0.001, 0.9).verdict() == made(0.0, 1.0).verdict() == "undecided (over 1,000 seeds)"
    assert made(0.24, 0.9).verdict() == "undecided (140 seeds)" and seeds_needed(0.24) == 139
    assert made(2.0, 0.2, question_variance=1.0).verdict() == "undecided (more questions)"
    # More comparisons take more seeds.
    assert made(0.5, 0.02, adjusted=0.06, comparisons=3).verdict() == "undecided (45 seeds)"


def test_equal_is_what_excludes_a_difference_as_large_as_the_margin() -> None:
    rng = np.random.default_rng(0)
    base = rng.random((5, 1000)) < 0.8
    ours = base ^ (rng.random((5, 1000)) < 0.004)
    result = difference(ours, base, margin=0.01)
    assert (
        result.verdict() == "equal within 1 point"
        and -0.01 < result.interval.low < result.interval.high < 0.01
    )
    assert difference(ours, base, margin=0.001).verdict().startswith("undecided (")
    assert difference(ours, base).verdict().startswith("undecided (")
    # A verdict of difference goes first, and says that it is a small one.
    clear = np.where(np.arange(1000) % 250 == 0, True, base)
    small = difference(
        np.where(rng.random((5, 1000)) < 0.99, clear, base),
        np.where(clear & (np.arange(1000) % 250 == 0), False, base),
        0.01,
    )
    assert small.verdict() == "better" and small.bound == "1 point"


def test_seeds_that_show_equality_are_fewer_than_those_that_find_a_tenth_of_the_margin() -> None:
    undecided = made(0.001, 0.9, spread=0.01, margin=0.01)
    assert undecided.verdict() == "undecided (14 seeds)"
    assert equality_power(0.1, 1.0, 14) >= 0.8 > equality_power(0.1, 1.0, 13)
    rng = np.random.default_rng(0)
    means = [mean_interval(rng.normal(0.1, 1.0, 14)) for _ in range(2000)]
    inside = np.mean([interval.low > -1 and interval.high < 1 for interval in means])
    assert inside == pytest.approx(equality_power(0.1, 1.0, 14), abs=0.03)


def test_equality_is_claimed_of_a_difference_as_large_as_the_margin_at_most_at_the_level() -> None:
    rng, claimed = np.random.default_rng(1), 0
    for _ in range(200):
        gaps = rng.choice([-1.0, 0.0, 1.0], p=[0.04, 0.87, 0.09], size=(5, 200)) + rng.normal(0, 0.01, (5, 1))
        claimed += difference(gaps, np.zeros_like(gaps), 0.05).verdict().startswith("equal")
    assert claimed / 200 <= 0.025 + 0.035


def test_the_correction_is_over_the_experiments_of_the_table() -> None:
    pair = [made(1.0, 0.03, unequal_p=0.02), made(1.0, 0.01, unequal_p=0.5)]
    assert [entry.adjusted for entry in corrected(pair)] == pytest.approx([0.03, 0.02])
    assert [entry.unequal_p for entry in corrected(pair)] == pytest.approx([0.04, 0.5])
    # One experiment under two names is one comparison.
    names = corrected([*pair, pair[1]], ["a", "b", "b"])
    assert [entry.adjusted for entry in names] == pytest.approx([0.03, 0.02, 0.02])
    assert {entry.comparisons for entry in names} == {2} and corrected([]) == []


def test_differences_that_agree_are_not_certain() -> None:
    two = difference(np.array([20.0, 20.0]), np.array([40.0, 40.0]))
    assert two.p == 0.5 and two.interval.low == float("-inf")
    assert two.verdict() == "undecided (6 seeds at least)" and not two.possible
    six = difference(np.full(6, 20.0), np.full(6, 40.0))
    assert six.p == 2 / 2**6 and replace(six, higher_is_better=False).verdict() == "better"
    # Few values: Student's p of four alike in five would be far below what five coins can say.
    tied = np.array([20.0, 20.0, 20.0, 20.0, 21.0])
    assert stats.ttest_1samp(tied, 0.0).pvalue < 1e-6 and difference(tied, np.zeros(5)).p == 2 / 2**5
    many = np.array([20.0] * 5 + [0.0, 20.0, 0.0])
    result = difference(many, np.zeros(8))
    assert result.p == max(sign_flip_p(many), stats.ttest_1samp(many, 0.0).pvalue)
    assert (result.p < 0.05) == (result.interval.low > 0)
    assert difference(np.ones(3), np.ones(3)).p == 1.0


def test_the_same_answers_to_every_question_are_equal_where_the_questions_are_enough() -> None:
    right = np.ones((3, 400))
    assert difference(right, right, 0.01).verdict() == "equal within 1 point"
    assert difference(right, right, 0.01).interval.high == pytest.approx(
        stats.binomtest(0, 400).proportion_ci().high
    )
    assert difference(right[:, :300], right[:, :300], 0.01).verdict().startswith("undecided")
    assert difference(right, 0 * right, 0.01).p == 0.25


def test_no_spread_is_no_certainty_whatever_the_scores() -> None:
    # Means over seeds and over questions agree, answers do not: every standard error is 0, and none is known.
    for gaps, mean in (([[1.0, -1.0], [-1.0, 1.0]], 0.0), ([[1.0, 0.0] * 10, [0.0, 1.0] * 10], 0.5)):
        made = difference(np.array(gaps), np.zeros_like(gaps), 0.01)
        assert made.interval.estimate == mean and made.interval.high == float("inf")
        assert made.p >= 0.5 and made.verdict().startswith("undecided"), gaps
    # Of shares 51 equal answers bound the difference; of lengths nothing does, and no power of it overflows.
    assert difference(np.ones((5, 51)), np.ones((5, 51)), 0.2).verdict().startswith("equal")
    lengths = np.full((5, 1001), 12.0)
    made = difference(lengths, lengths, 50.0)
    assert 0 <= made.unequal_p <= 1 and made.verdict().startswith("undecided")


# Six seeds and more, each of which differs by as much, up to the rounding of two numbers' difference.
NOISE = np.array([0.3 - 0.1, 0.2, 0.5 - 0.3, 0.9 - 0.7, 0.2, 1.2 - 1.0])


@pytest.mark.parametrize(("exact", "scale"), [(0.2, 1.0), (0.0, 1.0), (2e14, 1e15)])
def test_differences_that_are_equal_up_to_rounding_are_ties(exact: float, scale: float) -> None:
    noise = (NOISE - 0.2) * scale
    assert np.ptp(noise) > 0
    # More seeds than whose flips are enumerated too.
    for n in (5, 6, 24):
        noisy, equal = exact + np.resize(noise, n), np.full(n, exact)
        assert sign_flip_p(noisy) == sign_flip_p(equal)
        assert sign_flip_interval(noisy) == pytest.approx(sign_flip_interval(equal))
        for ours, theirs in ((noisy, equal), (np.outer(noisy, np.ones(3)), np.outer(equal, np.ones(3)))):
            first, second = (difference(side, np.zeros_like(side), 0.01) for side in (ours, theirs))
            assert first.p == second.p and first.verdict() == second.verdict(), (n, ours.ndim)
            assert first.spread == second.spread == 0
            assert first.interval == pytest.approx(second.interval)
        chances = [probability_of_improvement(side, np.zeros(n)) for side in (noisy, equal)]
        assert chances[0] == chances[1]


def test_sums_that_are_equal_up_to_rounding_are_as_large() -> None:
    # The sum of tenths is no 0 in floating point, and that of other flips is.
    for whole in itertools.product(range(-4, 5), repeat=3):
        assert sign_flip_p([value / 10 for value in (*whole, 4)]) == sign_flip_p([*whole, 4.0]), whole


def test_shares_that_agree_up_to_rounding_have_wilsons_interval() -> None:
    assert share_interval(NOISE, 100) == pytest.approx(share_interval([0.2] * 6, 100))
    assert math.isnan(spread_ratio([0.1, 0.2], [0.2, 0.3 - 0.1]).estimate)


@pytest.mark.parametrize("n", [2, 5, 6, 12])
def test_seeds_that_all_agree_are_no_spread_to_plan_by(n: int) -> None:
    zero = np.zeros(n)
    for ours in (zero, zero + 1e-17, np.zeros((n, 7)), np.full((n, 7), 12.0)):
        made = difference(ours, ours, 0.01)
        assert made.verdict() == f"undecided ({NONE_SEEN})", ours.ndim
    # A plan's seeds are still to come; one seed says nothing.
    assert replace(difference(zero, zero), wanted=99).verdict() == f"undecided ({n} of 99 planned seeds)"
    assert difference(zero[:1], zero[:1]).verdict() == "undecided (one seed)"


def test_equal_differences_take_the_seeds_that_their_signs_need() -> None:
    six = difference(np.full(6, 0.2), np.zeros(6))
    assert six.verdict() == "better"
    # 2^-6 is below 5% / 3, and no smaller number of flips is.
    (first, *_) = corrected([six] * 3)
    assert first.verdict() == "undecided (7 seeds at least)"
    assert corrected([difference(np.full(7, 0.2), np.zeros(7))] * 3)[0].verdict() == "better"

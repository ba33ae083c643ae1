"""Paired tests, corrections and power against scipy, enumeration, published tables, and statsmodels 0.15 and
rliable 1.2.0, run once elsewhere.
"""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from analysis.stats.corrections import benjamini_hochberg, holm
from analysis.stats.intervals import Interval, mean_interval
from analysis.stats.paired import mcnemar, paired_bootstrap, probability_of_improvement
from analysis.stats.power import detectable, power, seeds_needed
from analysis.study.comparison import Difference, corrected, difference

X = np.array([[0.2, 0.9, 0.4], [0.5, 0.7, 0.1], [0.8, 0.6, 0.3], [0.4, 1.0, 0.2], [0.9, 0.5, 0.6]])
Y = np.array([[0.3, 0.4, 0.4], [0.1, 0.7, 0.0], [0.6, 0.2, 0.5], [0.4, 0.3, 0.1]])
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


def test_the_probability_of_improvement_is_rliables() -> None:
    result = probability_of_improvement(X, Y, draws=5000)
    assert result == pytest.approx(
        (0.7333333333333334, 0.525, 0.9083), abs=0.02
    ) and result.estimate == pytest.approx(0.7333333333333334)


def test_the_probability_of_improvement_is_mann_and_whitneys_u() -> None:
    u = stats.mannwhitneyu(X[:, 0], Y[:, 0]).statistic
    assert probability_of_improvement(X[:, :1], Y[:, :1]).estimate == pytest.approx(u / 20)


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


def made(
    estimate: float, p: float, n: int = 5, spread: float = 1.0, adjusted: float | None = None
) -> Difference:
    return Difference(
        Interval(estimate, estimate - 1, estimate + 1),
        p,
        n,
        spread,
        "seeds",
        p if adjusted is None else adjusted,
    )


def test_verdicts() -> None:
    assert made(2.0, 0.01).verdict() == "better" and made(-2.0, 0.01).verdict() == "worse"
    assert made(-2.0, 0.01).verdict(higher_is_better=False) == "better"
    assert made(0.5, 0.3).verdict() == "cannot tell (34 seeds)"
    assert (
        made(0.0, 1.0).verdict() == "cannot tell (no difference seen)"
        and made(1.0, 1.0, n=1).verdict() == "cannot tell (one seed)"
    )
    assert made(0.001, 0.9).verdict() == "cannot tell (>10000 seeds)"
    assert (
        made(2.0, 0.2).verdict() == "cannot tell (more questions)"
        and made(2.0, 0.02, adjusted=0.06).verdict() == "cannot tell (not after Holm)"
    )


def test_the_correction_is_over_the_differences_of_the_table() -> None:
    assert [
        difference.adjusted for difference in corrected([made(1.0, 0.03), made(1.0, 0.01)])
    ] == pytest.approx([0.03, 0.02])


def test_no_difference_at_all_has_p_one_and_a_constant_one_p_zero() -> None:
    assert difference(np.ones(3), np.ones(3)).p == 1.0 and difference(np.ones(3), np.zeros(3)).p == 0.0

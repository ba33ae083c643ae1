"""Estimates and intervals against scipy, enumeration, simulation and rliable 1.2.0, which ran once in an
environment of its own.
"""

import itertools

import numpy as np
import pytest
from scipy import stats

from analysis.stats.bootstrap import cluster_bootstrap, hierarchical_bootstrap, stratified_bootstrap
from analysis.stats.crossed import crossed_error, crossed_interval, tail
from analysis.stats.intervals import (
    Interval,
    iqm,
    mean_interval,
    pass_at_k,
    share_interval,
    spread_interval,
    spread_ratio,
    wilson_interval,
)
from analysis.stats.sign_flips import sign_flip_interval, sign_flip_p

# scores[run, task], for the comparison with rliable.
SCORES = np.array([[0.2, 0.9, 0.4], [0.5, 0.7, 0.1], [0.8, 0.6, 0.3], [0.4, 1.0, 0.2], [0.9, 0.5, 0.6]])


def test_the_interval_of_a_mean_is_that_of_scipys_one_sample_t_test() -> None:
    values = [0.3, 1.7, -0.4, 2.2, 0.9]
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert mean_interval(values) == pytest.approx((np.mean(values), low, high), rel=1e-12)


def test_one_value_has_no_bounds() -> None:
    assert mean_interval([4.0]) == (4.0, float("-inf"), float("inf"))


def test_it_holds_the_mean_in_95_of_100_samples() -> None:
    rng = np.random.default_rng(0)
    held = [
        low <= 1.0 <= high
        for _, low, high in (mean_interval(list(rng.normal(1.0, 2.0, size=5))) for _ in range(2000))
    ]
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)


def mean(clusters) -> float:
    return float(np.mean([value for cluster in clusters for value in cluster]))


def test_the_bootstrap_is_that_of_all_draws_of_whole_clusters() -> None:
    clusters = [[0.0, 1.0], [5.0], [2.0, 2.0, 8.0], [3.0]]
    every = [mean(drawn) for drawn in itertools.product(clusters, repeat=4)]
    estimate, low, high = cluster_bootstrap(clusters, mean, draws=20_000)
    assert estimate == pytest.approx(3.0)
    assert (low, high) == pytest.approx(tuple(np.quantile(every, [0.025, 0.975])), abs=0.1)


def test_clusters_that_repeat_one_value_are_not_taken_for_more_than_one() -> None:
    single = [[float(value)] for value in range(8)]
    repeated = [cluster * 10 for cluster in single]
    assert cluster_bootstrap(single, mean) == cluster_bootstrap(repeated, mean)


def test_the_same_seed_draws_the_same_interval() -> None:
    clusters = [[1.0], [2.0], [4.0]]
    assert cluster_bootstrap(clusters, mean, seed=1) == cluster_bootstrap(clusters, mean, seed=1)


# Spread


def test_the_interval_of_a_spread_holds_the_published_chi_square_quantiles() -> None:
    # n = 5: chi^2_4 quantiles 0.484 and 11.143 of every table.
    interval = spread_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert interval == pytest.approx(
        (1.5811, 1.5811 * (4 / 11.143) ** 0.5, 1.5811 * (4 / 0.4844) ** 0.5), rel=1e-3
    )


def test_the_interval_of_a_ratio_of_spreads_is_that_of_the_f_test() -> None:
    ours, base = [1.0, 2.0, 4.0, 7.0], [3.0, 3.5, 4.0, 4.2, 5.0]
    ratio = np.var(ours, ddof=1) / np.var(base, ddof=1)
    low, high = ratio / stats.f.ppf(0.975, 3, 4), ratio * stats.f.ppf(0.975, 4, 3)
    assert spread_ratio(ours, base) == pytest.approx(np.sqrt([ratio, low, high]))


def test_spreads_of_one_value_or_of_none_have_no_bounds() -> None:
    assert spread_interval([1.0])[1:] == (0.0, float("inf")) and spread_ratio([1.0, 2.0], [3.0, 3.0])[1:] == (
        0.0,
        float("inf"),
    )


# Interquartile mean and its interval


def test_the_interquartile_mean_is_rliables() -> None:
    assert iqm(SCORES) == pytest.approx(0.5333333333333333)


def test_the_interquartile_mean_is_scipys_trimmed_mean() -> None:
    for n in range(1, 10):
        values = np.random.default_rng(n).normal(size=n)
        assert iqm(values) == pytest.approx(stats.trim_mean(values, 0.25)), n


def test_the_stratified_interval_is_rliables() -> None:
    assert stratified_bootstrap(SCORES, iqm, draws=10_000) == pytest.approx((0.5333, 0.4, 0.6778), abs=0.012)


def test_strata_are_kept() -> None:
    # Tasks of constant scores have nothing that chance could change.
    assert stratified_bootstrap(np.array([[0.0, 1.0], [0.0, 1.0]]), lambda scores: float(scores.mean())) == (
        0.5,
        0.5,
        0.5,
    )


def test_the_stratified_bootstrap_is_that_of_all_draws() -> None:
    column = [0.0, 0.0, 3.0, 9.0]
    every = [np.mean(draw) for draw in itertools.product(column, repeat=4)]
    interval = stratified_bootstrap(
        np.array(column)[:, None], lambda scores: float(scores.mean()), draws=20_000
    )
    assert interval == pytest.approx((3.0, *np.quantile(every, [0.025, 0.975])), abs=0.1)


# Seeds and questions


def test_the_bootstrap_over_both_levels_is_that_of_all_draws_of_rows_and_columns() -> None:
    scores = np.array([[0.0, 1.1, 5.2], [2.3, 2.0, 3.7], [1.4, 0.6, 2.9]])
    draws = list(itertools.product(range(3), repeat=3))
    every = [scores[np.ix_(row, column)].mean() for row in draws for column in draws]
    interval = hierarchical_bootstrap(scores, draws=20_000)
    assert interval == pytest.approx((scores.mean(), *np.quantile(every, [0.025, 0.975])), abs=0.05)


def test_the_crossed_error_is_that_of_the_two_way_analysis_of_variance() -> None:
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(4, 6)) + rng.normal(size=(4, 1)) + rng.normal(size=(1, 6))
    # Mean squares by their textbook definitions.
    rows, columns, mean = scores.mean(axis=1), scores.mean(axis=0), scores.mean()
    ms_rows, ms_columns = 6 * ((rows - mean) ** 2).sum() / 3, 4 * ((columns - mean) ** 2).sum() / 5
    ms_rest = sum((scores[i, j] - rows[i] - columns[j] + mean) ** 2 for i in range(4) for j in range(6)) / 15
    variance = (ms_rows + ms_columns - ms_rest) / 24
    freedom = (ms_rows + ms_columns - ms_rest) ** 2 / (ms_rows**2 / 3 + ms_columns**2 / 5 + ms_rest**2 / 15)
    crossed = crossed_error(scores)
    assert crossed.both == pytest.approx((variance**0.5, freedom))
    assert crossed.seeds == pytest.approx((np.std(rows, ddof=1) / 2, 3))
    assert crossed.questions == pytest.approx((np.std(columns, ddof=1) / 6**0.5, 5))


def test_with_one_kind_of_variance_the_crossed_interval_is_students() -> None:
    by_seed = np.array([0.1, 0.4, 0.3, 0.9])
    assert crossed_interval(np.repeat(by_seed[:, None], 7, axis=1)) == pytest.approx(
        mean_interval(list(by_seed))
    )
    assert crossed_interval(np.repeat(by_seed[None, :], 7, axis=0)) == pytest.approx(
        mean_interval(list(by_seed))
    )


def test_no_seed_vanishes_from_the_interval_where_few_seeds_happen_to_agree() -> None:
    # Three seeds at 50 questions with luck of their own; in two thirds of draws the variance of both falls
    # below that of one, where once that one alone was taken.
    rng, narrower = np.random.default_rng(0), 0
    for _ in range(100):
        scores = rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.75, 0.15], size=(3, 50)) + rng.normal(0, 0.02, (3, 1))
        crossed, made = crossed_error(scores), crossed_interval(scores)
        narrower += crossed.both.size <= max(crossed.seeds.size, crossed.questions.size)
        for alone in (scores.mean(axis=1), scores.mean(axis=0)):
            student = mean_interval(list(alone))
            assert made.low <= student.low + 1e-12 and student.high - 1e-12 <= made.high
        p = 2 * tail(abs(made.estimate), crossed.errors)
        assert p >= stats.ttest_1samp(scores.mean(axis=1), 0.0).pvalue - 1e-12
        assert (p < 0.05) == (made.low > 0 or made.high < 0)
    assert narrower > 50


# Shares and ties


def test_wilsons_interval_is_scipys() -> None:
    for right, n in ((0, 20), (7, 20), (20, 20), (990, 1000)):
        made = stats.binomtest(right, n).proportion_ci(method="wilson")
        assert wilson_interval(right / n, n)[1:] == pytest.approx((made.low, made.high)), (right, n)


def test_shares_that_agree_are_not_certain() -> None:
    assert share_interval([1.0, 1.0, 1.0], 100)[1:] == pytest.approx((0.963, 1.0), abs=1e-3)
    assert share_interval([0.5, 0.5]) == (0.5, float("-inf"), float("inf"))
    assert share_interval([0.5, 0.7], 10) == mean_interval([0.5, 0.7]).within(0, 1)


def test_the_sign_flip_test_is_scipys_permutation_test() -> None:
    for gaps in ([20.0, 20.0, 0.0, 20.0, -20.0, 20.0], [1.0, 2.0, 2.0, 5.0], [0.0, 0.0, 0.0]):
        test = stats.permutation_test(
            (gaps,), lambda x, axis: np.sum(x, axis=axis), permutation_type="samples", vectorized=True
        )
        assert sign_flip_p(gaps) == pytest.approx(test.pvalue), gaps


def test_the_sign_flip_interval_holds_what_its_test_does_not_reject() -> None:
    gaps = np.array([3.0, 1.0, 2.0, 2.5, 4.0, 0.5, 1.5])
    _, low, high = sign_flip_interval(gaps)
    for inside, outside in ((low + 1e-6, low - 1e-6), (high - 1e-6, high + 1e-6)):
        assert sign_flip_p(gaps - inside) >= 0.05 > sign_flip_p(gaps - outside)
    assert sign_flip_interval([1.0, 1.0, 2.0])[1:] == (float("-inf"), float("inf"))


# pass@k


def test_pass_at_k_is_the_share_of_subsets_that_hold_a_right_one() -> None:
    for right, samples, k in ((0, 5, 2), (1, 5, 1), (2, 5, 3), (4, 5, 3), (5, 5, 1), (3, 4, 4)):
        answers = [True] * right + [False] * (samples - right)
        subsets = list(itertools.combinations(answers, k))
        share = sum(map(any, subsets)) / len(subsets)
        assert pass_at_k([right], samples, k) == pytest.approx(share), (right, samples, k)


def test_pass_at_k_is_unbiased_where_the_plug_in_is_not() -> None:
    # All outcomes of n = 4 draws with p = 0.3, weighted by their chance.
    p, n, k = 0.3, 4, 2
    chance = [stats.binom.pmf(c, n, p) for c in range(n + 1)]
    assert sum(w * pass_at_k([c], n, k) for c, w in enumerate(chance)) == pytest.approx(1 - (1 - p) ** k)
    assert sum(w * (1 - (1 - c / n) ** k) for c, w in enumerate(chance)) < 1 - (1 - p) ** k - 0.05


def test_pass_at_k_survives_many_samples_and_refuses_too_few() -> None:
    assert pass_at_k([3], 10_000, 100) == pytest.approx(
        1 - np.exp(sum(np.log1p(-100 / (10_000 - i)) for i in range(3)))
    )
    with pytest.raises(ValueError, match="eval_samples=8 or more"):
        pass_at_k([1], 4, 8)


def test_an_interval_is_printed_and_scaled() -> None:
    assert str(Interval(0.5, 0.25, 0.75).scaled(10)) == "5.00 [2.50, 7.50]"


def test_an_interval_of_a_share_ends_where_shares_do() -> None:
    assert Interval(0.9, -0.2, 1.4).within(0, 1) == (0.9, 0.0, 1.0) and Interval(0.9, 0.8, 1.4).within(0) == (
        0.9,
        0.8,
        1.4,
    )
    assert mean_interval([0.9]).within(0, 1) == (0.9, float("-inf"), float("inf"))

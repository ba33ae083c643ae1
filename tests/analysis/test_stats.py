"""Intervals against scipy, enumeration and simulation."""

import itertools

import numpy as np
import pytest
from scipy import stats

from analysis.stats import cluster_bootstrap, mean_interval


def test_the_interval_of_a_mean_is_that_of_scipys_one_sample_t_test() -> None:
    values = [0.3, 1.7, -0.4, 2.2, 0.9]
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert mean_interval(values) == pytest.approx((np.mean(values), low, high), rel=1e-12)


def test_one_value_has_no_bounds() -> None:
    assert mean_interval([4.0]) == (4.0, float("-inf"), float("inf"))


def test_it_holds_the_mean_in_95_of_100_samples() -> None:
    rng = np.random.default_rng(0)
    held = [low <= 1.0 <= high for _, low, high in (mean_interval(list(rng.normal(1.0, 2.0, size=5))) for _ in range(2000))]
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

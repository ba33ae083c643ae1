"""Bootstrap intervals: over clusters, over runs within tasks, over seeds and questions at once."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from analysis.stats.intervals import LEVEL, Interval, percentile

Cluster = TypeVar("Cluster")


def cluster_bootstrap(
    clusters: Sequence[Cluster],
    statistic: Callable[[Sequence[Cluster]], float],
    *,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """A statistic of clusters with the 95% percentile interval over clusters drawn again.

    What belongs together, such as the spans of one completion, is drawn together. Draws for which the
    statistic is not defined (NaN) are left out.

    References:
        Efron 1979, Bootstrap methods; Davison and Hinkley 1997, section 3.8, hierarchical data
    """
    rng = np.random.default_rng(seed)
    values = [
        statistic([clusters[i] for i in rng.integers(len(clusters), size=len(clusters))])
        for _ in range(draws)
    ]
    return percentile(values, statistic(clusters))


def stratified_bootstrap(
    scores: NDArray[np.float64],
    statistic: Callable[[NDArray[np.float64]], float],
    *,
    draws: int = 2000,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """A statistic of scores[run, task] with runs drawn again within each task, tasks kept.

    Tasks are the strata: which tasks there are is fixed, which seeds were run is chance. With few runs the
    interval is too narrow (`docs/analysis.md` has the coverage); for a mean over few seeds take
    `mean_interval`.

    References:
        Agarwal et al. 2021, section 4.1, https://arxiv.org/abs/2108.13264
    """
    scores = np.asarray(scores, dtype=float)
    rng = np.random.default_rng(seed)
    runs, tasks = scores.shape
    column = np.arange(tasks)
    values = [statistic(scores[rng.integers(runs, size=(runs, tasks)), column]) for _ in range(draws)]
    return percentile(values, statistic(scores), level)


def hierarchical_bootstrap(
    scores: NDArray[np.float64], *, draws: int = 2000, seed: int = 0, level: float = LEVEL
) -> Interval:
    """The mean of scores[seed, question] with seeds and questions both drawn again.

        mean*_b = 1/(S Q) sum_s sum_q c_s^b d_q^b x_sq,   c^b, d^b multinomial counts

    All seeds answer the same questions, so a question is drawn for all seeds at once (crossed levels);
    drawing questions anew for each seed would take shared questions for independent ones. It counts the
    residual variance more than once and so is wide where single answers are noisy (98% of the truth within
    a 95% interval in `docs/analysis.md`); `crossed_interval` is the one verdicts rest on.

    References:
        Owen 2007, The pigeonhole bootstrap, https://arxiv.org/abs/0712.1111
    """
    scores = np.asarray(scores, dtype=float)
    seeds, questions = scores.shape
    of_seeds, of_questions = _crossed_counts(seeds, questions, draws, seed)
    sums = (of_seeds @ scores * of_questions).sum(axis=1)
    return percentile(sums / (seeds * questions), float(scores.mean()), level)


# A report's comparisons are of the same seeds and questions; 2,000 draws of 1,000 questions are 16 MB.
@lru_cache(maxsize=2)
def _crossed_counts(
    seeds: int, questions: int, draws: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How often each seed and each question is in each draw: of_seeds[draw, seed], of_questions[draw, q]."""
    rng = np.random.default_rng(seed)
    of_seeds = rng.multinomial(seeds, [1 / seeds] * seeds, size=draws)
    return of_seeds, rng.multinomial(questions, [1 / questions] * questions, size=draws)

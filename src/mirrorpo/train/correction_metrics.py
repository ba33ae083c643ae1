"""What an importance correction did to an update: weights before and after its bounds, what is left out."""

from collections.abc import Mapping

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.masked import masked
from mirrorpo.core.protocols import ImportanceCorrection
from mirrorpo.core.shapes import PerToken
from mirrorpo.train.metrics import RunningMeans

# A weight beyond float64 counts as the largest of its powers of e.
LARGEST_LOG = 700.0
# Added up to be derived from: a mean square, and least values as largest negative ones.
SQUARE = "mismatch/weight_square"
LEAST = {"mismatch/weight_min": "mismatch/weight_most_negative", "mismatch/raw_min": "mismatch/raw_negative"}


def correction_metrics(
    means: RunningMeans,
    correction: ImportanceCorrection,
    batch: RolloutBatch,
    logprobs: PerToken,
    advantages: PerToken,
    *,
    first: bool,
) -> None:
    """Add one micro-batch's tokens; the denominator of each is trained tokens.

    `mismatch/masked`: the share whose factor is zero. At a rollout's first update also the weight before the
    bounds, `mismatch/raw_mean`, `raw_min`, `raw_max`; the factor, `mismatch/weight_mean`, `weight_min`,
    `weight_max`; `mismatch/clipped`, the share that a bound changed; and what `derived` makes of them.

    Args:
        means: of the update.
        correction: in effect.
        batch: with old and sampler's log-probabilities.
        logprobs: of the policy of the update.
        advantages: of each token.
        first: whether it is the rollout's first update.
    """
    mask, trained = batch.mask, batch.located().trained
    bounded = correction(batch.old_logprobs, batch.sampler_logprobs, mask)
    weight = masked(bounded, correction.keeps(logprobs, batch.sampler_logprobs, advantages, mask))
    means.add("mismatch/masked", (weight == 0).to(weight.dtype), trained)
    if not first:
        return
    log_weight = correction.log_weight(batch.old_logprobs, batch.sampler_logprobs, mask)
    means.add("mismatch/clipped", (bounded != log_weight.exp()).to(weight.dtype), trained)
    raw = log_weight.double().clamp(max=LARGEST_LOG).exp()
    for name, values in (("raw", raw), ("weight", weight)):
        means.add(f"mismatch/{name}_mean", values, trained)
        means.raise_to(f"mismatch/{name}_max", values, trained)
        means.raise_to(LEAST[f"mismatch/{name}_min"], -values, trained)
    means.add(SQUARE, weight.square(), trained)


def derived(metrics: Mapping[str, float]) -> dict[str, float]:
    """With the least values by their names, and `mismatch/effective`, (sum w)^2 / (n sum w^2) of factors w.

    Example:
        >>> derived({"mismatch/weight_mean": 0.5, "mismatch/weight_square": 0.5, "lr/value": 1.0})
        {'mismatch/weight_mean': 0.5, 'lr/value': 1.0, 'mismatch/effective': 0.5}
    """
    out = {name: value for name, value in metrics.items() if name not in (SQUARE, *LEAST.values())}
    out |= {name: -metrics[negative] for name, negative in LEAST.items() if negative in metrics}
    if SQUARE in metrics:
        mean, square = metrics["mismatch/weight_mean"], metrics[SQUARE]
        out["mismatch/effective"] = mean**2 / square if square > 0 else 0.0
    return out

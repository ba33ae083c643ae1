"""Where algorithm, penalty and token weights meet."""

from mirrorpo.algo.row import Algorithm
from mirrorpo.core.batch import PolicyOutputs, RolloutBatch
from mirrorpo.core.masked import masked
from mirrorpo.core.protocols import ImportanceCorrection
from mirrorpo.core.shapes import PerToken, Scalar
from mirrorpo.divergence.penalty import Penalty


def policy_loss(
    policy: PolicyOutputs,
    batch: RolloutBatch,
    advantages: PerToken,
    weights: PerToken,
    *,
    algo: Algorithm,
    penalty: Penalty,
    importance_correction: ImportanceCorrection | None = None,
    denominator: Scalar | None = None,
) -> Scalar:
    """The objective of one optimiser window, or a micro-batch's share of it.

        L = aggregate( w_t * surrogate(log r_t, A_t) + beta * D_t )            scope: credit
        L = aggregate( w_t * (surrogate(log r_t, A_t) + beta * D_t) )          scope: loss

    With `importance_correction`, c_t * surrogate(log r_t, A_t) in place of the surrogate; with a trust region
    f_t times that, and with an entropy control that holds tokens its factor. Without beta * D_t
    where the penalty acts through the advantages alone (`divergence.placement`); what an entropy control adds
    stands beside it.

    Value: with `denominator` taken over the window, micro-batches add up to the window's loss.
    Gradient: through `policy` only; advantages, weights and the batch are constants.
    """
    log_ratio = algo.ratio(policy.logprobs, batch.old_logprobs, batch.mask, advantages)
    credit = algo.surrogate(log_ratio, advantages)
    if importance_correction is not None:
        factor = importance_correction(batch.old_logprobs, batch.sampler_logprobs, batch.mask)
        live = policy.logprobs.detach()
        kept = importance_correction.keeps(live, batch.sampler_logprobs, advantages, batch.mask)
        credit = masked(factor, kept) * credit
    if policy.factor is not None:
        credit = policy.factor * credit
    if policy.kept is not None:
        credit = policy.kept * credit
    beside = penalty.beta * policy.divergence if penalty.in_loss else None
    if policy.added is not None:
        beside = policy.added if beside is None else beside + policy.added
    if beside is None:
        return algo.aggregate(weights * credit, batch.mask, denominator)
    per_token = weights * credit + beside if penalty.scope == "credit" else weights * (credit + beside)
    return algo.aggregate(per_token, batch.mask, denominator)

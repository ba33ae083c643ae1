"""Every quantity of an update as a naive loop over lists, written from the papers; nothing of `mirrorpo` is imported.

A number is a Python float or a zero-dimensional torch tensor; with tensors, autograd gives the
oracle's gradient. A table has one list a completion, one entry a token. Entries that do not count are
skipped, never multiplied by zero, so they may hold anything.

    Schulman et al. 2017 (PPO)       https://arxiv.org/abs/1707.06347   the clipped surrogate, Eq. 7
    Shao et al. 2024 (GRPO)          https://arxiv.org/abs/2402.03300   group advantage, mean of each completion's mean
    Yu et al. 2025 (DAPO)            https://arxiv.org/abs/2503.14476   clip-higher, token mean, overlong shaping
    Liu et al. 2025 (Dr. GRPO)       https://arxiv.org/abs/2503.20783   no std, constant length
    Yuan et al. 2026 (GBMPO)         https://arxiv.org/abs/2602.04380   ProbL2
    Schulman 2020                    http://joschu.net/blog/kl-approx.html   k1, k2, k3
"""

import math


def exp(x):
    return math.exp(x) if isinstance(x, float | int) else x.exp()


def log(x):
    return math.log(x) if isinstance(x, float | int) else x.log()


# ---------------------------------------------------------------- advantages: one number a completion, NaN reward = no verdict


def peers(i, rewards, groups):
    return [reward for reward, group in zip(rewards, groups, strict=True) if group == groups[i] and not math.isnan(reward)]


def group_mean_advantages(rewards, groups):
    out = []
    for i, reward in enumerate(rewards):
        if math.isnan(reward):
            out.append(0.0)
            continue
        known = peers(i, rewards, groups)
        out.append(reward - sum(known) / len(known))
    return out


def group_standardised_advantages(rewards, groups, epsilon, ddof):
    centred = group_mean_advantages(rewards, groups)
    out = []
    for i, reward in enumerate(rewards):
        known = peers(i, rewards, groups)
        if math.isnan(reward) or all(other == reward for other in known):
            out.append(0.0)
            continue
        mean = sum(known) / len(known)
        squares = sum((other - mean) ** 2 for other in known)
        out.append(centred[i] / (math.sqrt(squares / max(len(known) - ddof, 1)) + epsilon))
    return out


def unit_advantages(rewards, groups):
    return [1.0 for _ in rewards]


# ---------------------------------------------------------------- ratios and surrogates: one number a token


def token_ratio(logprob, old_logprob):
    return exp(logprob - old_logprob)


def clipped(ratio, advantage, low, high):
    trusted = min(max(ratio, 1 - low), 1 + high)
    return -min(ratio * advantage, trusted * advantage)


def unclipped(ratio, advantage):
    return -ratio * advantage


def negative_log_likelihood(logprob, advantage):
    return -advantage * logprob


# ---------------------------------------------------------------- aggregations: a table and its mask to one number


def token_mean(table, mask):
    total, count = 0.0, 0
    for values, counts in zip(table, mask, strict=True):
        for value, counted in zip(values, counts, strict=True):
            if counted:
                total, count = total + value, count + 1
    return total / count if count else 0.0


def sequence_mean(table, mask):
    total, completions = 0.0, 0
    for values, counts in zip(table, mask, strict=True):
        trained = [value for value, counted in zip(values, counts, strict=True) if counted]
        if trained:
            total, completions = total + sum(trained) / len(trained), completions + 1
    return total / completions if completions else 0.0


def fixed_length(table, mask, length):
    total = 0.0
    for values, counts in zip(table, mask, strict=True):
        for value, counted in zip(values, counts, strict=True):
            if counted:
                total = total + value
    return total / (len(table) * length)


# ---------------------------------------------------------------- divergences: policy p, anchor q


def k1(log_p, log_q):
    return log_p - log_q


def k2(log_p, log_q):
    return (log_p - log_q) ** 2 / 2


def k3(log_p, log_q):
    return exp(log_q - log_p) - 1 - (log_q - log_p)


def reverse_kl(log_ps, log_qs):
    return sum(exp(log_p) * (log_p - log_q) for log_p, log_q in zip(log_ps, log_qs, strict=True))


def forward_kl(log_ps, log_qs):
    return sum(exp(log_q) * (log_q - log_p) for log_p, log_q in zip(log_ps, log_qs, strict=True))


def probl2_sampled(log_p, log_q, factor):
    return factor * (exp(log_p) - exp(log_q)) ** 2


def probl2_exact(log_ps, log_qs, factor):
    return sum(factor * (exp(log_p) - exp(log_q)) ** 2 for log_p, log_q in zip(log_ps, log_qs, strict=True))


def bregman(f, df, p, q):
    return f(p) - f(q) - df(q) * (p - q)


# ---------------------------------------------------------------- rewards and weights


def overlong(reward, length, max_new_tokens, buffer, penalty):
    tail = buffer * max_new_tokens
    start = max_new_tokens - tail
    if length <= start:
        return reward
    if length <= max_new_tokens:
        return reward + penalty * (start - length) / tail
    return reward - penalty


def mean_one(weights, mask):
    out = []
    for values, counts in zip(weights, mask, strict=True):
        trained = [value for value, counted in zip(values, counts, strict=True) if counted]
        mean = sum(trained) / len(trained) if trained else 0.0
        out.append([(value / mean if mean else 0.0) if counted else 0.0 for value, counted in zip(values, counts, strict=True)])
    return out


# ---------------------------------------------------------------- the rows of conf/algo and the names of conf/divergence

# name -> (advantages of rewards and groups, credit of logprob, old logprob and advantage, aggregation of table, mask and the longest length)
ALGORITHMS = {
    "grpo": (
        lambda rewards, groups: group_standardised_advantages(rewards, groups, epsilon=1e-4, ddof=1),
        lambda logprob, old, advantage: clipped(token_ratio(logprob, old), advantage, 0.2, 0.2),
        lambda table, mask, longest: sequence_mean(table, mask),
    ),
    "dr_grpo": (
        group_mean_advantages,
        lambda logprob, old, advantage: clipped(token_ratio(logprob, old), advantage, 0.2, 0.2),
        fixed_length,
    ),
    "dapo": (
        lambda rewards, groups: group_standardised_advantages(rewards, groups, epsilon=1e-4, ddof=1),
        lambda logprob, old, advantage: clipped(token_ratio(logprob, old), advantage, 0.2, 0.28),
        lambda table, mask, longest: token_mean(table, mask),
    ),
    "sft": (
        unit_advantages,
        lambda logprob, old, advantage: negative_log_likelihood(logprob, advantage),
        lambda table, mask, longest: token_mean(table, mask),
    ),
}

# name -> divergence at one position, from both log-probabilities over the vocabulary and the sampled token
DIVERGENCES = {
    "none": lambda log_p, log_q, token: 0.0,
    "kl": lambda log_p, log_q, token: k3(log_p[token], log_q[token]),
    "kl_k1": lambda log_p, log_q, token: k1(log_p[token], log_q[token]),
    "kl_k2": lambda log_p, log_q, token: k2(log_p[token], log_q[token]),
    "kl_k3": lambda log_p, log_q, token: k3(log_p[token], log_q[token]),
    "kl_exact": lambda log_p, log_q, token: reverse_kl(log_p, log_q),
    "probl2": lambda log_p, log_q, token: probl2_sampled(log_p[token], log_q[token], factor=1.0),
    "probl2_exact": lambda log_p, log_q, token: probl2_exact(log_p, log_q, factor=1.0),
}


def loss(algo, *, logprobs, old_logprobs, divergences, mask, rewards, groups, weights, beta, scope, longest):
    """The loss of a batch: aggregate( w_t credit_t + beta D_t ), or with scope "loss" aggregate( w_t (credit_t + beta D_t) )."""
    advantages_of, credit_of, aggregate = ALGORITHMS[algo]
    advantages = advantages_of(rewards, groups)
    table = []
    for i, counts in enumerate(mask):
        row = []
        for t, counted in enumerate(counts):
            if not counted:
                row.append(None)
                continue
            credit = credit_of(logprobs[i][t], old_logprobs[i][t], advantages[i])
            penalty = beta * divergences[i][t]
            row.append(weights[i][t] * credit + penalty if scope == "credit" else weights[i][t] * (credit + penalty))
        table.append(row)
    return aggregate(table, mask, longest)

"""Every quantity of an update as a naive loop over lists, written from the papers; nothing of `mirrorpo` is
imported.

A number is a Python float or a zero-dimensional torch tensor; with tensors, autograd gives the
oracle's gradient. A table has one list a completion, one entry a token. Entries that do not count are
skipped, never multiplied by zero, so they may hold anything.

    Schulman et al. 2017 (PPO)       https://arxiv.org/abs/1707.06347   the clipped surrogate, Eq. 7
    Shao et al. 2024 (GRPO)          https://arxiv.org/abs/2402.03300   group advantage, mean of each
    completion's mean Yu et al. 2025 (DAPO)            https://arxiv.org/abs/2503.14476   clip-higher, token
    mean, overlong shaping Liu et al. 2025 (Dr. GRPO)       https://arxiv.org/abs/2503.20783   no std,
    constant length Yuan et al. 2026 (GBMPO)         https://arxiv.org/abs/2602.04380   ProbL2
    Schulman 2020                    http://joschu.net/blog/kl-approx.html   k1, k2, k3
"""

import hashlib
import math
from itertools import combinations

import torch
from rows import TOP_K


def exp(x):
    return math.exp(x) if isinstance(x, float | int) else x.exp()


def log(x):
    return math.log(x) if isinstance(x, float | int) else x.log()


# ---------------------------------------------------------------- advantages: one number a completion, NaN
# reward = no verdict


def peers(i, rewards, groups):
    return [
        reward
        for reward, group in zip(rewards, groups, strict=True)
        if group == groups[i] and not math.isnan(reward)
    ]


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


def leave_one_out_advantages(rewards, groups):
    out = []
    for i, reward in enumerate(rewards):
        others = [
            other
            for j, (other, group) in enumerate(zip(rewards, groups, strict=True))
            if group == groups[i] and j != i and not math.isnan(other)
        ]
        out.append(0.0 if math.isnan(reward) or not others else reward - sum(others) / len(others))
    return out


def group_mean_batch_std_advantages(rewards, groups, epsilon, ddof):
    centred = group_mean_advantages(rewards, groups)
    known = [value for value, reward in zip(centred, rewards, strict=True) if not math.isnan(reward)]
    mean = sum(known) / len(known)
    std = math.sqrt(sum((value - mean) ** 2 for value in known) / max(len(known) - ddof, 1))
    return [value / (std + epsilon) for value in centred]


def no_baseline_advantages(rewards, groups):
    return [0.0 if math.isnan(reward) else reward for reward in rewards]


def mean_normalised_advantages(rewards, groups, epsilon):
    out = []
    for i, reward in enumerate(rewards):
        known = peers(i, rewards, groups)
        mean = sum(known) / len(known) if known else 0.0
        out.append((reward - mean) / (mean + epsilon) if mean > 0 and not math.isnan(reward) else 0.0)
    return out


def quantile_advantages(rewards, groups, quantile, epsilon, ddof):
    out = []
    for i, reward in enumerate(rewards):
        known = peers(i, rewards, groups)
        if math.isnan(reward) or all(other == reward for other in known):
            out.append(0.0)
            continue
        share = {x: sum(other <= x for other in known) / len(known) for x in known}
        baseline = min(x for x in known if share[x] >= quantile - 1e-12)
        mean = sum(known) / len(known)
        squares = sum((other - mean) ** 2 for other in known)
        out.append((reward - baseline) / (math.sqrt(squares / max(len(known) - ddof, 1)) + epsilon))
    return out


def sign_weighted_advantages(rewards, groups, positive, negative, threshold):
    return [
        0.0 if math.isnan(reward) else positive if reward > threshold else -negative for reward in rewards
    ]


def length_weighted_advantages(rewards, groups, lengths):
    out = []
    for i, reward in enumerate(rewards):
        known = [
            (other, length)
            for other, group, length in zip(rewards, groups, lengths, strict=True)
            if group == groups[i] and not math.isnan(other)
        ]
        if math.isnan(reward):
            out.append(0.0)
            continue
        tokens = sum(length for _, length in known)
        out.append(reward - sum(other * length for other, length in known) / tokens)
    return out


def pass_at_k_advantages(rewards, groups, k, baseline):
    """Every subset, one by one."""
    out = []
    for i, reward in enumerate(rewards):
        others = [
            other
            for j, (other, group) in enumerate(zip(rewards, groups, strict=True))
            if group == groups[i] and j != i and not math.isnan(other)
        ]
        size = {"loo": k, "loo_minus_one": k - 1}[baseline]
        if math.isnan(reward) or len(others) < size or len(others) < k - 1:
            out.append(0.0)
            continue
        best = [max([reward, *subset]) for subset in combinations(others, k - 1)]
        without = [max(subset) for subset in combinations(others, size)]
        out.append(k * (sum(best) / len(best) - sum(without) / len(without)))
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


class Token:
    """One token with its completion around it."""

    def __init__(self, logprobs, old_logprobs, counted, place):
        self.logprobs, self.old_logprobs, self.counted, self.place = logprobs, old_logprobs, counted, place

    def logprob(self):
        return self.logprobs[self.place]

    def log_ratio(self, place=None):
        place = self.place if place is None else place
        return self.logprobs[place] - self.old_logprobs[place]

    def ratio(self):
        return token_ratio(self.logprob(), self.old_logprobs[self.place])

    def places(self):
        return [place for place, counts in enumerate(self.counted) if counts]

    def carried(self, log_value, own=None):
        # The completion's value with this token's own gradient (GSPO-token).
        own = self.log_ratio() if own is None else own
        return exp(constant(log_value) + own - constant(own))


def constant(x):
    return x if isinstance(x, float | int) else x.detach()


def sequence_log_ratio(token):
    places = token.places()
    return sum(token.log_ratio(place) for place in places) / len(places)


def cut(token, advantage, low, high, place=None):
    log_ratio = token.log_ratio(place)
    if advantage > 0:
        return min(log_ratio, high + 0 * log_ratio)
    return max(log_ratio, -low + 0 * log_ratio) if advantage < 0 else log_ratio


def geometric_log_ratio(token, advantage, low, high):
    places = token.places()
    return sum(cut(token, advantage, low, high, place) for place in places) / len(places)


def clipped_weight(token, advantage, low, high):
    return -min(max(constant(token.ratio()), 1 - low), 1 + high) * advantage * token.log_ratio()


def soft_gate(ratio, advantage, tau_positive, tau_negative):
    tau = tau_positive if advantage > 0 else tau_negative
    return -(4 / tau) / (1 + exp(-tau * (ratio - 1))) * advantage


def negative_log_likelihood(logprob, advantage):
    return -advantage * logprob


# ---------------------------------------------------------------- aggregations: a table and its mask to one
# number


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


def sequence_sum(table, mask):
    rows = [
        [value for value, counted in zip(row, counts, strict=True) if counted]
        for row, counts in zip(table, mask, strict=True)
    ]
    trained = [row for row in rows if row]
    return sum(sum(row) for row in trained) / len(trained) if trained else 0.0


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


def kl_term(log_p, log_q):
    return exp(log_p) * (log_p - log_q) - exp(log_p) + exp(log_q)


def itakura_saito(p, q):
    return p / q - log(p / q) - 1


def tsallis(p, q, order):
    # Written out from the potential (p^order - p) / (order - 1): its linear part cancels.
    return (p**order - q**order - order * q ** (order - 1) * (p - q)) / (order - 1)


def jensen_shannon(p, q):
    m = (p + q) / 2
    return (p * log(p / m) + q * log(q / m)) / 2


def alpha_term(p, q, alpha):
    # The power of the ratio, with the affine part that makes a single term >= 0.
    return q * ((p / q) ** alpha - 1 - alpha * (p / q - 1)) / (alpha * (alpha - 1))


def hellinger(p, q):
    return (p ** (1 / 2) - q ** (1 / 2)) ** 2 / 2


def total_variation(p, q):
    return abs(p - q) / 2


def renyi(log_ps, log_qs, alpha):
    overlap = sum(exp(alpha * a + (1 - alpha) * b) for a, b in zip(log_ps, log_qs, strict=True))
    return log(overlap) / (alpha - 1)


def summed(term):
    """A divergence at one position from its term d(p, q): the sum over the vocabulary."""
    return lambda log_p, log_q, token, log_old: sum(
        term(exp(a), exp(b)) for a, b in zip(log_p, log_q, strict=True)
    )


def corrected(term):
    """The sampled token's term over the probability it was drawn with."""
    return lambda log_p, log_q, token, log_old: term(exp(log_p[token]), exp(log_q[token])) / exp(log_old)


def over_policy(term):
    """The sampled token's term over the policy's probability of it."""
    return lambda log_p, log_q, token, log_old: term(exp(log_p[token]), exp(log_q[token])) / exp(log_p[token])


def of_top(term, k):
    """The terms of the anchor's k likeliest tokens, and the sampled one's where it is another."""

    def estimate(log_p, log_q, token, log_old):
        order = sorted(range(len(log_q)), key=lambda v: -float(log_q[v]))
        total = sum(term(exp(log_p[v]), exp(log_q[v])) for v in order[:k])
        return total if token in order[:k] else total + corrected(term)(log_p, log_q, token, log_old)

    return estimate


F_DIVERGENCES = {
    "js": jensen_shannon,
    "alpha": lambda p, q: alpha_term(p, q, 0.3),
    "hellinger": hellinger,
    "tv": total_variation,
}


def bregman(f, df, p, q):
    return f(p) - f(q) - df(q) * (p - q)


def mirror_numbers(seed, signed):
    """The map's 380 numbers, scale 0.01, in the order v, w, b, a, c: one draw from the stream "mirror_map" of
    a seed.
    """
    stream = int.from_bytes(hashlib.sha256(f"{seed}/mirror_map".encode()).digest()[:8], "big") >> 1
    draw = torch.randn if signed else torch.rand
    return 0.01 * draw(380, dtype=torch.float64, generator=torch.Generator().manual_seed(stream))


def mirror_candidate(numbers, noise_seed, sigma):
    """Numbers of a search's candidate: log(1 + exp(theta + sigma noise)) around log(exp(number) - 1), one
    draw from the stream "es" of a seed.
    """
    stream = int.from_bytes(hashlib.sha256(f"{noise_seed}/es".encode()).digest()[:8], "big") >> 1
    noise = torch.randn(380, dtype=torch.float64, generator=torch.Generator().manual_seed(stream))
    return (1 + ((numbers.exp() - 1).log() + sigma * noise).exp()).log()


def neural_mirror(p, q, numbers):
    """The divergence term by term: units in their table's order, 21 of a kind; w is never zero here."""
    a, c = float(numbers[378]), float(numbers[379])
    total = a / 2 * (p - q) ** 2 + c * (p * log(p / q) - p + q)
    for kind, (unit, primitive) in enumerate(MIRROR_UNITS):
        v, w, b = (numbers[start + 21 * kind : start + 21 * kind + 21] for start in (0, 126, 252))
        total = (
            total
            + (v * ((primitive(w * p + b) - primitive(w * q + b)) / w - unit(w * q + b) * (p - q))).sum()
        )
    return total


def log_unit_primitive(u):
    z = u.clamp(min=0) + 1e-3
    # The unit is constant below zero, its primitive a line there.
    return z * z.log() - z + u.clamp(max=0) * math.log(1e-3)


# (s(u), its primitive in u)
MIRROR_UNITS = (
    (lambda u: u**3, lambda u: u**4 / 4),
    (lambda u: u**2, lambda u: u**3 / 3),
    (lambda u: u.clamp(min=0) ** (1 / 2), lambda u: 2 / 3 * u.clamp(min=0) ** (3 / 2)),
    (lambda u: u.clamp(min=0) ** (1 / 3), lambda u: 3 / 4 * u.clamp(min=0) ** (4 / 3)),
    (lambda u: (u.clamp(min=0) + 1e-3).log(), log_unit_primitive),
    (lambda u: u.exp(), lambda u: u.exp()),
)
MIRROR, SIGNED_MIRROR = mirror_numbers(42, signed=False), mirror_numbers(42, signed=True)
CANDIDATE = mirror_candidate(MIRROR, noise_seed=0, sigma=0.01)


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
        out.append(
            [
                (value / mean if mean else 0.0) if counted else 0.0
                for value, counted in zip(values, counts, strict=True)
            ]
        )
    return out


# ---------------------------------------------------------------- the rows of conf/algo and the names of
# conf/divergence

# Rows whose advantage reads the lengths of completions too.
READS_LENGTHS = {"opo"}

# name -> (advantages of rewards and groups, credit of logprob, old logprob and advantage, aggregation of
# table, mask and the longest length)
ALGORITHMS = {
    "grpo": (
        lambda rewards, groups: group_standardised_advantages(rewards, groups, epsilon=1e-4, ddof=1),
        lambda token, advantage: clipped(token.ratio(), advantage, 0.2, 0.2),
        lambda table, mask, longest: sequence_mean(table, mask),
    ),
    "dr_grpo": (
        group_mean_advantages,
        lambda token, advantage: clipped(token.ratio(), advantage, 0.2, 0.2),
        fixed_length,
    ),
    "dapo": (
        lambda rewards, groups: group_standardised_advantages(rewards, groups, epsilon=1e-4, ddof=1),
        lambda token, advantage: clipped(token.ratio(), advantage, 0.2, 0.28),
        lambda table, mask, longest: token_mean(table, mask),
    ),
    "gspo": (
        lambda rewards, groups: group_standardised_advantages(rewards, groups, epsilon=1e-4, ddof=1),
        lambda token, advantage: clipped(token.carried(sequence_log_ratio(token)), advantage, 3e-4, 4e-4),
        lambda table, mask, longest: sequence_mean(table, mask),
    ),
    "rloo": (
        leave_one_out_advantages,
        lambda token, advantage: unclipped(token.ratio(), advantage),
        lambda table, mask, longest: sequence_sum(table, mask),
    ),
    "reinforce_pp": (
        lambda rewards, groups: group_mean_batch_std_advantages(rewards, groups, epsilon=1e-4, ddof=1),
        lambda token, advantage: clipped(token.ratio(), advantage, 0.2, 0.2),
        lambda table, mask, longest: token_mean(table, mask),
    ),
    "rloo_kl_in_reward": (
        leave_one_out_advantages,
        lambda token, advantage: unclipped(token.ratio(), advantage),
        lambda table, mask, longest: sequence_sum(table, mask),
    ),
    "reinforce": (
        no_baseline_advantages,
        lambda token, advantage: unclipped(token.ratio(), advantage),
        lambda table, mask, longest: sequence_sum(table, mask),
    ),
    "maxrl": (
        lambda rewards, groups: mean_normalised_advantages(rewards, groups, epsilon=1e-6),
        lambda token, advantage: unclipped(token.ratio(), advantage),
        lambda table, mask, longest: sequence_sum(table, mask),
    ),
    "pass_at_k": (
        lambda rewards, groups: pass_at_k_advantages(rewards, groups, k=2, baseline="loo_minus_one"),
        lambda token, advantage: unclipped(token.ratio(), advantage),
        lambda table, mask, longest: sequence_sum(table, mask),
    ),
    "w_reinforce": (
        lambda rewards, groups: sign_weighted_advantages(
            rewards, groups, positive=0.1, negative=1.0, threshold=0.5
        ),
        lambda token, advantage: unclipped(token.ratio(), advantage),
        lambda table, mask, longest: sequence_sum(table, mask),
    ),
    "opo": (
        length_weighted_advantages,
        lambda token, advantage: unclipped(token.ratio(), advantage),
        lambda table, mask, longest: sequence_sum(table, mask),
    ),
    "quantile": (
        lambda rewards, groups: quantile_advantages(rewards, groups, quantile=0.4, epsilon=1e-4, ddof=1),
        lambda token, advantage: clipped(token.ratio(), advantage, 0.2, 0.28),
        lambda table, mask, longest: token_mean(table, mask),
    ),
    # Whitening over tokens is the rollout's (`whitened` below), and no part of the advantage.
    "reinforce_pp_verl": (
        group_mean_advantages,
        lambda token, advantage: clipped(token.ratio(), advantage, 0.2, 0.2),
        lambda table, mask, longest: token_mean(table, mask),
    ),
    "reinforce_pp_kl_in_reward": (
        no_baseline_advantages,
        lambda token, advantage: clipped(token.ratio(), advantage, 0.2, 0.2),
        lambda table, mask, longest: token_mean(table, mask),
    ),
    "cispo": (
        lambda rewards, groups: group_standardised_advantages(rewards, groups, epsilon=1e-4, ddof=1),
        lambda token, advantage: clipped_weight(token, advantage, 1.0, 4.0),
        lambda table, mask, longest: token_mean(table, mask),
    ),
    "dppo": (
        lambda rewards, groups: group_standardised_advantages(rewards, groups, epsilon=1e-4, ddof=1),
        lambda token, advantage: clipped_weight(token, advantage, 1.0, 19.0),
        lambda table, mask, longest: token_mean(table, mask),
    ),
    "mirror_descent": (
        lambda rewards, groups: group_standardised_advantages(rewards, groups, epsilon=1e-4, ddof=1),
        lambda token, advantage: negative_log_likelihood(token.logprob(), advantage),
        lambda table, mask, longest: sequence_sum(table, mask),
    ),
    "gmpo": (
        lambda rewards, groups: group_standardised_advantages(rewards, groups, epsilon=1e-4, ddof=1),
        lambda token, advantage: unclipped(
            token.carried(geometric_log_ratio(token, advantage, 0.4, 0.4), cut(token, advantage, 0.4, 0.4)),
            advantage,
        ),
        lambda table, mask, longest: sequence_mean(table, mask),
    ),
    "sapo": (
        lambda rewards, groups: group_standardised_advantages(rewards, groups, epsilon=1e-4, ddof=1),
        lambda token, advantage: soft_gate(token.ratio(), advantage, 1.0, 1.05),
        lambda table, mask, longest: sequence_mean(table, mask),
    ),
    "sft": (
        unit_advantages,
        lambda token, advantage: negative_log_likelihood(token.logprob(), advantage),
        lambda table, mask, longest: token_mean(table, mask),
    ),
}


def group_target(advantages, old, live, lengths, tau):
    """Mirror descent on one prompt's responses: G (q - p) over lengths, for KL(q, p) and a uniform base."""
    total_q = sum(exp(advantage / tau) for advantage in advantages)
    ratios = [exp((now - before) / length) for now, before, length in zip(live, old, lengths, strict=True)]
    return [
        len(advantages) * (exp(advantage / tau) / total_q - ratio / sum(ratios)) / length
        for advantage, ratio, length in zip(advantages, ratios, lengths, strict=True)
    ]


# name -> advantages of one prompt's responses as an update sees them
UPDATE_ADVANTAGES = {
    "mirror_descent": lambda advantages, old, live, lengths: group_target(advantages, old, live, lengths, 1.0)
}

# name -> divergence at one position, from both log-probabilities over the vocabulary, the sampled token and
# its old log-probability
DIVERGENCES = {
    "none": lambda log_p, log_q, token, log_old: 0.0,
    "kl": lambda log_p, log_q, token, log_old: k3(log_p[token], log_q[token]),
    "kl_k1": lambda log_p, log_q, token, log_old: k1(log_p[token], log_q[token]),
    "kl_k2": lambda log_p, log_q, token, log_old: k2(log_p[token], log_q[token]),
    "kl_k3": lambda log_p, log_q, token, log_old: k3(log_p[token], log_q[token]),
    "kl_exact": lambda log_p, log_q, token, log_old: reverse_kl(log_p, log_q),
    "kl_forward_exact": lambda log_p, log_q, token, log_old: forward_kl(log_p, log_q),
    "log_l2": lambda log_p, log_q, token, log_old: (log_p[token] - log_q[token]) ** 2,
    "itakura_saito": lambda log_p, log_q, token, log_old: itakura_saito(exp(log_p[token]), exp(log_q[token])),
    "itakura_saito_exact": lambda log_p, log_q, token, log_old: sum(
        itakura_saito(exp(a), exp(b)) for a, b in zip(log_p, log_q, strict=True)
    ),
    "tsallis": lambda log_p, log_q, token, log_old: tsallis(exp(log_p[token]), exp(log_q[token]), 0.5),
    "itakura_saito_corrected": lambda log_p, log_q, token, log_old: (
        itakura_saito(exp(log_p[token]), exp(log_q[token])) / exp(log_old)
    ),
    "tsallis_corrected": lambda log_p, log_q, token, log_old: (
        tsallis(exp(log_p[token]), exp(log_q[token]), 0.5) / exp(log_old)
    ),
    "tsallis_exact": lambda log_p, log_q, token, log_old: sum(
        tsallis(exp(a), exp(b), 0.5) for a, b in zip(log_p, log_q, strict=True)
    ),
    "chi2_exact": lambda log_p, log_q, token, log_old: sum(
        (exp(a) - exp(b)) ** 2 / exp(b) for a, b in zip(log_p, log_q, strict=True)
    ),
    "probl2": lambda log_p, log_q, token, log_old: probl2_sampled(log_p[token], log_q[token], factor=1.0),
    "probl2_exact": lambda log_p, log_q, token, log_old: probl2_exact(log_p, log_q, factor=1.0),
    "kl_corrected": lambda log_p, log_q, token, log_old: kl_term(log_p[token], log_q[token]) / exp(log_old),
    "probl2_corrected": lambda log_p, log_q, token, log_old: (
        probl2_sampled(log_p[token], log_q[token], factor=1.0) / exp(log_old)
    ),
    "neural_mirror": lambda log_p, log_q, token, log_old: neural_mirror(
        exp(log_p[token]), exp(log_q[token]), MIRROR
    ),
    "neural_mirror_corrected": lambda log_p, log_q, token, log_old: (
        neural_mirror(exp(log_p[token]), exp(log_q[token]), MIRROR) / exp(log_old)
    ),
    "neural_mirror_exact": lambda log_p, log_q, token, log_old: sum(
        neural_mirror(exp(a), exp(b), MIRROR) for a, b in zip(log_p, log_q, strict=True)
    ),
    "neural_mirror_learned": lambda log_p, log_q, token, log_old: kl_term(log_p[token], log_q[token]),
    "neural_mirror_candidate": lambda log_p, log_q, token, log_old: neural_mirror(
        exp(log_p[token]), exp(log_q[token]), CANDIDATE
    ),
    "neural_mirror_signed": lambda log_p, log_q, token, log_old: neural_mirror(
        exp(log_p[token]), exp(log_q[token]), SIGNED_MIRROR
    ),
    **{name: over_policy(term) for name, term in F_DIVERGENCES.items()},
    **{f"{name}_corrected": corrected(term) for name, term in F_DIVERGENCES.items()},
    **{f"{name}_exact": summed(term) for name, term in F_DIVERGENCES.items()},
    "renyi_exact": lambda log_p, log_q, token, log_old: renyi(log_p, log_q, 0.5),
    "js_topk": of_top(jensen_shannon, TOP_K),
    "kl_topk": of_top(lambda p, q: p * log(p / q) - p + q, TOP_K),
    "probl2_topk": of_top(lambda p, q: (p - q) ** 2, TOP_K),
}


def row_advantages(algo, rewards, groups, mask):
    """What a row of ALGORITHMS makes of a rollout."""
    lengths = [[sum(counts) for counts in mask]] if algo in READS_LENGTHS else []
    return ALGORITHMS[algo][0](rewards, groups, *lengths)


def loss(
    algo,
    *,
    logprobs,
    old_logprobs,
    divergences,
    mask,
    rewards,
    groups,
    weights,
    beta,
    scope,
    longest,
    advantages=None,
):
    """The loss of a batch: aggregate( w_t credit_t + beta D_t ), or with scope "loss" aggregate( w_t
    (credit_t + beta D_t) ).
    """
    _, credit_of, aggregate = ALGORITHMS[algo]
    # Advantages are of the whole rollout; a window of it is given its share.
    advantages = row_advantages(algo, rewards, groups, mask) if advantages is None else advantages
    table = []
    for i, counts in enumerate(mask):
        row = []
        for t, counted in enumerate(counts):
            if not counted:
                row.append(None)
                continue
            credit = credit_of(Token(logprobs[i], old_logprobs[i], counts, t), advantages[i])
            penalty = beta * divergences[i][t]
            row.append(
                weights[i][t] * credit + penalty if scope == "credit" else weights[i][t] * (credit + penalty)
            )
        table.append(row)
    return aggregate(table, mask, longest)

"""Divergences of the policy from an anchor: potential -> mirror map -> divergence -> estimator.

A strictly convex potential phi(p) = sum_v f(p_v) has the mirror map grad phi = f' and the Bregman
divergence D(p, q) = sum_v f(p_v) - f(q_v) - f'(q_v)(p_v - q_v). Negative entropy gives KL, the square
gives ProbL2. A Bregman divergence can be read in three forms:

- *exact*: the sum over the vocabulary; its gradient is the divergence's.
- *sampled*: one term of the sum, at the sampled token (what the papers' public code does); its
  expected value is sum_v p_v d_v, and its pathwise gradient leaves out that p also chose the token.
- *corrected*: that term over the probability the token was drawn with; unbiased in value and gradient.

The k1, k2, k3 estimators of KL and the squared log-gap are functions of log-ratios at the sampled
token and stand in `kl.py`; Pearson's chi-square, which no separable potential gives, in `chi2.py`.
"""

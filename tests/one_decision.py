"""A world of one decision, in closed form: where a policy ends that is regularised by a mirror map.

Ten answers: right and common, right and rare, one that only the proxy pays, seven wrong ones. The regularised
policy is argmax_pi <r, pi> - beta D_f(pi, start): f'(pi_a) = f'(start_a) + (r_a - lambda) / beta, with the
lambda that makes it sum to one.
"""

import numpy as np
import torch
from torch import Tensor

from mirrorpo.divergence.map_scale import MapScale
from mirrorpo.divergence.neural_mirror import GivenParameters, NeuralMirror

START = np.array([0.3, 0.02, 0.1, *[0.58 / 7] * 7])
PROXY = np.array([1.0, 1.0, 2.0, *[0.0] * 7])
GOLD = np.array([1.0, 1.0, 0.0, *[0.0] * 7])
BETA = 0.5
# As conf/hydra/sweeper/es.yaml has it: KL's value there.
SCALE = MapScale(p=[0.9, 0.1], q=[0.5, 0.5], value=0.3681)

GRID = torch.logspace(-8, 0, 100, dtype=torch.float64)
LOGS = GRID.log().numpy()


def ending(numbers: Tensor) -> np.ndarray:
    """The regularised policy under a map of the search's scale."""
    mirror = NeuralMirror(parameters=GivenParameters(SCALE.scaled(numbers)))
    slopes = mirror.df(GRID).numpy()
    target = mirror.df(torch.tensor(START)).numpy() + PROXY / BETA
    low, high = -20.0, 40.0
    policy = START
    for _ in range(40):
        middle = (low + high) / 2
        policy = np.exp(np.interp(target - middle, slopes, LOGS))
        low, high = (middle, high) if policy.sum() > 1 else (low, middle)
    return policy / policy.sum()


# What KL gives: in closed form, without any map.
UNDER_KL = START * np.exp(PROXY / BETA) / (START * np.exp(PROXY / BETA)).sum()


def distance(numbers: Tensor) -> float:
    """KL from the policy under KL to that under a map; zero only for a map of negative entropy's shape."""
    return float((UNDER_KL * np.log(UNDER_KL / ending(numbers))).sum())

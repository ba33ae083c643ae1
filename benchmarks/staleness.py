"""How old may the policy be that samples? A tabular policy of exact returns, by lag and correction.

python benchmarks/staleness.py                # five seeds, lags 0 to 8, seven corrections
python benchmarks/staleness.py --seeds 2

Completions have 12 tokens of a vocabulary of five. The policy has a table of logits for each place and token
before; the reward is a random number of each pair of neighbours, summed and scaled to a standard deviation of
one, so that the expected return of a policy, and the best there is, are sums over a table. 60 steps of plain
gradient descent, 64 completions a step in one group, advantage R less the mean, one update a rollout.

Predicted before it was run: lag 1 and 2 cost nothing that five seeds show, under any correction. Without
one, and with `off_policy_mask`, whose bound of 0.5 nats a token is far away, the return at lag 8 is well
behind and falls from its peak on the way. `truncated` and `icepop` come next. `sequence` without a bound has
runs that jump; `sequence_truncated` is the best at lag 8 and has the smallest effective share; `geometric`
is as none.
"""

import argparse
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mirrorpo.algo.importance_correction import BoundedImportance, NoCorrection
from mirrorpo.core.protocols import ImportanceCorrection

TOKENS, VOCABULARY, COMPLETIONS, STEPS = 12, 5, 64, 60
LAGS, RATES = (0, 1, 2, 4, 8), (2.0, 8.0)


def bounded(level: str, rule: str, high: float | None, **other: float) -> BoundedImportance:
    """A correction with no lower bound, unless another is given."""
    settings = {"low": 0.0, "completion_bound": None, "segment_tokens": None, **other}
    return BoundedImportance(level=level, rule=rule, high=high, **settings)  # pyright: ignore[reportArgumentType]


CORRECTIONS: Mapping[str, ImportanceCorrection] = {
    "none": NoCorrection(),
    "truncated": bounded("token", "truncate", 2.0),
    "icepop": bounded("token", "mask", 5.0, low=0.5),
    "geometric": bounded("geometric", "truncate", 2.0),
    "sequence": bounded("sequence", "truncate", None),
    "sequence_truncated": bounded("sequence", "truncate", 2.0),
    "off_policy_mask": bounded("token", "truncate", 1.0, low=1.0, completion_bound=0.5),
}


@dataclass(frozen=True, kw_only=True)
class World:
    """Rewards of neighbouring tokens [T, V before, V]; at the first place every row is the same."""

    rewards: Tensor
    generator: torch.Generator = field(compare=False)

    @classmethod
    def drawn(cls, seed: int) -> "World":
        """One of a seed."""
        generator = torch.Generator().manual_seed(seed)
        rewards = torch.randn(TOKENS, VOCABULARY, VOCABULARY, generator=generator, dtype=torch.float64)
        rewards[0] = rewards[0, :1]
        return cls(rewards=rewards / TOKENS**0.5, generator=generator)

    def expected(self, logits: Tensor) -> float:
        """The return of a policy."""
        value = torch.zeros(VOCABULARY, dtype=torch.float64)
        for place in reversed(range(TOKENS)):
            value = (logits[place].softmax(-1) * (self.rewards[place] + value)).sum(-1)
        return float(value[0])

    def best(self) -> float:
        """The largest return of any."""
        value = torch.zeros(VOCABULARY, dtype=torch.float64)
        for place in reversed(range(TOKENS)):
            value = (self.rewards[place] + value).amax(-1)
        return float(value[0])

    def sample(self, logits: Tensor) -> Tensor:
        """Completions [B, T]."""
        before = torch.zeros(COMPLETIONS, dtype=torch.long)
        out: list[Tensor] = []
        for place in range(TOKENS):
            shares = logits[place, before].softmax(-1)
            before = torch.multinomial(shares, 1, generator=self.generator).squeeze(1)
            out.append(before)
        return torch.stack(out, dim=1)


def read(table: Tensor, ids: Tensor) -> Tensor:
    """What a table [T, V before, V] has at the tokens of completions."""
    before = torch.cat([torch.zeros_like(ids[:, :1]), ids[:, :-1]], dim=1)
    return table[torch.arange(TOKENS), before, ids]


def run(seed: int, lag: int, correction: ImportanceCorrection, lr: float) -> tuple[list[float], float]:
    """Returns after each step as shares of the best one, and the mean effective share of the weights."""
    world = World.drawn(seed)
    logits = torch.zeros(TOKENS, VOCABULARY, VOCABULARY, dtype=torch.float64, requires_grad=True)
    past: deque[Tensor] = deque(maxlen=lag + 1)
    best, shares, effective = world.best(), [], []
    mask = torch.ones(COMPLETIONS, TOKENS, dtype=torch.bool)
    for _ in range(STEPS):
        past.append(logits.detach().clone())
        ids = world.sample(past[0])
        returns = read(world.rewards, ids).sum(dim=1, keepdim=True)
        advantages = (returns - returns.mean()).expand(-1, TOKENS)
        live = read(logits.log_softmax(-1), ids)
        old, sampler = live.detach(), read(past[0].log_softmax(-1), ids)
        factor = correction(old, sampler, mask) * correction.keeps(old, sampler, advantages, mask)
        (gradient,) = torch.autograd.grad(-(factor * advantages * live).sum() / COMPLETIONS, logits)
        with torch.no_grad():
            logits -= lr * gradient
        shares.append(world.expected(logits.detach()) / best)
        effective.append(
            float(factor.sum() ** 2 / (factor.numel() * factor.square().sum()).clamp(min=1e-300))
        )
    return shares, sum(effective) / STEPS


def table(seeds: int, lr: float) -> Iterator[str]:
    """Rows of Markdown."""
    yield f"| correction, lr {lr:g} | " + " | ".join(f"lag {lag}" for lag in LAGS) + " |"
    yield "|---" * (len(LAGS) + 1) + "|"
    for name, correction in CORRECTIONS.items():
        cells: list[str] = []
        for lag in LAGS:
            runs = [run(seed, lag, correction, lr) for seed in range(seeds)]
            last = torch.tensor([shares[-1] for shares, _ in runs])
            fallen = max(max(shares) - shares[-1] for shares, _ in runs)
            effective = sum(share for _, share in runs) / seeds
            low, high = float(last.min()), float(last.max())
            cells.append(f"{float(last.mean()):.2f} [{low:.2f}, {high:.2f}], {fallen:.2f}, {effective:.2f}")
        yield f"| `{name}` | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("final return over the best [least, largest seed], largest fall from the peak, effective share")
    for rate in RATES:
        for row in table(arguments.seeds, rate):
            print(row, flush=True)

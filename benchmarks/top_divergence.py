"""What summing the likeliest tokens costs and buys: a step's time, and the variance against k.

    python benchmarks/top_divergence.py --vocabulary 152000

Time: rescoring under a reference and learning (`Learner.rescore`, `Learner.learn`) of a random Llama, over
that of `kl_corrected`, the sampled estimator that has the same meaning; processor time, the least of rounds
in which every arm takes its step, in an order that turns: what else the machine does only adds. The network
is small and the vocabulary is not, so nearly all of the time is the head's, the worst case for this ratio.

Variance: at positions of two policies near each other, of the estimate over the drawn token, in closed form;
relative to k = 0, with the mean of its square root over the divergence.
"""

import argparse
import time
from dataclasses import replace

import torch
from exact_divergence import Setting, built, learn
from torch import Tensor

from mirrorpo.core.batch import Completion, RolloutBatch
from mirrorpo.core.top import likeliest
from mirrorpo.distributed.device import prepare
from mirrorpo.divergence.bregman import integrand
from mirrorpo.divergence.penalty import Penalty
from mirrorpo.divergence.potentials import NegativeEntropy
from mirrorpo.divergence.top import TopBregman
from mirrorpo.rollout.collate import collate

SAMPLED = "kl_corrected"
COMPLETIONS, PROMPT, TOKENS = 8, 16, 32


def arms(ks: list[int]) -> dict[str, Penalty]:
    """Sampled, the likeliest of the anchor and of the policy, and exact."""
    top = built("kl_topk", "divergence")
    out = {SAMPLED: built(SAMPLED, "divergence")}
    for k in ks:
        for of in ("anchor", "policy"):
            divergence = TopBregman(potential=NegativeEntropy(), direction="reverse", k=k, of=of)
            out[f"k={k} of {of}"] = replace(top, divergence=divergence)
    return out | {"kl_exact": built("kl_exact", "divergence")}


def random_batch(vocabulary: int) -> RolloutBatch:
    """Completions of random tokens, every second one right."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(13, vocabulary, (COMPLETIONS, PROMPT + TOKENS), generator=draw).tolist()
    completions = [
        Completion(
            uid=str(row // 2),
            group=row // 2,
            prompt_ids=tokens[:PROMPT],
            ids=tokens[PROMPT:],
            logprobs=[-10.0] * TOKENS,
            text="",
            truncated=False,
        )
        for row, tokens in enumerate(ids)
    ]
    rewards = [float(row % 2) for row in range(COMPLETIONS)]
    return collate(completions, rewards, pad_id=0, mask_truncated=False)


def times(setting: Setting, ks: list[int], rounds: int) -> None:
    """Print each arm's processor time of a step."""
    base = setting.learner(SAMPLED)
    penalties = arms(ks)
    batch = random_batch(setting.vocabulary)
    spent: dict[str, list[float]] = {name: [] for name in penalties}
    for turn in range(rounds + 1):
        names = [*penalties]
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = time.process_time()
            learn(replace(base, penalty=penalties[name]), batch)
            spent[name].append(time.process_time() - start)
    sampled = min(spent[SAMPLED][1:])
    for name, seconds in spent.items():
        ratio = min(seconds[1:]) / sampled
        print(f"{name:20} {min(seconds[1:]):7.2f} s {ratio:6.3f} of {SAMPLED}", flush=True)


def variance(vocabulary: int, ks: list[int], sharpness: float) -> None:
    """Print the estimate's variance over the drawn token for each k."""
    draw = torch.Generator().manual_seed(0)
    logits = sharpness * torch.randn(16, vocabulary, generator=draw, dtype=torch.float64)
    log_q = logits.log_softmax(-1)
    shift = 0.1 * torch.randn(logits.shape, generator=draw, dtype=torch.float64)
    log_p = (logits + shift).log_softmax(-1)
    terms = integrand(NegativeEntropy(), log_p, log_q)
    divergence = terms.sum(dim=1)
    none = spread(terms, log_p, likeliest(log_q, 0))
    for k in [*ks, vocabulary]:
        ids = likeliest(log_q, k)
        left = spread(terms, log_p, ids)
        covered = float(log_q.gather(1, ids).exp().sum(dim=1).mean())
        noise = float((left.sqrt() / divergence).mean())
        part = float(left.mean() / none.mean())
        print(f"k={k:<7} anchor's mass {covered:5.3f}  variance {part:9.2e}  std / divergence {noise:6.3f}")


def spread(terms: Tensor, log_old: Tensor, ids: Tensor) -> Tensor:
    """The variance of 1[y not among ids] d_y / p_old(y), y drawn from the old policy."""
    outside = terms.scatter(1, ids, 0.0)
    return (outside.square() * (-log_old).exp()).sum(dim=1) - outside.sum(dim=1).square()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--k", type=int, nargs="*", default=[64])
    args = parser.parse_args()
    prepare(threads=1, deterministic=True)
    print(f"V={args.vocabulary}, hidden {args.hidden}, {args.layers} layers, 1 thread")
    times(
        Setting(hidden=args.hidden, layers=args.layers, threads=1, vocabulary=args.vocabulary),
        args.k,
        args.rounds,
    )
    for sharpness in (2.0, 4.0):
        print(f"logits of standard deviation {sharpness}, shifted by 0.1 each")
        variance(args.vocabulary, [1, 4, 16, 64, 256, 1024], sharpness)


if __name__ == "__main__":
    main()

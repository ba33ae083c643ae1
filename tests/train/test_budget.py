"""What a step's passes are counted as: all of them, once, by every rank alike."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cli import composed
from completions import completion_of
from hydra.utils import instantiate
from omegaconf import OmegaConf
from small_models import ARCHITECTURES, VOCABULARY, model_of, network_of
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mirrorpo.algo.row import Algorithm
from mirrorpo.config.settings import UpdateSettings
from mirrorpo.core.batch import RolloutBatch
from mirrorpo.distributed.collectives import ALONE, Ranks
from mirrorpo.divergence.penalty import SecondPart
from mirrorpo.model.cost import network_cost
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.optim.adamw import AdamW
from mirrorpo.rollout.collate import collate
from mirrorpo.train.budget import Budget, PassMeter
from mirrorpo.train.build import build_penalty
from mirrorpo.train.learner import Learner, TokenCredit
from mirrorpo.weighting.uniform import Uniform
from mirrorpo.weighting.unscored import Unscored

CONF = Path(__file__).parents[2] / "conf"
PROMPT, LENGTH, ROWS = 6, 5, 4
SETTINGS = UpdateSettings(
    temperature=0.7,
    logit_chunk=64,
    tokens_per_micro_batch=4096,
    tokens_per_call=1,
    shared_prefix="always",
    updates_per_rollout=2,
    update_window="whole",
    max_grad_norm=1.0,
)


def network(seed: int) -> LanguageModel:
    # Without rotary embeddings, whose angles torch counts.
    return model_of(
        network_of("gpt2", seed, attention="eager", vocab_size=VOCABULARY, **ARCHITECTURES["gpt2"])
    )


def learner(divergence: str = "kl_k3", ranks: Ranks = ALONE) -> Learner:
    policy, start = network(0), network(1)
    start.network.requires_grad_(False)
    return Learner(
        policy=policy,
        reference=start,
        optimiser=AdamW(betas=(0.9, 0.99), epsilon=1e-8, weight_decay=0.0).build(policy.network),
        algo=instantiate(OmegaConf.load(CONF / "algo/grpo.yaml")),
        penalty=build_penalty(OmegaConf.to_container(OmegaConf.load(CONF / f"divergence/{divergence}.yaml"))),
        weighting=Unscored(weighting=Uniform()),
        settings=SETTINGS,
        ranks=ranks,
    )


def batch() -> RolloutBatch:
    completions = [completion_of([2 + row] * LENGTH, prompt_ids=[7] * PROMPT) for row in range(ROWS)]
    return collate(completions, [0.0] * ROWS, pad_id=0, mask_truncated=False)


def step(student: Learner, advantages: Sequence[float]) -> PassMeter:
    scored, factors = student.rescore(batch()), torch.tensor(advantages)
    weights = scored.batch.mask.float()
    student.learn(scored, TokenCredit(advantages=factors, weights=weights), [1e-3, 1e-3])
    return student.meter


@pytest.mark.parametrize("divergence", ["kl_k3", "probl2_exact", "none"])
def test_rescoring_and_updates_are_counted_as_torch_counts_them(divergence: str) -> None:
    student = learner(divergence)
    # Without a penalty two rows have no gradient, and are read for the metrics alone.
    if divergence == "none":
        student = replace(student, reference=None)
    counter = FlopCounterMode(display=False)
    with counter:
        meter = step(student, [1.0, 0.0, 0.0, -1.0])
    cost = network_cost(student.policy)
    (of_pair,) = cost.attention.values()

    def masked(rows: int) -> int:
        # Pairs that eager attention computes and masks away, of prompt and of completions behind it.
        square = PROMPT**2 + rows * LENGTH * (PROMPT + LENGTH)
        seen = sum(range(PROMPT + 1)) + rows * sum(range(PROMPT + 1, PROMPT + LENGTH + 1))
        return of_pair * (square - seen)

    # Old policy, anchor, and two updates with their backward passes.
    beyond = (2 + 2 * 3) * masked(ROWS)
    if divergence == "none":
        beyond = masked(ROWS) + 2 * (3 + 1) * masked(2)
    assert counter.get_total_flops() == meter.flops + beyond
    assert meter.tokens_trained == 2 * ROWS * LENGTH


def configured(part: str, **changes: str) -> Any:
    return instantiate(OmegaConf.load(CONF / f"{part}.yaml"), **changes)


def mirror_descent() -> Algorithm:
    with composed("algo=mirror_descent") as (cfg, _):
        return instantiate(cfg.algo, _convert_="all")


def mixed(student: Learner) -> Learner:
    second = SecondPart(source="old", share=0.3)
    return replace(student, penalty=replace(student.penalty, second=second))


def test_what_reads_the_policy_once_more_is_counted() -> None:
    # A penalty in the reward reads the vocabulary of old policy and anchor before the updates; a region of
    # the vocabulary has logits of live and old policy in each; mirror descent scores before each update.
    student = learner("probl2_exact")
    arms = {
        "placement": replace(student, penalty=replace(student.penalty, placement="reward_to_go")),
        "region": replace(learner(), trust_region=configured("trust_region/kl", over="vocabulary")),
        "top region": replace(learner(), trust_region=configured("trust_region/kl", over="top", k=3)),
        "top of a mixture": mixed(learner("kl_topk")),
        "mirror": replace(learner(), algo=mirror_descent()),
    }
    for name, arm in arms.items():
        counter = FlopCounterMode(display=False)
        with counter:
            scored = arm.rescore(batch())
            scored = replace(scored, batch=scored.batch.with_(rewards=torch.tensor([1.0, 0.5, -0.5, -1.0])))
            arm.learn(scored, arm.credit(scored, 0), [1e-3, 1e-3])
        (of_pair,) = network_cost(arm.policy).attention.values()
        masked = counter.get_total_flops() - arm.meter.flops
        # What torch counts beyond it are pairs that eager attention masks away, in so many passes.
        square = PROMPT**2 + ROWS * LENGTH * (PROMPT + LENGTH)
        seen = sum(range(PROMPT + 1)) + ROWS * sum(range(PROMPT + 1, PROMPT + LENGTH + 1))
        passes = 2 + 2 * 3 + (2 if name == "mirror" else 0)
        assert masked == passes * of_pair * (square - seen), name


@dataclass(frozen=True, slots=True)
class Apart(Ranks):
    """A rank that hears of no other."""

    def all_reduce(self, *tensors: Tensor) -> None:
        pass

    def all_gather(self, value: object) -> list[object]:
        return [value]


def test_every_rank_counts_all_rows() -> None:
    alone = step(learner(), [1.0, 0.5, -0.5, -1.0])
    for rank in range(2):
        part = step(learner(ranks=Apart(rank=rank, world_size=2, local_rank=rank)), [1.0, 0.5, -0.5, -1.0])
        assert (part.flops, part.tokens_trained) == (alone.flops, alone.tokens_trained), rank


def test_a_budget_of_a_version_that_did_not_count_stays_unknown() -> None:
    assert Budget.of(None) is None
    meter = PassMeter(flops=7, tokens_trained=3)
    spent = Budget(device_s=1.5).after(meter, completions=2, tokens_sampled=9)
    state = {"completions": 2, "tokens_trained": 3, "tokens_sampled": 9, "flops": 7, "device_s": 1.5}
    assert Budget.of(state) == spent
    assert spent.metrics()["budget/flops"] == 7.0 and spent.timings() == {"budget/device_s": 1.5}

"""Our loss and gradient against those of TRL 1.16.0's GRPOTrainer, on one ragged batch with ratios away from
one.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from completions import completion_of
from datasets import Dataset
from hydra.utils import instantiate
from omegaconf import OmegaConf
from small_models import TINY, model_of, network_of
from torch import Tensor
from transformers import Qwen3ForCausalLM
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from mirrorpo.algo.importance_correction import BoundedImportance
from mirrorpo.config.settings import UpdateSettings
from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.protocols import Divergence
from mirrorpo.core.seeds import global_state, restore_global_state
from mirrorpo.divergence.bregman import CorrectedBregman
from mirrorpo.divergence.kl import K3
from mirrorpo.divergence.none import NoDivergence
from mirrorpo.divergence.penalty import Penalty
from mirrorpo.divergence.placement import completion_cost
from mirrorpo.divergence.potentials import NegativeEntropy
from mirrorpo.model.words import word_tokenizer
from mirrorpo.rollout.collate import collate
from mirrorpo.train.credit import TokenCredit
from mirrorpo.train.learner import Learner
from mirrorpo.train.scored import ScoredBatch
from mirrorpo.weighting.uniform import Uniform
from mirrorpo.weighting.unscored import Unscored

# TRL and the libraries under it warn about versions and defaults.
pytestmark = pytest.mark.filterwarnings("ignore")

CONF = Path(__file__).parents[2] / "conf"
LONGEST = 8
TEMPERATURE = 0.8
PROMPTS = [[3, 7], [4, 4, 10, 6, 9]]
COMPLETIONS = [[5, 2, 9, 1], [8, 3, 3, 3, 7, 9, 1], [6], [2, 2, 7, 9, 4, 1], [9, 1], [10, 5, 8]]
REWARDS = [1.0, 0.0, 0.0, 1.0, 0.25, 0.0]


def algorithm(name: str) -> Any:
    return instantiate(
        OmegaConf.create(
            {"max_new_tokens": LONGEST, "algo": OmegaConf.load(CONF / "algo" / f"{name}.yaml")}
        ).algo,
        _convert_="all",
    )


def rollout(network: Qwen3ForCausalLM, spread: float = 0.25) -> RolloutBatch:
    """Two groups of three; the old and the anchor log-probabilities stand off the network's own."""
    completions = [
        completion_of(ids, group=row // 3, prompt_ids=PROMPTS[row // 3])
        for row, ids in enumerate(COMPLETIONS)
    ]
    batch = collate(completions, REWARDS, pad_id=0, mask_truncated=False)
    live = torch.zeros(batch.mask.shape)
    for row, ids in enumerate(COMPLETIONS):
        prompt = PROMPTS[row // 3]
        with torch.no_grad():
            logits = network(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
        live[row, : len(ids)] = (
            (logits / TEMPERATURE).log_softmax(-1).gather(1, torch.tensor(ids)[:, None]).squeeze(1)
        )
    draw = torch.Generator().manual_seed(0)
    old, anchor = (live + width * torch.randn(live.shape, generator=draw) for width in (spread, 0.6))
    ratio = (live - old).exp()[batch.mask]
    if spread > 0:
        assert float(ratio.max()) > (6.0 if spread > 1 else 1.28)
        assert float(ratio.min()) < 0.8
    return batch.with_(old_logprobs=old, anchor_logprobs=anchor)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = word_tokenizer(["a b c"])
    shape = {**TINY, "vocab_size": len(tokenizer), "tie_word_embeddings": False, "initializer_range": 0.3}
    network_of("qwen3", **shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def global_generators_as_they_were() -> Iterator[None]:
    # A GRPOTrainer seeds every global generator when it is built.
    state = global_state()
    yield
    restore_global_state(state)


def grpo_trainer(saved: Path, folder: Path, parts: int, **settings: Any) -> GRPOTrainer:
    args = GRPOConfig(
        output_dir=str(folder),
        temperature=TEMPERATURE,
        max_completion_length=LONGEST,
        num_generations=3,
        per_device_train_batch_size=len(COMPLETIONS) // parts,
        gradient_accumulation_steps=parts,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        **{"epsilon": 0.2, "use_bias_correction_kl": False, **settings},
    )
    prompts = Dataset.from_dict({"prompt": ["a", "b"]})
    trainer = GRPOTrainer(
        model=str(saved),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=args,
        train_dataset=prompts,
    )
    # What Trainer.train sets before the first step.
    trainer.current_gradient_accumulation_steps = parts
    trainer.model.train()
    return trainer


def trl_loss_and_gradient(
    trainer: GRPOTrainer, batch: RolloutBatch, advantages: Tensor, parts: int
) -> tuple[float, list[Tensor]]:
    """Summed over the window's micro-batches, as gradient accumulation does."""
    losses = []
    for rows in torch.arange(len(batch)).chunk(parts):
        inputs = {
            "prompt_ids": batch.prompt_ids[rows],
            "prompt_mask": batch.prompt_present[rows].long(),
            "completion_ids": batch.completion_ids[rows],
            "completion_mask": batch.present[rows].long(),
            "advantages": advantages[rows],
            "old_per_token_logps": batch.old_logprobs[rows],
            "ref_per_token_logps": batch.anchor_logprobs[rows],
            "num_items_in_batch": batch.mask.sum(),
        }
        losses.append(trainer._compute_loss(trainer.model, inputs))
    loss = torch.stack(losses).sum()
    return float(loss.detach()), list(torch.autograd.grad(loss, list(trainer.model.parameters())))


class Recorder:
    """An optimiser that keeps the gradient and moves nothing."""

    def __init__(self, network: Qwen3ForCausalLM) -> None:
        self.network, self.gradient = network, []

    def step(self, lr: float) -> None:
        self.gradient = [parameter.grad.clone() for parameter in self.network.parameters()]

    def zero_grad(self) -> None:
        self.network.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def our_loss_and_gradient(
    network: Qwen3ForCausalLM,
    batch: RolloutBatch,
    algo: Any,
    advantages: Tensor,
    beta: float,
    divergence: Divergence | None = None,
) -> tuple[float, list[Tensor]]:
    learner = Learner(
        policy=model_of(network),
        reference=None,
        optimiser=Recorder(network),
        algo=algo,
        penalty=Penalty(
            divergence=(divergence or K3()) if beta else NoDivergence(),
            beta=beta,
            anchor="reference",
            scope="credit",
            placement="loss",
        ),
        weighting=Unscored(weighting=Uniform()),
        # Off-policy: the batch's old log-probabilities are read.
        settings=UpdateSettings(
            temperature=TEMPERATURE,
            logit_chunk=5,
            tokens_per_micro_batch=24,
            tokens_per_call=None,
            shared_prefix="never",
            updates_per_rollout=2,
            update_window="whole",
            max_grad_norm=0.0,
        ),
    )
    credit = TokenCredit(advantages=advantages, weights=batch.mask.float())
    metrics = learner.learn(ScoredBatch(batch=batch, anchor_head=None), credit, lrs=[0.0])
    return metrics["loss/value"], learner.optimiser.gradient


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize(("name", "high"), [("grpo", 0.2), ("dr_grpo", 0.2), ("dapo", 0.28)])
def test_loss_and_gradient_equal_trls(saved, tmp_path, name, high, beta, parts):
    trainer = grpo_trainer(saved, tmp_path, parts, loss_type=name, epsilon_high=high, beta=beta)
    algo, batch = algorithm(name), rollout(trainer.model)
    advantages = algo.advantages(batch)
    loss, gradient = trl_loss_and_gradient(trainer, batch, advantages, parts)
    our_loss, our_gradient = our_loss_and_gradient(trainer.model, batch, algo, advantages, beta)
    assert abs(loss) > 1e-3
    torch.testing.assert_close(our_loss, loss, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(our_gradient, gradient, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


# TRL's settings of the rows that do not clip token by token; the spread of the old policy makes ratios beyond
# 6, where CISPO's bound of 5 and one of 1 + 5 differ.
FAR = {
    "gspo": {
        "loss_type": "grpo",
        "importance_sampling_level": "sequence",
        "epsilon": 3e-4,
        "epsilon_high": 4e-4,
    },
    "cispo": {"loss_type": "cispo", "epsilon_high": 5.0},
    "sapo": {"loss_type": "sapo", "sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.05},
}


@pytest.mark.parametrize("name", FAR)
def test_far_from_the_old_policy_loss_and_gradient_equal_trls(saved, tmp_path, name):
    trainer = grpo_trainer(saved, tmp_path, 1, beta=0.0, **FAR[name])
    algo, batch = algorithm(name), rollout(trainer.model, spread=1.5)
    advantages = algo.advantages(batch)
    _, gradient = trl_loss_and_gradient(trainer, batch, advantages, 1)
    _, our_gradient = our_loss_and_gradient(trainer.model, batch, algo, advantages, 0.0)
    for ours, theirs in zip(our_gradient, gradient, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_dual_clip_is_trls_delta(saved, tmp_path):
    trainer = grpo_trainer(saved, tmp_path, 1, beta=0.0, loss_type="grpo", delta=1.5)
    plain, batch = algorithm("grpo"), rollout(trainer.model, spread=1.5)
    algo = replace(plain, surrogate=replace(plain.surrogate, dual_clip=1.5))
    advantages = algo.advantages(batch)
    loss, gradient = trl_loss_and_gradient(trainer, batch, advantages, 1)
    our_loss, our_gradient = our_loss_and_gradient(trainer.model, batch, algo, advantages, 0.0)
    torch.testing.assert_close(our_loss, loss, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(our_gradient, gradient, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    without, _ = our_loss_and_gradient(trainer.model, batch, plain, advantages, 0.0)
    assert without - our_loss > 0.05


def test_rloo_with_the_kl_in_the_reward_has_the_gradient_of_trls_rloo(saved, tmp_path):
    # On-policy, where TRL's ratio of whole completions and ours of tokens are 1.
    args = RLOOConfig(
        output_dir=str(tmp_path),
        temperature=TEMPERATURE,
        max_completion_length=LONGEST,
        num_generations=3,
        per_device_train_batch_size=len(COMPLETIONS),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        beta=0.0,  # what it takes off rewards while it samples is written out below
    )
    trainer = RLOOTrainer(
        model=str(saved),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=args,
        train_dataset=Dataset.from_dict({"prompt": ["a", "b"]}),
    )
    trainer.model.train()
    batch, beta = rollout(trainer.model, spread=0.0), 0.3
    kl = torch.where(batch.mask, batch.old_logprobs - batch.anchor_logprobs, 0.0)
    rewards = (batch.rewards - beta * kl.sum(dim=1)).view(2, 3)
    theirs = (rewards - (rewards.sum(dim=1, keepdim=True) - rewards) / 2).flatten()
    inputs = {
        "prompt_ids": batch.prompt_ids,
        "prompt_mask": batch.prompt_present.long(),
        "completion_ids": batch.completion_ids,
        "completion_mask": batch.present.long(),
        "advantages": theirs,
        "old_logps": torch.where(batch.mask, batch.old_logprobs, 0.0).sum(dim=1),
    }
    loss = trainer._compute_loss(trainer.model, inputs)
    gradient = torch.autograd.grad(loss, list(trainer.model.parameters()))
    algo = algorithm("rloo")
    ours = algo.advantages(batch, batch.rewards - beta * completion_cost(kl, batch.mask, "completion"))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    _, our_gradient = our_loss_and_gradient(trainer.model, batch, algo, ours, 0.0)
    for mine, its in zip(our_gradient, gradient, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5)


def test_the_corrected_kl_is_trls_with_its_bias_correction(saved, tmp_path):
    trainer = grpo_trainer(saved, tmp_path, 1, loss_type="grpo", beta=0.3, use_bias_correction_kl=True)
    algo, batch = algorithm("grpo"), rollout(trainer.model)
    advantages = algo.advantages(batch)
    loss, gradient = trl_loss_and_gradient(trainer, batch, advantages, 1)
    corrected = CorrectedBregman(potential=NegativeEntropy())
    our_loss, our_gradient = our_loss_and_gradient(trainer.model, batch, algo, advantages, 0.3, corrected)
    torch.testing.assert_close(our_loss, loss, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(our_gradient, gradient, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_completions_are_left_out_where_trls_off_policy_mask_leaves_them_out() -> None:
    generator = torch.Generator().manual_seed(5)
    lengths = torch.tensor([4, 7, 1, 6, 2, 3])
    mask = torch.arange(7)[None] < lengths[:, None]
    live, sampler = -torch.rand(2, 6, 7, generator=generator, dtype=torch.float64)
    advantages = torch.tensor([1.0, -1.0, -0.5, 0.0, -2.0, -1.0], dtype=torch.float64)[:, None]
    kept = set()
    for bound in (0.0, 0.1, 0.3, 1.0):
        correction = BoundedImportance(
            level="token", rule="truncate", low=1.0, high=1.0, segment_tokens=None, completion_bound=bound
        )
        ours = correction.keeps(live, sampler, advantages.expand_as(live), mask)
        theirs = GRPOTrainer.get_off_policy_mask(advantages, live, sampler, mask.double(), bound)
        assert ours.tolist() == theirs.bool().expand_as(ours).tolist()
        kept.add(int(ours[:, 0].sum()))
    assert len(kept) > 1

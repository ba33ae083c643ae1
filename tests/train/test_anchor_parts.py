"""An anchor of two parts as an update reads it, against tables over the vocabulary."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from small_models import TINY, model_of, network_of, rollout
from torch import Tensor

from mirrorpo.config.settings import UpdateSettings
from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.mixture import mixture
from mirrorpo.core.top import likeliest
from mirrorpo.divergence.penalty import SecondPart
from mirrorpo.model.forward import completion_hidden
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.optim.adamw import AdamW
from mirrorpo.train.build import build_penalty
from mirrorpo.train.learner import Learner
from mirrorpo.weighting.uniform import Uniform
from mirrorpo.weighting.unscored import Unscored

CONF = Path(__file__).parents[2] / "conf"
TEMPERATURE, SHARE = 0.7, 0.3


def network(seed: int) -> LanguageModel:
    return model_of(network_of("qwen3", seed, vocab_size=40, **TINY))


def learner(divergence: str, first: str, second: str, **changes: object) -> Learner:
    """With a policy and a reference for each part that is one."""
    settings = {**OmegaConf.to_container(OmegaConf.load(CONF / f"divergence/{divergence}.yaml")), **changes}
    penalty = replace(build_penalty(settings), anchor=first, second=SecondPart(source=second, share=SHARE))
    policy = network(0)
    return Learner(
        policy=policy,
        reference=network(1),
        second_reference=network(2) if first == second else None,
        optimiser=AdamW(betas=(0.9, 0.99), epsilon=1e-8, weight_decay=0.0).build(policy.network),
        algo=instantiate(OmegaConf.load(CONF / "algo/grpo.yaml")),
        penalty=penalty,
        weighting=Unscored(weighting=Uniform()),
        settings=UpdateSettings(
            temperature=TEMPERATURE,
            logit_chunk=16,
            tokens_per_micro_batch=200,
            tokens_per_call=None,
            shared_prefix="never",
            updates_per_rollout=1,
            update_window="whole",
            max_grad_norm=1.0,
        ),
    )


def table(model: LanguageModel, batch: RolloutBatch) -> Tensor:
    """Log-probabilities over the vocabulary at every completion token, by a plain product."""
    hidden = completion_hidden(model, batch)
    logits = hidden @ model.causal_lm.get_output_embeddings().weight.T
    return (logits / TEMPERATURE).log_softmax(-1)


def drawn(values: Tensor, batch: RolloutBatch) -> Tensor:
    return values.gather(2, batch.completion_ids[..., None]).squeeze(2)


# A sampled form, a corrected one, the exact one, and sums over a few tokens, of either's likeliest.
FORMS: dict[str, tuple[str, dict[str, object]]] = {
    "sampled": ("kl_k3", {}),
    "corrected": ("probl2_corrected", {}),
    "exact": ("kl_exact", {}),
    "top of the anchor": ("kl_topk", {"k": 3}),
    "top of the policy": ("kl_topk", {"k": 3, "of": "policy"}),
    "no token of it": ("kl_topk", {"k": 0}),
}


@pytest.mark.parametrize(("first", "second"), [("reference", "reference"), ("old", "reference")])
@pytest.mark.parametrize("form", FORMS)
def test_value_and_gradient_are_those_to_the_mixture_of_both_tables(form, first, second):
    name, changes = FORMS[form]
    student = learner(name, first, second, **changes)
    scored = student.rescore(rollout())
    batch, policy = scored.batch, student.policy
    models = {"old": [policy], "reference": [*student.references]}
    with torch.no_grad():
        of_first, of_second = (table(models[source].pop(0), batch) for source in (first, second))
    log_q = mixture(of_first, of_second, SHARE)
    present = batch.present
    torch.testing.assert_close(batch.anchor_logprobs[present], drawn(log_q, batch)[present])
    if form == "top of the anchor":
        assert torch.equal(batch.anchor_top_ids[present], likeliest(log_q, 3)[present])
        assert batch.anchor_hidden.shape[-1] == 0 and scored.anchor_head is None
    factors = torch.linspace(0.2, 1.0, int(batch.mask.sum()))
    ours = student.live.outputs(batch, scored.anchor_head).divergence[batch.mask]
    log_p = table(policy, batch)
    expected = naive(student, batch, log_p, log_q)[batch.mask]
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=2e-6)
    weights = [parameter for parameter in policy.network.parameters() if parameter.requires_grad]
    gradients, its = (torch.autograd.grad((factors * of).sum(), weights) for of in (ours, expected))
    for gradient, plain in zip(gradients, its, strict=True):
        torch.testing.assert_close(gradient, plain, rtol=1e-3, atol=2e-5)


def naive(student: Learner, batch: RolloutBatch, log_p: Tensor, log_q: Tensor) -> Tensor:
    penalty = student.penalty
    if penalty.reads == "vocabulary":
        return penalty(log_p, log_q, log_p)
    if penalty.reads == "top":
        return drawn(penalty(log_p, log_q, log_p.detach()), batch)
    return penalty(*(drawn(values, batch) for values in (log_p, log_q, log_p.detach())))

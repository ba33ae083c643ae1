"""How far the policy is from the model it started as, measured alike whatever it is trained with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mirrorpo.core.batch import Prompt, RolloutBatch, RolloutRequest
from mirrorpo.core.protocols import RolloutEngine
from mirrorpo.core.seeds import derive
from mirrorpo.core.tensors import chunks
from mirrorpo.model.forward import completion_hidden
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.modes import evaluating
from mirrorpo.rollout.collate import collate


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """States at which every policy of a sweep is compared with the start model.

    The states are those of completions that the start model wrote; they, and its distribution at each,
    stay as they are, so no reference model is kept for them.

    Attributes:
        batch: the completions.
        positions: the tokens among them that are read, as indices into the real tokens in row order.
        start: log-probabilities of the start model there, on the CPU.
        temperature: of the sampler.
    """

    batch: RolloutBatch
    positions: Int[Tensor, " N"]
    start: Float[Tensor, "N V"]
    temperature: float

    def __call__(self, model: LanguageModel) -> dict[str, float]:
        """Means over the probe's states s of three distances of p = pi_theta(.|s) from q, the start model's.

            drift/kl     = sum_v p log(p / q), in nats
            drift/probl2 = sum_v (p - q)^2
            drift/tv     = sum_v |p - q| / 2

        Value: >= 0, and 0 at the start model up to rounding. No gradient.
        """
        sums = {"drift/kl": 0.0, "drift/probl2": 0.0, "drift/tv": 0.0}
        # A few states at a time: in float64 all of them over a large vocabulary would take gigabytes.
        pieces = zip(
            chunks(read(model, self.batch, self.positions, self.temperature), 16),
            chunks(self.start, 16),
            strict=True,
        )
        for log_p, log_q in ((p.double(), q.double()) for p, q in pieces):
            gap = log_p.exp() - log_q.exp()
            sums["drift/kl"] += float((log_p.exp() * (log_p - log_q)).sum())
            sums["drift/probl2"] += float(gap.square().sum())
            sums["drift/tv"] += float(gap.abs().sum() / 2)
        return {name: total / len(self.positions) for name, total in sums.items()}


def draw_probe(
    model: LanguageModel,
    engine: RolloutEngine,
    prompts: Sequence[Prompt],
    prompt_ids: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    positions: int,
) -> Callable[[LanguageModel], dict[str, float]]:
    """The probe of a start model: its own answers, at most `positions` of their tokens, spread evenly.

    Without prompts nothing is measured.
    """
    if not prompts:
        return lambda model: {}
    # The seed is no run's: all runs of a sweep are compared at the same states.
    request = RolloutRequest(
        prompts=prompts,
        prompt_ids=prompt_ids,
        group_size=1,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=derive(0, "probe"),
    )
    answers = engine.generate(model, request)
    batch = collate(answers, [0.0] * len(answers), pad_id=model.pad_id, mask_truncated=False)
    count = int(batch.present.sum())
    sampled = min(positions, count)
    spread = torch.arange(sampled) * count // sampled
    start = read(model, batch, spread, temperature)
    return Probe(batch=batch, positions=spread, start=start, temperature=temperature)


def read(
    model: LanguageModel, batch: RolloutBatch, positions: Tensor, temperature: float
) -> Float[Tensor, "N V"]:
    """Log-probabilities over the vocabulary at some of a batch's real tokens, in eval mode, on the CPU."""
    with torch.no_grad(), evaluating(model.network):
        hidden = completion_hidden(model, batch.to(model.device))[batch.present.to(model.device)]
        return model.head(temperature)(hidden[positions.to(model.device)]).cpu()

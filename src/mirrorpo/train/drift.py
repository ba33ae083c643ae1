"""How far the policy is from the model it started as, measured alike whatever it is trained with."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mirrorpo.core.batch import Prompt, RolloutBatch, RolloutRequest
from mirrorpo.core.protocols import RolloutEngine
from mirrorpo.core.seeds import derive
from mirrorpo.core.tensors import chunks, numbers
from mirrorpo.model.forward import completion_hidden
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.modes import evaluating
from mirrorpo.rollout.collate import collate

# Log-probabilities that exist at once, and that stay on the model's device: 512 MiB in float32, more than 512
# states of a vocabulary of 152,000.
AT_ONCE = 2**27
# States whose sums are formed together: in float64, all of them would take gigabytes.
SUMMED = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """States at which every policy of a sweep is compared with the start model.

    The states are those of completions that the start model wrote; they, and its distribution at each,
    stay as they are, so no reference model is kept for them. Nothing is moved and one thing read to measure,
    the three means; but log-probabilities of more than `AT_ONCE` numbers lie on the CPU and come in pieces.

    Attributes:
        batch: the completions, on the model's device.
        positions: the tokens among them that are read, as indices into the real tokens in row order.
        start: log-probabilities of the start model there.
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
        device = self.batch.present.device
        sums = torch.zeros(3, dtype=torch.float64, device=device)
        start = iter(chunks(self.start, SUMMED))
        for piece in read(model, self.batch, self.positions, self.temperature):
            for live in chunks(piece, SUMMED):
                log_p, log_q = live.double(), next(start).to(device, non_blocking=True).double()
                gap = log_p.exp() - log_q.exp()
                kl = (log_p.exp() * (log_p - log_q)).sum()
                sums += torch.stack([kl, gap.square().sum(), gap.abs().sum() / 2])
        kl, probl2, tv = (total / len(self.positions) for total in numbers(sums.unbind()))
        return {"drift/kl": kl, "drift/probl2": probl2, "drift/tv": tv}


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
    spread = (torch.arange(sampled) * count // sampled).to(model.device)
    batch = batch.to(model.device)
    fits = sampled * model.head(temperature).projection.out_features <= AT_ONCE
    kept_on = model.device if fits else torch.device("cpu")
    start = torch.cat([piece.to(kept_on) for piece in read(model, batch, spread, temperature)])
    if not fits and model.device.type == "cuda":
        # From pinned memory a piece comes while the one before it is summed.
        start = start.pin_memory()
    return Probe(batch=batch, positions=spread, start=start, temperature=temperature)


def read(
    model: LanguageModel, batch: RolloutBatch, positions: Tensor, temperature: float
) -> Iterator[Float[Tensor, "n V"]]:
    """Log-probabilities over the vocabulary at some of a batch's real tokens, in eval mode, by pieces."""
    rows, columns = batch.located().present
    with torch.no_grad(), evaluating(model.network):
        hidden = completion_hidden(model, batch)[rows[positions], columns[positions]]
    head = model.head(temperature)
    # In whole stretches of `SUMMED` states.
    height = max(AT_ONCE // head.projection.out_features // SUMMED, 1) * SUMMED
    for states in chunks(hidden, height):
        with torch.no_grad():
            logprobs = head(states)
        yield logprobs

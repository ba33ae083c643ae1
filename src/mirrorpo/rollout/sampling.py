"""Drawing tokens from logits, one uniform number a token."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def draw(logits: Float[Tensor, "B V"], uniform: Float[Tensor, " B"], temperature: float, top_p: float) -> tuple[Int[Tensor, " B"], Float[Tensor, " B"]]:
    """Tokens and their log-probabilities under the distribution they were drawn from.

    By inverse distribution function, so that a row's token depends on its own logits and its own
    uniform number only, whatever else is in the batch. `temperature` 0 is greedy, with
    log-probability 0; `top_p` < 1 keeps the smallest set of tokens whose probability reaches it.

    Example:
        >>> logits = torch.tensor([[0.25, 0.75]]).log()
        >>> draw(logits, torch.tensor([0.3]), temperature=1.0, top_p=1.0)
        (tensor([1]), tensor([-0.2877]))
    """
    if temperature == 0:
        token = logits.argmax(dim=-1)
        return token, torch.zeros_like(token, dtype=torch.float32)
    log_p = torch.log_softmax(logits.float() / temperature, dim=-1)
    if top_p < 1:
        ordered, order = log_p.sort(dim=-1, descending=True)
        before = ordered.exp().cumsum(dim=-1) - ordered.exp()
        log_p = log_p.scatter(1, order, ordered.masked_fill(before >= top_p, -torch.inf))
        log_p = log_p - log_p.logsumexp(dim=-1, keepdim=True)
    # float64 keeps the running sum exact enough for vocabularies of 150k.
    cumulative = log_p.double().exp().cumsum(dim=-1)
    target = uniform.to(cumulative)[:, None] * cumulative[:, -1:]
    token = torch.searchsorted(cumulative, target, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)
    return token, log_p.gather(1, token[:, None]).squeeze(1)

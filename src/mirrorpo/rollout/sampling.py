"""Drawing tokens from logits, one uniform number a token."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Tokens that are added up before any running sum: over a vocabulary of V it is then V / BLOCK + BLOCK long.
BLOCK = 256
# Weights that exist at once on a CPU, few enough for its cache.
AT_ONCE = 2**20


def draw(
    logits: Float[Tensor, "B V"], uniform: Float[Tensor, " B"], temperature: float, top_p: float
) -> tuple[Int[Tensor, " B"], Float[Tensor, " B"]]:
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
    rows = max(AT_ONCE // logits.shape[1], 1) if logits.device.type == "cpu" else len(logits)
    drawn = [
        _draw(chunk.float(), numbers.double()[:, None], temperature, top_p)
        for chunk, numbers in zip(logits.split(rows), uniform.split(rows), strict=True)
    ]
    token, logprob = (torch.cat(column) for column in zip(*drawn, strict=True))
    return token.squeeze(1), logprob.squeeze(1)


def _draw(logits: Tensor, uniform: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    if top_p < 1:
        logits, temperature = _nucleus(logits / temperature, top_p), 1.0
    if logits.shape[1] <= BLOCK:
        log_p = torch.log_softmax(logits / temperature, dim=1)
        cumulative = log_p.double().exp().cumsum(dim=1)
        token = _invert(cumulative, uniform * cumulative[:, -1:])
        return token, log_p.gather(1, token)
    largest = logits.amax(dim=1, keepdim=True)
    blocks = -(-logits.shape[1] // BLOCK)
    weights = logits.new_zeros(len(logits), blocks * BLOCK)
    # In place, since a fresh tensor costs more than the exponential.
    torch.sub(logits, largest, out=weights[:, : logits.shape[1]]).div_(temperature).exp_()
    weights = weights.unflatten(1, (blocks, BLOCK))
    # float64 keeps the running sums exact enough for vocabularies of 150k.
    cumulative = weights.sum(dim=2).double().cumsum(dim=1)
    target = uniform * cumulative[:, -1:]
    block = _invert(cumulative, target)
    inside = weights.gather(1, block[:, :, None].expand(-1, -1, BLOCK)).squeeze(1).double().cumsum(dim=1)
    before = torch.where(block > 0, cumulative.gather(1, (block - 1).clamp(min=0)), 0.0)
    # The block's sum in float32 is not to the last digit its tokens', so that it is the share of it that is
    # looked up.
    share = (target - before) / (cumulative.gather(1, block) - before)
    token = block * BLOCK + _invert(inside, share * inside[:, -1:])
    return token, (
        (logits.gather(1, token) - largest).double() / temperature - cumulative[:, -1:].log()
    ).float()


def _invert(cumulative: Tensor, target: Tensor) -> Tensor:
    # Below the last sum, so that rounding cannot lead to a place of probability zero.
    below = torch.minimum(target, torch.nextafter(cumulative[:, -1:], torch.zeros_like(target)))
    return torch.searchsorted(cumulative, below, right=True)


def _nucleus(logits: Tensor, top_p: float) -> Tensor:
    log_p = torch.log_softmax(logits, dim=1)
    ordered, order = log_p.sort(dim=1, descending=True)
    before = ordered.exp().cumsum(dim=1) - ordered.exp()
    return log_p.scatter(1, order, ordered.masked_fill(before >= top_p, -torch.inf))

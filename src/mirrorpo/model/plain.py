"""The network by itself: one row alone, without padding, cache or positions of ours.

What every quicker way of reading has to agree with; slow, for a few tokens.
"""

import inspect
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mirrorpo.core.cut import TAKE_A_MASK, Cut, Masking
from mirrorpo.model.language_model import LanguageModel


def ordinary_ids(model: LanguageModel) -> list[int]:
    """Some ids that the model's config gives no meaning of their own, such as that of an image or an end."""
    config = model.causal_lm.config
    text = config.get_text_config()
    special = {
        value
        for part in (config, text)
        for name, value in vars(part).items()
        if name.endswith(("_token_id", "_token_index")) and isinstance(value, int)
    }
    return [index for index in range(min(text.vocab_size, 1024)) if index not in special | {model.pad_id}]


def vocabulary(model: LanguageModel) -> int:
    """Ids that the model gives a logit."""
    return int(model.causal_lm.config.get_text_config().vocab_size)


def takes_a_mask(model: LanguageModel) -> bool:
    """Whether its attention implementation can be shown a mask with a hole in it; such take float32 too."""
    return model.causal_lm.config._attn_implementation in TAKE_A_MASK


def plain_logprobs(
    model: LanguageModel, prompt: Sequence[int], completion: Sequence[int], temperature: float
) -> Float[Tensor, " T"]:
    """Log-probability of each token of a completion, in the mode that the network is in."""
    ids = torch.tensor([[*prompt, *completion]], device=model.device)
    with model.computing():
        logits = model.network(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[
            0, len(prompt) - 1 : -1
        ]
    return (logits.float() / temperature).log_softmax(-1).gather(1, ids[0, len(prompt) :, None]).squeeze(1)


def plain_cut(
    model: LanguageModel,
    prompt: Sequence[int],
    completion: Sequence[int],
    cut: Cut,
    *,
    masking: Masking,
    temperature: float,
) -> Float[Tensor, " N"]:
    """Log-probabilities of a cut's read tokens with its span hidden, as `read_cuts` says it.

    Raises:
        ValueError: if the network takes no positions, so that a span cannot be left out.
    """
    start = len(prompt)
    # Position, id and index of each token that stays.
    kept = [(start + index, token, index) for index, token in enumerate(completion)]
    if masking == "direct" and cut.first == cut.end:
        # Nothing stands between that could keep what it saw.
        masking = "block"
    if masking == "pad":
        kept = [(p, model.pad_id if cut.start <= i < cut.end else token, i) for p, token, i in kept]
    if masking in ("block", "delete"):
        kept = [token for token in kept if not cut.start <= token[2] < cut.end]
    if masking == "delete":
        kept = [(start + place, token, index) for place, (_, token, index) in enumerate(kept)]
    ids = torch.tensor([[*prompt, *(token for _, token, _ in kept)]], device=model.device)
    positions = torch.tensor([[*range(start), *(position for position, _, _ in kept)]], device=model.device)
    mask = torch.ones_like(ids)
    if masking == "direct":
        seen = torch.ones(ids.shape[1], ids.shape[1], device=model.device).tril().bool()
        seen[start + cut.first - 1 :, start + cut.start : start + cut.end] = False
        low = torch.finfo(model.dtype).min
        mask = torch.zeros(seen.shape, dtype=model.dtype, device=model.device).masked_fill(~seen, low)[
            None, None
        ]
    if "position_ids" not in inspect.signature(model.causal_lm.get_decoder().forward).parameters:
        raise ValueError("model.path: its decoder takes no positions")
    with torch.no_grad(), model.computing():
        logits = model.network(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False
        ).logits[0]
    table = (logits.float() / temperature).log_softmax(-1)
    before = {index: start + place - 1 for place, (_, _, index) in enumerate(kept)}
    return torch.stack([table[before[index], completion[index]] for index in range(cut.first, cut.last)])


def plain_gradient(
    model: LanguageModel, prompt: Sequence[int], completion: Sequence[int], first: int, temperature: float
) -> Float[Tensor, " T"]:
    """Gradient times embedding of each token, of the score of those from `first` on."""
    embedded: list[Tensor] = []

    def as_leaf(_module: torch.nn.Module, _inputs: object, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    with torch.enable_grad(), model.causal_lm.get_input_embeddings().register_forward_hook(as_leaf):
        score = plain_logprobs(model, prompt, completion, temperature)[first:].sum()
        (gradient,) = torch.autograd.grad(score, embedded)
    return (gradient * embedded[0].detach()).sum(-1).abs()[0, len(prompt) :].float()


def plain_attention(
    model: LanguageModel, prompt: Sequence[int], completion: Sequence[int], first: int
) -> Float[Tensor, " T"]:
    """Attention that each token receives where those from `first` on are predicted, over layers and heads."""
    causal_lm, start = model.causal_lm, len(prompt)
    ids = torch.tensor([[*prompt, *completion]], device=model.device)
    implementation = causal_lm.config._attn_implementation
    causal_lm.set_attn_implementation("eager")
    try:
        with torch.no_grad(), model.computing():
            layers = model.network(
                input_ids=ids, attention_mask=torch.ones_like(ids), output_attentions=True, use_cache=False
            ).attentions
    finally:
        causal_lm.set_attn_implementation(implementation)
    reading = slice(start + first - 1, start + len(completion) - 1)
    received = [layer[0].float().mean(0)[reading, start:].mean(0) for layer in layers if layer is not None]
    return torch.stack(received).mean(0)

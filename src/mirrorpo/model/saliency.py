"""What the answer's score owes to each earlier token by the model's own gradient or attention.

One pass, with nothing hidden.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.shapes import PerToken
from mirrorpo.model.forward import full_sequences
from mirrorpo.model.head import read_positions
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.modes import evaluating


def gradient_times_embedding(
    model: LanguageModel, batch: RolloutBatch, firsts: Sequence[int], *, temperature: float, logit_chunk: int
) -> PerToken:
    """The first-order effect of each completion token on the score of those from `firsts[row]` on.

        | (dS / de_t) . e_t |,   S = sum_{u >= first} log pi(y_u),   e_t the token's input embedding

    Value: >= 0, in nats; exactly zero from the last token on. No gradient is left on the parameters.

    Args:
        model: read in eval mode.
        batch: the completions.
        firsts: of each row, the first token whose score counts.
        temperature: of the sampler.
        logit_chunk: positions whose logits exist at a time.

    References:
        Input times gradient: Shrikumar et al. 2016, https://arxiv.org/abs/1605.01713
    """
    ids, present, positions = full_sequences(batch)
    width = batch.completion_ids.shape[1]
    leaves: list[Tensor] = []

    def as_leaf(_module: torch.nn.Module, _inputs: object, embedded: Tensor) -> Tensor:
        leaves.append(embedded.detach().requires_grad_())
        return leaves[-1]

    # The ids go in, not their embeddings: some decoders read more off them (Gemma 3n's embeddings per layer).
    hook = model.causal_lm.get_input_embeddings().register_forward_hook(as_leaf)
    with hook, torch.enable_grad(), evaluating(model.network):
        states = model.hidden(ids, present, positions)
    (embeddings,) = leaves
    # The head computes in float32, whatever the rest does.
    with torch.enable_grad():
        scored = _from(batch, firsts)
        scores = read_positions(
            model.head(temperature),
            states[:, -width - 1 : -1][scored],
            batch.completion_ids[scored],
            logit_chunk=logit_chunk,
        ).logprobs
        (gradient,) = torch.autograd.grad(scores.sum(), embeddings)
    return ((gradient * embeddings.detach()).sum(dim=-1).abs()[:, -width:] * batch.present).float()


def attention_received(model: LanguageModel, batch: RolloutBatch, firsts: Sequence[int]) -> PerToken:
    """The attention that each completion token gets where the tokens from `firsts[row]` on are predicted.

        mean over layers, heads and those positions of the attention weight on token t

    Value: in [0, 1]. Runs with the eager attention implementation, the only one that gives its weights.

    References:
        Attention as importance is one of paper A's points of comparison, https://arxiv.org/abs/2602.09331
    """
    ids, present, positions = full_sequences(batch)
    width, causal_lm = batch.completion_ids.shape[1], model.causal_lm
    implementation = causal_lm.config._attn_implementation
    causal_lm.set_attn_implementation("eager")
    try:
        with torch.no_grad(), evaluating(model.network), model.computing():
            output = causal_lm.get_decoder()(
                input_ids=ids,
                attention_mask=present.long(),
                position_ids=positions,
                use_cache=False,
                output_attentions=True,
            )
    finally:
        causal_lm.set_attn_implementation(implementation)
    predicted = _from(batch, firsts).float()
    received = torch.zeros(batch.present.shape, device=ids.device)
    for layer in output.attentions:
        weights = layer.float().mean(dim=1)[:, -width - 1 : -1, -width:]
        received += torch.einsum("bq,bqt->bt", predicted, weights) / len(output.attentions)
    return received / predicted.sum(dim=1, keepdim=True).clamp(min=1) * batch.present


def _from(batch: RolloutBatch, firsts: Sequence[int]) -> Tensor:
    device = batch.present.device
    positions = torch.arange(batch.present.shape[1], device=device)
    return batch.present & (positions[None, :] >= torch.tensor(list(firsts), device=device)[:, None])

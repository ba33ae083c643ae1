"""Log-probabilities of completions with spans hidden, each prefix computed once.

A prompt is computed once for all its completions, a completion once for all its cuts; what follows a
cut is computed again, a row a cut, behind the cache of what stands before it. A batch takes

    prompts + completions + sum over cuts of (last - 1 - start)   tokens

(masking block and delete: last - 1 - end; direct: last - first)
where the plain way takes (1 + cuts of the completion) times (prompt + completion).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.cut import TAKE_A_MASK, Cut, Masking
from mirrorpo.core.shapes import PerToken
from mirrorpo.model.head import read_positions
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.modes import evaluating
from mirrorpo.model.past import PAST
from mirrorpo.model.prefix import read_behind, read_prompts, start_of

# Falcon may have it too, and says so in its config.
ALIBI = ("bloom", "mpt")


@dataclass(frozen=True, slots=True)
class _Prefixes:
    # What stands before the cuts: the cache after each completion, a row each, and the state that predicts
    # each of its tokens.
    cache: Cache
    states: Float[Tensor, "B T D"]


def cut_obstacle(model: LanguageModel) -> str:
    """What of an architecture keeps spans from being hidden behind its cache; empty when nothing does.

    Example: a window, whose width the tokens of a self-test may not fill.
    """
    config = model.causal_lm.config
    text, cache = config.get_text_config(), DynamicCache(config=config)
    if any(cache.is_sliding) or "local" in getattr(text, "attention_layers", ()):
        return "forgets what lies outside a window"
    if any(type(layer) is not DynamicLayer for layer in cache.layers):
        return "keeps a state in its cache, out of which no span comes"
    if text.model_type in ALIBI or getattr(text, "alibi", False):
        return "weighs keys by their distance in the cache (ALiBi)"
    return ""


def read_cuts(
    model: LanguageModel,
    batch: RolloutBatch,
    cuts: Sequence[Cut],
    *,
    masking: Masking,
    temperature: float,
    logit_chunk: int,
) -> tuple[PerToken, Float[Tensor, "N T"]]:
    """Log-probabilities of each cut's read tokens, with nothing hidden and with its span hidden.

    Args:
        model: read in eval mode, without gradient.
        batch: the completions that are cut.
        cuts: the span of each and the tokens that are read behind it.
        masking: how a span is hidden. "pad" puts the pad token in its place; "block" keeps the positions and
            hides them from all later tokens; "delete" takes them out, and later tokens move up; "direct"
            hides them from what is read alone, so that the tokens between keep what they saw.
        temperature: of the sampler.
        logit_chunk: positions whose logits exist at a time.

    Returns:
        [B, T], of the full completions, at the tokens that some cut reads; and [N, T], row n with cut n
        made, at the tokens that it reads. Zero elsewhere. On the model's device.

    Raises:
        ValueError: if the model has a `cut_obstacle`, or attends by an implementation that takes no mask.
    """
    _refuse_uncuttable(model)

    def logprobs(states: Tensor, tokens: Tensor) -> Float[Tensor, " reads"]:
        # The head computes in float32, whatever the rest does.
        with torch.autocast(model.device.type, enabled=False):
            head = model.head(temperature)
            return read_positions(head, states, tokens, logit_chunk=logit_chunk).logprobs.float()

    with torch.no_grad(), evaluating(model.network), model.reading():
        prefixes = _completions(model, batch)
        device = prefixes.states.device
        read = torch.zeros_like(batch.present)
        for cut in cuts:
            read[cut.row, cut.first : cut.last] = True
        intact = logprobs(prefixes.states[read], batch.completion_ids[read])
        before = torch.zeros(batch.present.shape, device=device).masked_scatter(read, intact)
        after = torch.zeros(len(cuts), batch.present.shape[1], device=device)
        # Suffixes of like length together, for what fills them up is computed too; as many as there are
        # completions.
        lengths = [cut.last - (cut.first if masking == "direct" else cut.start) for cut in cuts]
        order = torch.tensor(lengths, device=device).argsort(stable=True)
        for indices in order.split(len(batch)):
            chosen = [cuts[index] for index in indices.tolist()]
            states, token = _suffixes(model, batch, chosen, prefixes, masking)
            bounds = [[cut.row, cut.first, cut.last] for cut in chosen]
            rows, first, last = torch.tensor(bounds, device=device).unbind(dim=1)
            cut_index, column = ((token >= first[:, None]) & (token < last[:, None])).nonzero(as_tuple=True)
            token = token[cut_index, column]
            after[indices[cut_index], token] = logprobs(
                states[cut_index, column], batch.completion_ids[rows[cut_index], token]
            )
    return before, after


def _refuse_uncuttable(model: LanguageModel) -> None:
    attention = model.causal_lm.config._attn_implementation
    if attention not in TAKE_A_MASK:
        raise ValueError(
            f"model.attention={attention}: hiding spans needs an attention mask; use model.attention=sdpa"
        )
    if reason := cut_obstacle(model):
        raise ValueError(
            f"model.path: {type(model.causal_lm).__name__} {reason}; spans cannot be hidden from it, choose "
            "a weighting that hides none"
        )


def _completions(model: LanguageModel, batch: RolloutBatch) -> _Prefixes:
    cache, last, owner = read_prompts(model, batch)
    cache.batch_select_indices(owner)
    return _Prefixes(cache, read_behind(model, batch, slice(None), cache, last[owner]))


def _suffixes(
    model: LanguageModel, batch: RolloutBatch, cuts: Sequence[Cut], prefixes: _Prefixes, masking: Masking
) -> tuple[Float[Tensor, "N L D"], Int[Tensor, "N L"]]:
    # States behind each cut, a row each, and which token of the completion each of them predicts.
    states = prefixes.states
    bounds = [[cut.row, cut.start, cut.end, cut.recomputed_from(masking), cut.last] for cut in cuts]
    # What is computed again: from `begin` up to the token before the last one read, if that is anything.
    rows, start, end, begin, last = torch.tensor(bounds, device=states.device).unbind(dim=1)
    length = last - 1 - begin
    width = int(length.max())
    token = begin[:, None] + torch.arange(width + 1, device=states.device)
    # Right after a span that left no tokens, a token is predicted by the state of the one before the span.
    nearest = states[rows, start][:, None]
    if width == 0:
        return nearest, token
    # A row is filled up with its last token, since the model may have no positions further on.
    offset = torch.arange(width, device=states.device).minimum((length[:, None] - 1).clamp(min=0))
    column = begin[:, None] + offset
    ids, position = batch.completion_ids[rows[:, None], column], column
    if masking == "pad":
        ids = ids.masked_fill(offset < (end - start)[:, None], model.pad_id)
    if masking == "delete":
        position = column - (end - start)[:, None]
    seen = begin if masking == "direct" else start
    mask = _mask(batch.prompt_present[rows], seen, start, end, width, states.dtype)
    decoder = model.causal_lm.get_decoder()
    suffix = decoder(
        input_ids=ids,
        attention_mask=mask,
        position_ids=batch.prompt_present.sum(dim=1)[rows][:, None] + position,
        use_cache=True,
        **{PAST: start_of(prefixes.cache, rows, mask.shape[-1] - width)},
    ).last_hidden_state
    return torch.cat([nearest, suffix], dim=1), token


def _mask(
    prompt: Tensor, seen: Tensor, start: Tensor, end: Tensor, length: int, dtype: torch.dtype
) -> Tensor:
    # A suffix sees its prompt, its completion up to `seen` but for the span, and itself; columns that none
    # sees are left out.
    rows, device = len(seen), seen.device
    column = torch.arange(int(seen.max()), device=device)[None]
    visible = (column < seen[:, None]) & ((column < start[:, None]) | (column >= end[:, None]))
    prefix = torch.cat([prompt, visible], dim=1)[:, None].expand(-1, length, -1)
    suffix = torch.ones(length, length, dtype=torch.bool, device=device).tril().expand(rows, -1, -1)
    hidden = ~torch.cat([prefix, suffix], dim=2)
    # Additive, since not every attention implementation takes a boolean mask.
    mask = torch.zeros(hidden.shape, dtype=dtype, device=device)
    return mask.masked_fill(hidden, torch.finfo(dtype).min)[:, None]

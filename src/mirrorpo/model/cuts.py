"""Log-probabilities of completions with spans hidden, each prefix computed once.

A prompt is computed once for all its completions, a completion once for all its cuts; what follows a
cut is computed again, a row a cut, behind the cache of what stands before it. A batch takes

    prompts + completions + sum over cuts of (last - 1 - start)   tokens

(masking block and delete: last - 1 - end; direct: last - first)
where the plain way takes (1 + cuts of the completion) times (prompt + completion).
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.cut import TAKE_A_MASK, Cut, Masking
from mirrorpo.core.shapes import PerToken
from mirrorpo.model.head import read_positions
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.modes import evaluating
from mirrorpo.model.past import PAST
from mirrorpo.model.prefix import Prefix, read_behind, read_prompts


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

    Hidden how: "pad" puts the pad token in the span's place; "block" keeps the places and hides them
    from all later tokens; "delete" takes them out, and later tokens move up; "direct" hides them from what is
    read alone, so that the tokens between keep what they saw.

    Returns:
        [B, T], of the whole completions, at the tokens that some cut reads; and [N, T], row n with cut n
        made, at the tokens that it reads. Zero elsewhere. On the model's device, in eval mode, without
        gradient.

    Raises:
        ValueError: if the model attends over a window, so that its cache forgets, or by an implementation
            that takes no mask.
    """
    attention = model.causal_lm.config._attn_implementation
    if attention not in TAKE_A_MASK:
        raise ValueError(
            f"model.attention={attention}: hiding spans needs an attention mask; use model.attention=sdpa"
        )
    with torch.no_grad(), evaluating(model.network), model.computing():
        cache, states = _completions(model, batch)
        whole = torch.zeros_like(batch.present)
        for cut in cuts:
            whole[cut.row, cut.first : cut.last] = True
        logprobs = _read(model, states[whole], batch.completion_ids[whole], temperature, logit_chunk)
        before = torch.zeros(batch.present.shape, device=states.device).masked_scatter(whole, logprobs)
        after = torch.zeros(len(cuts), batch.present.shape[1], device=states.device)
        # Suffixes of like length together, for what fills them up is computed too; as many as there are
        # completions.
        order = torch.tensor(
            [cut.last - (cut.first if masking == "direct" else cut.start) for cut in cuts],
            device=states.device,
        ).argsort(stable=True)
        for some in order.split(len(batch)):
            chosen = [cuts[index] for index in some.tolist()]
            found, token = _suffixes(model, batch, chosen, cache, states, masking)
            rows, first, last = torch.tensor(
                [[cut.row, cut.first, cut.last] for cut in chosen], device=states.device
            ).unbind(dim=1)
            which, place = ((token >= first[:, None]) & (token < last[:, None])).nonzero(as_tuple=True)
            token = token[which, place]
            after[some[which], token] = _read(
                model, found[which, place], batch.completion_ids[rows[which], token], temperature, logit_chunk
            )
    return before, after


def _completions(model: LanguageModel, batch: RolloutBatch) -> tuple[Any, Float[Tensor, "B T D"]]:
    # The cache after each whole completion, and the state that predicts each of its tokens.
    cache, last, owner = read_prompts(model, batch)
    if any(cache.is_sliding):
        raise ValueError(
            "model.path: its attention forgets what lies outside a window; spans cannot be hidden from it "
            "with a shared prefix"
        )
    cache.batch_select_indices(owner)
    return cache, read_behind(model, batch, slice(None), cache, last[owner])


def _suffixes(
    model: LanguageModel,
    batch: RolloutBatch,
    cuts: Sequence[Cut],
    cache: Any,
    states: Tensor,
    masking: Masking,
) -> tuple[Float[Tensor, "N L D"], Int[Tensor, "N L"]]:
    # States behind each cut, a row each, and which token of the completion each of them predicts.
    places = [[cut.row, cut.start, cut.end, cut.first, cut.last] for cut in cuts]
    rows, start, end, first, last = torch.tensor(places, device=states.device).unbind(dim=1)
    # What is computed again: from here up to the token before the last one read, if that is anything.
    begin = {"pad": start, "direct": end.maximum(first - 1)}.get(masking, end)
    length = last - 1 - begin
    width = int(length.max())
    token = begin[:, None] + torch.arange(width + 1, device=states.device)
    # Right after a span that left no tokens, a token is predicted by the state of the one before the span.
    found = states[rows, start][:, None]
    if width == 0:
        return found, token
    # A row is filled up with its last token, since the model may have no places further on.
    offset = torch.arange(width, device=states.device).minimum((length[:, None] - 1).clamp(min=0))
    ids, place = batch.completion_ids[rows[:, None], begin[:, None] + offset], begin[:, None] + offset
    if masking == "pad":
        ids = ids.masked_fill(offset < (end - start)[:, None], model.pad_id)
    if masking == "delete":
        place = place - (end - start)[:, None]
    mask = _mask(
        batch.prompt_present[rows], begin if masking == "direct" else start, start, end, width, states.dtype
    )
    prefix = Cache(layers=[Prefix(layer, rows, mask.shape[-1] - width) for layer in cache.layers])
    positions = batch.prompt_present.sum(dim=1)[rows][:, None] + place
    decoder = model.causal_lm.get_decoder()
    again = decoder(
        input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, **{PAST: prefix}
    ).last_hidden_state
    return torch.cat([found, again], dim=1), token


def _mask(
    prompt: Tensor, seen: Tensor, start: Tensor, end: Tensor, length: int, dtype: torch.dtype
) -> Tensor:
    # A suffix sees its prompt, its completion up to here but for the span, and itself; columns that none sees
    # are left out.
    rows, device = len(seen), seen.device
    place = torch.arange(int(seen.max()), device=device)[None]
    shown = (place < seen[:, None]) & ((place < start[:, None]) | (place >= end[:, None]))
    prefix = torch.cat([prompt, shown], dim=1)[:, None].expand(-1, length, -1)
    own = torch.ones(length, length, dtype=torch.bool, device=device).tril().expand(rows, -1, -1)
    hidden = ~torch.cat([prefix, own], dim=2)
    # Additive, since not every attention implementation takes a boolean mask.
    return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill(hidden, torch.finfo(dtype).min)[
        :, None
    ]


def _read(
    model: LanguageModel, states: Tensor, tokens: Tensor, temperature: float, logit_chunk: int
) -> Float[Tensor, " reads"]:
    # The head computes in float32, whatever the rest does.
    with torch.autocast(model.device.type, enabled=False):
        return read_positions(
            model.head(temperature), states, tokens, logit_chunk=logit_chunk
        ).logprobs.float()

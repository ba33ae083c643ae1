"""Log-probabilities of completions with spans hidden, each prefix computed once.

A prompt is computed once for all its completions, a completion once for all its cuts; what follows a
cut is computed again, all cuts of a completion side by side in one pass and kept apart by the attention
mask. A batch takes

    prompts + completions + sum over cuts of (last - start)   tokens

where the plain way takes (1 + cuts of the completion) times (prompt + completion).
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.cut import TAKE_A_MASK, Cut, Masking
from mirrorpo.core.modes import evaluating
from mirrorpo.core.shapes import PerToken
from mirrorpo.model.head import read_positions
from mirrorpo.model.language_model import LanguageModel


def read_cuts(
    model: LanguageModel, batch: RolloutBatch, cuts: Sequence[Cut], *, masking: Masking, temperature: float, tile: int
) -> tuple[PerToken, Float[Tensor, "N T"]]:
    """Log-probabilities of each cut's read tokens, with nothing hidden and with its span hidden.

    Hidden how: "pad" puts the pad token in the span's place; "block" keeps the places and hides them
    from all later tokens; "delete" takes them out, and later tokens move up.

    Returns:
        [B, T], of the whole completions, at the tokens that some cut reads; and [N, T], row n with cut n
        made, at the tokens that it reads. Zero elsewhere. On the model's device, in eval mode, without gradient.

    Raises:
        ValueError: if the model attends over a window, so that its cache forgets, or by an implementation that takes no mask.
    """
    attention = model.causal_lm.config._attn_implementation
    if attention not in TAKE_A_MASK:
        raise ValueError(f"model.attention={attention}: hiding spans needs an attention mask; use model.attention=sdpa")
    with torch.no_grad(), evaluating(model.network), model.computing():
        cache, states = _completions(model, batch)
        whole = torch.zeros_like(batch.present)
        for cut in cuts:
            whole[cut.row, cut.first : cut.last] = True
        before = _read(model, states[whole], batch.completion_ids[whole], temperature, tile)
        after = _suffixes(model, batch, cuts, cache, states, masking, temperature, tile)
    out = torch.zeros(len(cuts), batch.present.shape[1], device=before.device)
    wanted = torch.zeros_like(out, dtype=torch.bool)
    for index, cut in enumerate(cuts):
        wanted[index, cut.first : cut.last] = True
    base = torch.zeros(batch.present.shape, device=before.device)
    return base.masked_scatter(whole, before), out.masked_scatter(wanted, after)


def _completions(model: LanguageModel, batch: RolloutBatch) -> tuple[Any, Float[Tensor, "B T D"]]:
    # The cache after each whole completion, and the state that predicts each of its tokens.
    labelled = torch.where(batch.prompt_present, batch.prompt_ids, -1)
    _, owner = torch.unique(labelled, dim=0, return_inverse=True)
    first = torch.stack([(owner == prompt).nonzero()[0, 0] for prompt in range(int(owner.max()) + 1)])
    ids, present = batch.prompt_ids[first], batch.prompt_present[first]
    decoder = model.causal_lm.get_decoder()
    output = decoder(input_ids=ids, attention_mask=present.long(), position_ids=(present.cumsum(dim=1) - 1).clamp(min=0), use_cache=True)
    cache = output.cache
    if any(cache.is_sliding):
        raise ValueError("model.path: its attention forgets what lies outside a window; spans cannot be hidden from it with a shared prefix")
    cache.batch_select_indices(owner)
    depth = batch.prompt_present.sum(dim=1, keepdim=True)
    positions = depth + torch.arange(batch.completion_ids.shape[1], device=depth.device)
    both = torch.cat([batch.prompt_present, batch.present], dim=1)
    answer = decoder(input_ids=batch.completion_ids, attention_mask=both.long(), position_ids=positions, cache=cache, use_cache=True)
    return cache, torch.cat([output.last_hidden_state[:, -1:][owner], answer.last_hidden_state[:, :-1]], dim=1)


def _suffixes(
    model: LanguageModel, batch: RolloutBatch, cuts: Sequence[Cut], cache: Any, states: Tensor, masking: Masking, temperature: float, tile: int
) -> Float[Tensor, " reads"]:
    # What the cuts read, cut after cut: every cut's suffix in the row of its completion, one after the other.
    device = states.device
    rows = sorted({cut.row for cut in cuts})
    place = {row: index for index, row in enumerate(rows)}
    filled = [0] * len(rows)
    starts: list[int] = []
    for cut in cuts:
        starts.append(filled[place[cut.row]])
        filled[place[cut.row]] += _length(cut, masking)
    width = max(filled)
    ids = torch.full((len(rows), width), model.pad_id, device=device)
    positions, visible, piece = (torch.zeros(len(rows), width, dtype=torch.long, device=device) for _ in range(3))
    depth = batch.prompt_present.sum(dim=1).tolist()
    for number, (cut, start) in enumerate(zip(cuts, starts, strict=True), start=1):
        row, length = place[cut.row], _length(cut, masking)
        here = slice(start, start + length)
        begin = cut.start if masking == "pad" else cut.end
        ids[row, here] = batch.completion_ids[cut.row, begin : begin + length]
        if masking == "pad":
            ids[row, start : start + cut.end - cut.start] = model.pad_id
        moved = begin - (cut.end - cut.start if masking == "delete" else 0)
        positions[row, here] = depth[cut.row] + moved + torch.arange(length, device=device)
        visible[row, here] = cut.start
        piece[row, here] = number
    index = torch.tensor(rows, device=device)
    cache.batch_select_indices(index)
    mask = _mask(batch.prompt_present[index], batch.present.shape[1], visible, piece, states.dtype)
    if width:
        decoder = model.causal_lm.get_decoder()
        found = decoder(input_ids=ids, attention_mask=mask, position_ids=positions, cache=cache, use_cache=True).last_hidden_state
    else:
        found = states.new_zeros(len(rows), 0, states.shape[-1])
    behind: list[Tensor] = []
    for cut, start in zip(cuts, starts, strict=True):
        begin = cut.start if masking == "pad" else cut.end
        # Token t is predicted by the state of t - 1; right after a span that left no tokens, by the one before it.
        if cut.first == begin:
            behind.append(states[cut.row, cut.start][None])
        behind.append(found[place[cut.row], start + max(cut.first - 1 - begin, 0) : start + cut.last - 1 - begin])
    tokens = torch.cat([batch.completion_ids[cut.row, cut.first : cut.last] for cut in cuts])
    return _read(model, torch.cat(behind), tokens, temperature, tile)


def _length(cut: Cut, masking: Masking) -> int:
    # Inputs up to the token before the last one read.
    return cut.last - 1 - (cut.start if masking == "pad" else cut.end)


def _mask(prompt: Tensor, width: int, visible: Tensor, piece: Tensor, dtype: torch.dtype) -> Tensor:
    # A suffix sees its prompt, its completion up to the span, and itself up to here.
    rows, count = piece.shape
    own = (piece[:, :, None] == piece[:, None, :]) & torch.ones(count, count, dtype=torch.bool, device=piece.device).tril()
    prefix = torch.arange(width, device=piece.device)[None, None, :] < visible[:, :, None]
    seen = torch.cat([prompt[:, None, :].expand(rows, count, -1), prefix, own], dim=2)
    # Additive, since not every attention implementation takes a boolean mask.
    return torch.zeros(seen.shape, dtype=dtype, device=piece.device).masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def _read(model: LanguageModel, states: Tensor, tokens: Tensor, temperature: float, tile: int) -> Float[Tensor, " reads"]:
    # The head computes in float32, whatever the rest does.
    with torch.autocast(model.device.type, enabled=False):
        return read_positions(model.head(temperature), states, tokens, tile=tile).logprobs.float()

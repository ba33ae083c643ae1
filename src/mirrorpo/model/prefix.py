"""Prompts computed once for all their completions: keys and values of a prompt go in front of each of them.

A batch of P distinct prompts takes P S + B T tokens, where full sequences take B (S + T). Nothing is
approximated, and the gradient flows from every completion into its prompt's keys and values.
"""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, DynamicLayer

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.cut import TAKE_A_MASK
from mirrorpo.core.protocols import Config
from mirrorpo.model.language_model import LanguageModel, recomputes
from mirrorpo.model.past import PAST, Prefix


def prefix_requirements(config: Config) -> Iterable[str]:
    """What settings say against `shared_prefix=always`; the learner asks the loaded model again."""
    model = config["model"]
    if config["shared_prefix"] != "always":
        return
    if model.get("gradient_checkpointing"):
        yield (
            "shared_prefix=always with model.gradient_checkpointing=true: recomputed layers run without the "
            "cache that holds the prompts; set model.gradient_checkpointing=false or shared_prefix=auto"
        )
    attention = model.get("attention", "sdpa")
    if attention not in TAKE_A_MASK:
        yield (
            f"shared_prefix=always with model.attention={attention}: completions behind a prompt need a "
            "mask; use model.attention=sdpa"
        )


def obstacle(model: LanguageModel) -> str:
    """The setting that keeps a model from sharing its prompts; empty when it can.

    Example: a model whose activations are recomputed runs without a cache.
    """
    if model.prefix_fault:
        return model.prefix_fault
    config = model.causal_lm.config
    if config._attn_implementation not in TAKE_A_MASK:
        return f"model.attention={config._attn_implementation} takes no mask"
    if recomputes(model.causal_lm):
        return "model.gradient_checkpointing=true runs without a cache"
    if any(type(layer) is not DynamicLayer for layer in DynamicCache(config=config).layers):
        return "the cache of model.path does not keep every key and value"
    return ""


def start_of(cache: Cache, rows: Int[Tensor, " N"], width: int) -> Cache:
    """A cache of N rows that begin with the first `width` keys and values of another one's `rows`."""
    layers = [layer for layer in cache.layers if isinstance(layer, CacheLayerMixin)]
    assert len(layers) == len(cache.layers)
    return Cache(layers=[Prefix(layer, rows, width) for layer in layers])


def read_prompts(
    model: LanguageModel, batch: RolloutBatch
) -> tuple[Cache, Float[Tensor, "P 1 D"], Int[Tensor, " B"]]:
    """Each of the batch's P distinct prompts, computed once.

    Returns:
        The cache behind them, the state that predicts each one's first token, and the prompt of each row.
    """
    layout = batch.located()
    ids, present = batch.prompt_ids[layout.first], batch.prompt_present[layout.first]
    positions = (present.cumsum(dim=1) - 1).clamp(min=0)
    output = model.causal_lm.get_decoder()(
        input_ids=ids, attention_mask=present.long(), position_ids=positions, use_cache=True
    )
    return output[PAST], output.last_hidden_state[:, -1:], layout.prompt


def read_behind(
    model: LanguageModel, batch: RolloutBatch, rows: slice, cache: Cache, before: Float[Tensor, "N 1 D"]
) -> Float[Tensor, "N L D"]:
    """The state that predicts each completion token of some rows of the batch, up to the longest of them.

    Args:
        model: in whose cache the prompts are.
        batch: of which `rows` are read.
        rows: a stretch of its rows.
        cache: with these rows' prompts; what is computed is added to it, if it keeps anything.
        before: the state at each row's last prompt token.
    """
    width = max([*batch.located().lengths[rows], 1])
    present = batch.present[rows, :width]
    attended = torch.cat([batch.prompt_present[rows], present], dim=1)
    positions = (attended.cumsum(dim=1) - 1).clamp(min=0)[:, -width:]
    decoder = model.causal_lm.get_decoder()
    output = decoder(
        input_ids=batch.completion_ids[rows, :width],
        attention_mask=attended.long(),
        position_ids=positions,
        use_cache=True,
        **{PAST: cache},
    )
    return torch.cat([before, output.last_hidden_state[:, :-1]], dim=1)


def shared_hidden(
    model: LanguageModel, batch: RolloutBatch, rows_per_forward: Sequence[int]
) -> Float[Tensor, "B T D"]:
    """The last hidden state that predicts each completion token, zero at pads that were not computed.

    Value and gradient: those of full sequences, up to rounding.

    Args:
        model: without an `obstacle`.
        batch: its rows in stretches of like length.
        rows_per_forward: how many rows are computed together, stretch by stretch; they add up to B.
    """
    with model.reading():
        cache, last, owner = read_prompts(model, batch)
        hidden: list[Tensor] = []
        start = 0
        for count in rows_per_forward:
            rows = slice(start, start + count)
            prompts = start_of(cache, owner[rows], batch.prompt_ids.shape[1])
            states = read_behind(model, batch, rows, prompts, last[owner[rows]])
            hidden.append(pad(states, (0, 0, 0, batch.present.shape[1] - states.shape[1])))
            start += count
    return torch.cat(hidden)

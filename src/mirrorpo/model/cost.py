"""What a pass through a network costs in FLOPs, from its sizes and the tokens that go through it.

Counted are the multiplications and additions of matrix products: two for a weight and a token, two for each
dimension of a query and a key, or of a value, that meet.

    forward         = 2 (N tokens + H read) + A
    input gradient  = 2 (N tokens + H read) + 2 A
    weight gradient = 2 (N' tokens + H' read)
    A               = sum over attention layers of 2 heads (d_key + d_value) pairs

N are the weights of the decoder's matrices that a token is multiplied with (of experts those of a token's
own, of adapters those that are on), H those of the head, N' and H' the trained ones among them. A pair is a
token and one that it attends to, itself included: n (n + 1) / 2 in a row of n tokens, fewer in a window.

Not counted: padding, what is computed again to save memory, embeddings, norms, activation functions, softmax
and what a divergence does over the vocabulary, the state of linear attention.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.cache_utils import DynamicCache, DynamicLayer

from mirrorpo.core.batch import Completion, RolloutBatch
from mirrorpo.core.cut import Cut, Masking
from mirrorpo.core.nested import longest_of
from mirrorpo.core.tensors import integers
from mirrorpo.model.language_model import ADAPTER, LanguageModel

# Architectures' names of how many experts there are in a layer.
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True, kw_only=True, slots=True)
class PassTokens:
    """What goes through a network in a pass.

    Attributes:
        stretches: first and one past the last of the tokens that are computed, counted from the start of
            their row, whose earlier tokens they attend to.
        read: positions that the head makes logits of.
    """

    stretches: Sequence[tuple[int, int]]
    read: int

    @property
    def tokens(self) -> int:
        """Tokens that go through the decoder."""
        return sum(end - start for start, end in self.stretches)

    def pairs(self, window: int | None) -> int:
        """Pairs of a token and one that it attends to, at most `window` of them a token."""
        return sum(_pairs(end, window) - _pairs(start, window) for start, end in self.stretches)


def _pairs(tokens: int, window: int | None) -> int:
    # Of a row of so many tokens.
    full = tokens if window is None else min(tokens, window)
    return full * (full + 1) // 2 + (tokens - full) * full


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkCost:
    """The sizes that a pass's cost depends on.

    Attributes:
        weights: N, of the decoder's matrices that a token is multiplied with.
        trained: N', of them.
        head: H.
        head_trained: H'.
        attention: FLOPs of a pair in all layers of a window; None is the window that has no end.
    """

    weights: int
    trained: int
    head: int
    head_trained: int
    attention: dict[int | None, int]

    def forward(self, run: PassTokens) -> int:
        """FLOPs without gradient."""
        return self._products(run) + self._attention(run)

    def input_gradient(self, run: PassTokens) -> int:
        """FLOPs of the backward pass down to the embeddings, without a gradient of weights."""
        return self._products(run) + 2 * self._attention(run)

    def weight_gradient(self, run: PassTokens) -> int:
        """FLOPs by which the gradient of the trained weights adds to that."""
        return 2 * (self.trained * run.tokens + self.head_trained * run.read)

    def _products(self, run: PassTokens) -> int:
        return 2 * (self.weights * run.tokens + self.head * run.read)

    def _attention(self, run: PassTokens) -> int:
        return sum(flops * run.pairs(window) for window, flops in self.attention.items())


def network_cost(model: LanguageModel) -> NetworkCost:
    """The sizes of a model as it is read, with its adapter on or off."""
    config = model.causal_lm.config.get_text_config()
    matrices = [
        (_used(name, parameter, config), parameter.requires_grad)
        for name, parameter in _matrices(model.decoder)
        if _is_on(name, model)
    ]
    head = model.causal_lm.get_output_embeddings().weight
    return NetworkCost(
        weights=sum(count for count, _ in matrices),
        trained=sum(count for count, trained in matrices if trained),
        head=head.numel(),
        head_trained=head.numel() if head.requires_grad else 0,
        attention=_attention_flops(config),
    )


def _matrices(decoder: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    # Those of a shared layer each time that a token meets them; an embedding is looked up.
    for prefix, module in decoder.named_modules(remove_duplicate=False):
        if isinstance(module, torch.nn.Embedding):
            continue
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if parameter.ndim > 1 and not name.endswith("bias"):
                yield name, parameter


def _is_on(name: str, model: LanguageModel) -> bool:
    parts = name.split(".")
    adapters = [after for part, after in pairwise(parts) if part.startswith("lora_")]
    active = model.start_adapter if model.adapter_off else ADAPTER
    return all(adapter == active for adapter in adapters)


def _used(name: str, parameter: Tensor, config: PreTrainedConfig) -> int:
    # A token goes through some of a layer's experts.
    of_token = getattr(config, "num_experts_per_tok", None)
    experts = next((count for key in EXPERTS if (count := getattr(config, key, None))), None)
    if of_token and experts and ".experts." in name:
        return parameter.numel() * int(of_token) // int(experts)
    return parameter.numel()


def _attention_flops(config: PreTrainedConfig) -> dict[int | None, int]:
    heads = getattr(config, "num_attention_heads", None)
    if not isinstance(heads, int) or heads == 0:
        # An architecture without attention.
        return {}
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    both = (getattr(config, "qk_head_dim", None) or size) + (getattr(config, "v_head_dim", None) or size)
    out = Counter[int | None]()
    for layer in DynamicCache(config=config).layers:
        # Layers that keep a state in place of keys and values have no pairs.
        if isinstance(layer, DynamicLayer):
            out[getattr(layer, "sliding_window", None)] += 2 * heads * both
    return dict(out)


def reading(batch: RolloutBatch, rows: Tensor) -> PassTokens:
    """A pass that reads all tokens of some completions, each distinct prompt computed once."""
    prompts, completions = _lengths(batch)
    numbers, picked = integers(batch.prompt_numbers()), integers(rows)
    once = {numbers[row]: (0, prompts[row]) for row in picked}
    behind = [(prompts[row], prompts[row] + completions[row]) for row in picked]
    return PassTokens(stretches=[*once.values(), *behind], read=sum(completions[row] for row in picked))


def row_by_row(batch: RolloutBatch, firsts: Sequence[int] | None) -> PassTokens:
    """A pass of full sequences, read from the token `firsts[row]` of a completion on; None reads none."""
    prompts, completions = _lengths(batch)
    read = 0 if firsts is None else sum(map(_behind, completions, firsts))
    return PassTokens(
        stretches=[(0, sum(both)) for both in zip(prompts, completions, strict=True)], read=read
    )


def cutting(batch: RolloutBatch, cuts: Sequence[Cut], masking: Masking) -> PassTokens:
    """What `cuts.read_cuts` computes: cut completions as they are, and what follows each cut again."""
    prompts, _ = _lengths(batch)
    intact = reading(batch, torch.tensor(sorted({cut.row for cut in cuts}), dtype=torch.long))
    again = [_suffix(prompts[cut.row], cut, masking) for cut in cuts]
    scored = {(cut.row, token) for cut in cuts for token in range(cut.first, cut.last)}
    read = len(scored) + sum(cut.last - cut.first for cut in cuts)
    return PassTokens(stretches=[*intact.stretches, *again], read=read)


def _suffix(prompt: int, cut: Cut, masking: Masking) -> tuple[int, int]:
    begin = cut.recomputed_from(masking)
    # A pad is seen; what is hidden is not, as if it had not been there.
    seen = prompt - (0 if masking == "pad" else cut.end - cut.start)
    return seen + begin, seen + max(cut.last - 1, begin)


def sampling(completions: Sequence[Completion], *, nested: bool = False) -> PassTokens:
    """What completions take to sample: prompt and first logits once a group, no pass of the last token.

    Of nested prompts those alone are computed that begin no other.
    """
    prompts = {completion.group: completion.prompt_ids for completion in completions}
    computed = [*prompts.values()]
    if nested:
        computed = [computed[number] for number in {*longest_of(computed)}]
    drawn = [
        (length := len(completion.prompt_ids), length + _behind(len(completion.ids), 1))
        for completion in completions
    ]
    again = sum(end - start for start, end in drawn)
    return PassTokens(stretches=[*((0, len(ids)) for ids in computed), *drawn], read=len(prompts) + again)


def _lengths(batch: RolloutBatch) -> tuple[list[int], list[int]]:
    return integers(batch.prompt_present.sum(dim=1)), integers(batch.present.sum(dim=1))


def _behind(length: int, first: int) -> int:
    return max(length - first, 0)

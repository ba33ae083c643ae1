"""Batched sampling on any Hugging Face causal LM with a key-value cache."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from mirrorpo.core.batch import Completion, RolloutRequest
from mirrorpo.core.cut import TAKE_A_MASK
from mirrorpo.core.protocols import (
    Assembly,
    EngineMemory,
    GenerativeModel,
    ModelNeed,
    OutputHead,
    SamplingSizes,
)
from mirrorpo.core.tensors import chunks, flags, moved
from mirrorpo.rollout.cache import Blocks, Rows, Selection, in_blocks
from mirrorpo.rollout.collate import pad
from mirrorpo.rollout.nested_prompts import NestedPrompts, keeps_every_key
from mirrorpo.rollout.nucleus import cut_distribution_notes
from mirrorpo.rollout.plain_step import PlainStep
from mirrorpo.rollout.sampling import draw
from mirrorpo.rollout.weights import network_config, plain

# Of a row's logits and what a token is drawn by, for each token of the vocabulary.
VOCABULARY_BYTES = 16
# In the place of a row's uniform numbers: its tokens are not drawn.
GREEDY = -1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Native:
    """The trainer's own network as the sampler: a prompt is computed once for its group, finished rows are
    dropped.

    A completion depends on the weights, its prompt, the seed and its place in the call, not on
    `rows_at_once` or on what else is sampled beside it (up to rounding). Prompts that a request says are
    beginnings of each other are read off the longest of those that are sampled together, where the model's
    cache keeps every key.

    Attributes:
        rows_at_once: completions sampled together, in whole groups and at least one; bounds the memory of the
            cache.
        compact_at: share of finished rows at which they are dropped from the cache, in (0, 1].
        check_every: tokens between two looks at which rows have finished; a look waits for the device.
        cache_block: places by which the cache grows.
        top_p: nucleus sampling; below 1 the sampler is not the policy that is trained.
    """

    samples: ClassVar[bool] = True
    serves_remotely: ClassVar[bool] = False
    answers_both: ClassVar[bool] = True

    rows_at_once: int
    compact_at: float
    check_every: int
    cache_block: int
    top_p: float

    def __post_init__(self) -> None:
        for name in ("rows_at_once", "check_every", "cache_block"):
            if getattr(self, name) < 1:
                raise ValueError(f"rollout.{name}={getattr(self, name)}: give at least 1")
        if not 0 < self.compact_at <= 1 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"rollout.compact_at={self.compact_at}, rollout.top_p={self.top_p}: give shares in (0, 1]"
            )

    def model_needs(self) -> Collection[ModelNeed]:
        """A cache whose rows can be repeated and dropped."""
        return ("sample",)

    def device_memory(self, sizes: SamplingSizes) -> EngineMemory:
        """The cache of the rows that are sampled together, and some tensors over their vocabulary."""
        of_row = (sizes.tokens + self.cache_block) * sizes.token_bytes + VOCABULARY_BYTES * sizes.vocabulary
        rows, fewer = min(sizes.rows, self.rows_at_once), max(self.rows_at_once // 4, 1)
        return EngineMemory(
            sampling=rows * of_row,
            under={f"rows_at_once={fewer}": EngineMemory(sampling=min(rows, fewer) * of_row)},
        )

    def notes(self, group: str, assembly: Assembly) -> Iterable[str]:
        """A cut distribution is not the policy that is trained."""
        return cut_distribution_notes(group, self.top_p)

    def generate(self, model: GenerativeModel, request: RolloutRequest) -> Sequence[Completion]:
        """`group_size` completions for each prompt, in order, behind a greedy one if one is requested."""
        size, groups = request.group_size + request.with_greedy, list(request.groups)
        uniform = _uniform(request)
        stride = max(self.rows_at_once // size, 1)
        if request.by_length:
            groups.sort(key=lambda group: len(request.prompt_ids[group]))
        completions: dict[int, list[Completion]] = {group: [] for group in request.groups}
        with model.evaluating(), model.computing(), _without_graph(model.device):
            head = model.head(request.temperature).prepared()
            for start in range(0, len(groups), stride):
                cut = groups[start : start + stride]
                prompt_ids = [request.prompt_ids[group] for group in cut]
                numbers = uniform[cut].flatten(0, 1)
                ids, logprobs = self._sample(model, head, prompt_ids, numbers, request)
                for row, (tokens, scores) in enumerate(zip(ids, logprobs, strict=True)):
                    group = cut[row // size]
                    ended = bool(tokens) and tokens[-1] in model.eos_ids
                    completions[group].append(
                        Completion(
                            uid=request.prompts[group].uid,
                            group=group,
                            prompt_ids=request.prompt_ids[group],
                            ids=tokens,
                            logprobs=scores,
                            text=model.decode(tokens),
                            truncated=not ended,
                        )
                    )
        return [completion for of_group in completions.values() for completion in of_group]

    def _sample(
        self,
        model: GenerativeModel,
        head: OutputHead,
        prompt_ids: Sequence[Sequence[int]],
        uniform: Tensor,
        request: RolloutRequest,
    ) -> tuple[list[list[int]], list[list[float]]]:
        steps = uniform.shape[1]
        nesting = NestedPrompts.of(prompt_ids) if request.nested and keeps_every_key(model) else None
        logits, rows = self._prefilled(model, head, prompt_ids, uniform, nesting)
        states = _decoder_step(model, rows)
        drawn: list[tuple[Tensor, Tensor]] = []
        for step in range(steps):
            drawn.append(self._drawn(logits, rows.numbers[:, step], request))
            token, last = drawn[-1][0], step == steps - 1
            if last or len(drawn) == self.check_every:
                rows.write(step, drawn)
                drawn = []
                if last:
                    break
                done = rows.finished()
                if all(done):
                    break
                if sum(done) >= max(self.compact_at * len(done), 1):
                    token = rows.compact(token, done)
            mask = rows.mask[..., : rows.depth + step + 1]
            logits = _logits(head, states(token, mask, rows.position + step, rows.cache))
        return rows.results(model.eos_ids)

    def _drawn(self, logits: Tensor, numbers: Tensor, request: RolloutRequest) -> tuple[Tensor, Tensor]:
        token, logprob = draw(logits, numbers, request.temperature, self.top_p)
        if not request.with_greedy:
            return token, logprob
        greedy = numbers == GREEDY
        return torch.where(greedy, logits.argmax(dim=-1), token), logprob.masked_fill(greedy, 0.0)

    def _prefilled(
        self,
        model: GenerativeModel,
        head: OutputHead,
        prompt_ids: Sequence[Sequence[int]],
        uniform: Tensor,
        nesting: NestedPrompts | None,
    ) -> tuple[Tensor, "_Rows"]:
        # Each prompt computed once, and its logits and cache repeated for its group.
        device, (count, steps) = model.device, uniform.shape
        group_size = count // len(prompt_ids)
        computed = prompt_ids if nesting is None else nesting.of_computed(prompt_ids)
        inputs = [*_padded(computed, model.pad_id), uniform, _ends(model.eos_ids)]
        ids, present, numbers, ends = moved(inputs, device)
        positions = (present.cumsum(1) - 1).clamp(min=0)
        output = model.decoder(input_ids=ids, attention_mask=present, position_ids=positions, use_cache=True)
        filled, last = output[model.cache_argument], output.last_hidden_state[:, -1]
        if nesting is not None:
            last, present = nesting.read_off(filled, output.last_hidden_state)
        logits = _first_logits(head, last).repeat_interleave(group_size, dim=0)
        reduced = _autocast_dtype(device)
        cache = in_blocks(filled, len(last), group_size, self.cache_block, reduced)
        attended = _with_room(present, steps).repeat_interleave(group_size, dim=0)
        if _takes_additive(model, cache):
            attended = _additive(attended, reduced or last.dtype)
        rows = _Rows(
            cache=cache,
            depth=ids.shape[1],
            numbers=numbers,
            mask=attended,
            position=present.sum(dim=1).repeat_interleave(group_size)[:, None],
            ends=ends,
            alive=torch.arange(count, device=device),
            done=torch.zeros(count, dtype=torch.bool, device=device),
            tokens=torch.zeros(count, steps, dtype=torch.long, device=device),
            logprobs=torch.zeros(count, steps, device=device),
        )
        return logits, rows


@dataclass(kw_only=True, slots=True)
class _Rows:
    """Completions that are being sampled: in any order, finished ones dropped.

    Attributes:
        cache: keys and values of the rows that are left.
        depth: width of the prompts.
        numbers, mask, position: of the rows that are left.
        ends: ids that end a completion.
        alive: which rows of the results these are.
        done: which of them have ended.
        tokens, logprobs: the results, of all rows.
    """

    cache: Rows
    depth: int
    numbers: Tensor
    mask: Tensor
    position: Tensor
    ends: Tensor
    alive: Tensor
    done: Tensor
    tokens: Tensor
    logprobs: Tensor

    def write(self, step: int, drawn: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Put what was drawn up to a step into the results."""
        columns = slice(step + 1 - len(drawn), step + 1)
        new = torch.stack([token for token, _ in drawn], dim=1)
        self.tokens[self.alive, columns] = new
        self.logprobs[self.alive, columns] = torch.stack([logprob for _, logprob in drawn], dim=1)
        self.done = self.done | torch.isin(new, self.ends).any(dim=1)

    def finished(self) -> list[bool]:
        """Which of the rows that are left have ended; the one place where a token waits for the device."""
        return flags(self.done)

    def compact(self, token: Tensor, done: Sequence[bool]) -> Tensor:
        """Drop the rows that have ended; the last tokens of those that are left."""
        rows = Selection.of(_closed_up(done), token.device)
        self.cache.select(rows)
        self.alive, self.numbers, self.mask, self.position, self.done = (
            tensor[rows.order] for tensor in (self.alive, self.numbers, self.mask, self.position, self.done)
        )
        return token[rows.order]

    def results(self, eos_ids: Collection[int]) -> tuple[list[list[int]], list[list[float]]]:
        """Ids and log-probabilities of each row, up to and with its end."""
        # Read at once; float64 holds both to the last digit.
        tokens, logprobs = torch.stack([self.tokens.double(), self.logprobs.double()]).cpu()
        ids = tokens.long()
        ended = torch.isin(ids, _ends(eos_ids))
        counts = torch.where(ended.any(dim=1), ended.int().argmax(dim=1) + 1, ids.shape[1]).tolist()
        return (
            [row[:count] for row, count in zip(ids.tolist(), counts, strict=True)],
            [row[:count] for row, count in zip(logprobs.tolist(), counts, strict=True)],
        )


def _decoder_step(model: GenerativeModel, rows: _Rows) -> Callable[[Tensor, Tensor, Tensor, Rows], Tensor]:
    # The last hidden states of a token a row, from tokens, mask, positions and cache.
    decoder = model.decoder
    plain_step = PlainStep.of(model) if _is_additive(rows.mask) else None
    if plain_step is not None:
        return plain_step

    def through_modules(token: Tensor, mask: Tensor, position: Tensor, cache: Rows) -> Tensor:
        output = decoder(
            input_ids=token[:, None],
            attention_mask=mask,
            position_ids=position,
            use_cache=True,
            **{model.cache_argument: cache},
        )
        return output.last_hidden_state[:, -1]

    return through_modules


def _uniform(request: RolloutRequest) -> Tensor:
    # Of all prompts, so that a completion does not depend on what is answered beside it.
    size, steps = request.group_size, request.max_new_tokens
    if request.seeds is None:
        stream = torch.Generator().manual_seed(request.seed)
        numbers = torch.rand(len(request.prompts), size, steps, generator=stream)
    else:
        streams = [torch.Generator().manual_seed(seed) for seed in request.seeds]
        # Token by token, so that a call of more tokens has the same first ones.
        numbers = torch.stack([torch.rand(steps, size, generator=stream).T for stream in streams])
    if not request.with_greedy:
        return numbers
    return torch.cat([torch.full_like(numbers[:, :1], GREEDY), numbers], dim=1)


def _padded(prompt_ids: Sequence[Sequence[int]], pad_id: int) -> list[Tensor]:
    # Ids with pads on their left, and which of them are real.
    return [
        pad(prompt_ids, pad_id, left=True),
        pad([[1] * len(row) for row in prompt_ids], 0, left=True),
    ]


def _with_room(present: Tensor, steps: int) -> Tensor:
    # Columns of tokens that are to come, which are all attended to.
    return torch.cat([present, present.new_ones(len(present), steps)], dim=1)


def _ends(eos_ids: Collection[int]) -> Tensor:
    return torch.tensor(sorted(eos_ids))


def _logits(head: OutputHead, hidden: Tensor) -> Tensor:
    # In the precision that the trainer reads them in, which autocast would cut.
    if not torch.is_autocast_enabled(hidden.device.type):
        return head.logits(hidden)
    with torch.autocast(hidden.device.type, enabled=False):
        return head.logits(hidden)


def _first_logits(head: OutputHead, hidden: Tensor) -> Tensor:
    # On a CPU a frozen embedding is multiplied with one prompt at a time, as torch does it inside of the
    # network: a joint product rounds otherwise, and a seed's completions would not be the same to the digit.
    rows = 1 if hidden.device.type == "cpu" and head.frozen else len(hidden)
    return torch.cat([_logits(head, part) for part in chunks(hidden, rows)])


def _closed_up(done: Sequence[bool]) -> list[int]:
    # The unfinished rows, in their own positions where these remain, and the last ones in the gaps.
    count = done.count(False)
    behind = iter([row for row in range(count, len(done)) if not done[row]])
    return [next(behind) if done[row] else row for row in range(count)]


@contextmanager
def _without_graph(device: torch.device) -> Iterator[None]:
    # Autocast keeps the weights that it has cast, until it ends, but not in inference mode, where it would
    # cast all of them again at every token.
    cast = torch.is_autocast_enabled(device.type)
    with torch.no_grad() if cast else torch.inference_mode():
        yield


def _autocast_dtype(device: torch.device) -> torch.dtype | None:
    # In which attention reads its inputs, if not in their own. Rotary embeddings widen keys to float32, the
    # dtype of the hidden states under autocast.
    reduced = torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if reduced else None


def _takes_additive(model: GenerativeModel, cache: Cache) -> bool:
    # One mask for all layers, and a decoder that reads nothing else (positions, ALiBi) off it.
    return (
        all(type(layer) is Blocks for layer in cache.layers)
        and network_config(model)._attn_implementation in TAKE_A_MASK
        and bool(getattr(plain(model), "_supports_attention_backend", False))
    )


def _is_additive(mask: Tensor) -> bool:
    return mask.dim() == 4


def _additive(attended: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(attended.shape, dtype=dtype, device=attended.device).masked_fill(
        attended == 0, torch.finfo(dtype).min
    )[:, None, None]

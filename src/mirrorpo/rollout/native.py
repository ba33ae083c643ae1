"""Batched sampling on any Hugging Face causal LM with a key-value cache."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mirrorpo.core.batch import Completion, Prompt
from mirrorpo.core.modes import evaluating
from mirrorpo.core.protocols import GenerativeModel
from mirrorpo.rollout.collate import pad
from mirrorpo.rollout.sampling import draw


@dataclass(frozen=True, kw_only=True, slots=True)
class Native:
    """The trainer's own network as the sampler: a prompt is computed once for its group, finished rows are dropped.

    A completion depends on the weights, its prompt, the seed and its place in the call, not on
    `rows_at_once` or on what else is sampled beside it (up to rounding).

    Attributes:
        rows_at_once: completions sampled together, in whole groups and at least one; bounds the memory of the cache.
        compact_at: share of finished rows at which they are dropped from the cache, in (0, 1].
        top_p: nucleus sampling; below 1 the sampler is not the policy that is trained.
    """

    rows_at_once: int
    compact_at: float
    top_p: float

    def __post_init__(self) -> None:
        if self.rows_at_once < 1:
            raise ValueError(f"rollout.rows_at_once={self.rows_at_once}: sample at least one row at once")
        if not 0 < self.compact_at <= 1 or not 0 < self.top_p <= 1:
            raise ValueError(f"rollout.compact_at={self.compact_at}, rollout.top_p={self.top_p}: give shares in (0, 1]")

    def generate(
        self,
        model: GenerativeModel,
        prompts: Sequence[Prompt],
        prompt_ids: Sequence[Sequence[int]],
        *,
        group_size: int,
        max_new_tokens: int,
        temperature: float,
        seed: int,
    ) -> Sequence[Completion]:
        """`group_size` completions for each prompt, in order."""
        uniform = torch.rand(len(prompts), group_size, max_new_tokens, generator=torch.Generator().manual_seed(seed))
        stride = max(self.rows_at_once // group_size, 1)
        completions: list[Completion] = []
        for start in range(0, len(prompts), stride):
            cut = slice(start, start + stride)
            with evaluating(model.network):
                ids, logprobs = self._sample(model, prompt_ids[cut], uniform[cut].flatten(0, 1), group_size, temperature)
            for row, (tokens, scores) in enumerate(zip(ids, logprobs, strict=True)):
                group = start + row // group_size
                ended = bool(tokens) and tokens[-1] in model.eos_ids
                completions.append(
                    Completion(
                        uid=prompts[group].uid,
                        group=group,
                        prompt_ids=prompt_ids[group],
                        ids=tokens,
                        logprobs=scores,
                        text=model.decode(tokens),
                        truncated=not ended,
                    )
                )
        return completions

    @torch.inference_mode()
    def _sample(
        self, model: GenerativeModel, prompt_ids: Sequence[Sequence[int]], uniform: Tensor, group_size: int, temperature: float
    ) -> tuple[list[list[int]], list[list[float]]]:
        device = model.device
        rows, steps = uniform.shape
        uniform = uniform.to(device)
        ids = pad(prompt_ids, model.pad_id, left=True).to(device)
        present = pad([[1] * len(row) for row in prompt_ids], 0, left=True).to(device)
        ends = torch.tensor(sorted(model.eos_ids), device=device)
        tokens = torch.zeros(rows, steps, dtype=torch.long, device=device)
        logprobs = torch.zeros(rows, steps, device=device)
        lengths = torch.full((rows,), steps, device=device)
        with model.computing():
            output = model.network(input_ids=ids, attention_mask=present, position_ids=(present.cumsum(1) - 1).clamp(min=0), use_cache=True, logits_to_keep=1)
            cache = output.cache
            cache.batch_repeat_interleave(group_size)
            logits = output.logits[:, -1].repeat_interleave(group_size, dim=0)
            prompt_present = present.repeat_interleave(group_size, dim=0)
            attended = torch.cat([prompt_present, torch.ones(rows, steps, dtype=present.dtype, device=device)], dim=1)
            position = prompt_present.sum(dim=1)
            alive = torch.arange(rows, device=device)
            done = torch.zeros(rows, dtype=torch.bool, device=device)
            for step in range(steps):
                token, logprob = draw(logits, uniform[alive, step], temperature, self.top_p)
                tokens[alive, step], logprobs[alive, step] = token, logprob
                ended = torch.isin(token, ends) & ~done
                lengths[alive] = torch.where(ended, step + 1, lengths[alive])
                done = done | ended
                finished = int(done.sum())
                if finished == len(done) or step == steps - 1:
                    break
                if finished >= self.compact_at * len(done):
                    keep = (~done).nonzero().squeeze(1)
                    cache.batch_select_indices(keep)
                    alive, token, attended, position, done = alive[keep], token[keep], attended[keep], position[keep], done[keep]
                logits = model.network(
                    input_ids=token[:, None],
                    attention_mask=attended[:, : ids.shape[1] + step + 1],
                    position_ids=(position + step)[:, None],
                    cache=cache,
                    use_cache=True,
                ).logits[:, -1]
        counts = lengths.tolist()
        return (
            [row[:count] for row, count in zip(tokens.tolist(), counts, strict=True)],
            [row[:count] for row, count in zip(logprobs.tolist(), counts, strict=True)],
        )

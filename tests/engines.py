"""The rollout engines that the contract suite takes, and what sampling from a small model with a tokenizer
needs.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from small_models import TINY, network_of
from torch import Tensor

from mirrorpo.core.batch import Completion, Prompt, RolloutRequest
from mirrorpo.core.protocols import RolloutEngine
from mirrorpo.model.forward import per_token, read_completions
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.load import finish
from mirrorpo.model.words import word_tokenizer
from mirrorpo.rollout.collate import collate
from mirrorpo.rollout.native import Native
from mirrorpo.rollout.vllm import Colocated


def native(
    rows_at_once: int = 64,
    compact_at: float = 0.1,
    check_every: int = 1,
    cache_block: int = 64,
    top_p: float = 1.0,
) -> Native:
    return Native(
        rows_at_once=rows_at_once,
        compact_at=compact_at,
        check_every=check_every,
        cache_block=cache_block,
        top_p=top_p,
    )


RAGGED = [[5, 6, 7, 8, 9], [4], [11, 3, 8], [7, 7]]
# vLLM keeps what it computed of a prompt in blocks of 128 tokens on a CPU, and only full ones.
LONG = list(range(2, 17)) * 20
LENGTH = 12


def tiny(model_type: str = "qwen3", attention: str = "sdpa", seed: int = 0, **settings: Any) -> LanguageModel:
    """A random network whose logits differ enough to tell tokens apart, and its tokenizer."""
    tokenizer = word_tokenizer(["a b c d"])
    shape = {**TINY, "vocab_size": len(tokenizer)} | settings
    network = network_of(model_type, seed, attention=attention, **shape)
    return finish(network, tokenizer, dtype=torch.float32, device=torch.device("cpu"), checkpointing=False)


def wide(model_type: str = "qwen3", attention: str = "sdpa", seed: int = 0, **settings: Any) -> LanguageModel:
    """A `tiny` whose heads are as wide as vLLM's CPU kernels ask for, with room for `LONG`."""
    shape = {"hidden_size": 64, "head_dim": 32, "initializer_range": 0.2, "max_position_embeddings": 512}
    return tiny(model_type, attention, seed, **(shape | settings))


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerOnly:
    """A model of which only the tokenizer can be asked for: nothing is sampled from it."""

    tokenizer: Any
    network: None = None
    decoder: None = None
    eos_ids: frozenset[int] = frozenset({1})
    pad_id: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    cache_argument: str = "cache"

    def head(self, temperature: float) -> None:
        return None

    def computing(self) -> AbstractContextManager[None]:
        return nullcontext()

    def evaluating(self) -> AbstractContextManager[None]:
        return nullcontext()

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An engine in the contract suite, and what the suite has to know of it.

    Attributes:
        build: the engine.
        network: small random networks that it can run.
        slow: only in the opt-in run.
        off: architectures that it computes otherwise than the trainer, and the log-probability that it may be
            off by.
    """

    build: Callable[[], RolloutEngine]
    network: Callable[..., LanguageModel] = tiny
    slow: bool = False
    off: Mapping[str, float] = field(default_factory=dict)


COLOCATED = Colocated(
    top_p=1.0, dtype="auto", memory=0.1, max_model_len=None, enforce_eager=True, sleep=False
)

# A new engine joins the suite by a line here.
ENGINES: Mapping[str, Entry] = {
    "native": Entry(build=native),
    # The same engine where it grows its cache often and sees late that a row has finished.
    "native, late": Entry(build=lambda: native(compact_at=0.5, check_every=5, cache_block=2)),
}
if find_spec("vllm") is not None:
    # Bloom's GELU is the tanh approximation; vLLM takes the exact one.
    ENGINES = {
        **ENGINES,
        "vllm": Entry(build=lambda: COLOCATED, network=wide, slow=True, off={"bloom": 5e-3}),
    }


def sample(
    engine: RolloutEngine,
    model: LanguageModel,
    prompt_ids: Sequence[Sequence[int]] = RAGGED,
    *,
    group_size: int = 3,
    max_new_tokens: int = LENGTH,
    temperature: float = 1.0,
    seed: int = 0,
    only: range | None = None,
    nested: bool = False,
    by_length: bool = False,
    with_greedy: bool = False,
) -> Sequence[Completion]:
    prompts = [
        Prompt(uid=f"question/{i}", question="", gold="", demonstration="") for i in range(len(prompt_ids))
    ]
    settings = {
        "group_size": group_size,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "seed": seed,
    }
    settings |= {"by_length": by_length, "with_greedy": with_greedy}
    return engine.generate(
        model, RolloutRequest(prompts=prompts, prompt_ids=prompt_ids, **settings, only=only, nested=nested)
    )


def ids(completions: Sequence[Completion]) -> list[list[int]]:
    return [list(completion.ids) for completion in completions]


def next_probabilities(model: LanguageModel, context: Sequence[int], temperature: float = 1.0) -> Tensor:
    """The exact distribution of the token after `context`, from one forward without a cache."""
    with torch.no_grad():
        return torch.softmax(
            model.network(input_ids=torch.tensor([list(context)])).logits[0, -1].double() / temperature, dim=0
        )


def scored_by_the_trainer(
    model: LanguageModel, completions: Sequence[Completion], temperature: float
) -> list[list[float]]:
    batch = collate(completions, [0.0] * len(completions), pad_id=model.pad_id, mask_truncated=False)
    with torch.no_grad():
        head_outputs, _ = read_completions(model, batch, temperature=temperature, logit_chunk=64)
    rows = per_token(head_outputs.logprobs, batch).tolist()
    return [row[: len(completion.ids)] for row, completion in zip(rows, completions, strict=True)]


def largest_gap(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> float:
    return max(abs(a - b) for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=True))


def gap(model: LanguageModel, completions: Sequence[Completion], temperature: float = 1.0) -> float:
    """Largest difference between the engine's log-probabilities and the trainer's own."""
    return largest_gap(
        scored_by_the_trainer(model, completions, temperature),
        [completion.logprobs for completion in completions],
    )
